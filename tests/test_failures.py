"""Workers, schedulers and clients that die, hang, come and go: the same bits, or a clear error."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
import zarr
from distributed import Client, LocalCluster, Nanny
from distributed.chaos import KillWorker
from distributed.comm.core import CommClosedError
from distributed.deploy.subprocess import SubprocessCluster
from distributed.scheduler import KilledWorker
from distributed.utils import LoopRunner, sync

from stackedae import StackedAutoEncoder
from stackedae.errors import ClusterError
from stackedae.failures import quiet_when_interrupted

SETTINGS = {"hidden_layer_sizes": (16, 12), "max_iter": 12, "tol": 0, "random_state": 0}


def fit(X, callback=None, **settings):
    return StackedAutoEncoder(**{**SETTINGS, **settings}).fit(X, callback=callback)


def bits(model):
    return [layer.params.tobytes() for layer in model.layers_]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def stored(folder):
    X = np.random.default_rng(0).random((24_000, 48), dtype=np.float32)
    X[:, 24:] = X[:, :24] ** 2
    return zarr.create_array(folder / "x.zarr", data=X, chunks=(2000, 48))


@pytest.fixture(autouse=True)
def on_workers(monkeypatch):
    """Data are for the workers, samples of them are not."""
    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", 4e7)


@pytest.fixture(params=["full", "progressive"])
def batching(request):
    return request.param


@pytest.fixture(scope="module")
def undisturbed(stored):
    """The bits of a fit that nothing happens to, on threads."""
    known = {}

    def of(**settings):
        key = repr(sorted(settings.items()))
        if key not in known:
            with dask.config.set(scheduler="threads"):
                known[key] = bits(fit(stored, **settings))
        return known[key]

    return of


@contextmanager
def workers(n=2, config=(), **settings):
    """A cluster of processes, and the client in use."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 30, **dict(config)}),
        LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            **settings,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(n)
        yield client
        # A nanny that is starting a worker must not be closed meanwhile.
        if cluster.workers and isinstance(next(iter(cluster.workers.values())), Nanny):
            client.wait_for_workers(len(cluster.workers), timeout=60)


def pids(client):
    return [worker.pid for worker in client.cluster.workers.values() if worker.pid]


def kill(client, n=1, with_what=signal.SIGKILL):
    for pid in pids(client)[:n]:
        os.kill(pid, with_what)


def kill_at_work(client):
    """Kill a worker as soon as it has something to do."""
    scheduler = client.cluster.scheduler

    def wait_and_kill():
        while not any(worker.processing for worker in list(scheduler.workers.values())):
            time.sleep(0.0005)
        kill(client)

    threading.Thread(target=wait_and_kill).start()


def at(iteration, act, layer=0, phase="full"):
    """A callback that acts once, after an iteration over all rows."""
    done = []

    def callback(record):
        here = (record["layer"], record["phase"]) == (layer, phase)
        if here and not done and record["iteration"] >= iteration:
            done.append(record)
            act()

    callback.done = done
    return callback


# --- nothing happens --------------------------------------------------------------------------


@contextmanager
def dask_set(**settings):
    with dask.config.set(settings):
        yield None


PLACES = {
    "synchronous": lambda: dask_set(scheduler="synchronous"),
    "five threads": lambda: dask_set(scheduler="threads", num_workers=5),
    "one worker": lambda: workers(1),
    "two workers": lambda: workers(2),
    "four workers": lambda: workers(4),
}


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
def test_the_same_bits_everywhere(stored, undisturbed, batching, place):
    with PLACES[place]():
        assert bits(fit(stored, batching=batching)) == undisturbed(batching=batching)


@pytest.mark.long
@pytest.mark.parametrize("second", PLACES)
@pytest.mark.parametrize("first", ["synchronous", "two workers"])
def test_begun_in_one_place_and_ended_in_another(stored, undisturbed, first, second):
    settings = {"checkpoint": "run.zarr", "checkpoint_every": 2}

    def interrupt():
        raise KeyboardInterrupt

    with PLACES[first]() as client:
        act = at(3, lambda: client and kill(client))
        end = at(4, interrupt, layer=1)
        with pytest.raises(KeyboardInterrupt):
            fit(stored, lambda record: (act(record), end(record)), **settings)
    with PLACES[second]() as client:
        act = at(6, lambda: client and kill(client), layer=1)
        assert bits(fit(stored, act, **settings)) == undisturbed()
        assert act.done


def test_what_is_interrupted_before_it_began_says_nothing(caplog):
    """Dask looks for what it is to cancel, which is not there yet."""
    runner, main = LoopRunner(asynchronous=False), threading.main_thread().ident
    runner.start()
    with quiet_when_interrupted():
        runner.loop.add_callback(time.sleep, 0.6)
        threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            sync(runner.loop, asyncio.sleep, 0)
        sync(runner.loop, asyncio.sleep, 0)
    runner.stop()
    assert not [record for record in caplog.records if record.exc_info]


def test_a_connection_that_closes_says_nothing_but_other_errors_do(caplog):
    logger = logging.getLogger("distributed.batched")
    with quiet_when_interrupted():
        for error in (CommClosedError("gone"), ValueError("news")):
            logger.warning("Batched Comm", exc_info=error)
    assert [str(record.exc_info[1]) for record in caplog.records] == ["news"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::stackedae.errors.WaitingWarning")  # small tasks, and many
def test_nothing_piles_up_over_500_iterations():
    """Neither tasks on the scheduler, which is elsewhere, nor memory of the client."""
    X, process, seen = np.random.default_rng(0).random((6_000, 196)), psutil.Process(), []
    with (
        SubprocessCluster(
            "127.0.0.1", n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)

        def callback(record):
            known = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
            seen.append((known, process.memory_info().rss))

        fit(X, callback, hidden_layer_sizes=100, max_iter=500, batching="full")
    tasks, memory = np.array(seen).T
    assert len(tasks) == 500
    assert tasks[100:].max() <= 1.2 * tasks[:100].max()
    slope = np.polyfit(np.arange(400), memory[100:], 1)[0]
    assert slope < 30_000  # bytes an iteration, of which each sends 160,000 of parameters


# --- killed -----------------------------------------------------------------------------------


def test_one_worker_killed(stored, undisturbed, batching):
    with workers() as client:
        act = at(3, lambda: kill(client))
        assert bits(fit(stored, act, batching=batching)) == undisturbed(batching=batching)
        assert act.done


@pytest.mark.long
def test_a_worker_that_holds_a_sample_killed(stored, undisturbed, monkeypatch):
    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", 0)
    with workers() as client:
        act = at(3, lambda: kill(client), phase="sample")
        assert bits(fit(stored, act)) == undisturbed()
        assert act.done


@pytest.mark.long
def test_one_worker_killed_in_the_second_layer(stored, undisturbed, batching):
    with workers() as client:
        act = at(3, lambda: kill(client), layer=1)
        assert bits(fit(stored, act, batching=batching)) == undisturbed(batching=batching)
        assert act.done


@pytest.mark.long
def test_all_workers_killed_at_once(stored, undisturbed, batching):
    with workers() as client:
        act = at(3, lambda: kill(client, 2))
        assert bits(fit(stored, act, batching=batching)) == undisturbed(batching=batching)
        assert act.done


@pytest.mark.long
def test_a_worker_killed_again_and_again(stored, undisturbed):
    with workers() as client:
        times = []

        def callback(record):
            if record["iteration"] % 3 == 0:
                times.append(time.monotonic())
                kill(client)

        assert bits(fit(stored, callback, batching="full")) == undisturbed(batching="full")
    assert len(times) == 8


@pytest.mark.long
def test_a_worker_killed_while_rows_are_read(stored, undisturbed):
    with workers() as client:
        threading.Timer(0.05, lambda: kill(client)).start()
        assert bits(fit(stored, batching="full")) == undisturbed(batching="full")


@pytest.mark.long
def test_a_worker_killed_while_rows_are_streamed(stored, undisturbed):
    with workers() as client, dask.config.set({"stackedae.memory": "1MB"}):
        act = at(3, lambda: threading.Timer(0.02, lambda: kill(client)).start())
        assert bits(fit(stored, act, batching="full")) == undisturbed(batching="full")
        assert act.done


@pytest.mark.long
def test_a_worker_that_nobody_replaces(stored, undisturbed):
    with workers(3) as client:
        first = next(iter(client.cluster.workers.values()))

        def act():
            pid = first.pid
            client.cluster.sync(first.close)  # the nanny goes, and takes its worker along
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

        act = at(3, act)
        assert bits(fit(stored, act, batching="full")) == undisturbed(batching="full")
        assert act.done
        del client.cluster.workers[next(iter(client.cluster.workers))]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["segfault", "graceful", "sys.exit"])
def test_workers_that_die_by_chance(stored, undisturbed, mode):
    with workers() as client:
        client.cluster.adapt(minimum=2, maximum=2, interval="100ms")  # some take their nanny along
        client.register_plugin(KillWorker("5s", mode=mode), name="chance")
        first, n_fits = set(pids(client)), 0
        while not n_fits or first & set(pids(client)):
            assert bits(fit(stored, batching="full")) == undisturbed(batching="full")
            n_fits += 1
        client.unregister_worker_plugin("chance")


@pytest.mark.long
def test_a_worker_killed_every_three_seconds():
    script = Path(__file__).parents[1] / "benchmarks" / "faults.py"
    done = subprocess.run(
        [sys.executable, script, "--only", "workers", "--seed", "3", "--seconds", "20"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert "bits equal" in done.stdout


# --- hung, slow, coming and going -------------------------------------------------------------


@pytest.mark.long
def test_a_worker_that_hangs(stored, undisturbed):
    with workers(config={"distributed.scheduler.worker-ttl": "2s"}) as client:
        stopped = pids(client)[:1]
        act = at(3, lambda: kill(client, 1, signal.SIGSTOP))
        assert bits(fit(stored, act, batching="full")) == undisturbed(batching="full")
        assert act.done
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_a_worker_that_is_slow(stored, undisturbed):
    with workers() as client:
        slow = pids(client)[0]

        def stutter():
            for _ in range(5):
                os.kill(slow, signal.SIGSTOP)
                time.sleep(0.3)
                os.kill(slow, signal.SIGCONT)
                time.sleep(0.1)

        act = at(2, threading.Thread(target=stutter).start)
        assert bits(fit(stored, act, batching="full")) == undisturbed(batching="full")
        assert act.done


def shards_held(client):
    """How many shards of each worker that there is now are where they should be."""
    held = client.has_what()
    return sorted(
        sum("-load-" in str(key) or "-move-" in str(key) for key in held[worker])
        for worker in client.nthreads()
    )


def shards_held_in_the_end(client):
    """What they hold once shards that moved are let go of where they were."""
    deadline = time.monotonic() + 10
    while sum(held := shards_held(client)) > 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


@pytest.mark.long
def test_workers_that_join(stored, undisturbed):
    with workers(1) as client:
        seen = []

        def act():
            client.cluster.scale(3)
            client.wait_for_workers(3)

        act, look = at(2, act), at(10, lambda: seen.append(shards_held_in_the_end(client)))
        model = fit(stored, lambda record: (act(record), look(record)), batching="full")
        assert bits(model) == undisturbed(batching="full")
    assert seen == [[1, 1, 2]]


@pytest.mark.long
def test_who_comes_back_has_work_again(stored, undisturbed):
    with workers(2) as client:
        seen = []

        def act():
            before = set(client.nthreads())
            kill(client)
            while len(set(client.nthreads()) | before) < 3 or len(client.nthreads()) < 2:
                time.sleep(0.05)

        act, look = at(2, act), at(10, lambda: seen.append(shards_held_in_the_end(client)))
        model = fit(stored, lambda record: (act(record), look(record)), batching="full")
        assert bits(model) == undisturbed(batching="full")
    assert seen == [[2, 2]]


@pytest.mark.long
def test_a_worker_that_leaves(stored, undisturbed):
    with workers(2) as client:
        act = at(2, lambda: client.cluster.scale(1))
        assert bits(fit(stored, act, batching="full")) == undisturbed(batching="full")
        assert act.done


# --- only what is lost is read again ----------------------------------------------------------


def test_only_lost_shards_are_read_again(folder, tmp_path):
    rows = np.random.default_rng(0).random((24_000, 48), dtype=np.float32)

    def read(block_info=None):
        chunk = block_info[None]["chunk-location"][0]
        (tmp_path / f"{chunk}-{time.monotonic_ns()}").touch()
        return rows[2000 * chunk : 2000 * (chunk + 1)]

    X = da.map_blocks(read, chunks=((2000,) * 12, (48,)), dtype=rows.dtype, meta=rows[:0])

    def counts():
        chunks = [int(path.name.split("-")[0]) for path in tmp_path.iterdir()]
        return [chunks.count(i) for i in range(12)]

    with workers() as client:
        seen = []

        def act():
            seen.append(counts())
            kill(client)

        fit(X, at(3, act), batching="full", hidden_layer_sizes=6)
        (before,) = seen
    assert before == [1] * 12
    again = np.array(counts()) - 1
    assert set(again) == {0, 1}
    assert 4 <= again.sum() <= 8


# --- errors -----------------------------------------------------------------------------------


def test_a_task_that_kills_its_workers(stored, undisturbed):
    """Every worker dies in the middle of an evaluation: KilledWorker, in our words."""
    none_allowed = {"distributed.scheduler.allowed-failures": 0, "stackedae.memory": "1MB"}
    with workers(1, none_allowed) as client, dask.config.set(none_allowed):
        act = at(3, lambda: kill_at_work(client))
        message = (
            r"stackedae-[a-z-]+( of shards? \d[\d to]*)?: 1 worker died over it, the last of them "
            r"tcp://127.*for lack of memory.*Training stood in layer 0, phase 'full', after "
            r"iteration \d+; fit again to go on from the checkpoint run\.zarr"
        )
        with pytest.raises(ClusterError, match=message) as caught:
            fit(stored, act, batching="full", checkpoint="run.zarr")
        assert isinstance(caught.value.__cause__.__cause__, KilledWorker)
    resumed = fit(stored, batching="full", checkpoint="run.zarr")
    assert bits(resumed) == undisturbed(batching="full")
    assert len(resumed.history_) == 24


def test_no_worker_is_left(stored, undisturbed):
    with workers(1, {"distributed.scheduler.no-workers-timeout": "1s"}) as client:
        act = at(3, lambda: client.cluster.scale(0))
        message = r"no worker came within 1 s.*start workers.*layer 0.*checkpoint run\.zarr"
        with pytest.raises(ClusterError, match=message):
            fit(stored, act, batching="full", checkpoint="run.zarr")
    assert bits(fit(stored, batching="full", checkpoint="run.zarr")) == undisturbed(batching="full")


def test_data_that_only_a_worker_had(stored):
    with workers(2) as client:
        parts = client.scatter([stored[i : i + 2000] for i in range(0, 24_000, 2000)])
        blocks = [da.from_delayed(part, (2000, 48), np.float32) for part in parts]
        act = at(3, lambda: kill(client))
        with pytest.raises(ClusterError, match=r"gone with a worker.*there is no checkpoint"):
            fit(da.concatenate(blocks), act, batching="full")


@pytest.mark.long
def test_the_scheduler_dies(stored, undisturbed):
    scheduler = subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"),
            *("--port", "0", "--dashboard-address", "127.0.0.1:0"),
            *("--scheduler-file", "scheduler.json"),
        ],
        stderr=subprocess.DEVNULL,
    )
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1"),
            *("--scheduler-file", "scheduler.json", "--no-dashboard", "--death-timeout", "5"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        while not os.path.exists("scheduler.json"):
            time.sleep(0.05)
        with dask.config.set({"distributed.comm.timeouts.connect": "3s"}):
            client = Client(scheduler_file="scheduler.json")
            client.wait_for_workers(1)
            act = at(3, scheduler.kill)
            with pytest.raises(ClusterError, match=r"scheduler.*layer 0.*checkpoint run\.zarr"):
                fit(stored, act, batching="full", checkpoint="run.zarr")
            client.close(timeout=1)
    finally:
        scheduler.kill()
        worker.kill()
        scheduler.wait()
        worker.wait()
    assert bits(fit(stored, batching="full", checkpoint="run.zarr")) == undisturbed(batching="full")


def test_after_an_interruption_the_cluster_is_clean(stored, undisturbed):
    def interrupt():
        raise KeyboardInterrupt

    with workers(2) as client:
        sae = StackedAutoEncoder(**SETTINGS, batching="full", checkpoint="run.zarr")
        with pytest.raises(KeyboardInterrupt) as caught:
            sae.fit(stored, callback=at(3, interrupt, layer=1))
        assert caught.value.__traceback__ is not None  # it lives, and holds no rows
        deadline = time.monotonic() + 5
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            assert time.monotonic() < deadline, client.processing()
            time.sleep(0.05)
    assert [layer.status.name for layer in sae.layers_] == ["MAX_ITER", "INTERRUPTED"]
    assert sae.transform(stored).shape == (24_000, 12)
    assert sae.n_iter_ == 15
    assert bits(fit(stored, batching="full", checkpoint="run.zarr")) == undisturbed(batching="full")


def test_a_cluster_without_a_nanny(stored, undisturbed):
    """Workers in threads of the client: nothing about processes is assumed."""
    with Client(
        processes=False, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ):
        assert bits(fit(stored, batching="full")) == undisturbed(batching="full")
