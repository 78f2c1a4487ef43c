import dask
import distributed
import numpy as np
import psutil

from stackedae.cluster import OnCluster, cut_in_proportion, memory_of_workers


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
    with distributed.Client(processes=False, memory_limit=0, dashboard_address=None):
        assert memory_of_workers().capacity == np.inf


def test_shares_are_runs_in_proportion_to_threads(cluster):
    with cluster.as_current():
        workers = list(cluster.nthreads())
        places = OnCluster().share_out([1] * 10)
    expected = [None] * 10 if len(workers) == 1 else [w for w in workers for _ in range(5)]
    assert places == expected
    assert cut_in_proportion([1] * 12, [1, 2, 1]) == [0, 3, 9, 12]
    assert cut_in_proportion([5], [1, 1]) in ([0, 0, 1], [0, 1, 1])
