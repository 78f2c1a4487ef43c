import itertools

import dask
import distributed
import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
from hypothesis import given

from stackedae.cluster import TREE_ARITY, Draw, RowSource, Shards, capacity, literal


@pytest.mark.parametrize("n_shards", [1, 2, TREE_ARITY, TREE_ARITY + 1, 300])
def test_sums_here_and_on_a_scheduler_are_the_same_tree(n_shards):
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(3, 2)) * 10.0 ** rng.integers(-8, 8) for _ in range(n_shards)]
    here = Shards(blocks, (3,) * n_shards, 2, np.dtype(float), held=True, here=True)
    there = Shards([literal("block", b) for b in blocks], (3,) * n_shards, 2, np.dtype(float))

    def kernel(scale, rows, out):
        return scale * rows.sum(axis=0) + (0 if out is None else out)

    total = here.sum(kernel, 0.1, name="stackedae-test")
    assert (total == there.sum(kernel, 0.1, name="stackedae-test")).all()
    assert total == pytest.approx(0.1 * np.concatenate(blocks).sum(axis=0), rel=1e-9)


def test_a_sum_does_not_change_what_it_adds_up():
    blocks = [np.ones((1, 2)), np.ones((1, 2))]
    shards = Shards(blocks, (1, 1), 2, np.dtype(float), held=True, here=True)
    shards.sum(lambda rows, out: rows[0], name="stackedae-test")
    assert (blocks[0] == 1).all()


def test_map_and_gather_keep_the_order():
    blocks = [literal("block", np.full((2, 1), float(i))) for i in range(5)]
    shards = Shards(blocks, (2,) * 5, 1, np.dtype(float))
    doubled = shards.map(
        lambda factor, rows: factor * rows, 2, n_features=1, dtype=float, name="stackedae-test"
    ).hold()
    assert doubled.gather(lambda rows: float(rows[0, 0]), name="stackedae-test") == (0, 2, 4, 6, 8)


class Portioned(RowSource):
    """Rows that come in parts."""

    def __init__(self, *parts):
        self.parts = parts

    def portions(self):
        yield from self.parts


def column_sums(rows, out):
    return rows.sum(axis=0) + (0 if out is None else out)


@pytest.mark.parametrize("here", [False, True])
def test_rows_that_come_in_portions(here):
    parts = np.arange(12.0).reshape(3, 2, 2)
    shards = Shards([Portioned(*parts), Portioned(parts[0])], (6, 2), 2, np.dtype(float), here=here)
    assert shards.sum(column_sums, name="stackedae-test").tolist() == [32, 40]
    doubled = shards.map(lambda rows: 2 * rows, n_features=2, dtype=float, name="stackedae-test")
    for rows in (doubled, doubled.hold(), doubled.hold(here=True)):
        assert rows.sum(column_sums, name="stackedae-test").tolist() == [64, 80]
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
    total, sample = there.sum_and_draw(column_sums, draw=draw, here=keep, name="stackedae-test")
    assert total == [sum(range(1000))]
    assert (sample.here, sample.held) == (keep, True)
    assert values(sample) == values(here.draw(draw))


def test_memory_of_the_workers(cluster):
    limits = cluster.run_on_scheduler(
        lambda dask_scheduler: [w.memory_limit for w in dask_scheduler.workers.values()]
    )
    with cluster.as_current():
        assert capacity() == sum(limits)
        with dask.config.set({"stackedae.memory": "2GB"}):
            assert capacity() == 2e9
    assert 0 < capacity() <= psutil.virtual_memory().total


def test_workers_without_a_limit_are_not_workers_without_memory():
    with distributed.Client(processes=False, memory_limit=0, dashboard_address=None):
        assert capacity() == np.inf
