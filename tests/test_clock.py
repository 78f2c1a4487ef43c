import time

import dask.array as da
import numpy as np
import pytest
import zarr

from stackedae import StackedAutoEncoder, extract_patches
from stackedae.clock import Seconds, Stopwatch, reading
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.objective import DaskObjective, Visits

PHASES = ("seconds_read", "seconds_compute", "seconds_reduce", "seconds_wait")


def test_reading_is_told_apart():
    watch = Stopwatch()
    time.sleep(0.02)
    with reading():
        time.sleep(0.05)
    seconds = watch.seconds
    assert 0.05 <= seconds.read <= watch.wall - 0.02
    assert seconds.compute >= 0.02
    assert seconds.total <= watch.wall


def test_what_is_left_is_waiting_or_what_feeds():
    spent = Seconds(read=1.0, compute=4.0, reduce=1.0)
    assert spent.of_each_thread(5.0, 2, fed=False) == Seconds(0.5, 2.0, 0.5, 2.0)
    assert spent.of_each_thread(5.0, 2, fed=True) == Seconds(2.5, 2.0, 0.5, 0.0)
    # Clocks of several threads may say more than the wall.
    assert spent.of_each_thread(2.9, 2, fed=False).wait == 0.0


class SlowStore(zarr.storage.WrapperStore):
    """Every chunk takes 0.1 s to come."""

    async def get(self, key, *arguments, **others):
        if "/c/" in key:
            time.sleep(0.1)
        return await super().get(key, *arguments, **others)


@pytest.fixture
def slow(tmp_path):
    """40,000 rows of 6 chunks in a slow store."""
    images = np.random.default_rng(0).random((6, 110, 110), dtype=np.float32)
    extract_patches(images, (6, 6), 60_000, store=tmp_path / "p.zarr", chunks=10_000, rng=0)
    store = SlowStore(zarr.storage.LocalStore(tmp_path / "p.zarr", read_only=True))
    return zarr.open_array(store, path="patches", mode="r")


def test_an_evaluation_says_where_its_time_went(slow):
    """Of rows that are streamed from a slow store, most is reading; of held ones nothing."""
    cost = AutoEncoderCost(36, 4, sparsity_weight=0.0)
    params = cost.initial_params(np.random.default_rng(0))
    of_streamed, of_held = Visits(), Visits()
    began = time.perf_counter()
    DaskObjective(cost, cut_into_shards(slow), visits=of_streamed)(params)
    wall = time.perf_counter() - began
    assert of_streamed.seconds.total == pytest.approx(wall, rel=0.2)
    assert of_streamed.seconds.read > wall / 2
    DaskObjective(cost, slow, visits=of_held)(params)
    assert of_held.seconds.read == 0.0
    assert of_held.seconds.compute > 0.0


@pytest.mark.parametrize("settings", [{}, {"solver": "adam", "epochs": 2}, {"validation": 0.2}])
def test_the_phases_of_an_iteration_are_within_its_seconds(settings):
    X = np.random.default_rng(0).random((30_000, 20), dtype=np.float32)
    sae = StackedAutoEncoder(5, max_iter=5, tol=0, random_state=0, **settings).fit(X)
    for record in sae.history_:
        phases = [record[name] for name in PHASES]
        assert min(phases) >= 0.0
        assert record["seconds_compute"] > 0.0
        assert sum(phases) <= record["seconds"]


def test_the_phases_of_workers(cluster):
    X = np.random.default_rng(0).random((300_000, 64), dtype=np.float32)
    cost = AutoEncoderCost(64, 60)
    visits = Visits()
    with cluster.as_current():
        objective = DaskObjective(cost, da.from_array(X, chunks=(50_000, 64)), visits=visits)
        objective(cost.initial_params(np.random.default_rng(0)))  # rows are there after this
        before, began = visits.seconds, time.perf_counter()
        objective(cost.initial_params(np.random.default_rng(1)))
        wall = time.perf_counter() - began
    seconds = visits.seconds - before
    assert seconds.total == pytest.approx(wall, rel=0.1)
    assert seconds.compute > seconds.reduce
    assert (seconds.reduce > 0.0) == (len(cluster.nthreads()) > 1)  # one has nothing to add up
    assert seconds.wait > 0.0


def test_rows_that_other_tasks_make_are_not_waited_for():
    """What a lazy array takes to be computed is the reading of an evaluation over it."""

    def slowly(block):
        time.sleep(0.05)
        return block

    X = da.random.default_rng(0).random((40_000, 20), chunks=(10_000, 20)).map_blocks(slowly)
    visits, cost = Visits(), AutoEncoderCost(20, 3, sparsity_weight=0.0)
    shards = cut_into_shards(X, "float32")
    DaskObjective(cost, shards, visits=visits)(cost.initial_params(np.random.default_rng(0)))
    assert visits.seconds.read > 0.05
    assert visits.seconds.wait == 0.0
