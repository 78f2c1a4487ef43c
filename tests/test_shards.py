import gc
import itertools
import os
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import dask
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stackedae.cluster import literal
from stackedae.shards import Draw, RowSource, Shards, each_alone

NAME = "stackedae-test"


@pytest.mark.parametrize("n_shards", [1, 2, 3, 16, 17, 300])
def test_sums_here_and_on_a_scheduler_are_the_same_tree(n_shards):
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(3, 2)) * 10.0 ** rng.integers(-8, 8) for _ in range(n_shards)]
    here = Shards(blocks, (3,) * n_shards, 2, np.dtype(float), held=True, here=True)
    there = Shards([literal("block", b) for b in blocks], (3,) * n_shards, 2, np.dtype(float))

    def kernel(scale, rows, out):
        return scale * rows.sum(axis=0) + (0 if out is None else out)

    total = here.sum(each_alone(kernel), 0.1, name=NAME)
    assert (total == there.sum(each_alone(kernel), 0.1, name=NAME)).all()
    assert total == pytest.approx(0.1 * np.concatenate(blocks).sum(axis=0), rel=1e-9)


def test_a_sum_does_not_change_what_it_adds_up():
    blocks = [np.ones((1, 2)), np.ones((1, 2))]
    shards = Shards(blocks, (1, 1), 2, np.dtype(float), held=True, here=True)
    shards.sum(each_alone(column_sums), name=NAME)
    assert (blocks[0] == 1).all()


def test_map_and_gather_keep_the_order():
    blocks = [literal("block", np.full((2, 1), float(i))) for i in range(5)]
    shards = Shards(blocks, (2,) * 5, 1, np.dtype(float))
    doubled = shards.map(
        lambda factor, rows: factor * rows, 2, n_features=1, dtype=float, name=NAME
    ).hold()
    assert doubled.gather(lambda rows: float(rows[0, 0]), name=NAME) == (0, 2, 4, 6, 8)


class Portioned(RowSource):
    """Rows that come in parts."""

    def __init__(self, *parts):
        self.parts = parts

    def portions(self):
        yield from self.parts


def column_sums(rows, out):
    return rows.sum(axis=0, dtype=float) + (0 if out is None else out)


@pytest.mark.parametrize("here", [False, True])
def test_rows_that_come_in_portions(here):
    parts = np.arange(12.0).reshape(3, 2, 2)
    shards = Shards([Portioned(*parts), Portioned(parts[0])], (6, 2), 2, np.dtype(float), here=here)
    assert shards.sum(each_alone(column_sums), name=NAME).tolist() == [32, 40]
    doubled = shards.map(lambda rows: 2 * rows, n_features=2, dtype=float, name=NAME)
    for rows in (doubled, doubled.hold(), doubled.hold(here=True)):
        assert rows.sum(each_alone(column_sums), name=NAME).tolist() == [64, 80]
    assert doubled.hold(here=True).here


def sharded(*rows, here=True):
    borders = np.cumsum((0, *rows))
    blocks = [np.arange(a, b)[:, None] for a, b in itertools.pairwise(borders)]
    return Shards(blocks, rows, 1, np.dtype(int), held=True, here=here)


def values(shards):
    return np.concatenate(shards.hold(here=True).blocks).ravel().tolist()


def test_draws_are_stratified_nested_and_disjoint():
    shards = sharded(1000, 2000, 10)
    quarter, half = shards.draw(Draw(0, 0.25, 1)), shards.draw(Draw(0, 0.5, 1))
    rest = shards.draw(Draw(0.5, 1, 1))
    assert half.n_rows == pytest.approx(1505, abs=2)
    assert set(values(quarter)) <= set(values(half))
    assert sorted(values(half) + values(rest)) == list(range(3010))
    for start, stop in ((0, 1000), (1000, 3000), (3000, 3010)):
        inside = sum(start <= value < stop for value in values(half))
        assert inside == pytest.approx((stop - start) / 2, abs=1)
    assert values(half) != values(shards.draw(Draw(0, 0.5, 2)))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.lists(st.floats(0, 1), max_size=5),
)
def test_stretches_share_all_rows_out(rows, cuts):
    shards, borders = sharded(*rows), [0.0, *sorted(cuts), 1.0]
    drawn = [
        row
        for start, stop in itertools.pairwise(borders)
        if sum(Draw(start, stop, 0).size(i, n) for i, n in enumerate(rows))
        for row in values(shards.draw(Draw(start, stop, 0)))
    ]
    assert sorted(drawn) == list(range(sum(rows)))


@pytest.mark.parametrize("keep", [False, True])
def test_a_sample_comes_with_the_sum(keep):
    here = sharded(300, 500, 200)
    there = Shards([literal("block", b) for b in here.blocks], here.rows, 1, here.dtype)
    draw = Draw(0.25, 0.5, 3)
    total, sample = there.sum_and_draw(each_alone(column_sums), draw=draw, here=keep, name=NAME)
    assert total == [sum(range(1000))]
    assert (sample.here, sample.held) == (keep, True)
    assert values(sample) == values(here.draw(draw))


@pytest.mark.parametrize("n_shards", [1, 5, 32])
@pytest.mark.parametrize("n_workers", [1, 2, 3, 40])
def test_the_bits_of_a_sum_do_not_depend_on_how_many_tasks_there_are(n_shards, n_workers):
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(2, 3)) * 10.0 ** rng.integers(-8, 8) for _ in range(n_shards)]
    shards = Shards([literal("block", b) for b in blocks], (2,) * n_shards, 3, np.dtype(float))
    with dask.config.set(scheduler="synchronous"):
        expected = shards.sum(each_alone(column_sums), name=NAME)
    with dask.config.set(num_workers=n_workers, scheduler="threads"):
        assert (shards.sum(each_alone(column_sums), name=NAME) == expected).all()


def center(rows):
    def step(rows, out):
        return len(rows), rows.sum(axis=0) + (0 if out is None else out)

    return step


def spread(sums, rows):
    def step(rows, kept, out):
        assert kept in (None, len(rows))
        return ((rows - sums / 6) ** 2).sum(axis=0) + (0 if out is None else out)

    return step


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("here", [False, True])
def test_a_second_stage_has_the_sums_of_the_first(held, here):
    parts = np.arange(12.0).reshape(3, 2, 2)
    shards = Shards([Portioned(*parts[:2]), parts[2]], (4, 2), 2, np.dtype(float), here=here)
    shards = shards.hold() if held else shards
    sums, squares = shards.sum_in_two_stages(center, spread, name=NAME)
    rows = parts.reshape(6, 2)
    assert sums.tolist() == rows.sum(axis=0).tolist()
    assert squares == pytest.approx(rows.var(axis=0) * 6)


def test_nothing_waits_for_the_garbage_collector():
    class Rows(np.ndarray):
        pass

    rows = np.ones((4, 1)).view(Rows)
    gone = weakref.ref(rows)
    shards = Shards([rows, rows, rows], (4,) * 3, 1, np.dtype(float), held=True, here=True)
    del rows
    gc.disable()
    try:
        shards.sum(each_alone(column_sums), name=NAME)
        del shards
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("here", [False, True])
def test_held_rows_are_aligned(here):
    memory = np.zeros(4 * 6 + 2, np.uint8)
    odd = memory[2:].view(np.float32).reshape(3, 2)
    odd[...] = 1.5
    assert not odd.flags.aligned
    shards = Shards([odd], (3,), 2, odd.dtype).hold(here=here)
    (block,) = shards.gather(np.copy, name=NAME)
    assert (block == 1.5).all()
    assert shards.gather(lambda rows: rows.flags.aligned, name=NAME) == (True,)


class SlowRow(RowSource):
    """A row that takes a while to read."""

    def portions(self):
        time.sleep(0.1)
        return iter([np.ones((1, 1))])


def test_tasks_without_a_place_wait_for_a_worker_that_is_free(cluster, monkeypatch):
    monkeypatch.setattr("stackedae.shards.n_tasks", lambda n_bytes, n_threads: 16)
    shards = Shards([SlowRow() for _ in range(16)], (1,) * 16, 1, np.dtype(float))
    with cluster.as_current(), ThreadPoolExecutor(1) as other:
        waiting = other.submit(most_queued, cluster)
        shards.sum(each_alone(scaled), 2.0, name="stackedae-cost")
    assert waiting.result() > 4


def scaled(scale, rows, out):
    return scale * column_sums(rows, out)


def most_queued(cluster):
    counts = [cluster.run_on_scheduler(n_queued) for _ in range(100)]
    return max(counts)


def n_queued(dask_scheduler):
    return len(dask_scheduler.queued)


@pytest.mark.parametrize("mapped", [False, True])
def test_few_tasks_go_to_all_workers(cluster, mapped):
    """Dask gives those that need the same parameters to one worker, from which others steal."""

    def beginning(_, rows):
        def step(rows, out):
            time.sleep(0.05)
            counts = np.zeros(2**16) if out is None else out
            counts[os.getpid() % len(counts)] += 1
            return counts

        return step

    shards = Shards([Portioned(np.ones((1, 1)))] * 16, (1,) * 16, 1, np.dtype(float), whole=False)
    if mapped:
        shards = shards.map(np.square, n_features=1, dtype=float, name=NAME)
    with cluster.as_current():
        counts = shards.sum(beginning, np.zeros(10), name=NAME)
    n_workers = len(cluster.nthreads())
    assert sorted(counts[counts > 0]) == [16 / n_workers] * n_workers


def test_who_has_which_rows_can_be_asked(cluster):
    here = sharded(3, 4, 5)
    run, places, n_threads = here.located()
    assert places is None
    assert run.call("", sum, [1, 2]) == 3
    lazy = Shards([literal("block", b) for b in here.blocks], here.rows, 1, here.dtype)
    with cluster.as_current():
        assert lazy.located()[1] is None
        held = lazy.hold()
        held.places[:] = ["tcp://gone:1"] * 3  # as if their worker were
        run, places, n_threads = held.located()
        assert set(places) <= set(cluster.nthreads())
        assert n_threads == sum(cluster.nthreads().values())
        calls = [(held.blocks[1:],)]
        (values,) = run.compute(*run.calls(NAME, np.concatenate, calls, places[1:2], [(1, 3)]))
    assert values.ravel().tolist() == list(range(3, 12))
