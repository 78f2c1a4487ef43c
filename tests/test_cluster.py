import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import distributed
import numpy as np
import psutil

from stackedae.cluster import (
    OnCluster,
    cut_in_proportion,
    follow,
    in_one_layer,
    literal,
    memory_of_workers,
    share_out,
    task,
)


def test_memory_of_the_workers(cluster):
    limits = cluster.run_on_scheduler(
        lambda dask_scheduler: [w.memory_limit for w in dask_scheduler.workers.values()]
    )
    with cluster.as_current():
        memory = memory_of_workers()
        assert memory.capacity == sum(limits)
        assert memory.per_thread == min(limits)
        assert memory.where.startswith("tcp://127.0.0.1")
        with dask.config.set({"stackedae.memory": "2GB"}):
            assert memory_of_workers().capacity == 2e9
    assert 0 < memory_of_workers().capacity <= psutil.virtual_memory().total


def test_workers_without_a_limit_are_not_workers_without_memory():
    with distributed.Client(processes=False, memory_limit=0, dashboard_address="127.0.0.1:0"):
        assert memory_of_workers().capacity == np.inf


def test_shares_are_runs_in_proportion_to_threads(cluster):
    with cluster.as_current():
        workers = list(cluster.nthreads())
        places = OnCluster().share_out([1] * 10)
    assert places == [w for w in workers for _ in range(10 // len(workers))]
    assert cut_in_proportion([1] * 12, [1, 2, 1]) == [0, 3, 9, 12]
    assert cut_in_proportion([5], [1, 1]) in ([0, 0, 1], [0, 1, 1])


def test_values_are_in_tasks_or_handed_on_by_one_worker_of_every_group(cluster, monkeypatch):
    value, run = np.arange(10.0), OnCluster()
    with cluster.as_current():
        workers = list(cluster.nthreads())
        places = [worker for worker in workers for _ in range(3)]
        assert all(each is value for each in run.hand_out("x", value, places, workers))
        monkeypatch.setattr("stackedae.memory.IN_TASKS_BYTES", value.nbytes)
        assert len({each.key for each in run.hand_out("x", value, places, workers)}) == 1
        monkeypatch.setattr("stackedae.memory.GROUP", 1)
        for wishes in (places, [None] * len(places)):
            tasks = run.hand_out("x", value, wishes, workers)
            assert all(a is b is c for a, b, c in zip(*[iter(tasks)] * 3, strict=True))
            heads = run.persist(*tasks[::3])
            assert all((each == value).all() for each in run.compute(*heads))
            assert [cluster.who_has(head)[head.key] for head in heads] == [(w,) for w in workers]


def test_graphs_have_one_layer():
    """Dask looks through layers one by one, so that many of them take seconds."""
    blocks, run = (da.ones((4, 2), chunks=(1, 2)) + 1).to_delayed().ravel(), OnCluster()
    with dask.annotate(retries=3):
        own = task("own", np.add, literal("one", 1), 2)
    calls = [([own, block],) for block in blocks[:2]]
    placed, free = run.calls("count", len, calls, ["a", None])
    above = da.from_delayed(task("both", max, placed, free), (), float) * 2
    (above,) = above.to_delayed(optimize_graph=False).ravel()
    wanted = [own, placed, blocks[2], task("last", np.add, own, above)]
    merged = in_one_layer(wanted)
    assert [each.key for each in merged] == [each.key for each in wanted]
    graph = merged[0].dask
    assert all(each.dask is graph for each in merged)
    (layer,) = graph.layers.values()
    nothing = dict.fromkeys(("workers", "allow_other_workers", "retries"))
    for each, wished in (
        (own, {"retries": 3}),
        (placed, {"workers": ["a"], "allow_other_workers": True}),
        (free, {}),
    ):
        told = {kind: wish(each.key) for kind, wish in layer.annotations.items()}
        assert told == nothing | wished
    for each, expected in zip(dask.compute(*merged), dask.compute(*wanted), strict=True):
        np.testing.assert_array_equal(each, expected)


SIZES = [3] * 30
OF_THREE = share_out(SIZES, {"a": 1, "b": 1, "c": 1})


def moved(threads):
    after = follow(OF_THREE, SIZES, threads)
    assert follow(after, SIZES, threads) == after
    return "".join(now if then != now else "." for then, now in zip(OF_THREE, after, strict=True))


def test_nothing_moves_while_nobody_comes():
    assert moved({"a": 1, "b": 1, "c": 1}) == "." * 30
    assert moved({"c": 1}) == "." * 30
    assert moved({}) == "." * 30


def test_who_comes_takes_over_from_who_is_gone():
    assert moved({"a": 1, "c": 1, "d": 1}) == 10 * "." + 10 * "d" + 10 * "."
    assert moved({"d": 1, "e": 1, "f": 1}) == 10 * "d" + 10 * "e" + 10 * "f"
    assert moved({"a": 1, "d": 1}) == 10 * "." + 10 * "d" + 10 * "."


def test_all_is_shared_out_anew_if_many_come():
    assert moved({"a": 1, "b": 1, "c": 1, "d": 3}) == 5 * "." + 5 * "b" + 5 * "c" + 15 * "d"
    assert moved({"a": 10, "b": 10, "c": 10, "d": 1}) == "." * 30
    assert set(follow(OF_THREE, SIZES, {"a": 1, "d": 1, "e": 1, "f": 1})) == set("adef")


def test_what_is_too_little_for_all_stays_where_it_is():
    """Else it would go from worker to worker for ever."""
    of_many = {f"worker {number}": 2 for number in range(1_000)}
    for n in (1, 16, 999, 1_000, 1_500):
        places = share_out([7] * n, of_many)
        assert follow(places, [7] * n, of_many) == places
    assert follow(["a"], [7], {"a": 1, "b": 1}) == ["a"]
    assert follow(["a"], [7], {"a": 1, "b": 4}) == ["a"]


def test_what_threads_set_for_their_graphs_is_as_it_was_when_all_are_done(monkeypatch):
    key = "distributed.admin.large-graph-warning-threshold"
    before, during, compute = dask.config.get(key), [], dask.base.compute
    both = threading.Barrier(2, timeout=60)

    def computing(*tasks):
        both.wait()  # the second has begun before the first ends
        during.append(dask.config.get(key))
        return compute(*tasks)

    monkeypatch.setattr("dask.base.compute", computing)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(OnCluster().compute, literal("one", 1)) for _ in range(2)]
        assert [call.result() for call in calls] == [(1,), (1,)]
    assert during == ["1 TB", "1 TB"]
    assert dask.config.get(key) == before
