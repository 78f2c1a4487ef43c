import tracemalloc
from dataclasses import replace
from itertools import pairwise

import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import given

from stackedae.arrays import POOL
from stackedae.cluster import Here
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost, ClassifierCost
from stackedae.costs.coordinates import AffineMap, CentredCoordinates
from stackedae.labelled import Labelled
from stackedae.local_steps import BatchSteps, LocalSteps, _average, _Share, adam_on, n_replicas
from stackedae.noise import Corruption
from stackedae.shards import RowSource, Shards
from stackedae.solvers import Adam, AdamState

COST = AutoEncoderCost(6, 4)
STEPS = BatchSteps(COST, Adam(0.02), batch_size=16)
SIZES = (90, 33, 70, 64, 81, 20, 97, 55, 60, 88, 71, 13, 90, 62, 77, 49, 66)
N = sum(SIZES)


def start(cost=COST):
    return np.random.default_rng(0).normal(scale=0.3, size=cost.layout.size)


def blocks_of(X, sizes=SIZES):
    return [X[a:b] for a, b in pairwise(np.cumsum((0, *sizes)))]


def sharded(X, sizes=SIZES, **settings):
    settings = {"held": True, "here": True, **settings}
    return Shards(blocks_of(X, sizes), sizes, X.shape[1], X.dtype, **settings)


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(1).random((N, 6)).astype(np.float32)


def epochs(local, n=2, params=None):
    state, costs = local.init(start() if params is None else params), []
    for _ in range(n):
        state, cost = local.epoch(state)
        costs.append(cost)
    return state, costs


def bits(state):
    return [np.asarray(value).tobytes() for value in vars(state).values()]


@pytest.mark.parametrize("n_workers", [1, 3])
def test_threads_give_the_bits_of_one(X, n_workers):
    expected = bits(epochs(LocalSteps(STEPS, sharded(X), 3, 3))[0])
    with dask.config.set(scheduler="threads", num_workers=n_workers):
        assert bits(epochs(LocalSteps(STEPS, sharded(X), 3, 3))[0]) == expected
        lazy = sharded(da.from_array(X), here=False, held=False)
        assert bits(epochs(LocalSteps(STEPS, lazy, 3, 3))[0]) == expected
    with dask.config.set(scheduler="synchronous"):
        assert bits(epochs(LocalSteps(STEPS, lazy, 3, 3))[0]) == expected


def test_workers_give_the_same_bits_held_or_streamed(X, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr("stackedae.memory.MIN_SHARD_BYTES", 100)  # several replicas
    # Shards of several portions, which are read in others.
    monkeypatch.setattr("stackedae.local_steps.rows_per_portion_read", lambda row_bytes: 30)
    monkeypatch.setattr("stackedae.storage.MAX_BLOCK_ROWS", 8)
    stored = zarr.create_array(str(tmp_path / "X"), data=X, chunks=(40, 6))
    shards = cut_into_shards(stored, "float32")
    assert n_replicas(len(shards.rows)) > 1
    assert isinstance(shards.blocks[0], RowSource)
    expected = bits(epochs(LocalSteps(STEPS, shards.hold(here=True), 2, 3), 1)[0])
    assert bits(epochs(LocalSteps(STEPS, shards, 2, 3), 1)[0]) == expected
    with cluster.as_current():
        assert bits(epochs(LocalSteps(STEPS, shards, 2, 3), 1)[0]) == expected
        held = shards.hold()
        assert held.places is not None
        assert bits(epochs(LocalSteps(STEPS, held, 2, 3), 1)[0]) == expected


class Seen:
    """Steps that note which rows they were taken on, and at which rate, and do nothing else."""

    def __init__(self):
        self.batches, self.adam, self.batch_size = [], Adam(1.0), 16

    def in_epoch(self, epoch):
        return self

    def step(self, state, rows, rate):
        self.batches.append((rows[:, 0].tolist(), rate))
        return state, float(rows[:, 0].mean())


def visits(sizes, n_epochs=2, **settings):
    """Batches of every epoch, and the costs that were told."""
    steps, told = Seen(), []
    shards = sharded(np.arange(sum(sizes))[:, None], sizes)
    local = LocalSteps(steps, shards, n_epochs, **settings)
    state, ends = local.init(np.zeros(1)), [0]
    with dask.config.set(scheduler="synchronous"):
        for number in range(n_epochs):
            state, cost = local.epoch(state)
            assert state.epoch == number + 1
            told.append(cost)
            ends.append(len(steps.batches))
    return [steps.batches[a:b] for a, b in pairwise(ends)], told


def order(batches):
    return [row for rows, _ in batches for row in rows]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 9))
def test_every_row_is_visited_once_an_epoch(sizes, local_steps, seed):
    every, costs = visits(sizes, local_steps=local_steps, seed=seed)
    n = sum(sizes)
    for batches, cost in zip(every, costs, strict=True):
        assert sorted(order(batches)) == list(range(n))
        assert max(len(rows) for rows, _ in batches) <= 16
        assert cost == pytest.approx((n - 1) / 2)  # what batches cost, by their rows


def test_the_order_is_another_in_every_epoch_and_of_every_seed():
    (first, second), _ = visits(SIZES)
    (again, _), _ = visits(SIZES)
    (other, _), _ = visits(SIZES, seed=1)
    assert order(first) == order(again)
    orders = order(first), order(second), order(other), list(range(N))
    assert len({tuple(each) for each in orders}) == 4
    assert [len(rows) for rows, _ in first] == [len(rows) for rows, _ in again]


def test_the_rate_falls_with_the_rows_that_were_visited():
    every, _ = visits((40,) * 4, n_epochs=4, local_steps=2)  # of one replica
    rates = [rate for batches in every for _, rate in batches]
    before = np.cumsum([0, *(len(rows) for batches in every for rows, _ in batches)])[:-1]
    assert rates == pytest.approx(np.minimum(1, 2 - 2 * before / 640))
    many, _ = visits(SIZES, n_epochs=1)  # each of two replicas goes all the way
    assert [rate for _, rate in many[0]].count(1.0) > N / 16 / 2
    assert min(rate for _, rate in many[0]) < 0.2


def test_rows_of_a_portion_are_shuffled_and_no_others(monkeypatch):
    monkeypatch.setattr("stackedae.local_steps.rows_per_portion_read", lambda row_bytes: 64)
    (batches,), _ = visits((200,), n_epochs=1)
    rows = order(batches)
    for first, stop in pairwise((0, 64, 128, 192, 200)):
        assert sorted(rows[first:stop]) == list(range(first, stop))
        assert rows[first:stop] != list(range(first, stop))


def test_one_replica_is_a_plain_loop(X):
    sizes, seed = (50, 40, 70), 3
    state, costs = epochs(LocalSteps(STEPS, sharded(X[:160], sizes), 4, 1, seed), 2)
    plain, expected = STEPS.adam.init(start()), []
    for epoch in range(2):
        done, total = 0, 0.0
        for shard in np.random.default_rng((seed, epoch, 0)).permutation(3).tolist():
            rows = blocks_of(X[:160], sizes)[shard]
            rows = rows[np.random.default_rng((seed, epoch, shard, 0)).permutation(len(rows))]
            n_batches = -(-len(rows) // 16)
            cuts = [len(rows) * number // n_batches for number in range(n_batches + 1)]
            for a, b in pairwise(cuts):
                rate = STEPS.adam.rate((epoch + done / 160) / 4)
                plain, cost = STEPS.step(plain, rows[a:b], rate)
                done, total = done + b - a, total + (b - a) * cost
        plain = replace(plain, epoch=epoch + 1)
        expected.append(total / 160)
    assert bits(state) == bits(plain)
    assert costs == pytest.approx(expected, rel=1e-14)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(8, 2000),
    st.sampled_from([1, 3, 10**9]),
)
def test_no_task_gathers_more_than_a_large_shard(sizes, most, local_steps):
    taken = []

    class Gathering(Here):
        def calls(self, name, function, arguments, places=None, shards=None):
            every = list(arguments)
            taken.extend([len(block) for block in blocks] for *_, blocks in every)
            return super().calls(name, function, every, places, shards)

    shards = sharded(np.arange(sum(sizes))[:, None], sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stackedae.local_steps.MAX_SHARD_BYTES", 8 * most)
        patch.setattr(Shards, "located", lambda shards: (Gathering(), None, 1))
        LocalSteps(Seen(), shards, 1, local_steps).epoch(Adam().init(np.zeros(1)))
    assert sum(map(sum, taken)) == sum(sizes)
    assert all(len(visit) == 1 or sum(visit) <= most for visit in taken)


def test_rounds_are_no_shorter_than_memory_makes_them():
    shards, bytes_of_shard = sharded(np.zeros((640, 8)), (10,) * 64), 10 * 8 * 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stackedae.local_steps.MAX_SHARD_BYTES", 4 * bytes_of_shard)
        runs = LocalSteps(STEPS, shards, 1, 10**9)._runs
    assert [[stop - start for start, stop in of_replica] for of_replica in runs] == [[4] * 4] * 4


def test_replicas_start_from_one_state_and_meet_at_its_mean(X):
    sizes = (32,) * 16
    local = LocalSteps(STEPS, sharded(X[:512], sizes), 1, local_steps=1000)
    state, _ = epochs(local, 1)
    ends = []
    for replica in range(2):  # one round: each goes through its half
        one, done = local.init(start()), 0
        for shard in range(8 * replica, 8 * replica + 8):
            rows = X[32 * shard : 32 * shard + 32]
            rows = rows[np.random.default_rng((0, 0, shard, 0)).permutation(32)]
            for batch in (rows[:16], rows[16:]):
                one, _ = STEPS.step(one, batch, STEPS.adam.rate(done / 256))
                done += 16
        ends.append(one)
    for name in ("params", "first", "second", "means"):
        mean = (getattr(ends[0], name) + getattr(ends[1], name)) / 2
        np.testing.assert_allclose(getattr(state, name), mean, rtol=1e-13, atol=1e-17)
    assert (state.n_steps, state.epoch) == (16, 1)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=9))
def test_means_of_states_are_by_rows(sizes):
    rng, shares = np.random.default_rng(0), []
    for number, n_rows in enumerate(sizes):
        params, first, second, means = rng.normal(size=(4, 3))
        state = AdamState(params, first, second, number, 7, means, 10.0 * number)
        shares.append(_Share(state, n_rows, 2.0 * n_rows))
    mean = shares[0]
    for share in shares[1:]:
        mean = _average(mean, share)
    for name in ("params", "first", "second", "means", "n_averaged"):
        values = [getattr(share.state, name) for share in shares]
        expected = np.average(values, axis=0, weights=sizes)
        np.testing.assert_allclose(getattr(mean.state, name), expected, rtol=1e-9, atol=1e-12)
    assert mean.sums()[:2] == (sum(sizes), 2.0 * sum(sizes))
    assert (mean.state.n_steps, mean.state.epoch) == (len(sizes) - 1, 7)


def test_replicas_are_a_power_of_two_that_grows_with_the_root_of_shards():
    numbers = [n_replicas(n_shards) for n_shards in range(1, 5000)]
    assert numbers == sorted(numbers)
    assert set(numbers) == {1, 2, 4, 8, 16, 32}
    for n_shards, n in enumerate(numbers, start=1):
        assert n == 1 or n <= np.sqrt(n_shards) / 2 < 2 * n


class Doubled:
    """Coordinates in which parameters are half of what they are."""

    def gradient(self, gradient):
        return 2 * gradient

    def step(self, step):
        return 2 * step


def test_steps_may_be_taken_in_other_coordinates(X):
    plain = AdamState(start(), *np.ones((2, COST.layout.size)), n_steps=4)
    moved, cost = replace(STEPS, coordinates=Doubled()).step(plain, X[:16], 0.1)
    expected, same = replace(STEPS, adam=Adam(0.02)).step(plain, X[:16], 0.1)
    assert cost == same
    gradient = 2 * COST.evaluate(start(), X[:16]).gradient
    step = STEPS.adam.step(plain, gradient, 0.1).params - start()
    assert moved.params - start() == pytest.approx(2 * step, rel=1e-4)
    assert moved.means != pytest.approx(expected.means, rel=1e-6)  # they follow the longer step


LARGE = {
    "one layer": AutoEncoderCost(400, 200),
    "classifier": ClassifierCost((400, 200, 40), n_classes=3),
}


def large_steps(name):
    cost, rng = LARGE[name], np.random.default_rng(0)
    X = rng.random((32, 400)).astype(np.float32)
    mean = X.mean(axis=0, dtype=np.float64)
    maps = [AffineMap("W1", "b1", mean, input_width=3.0)]
    steps = BatchSteps(cost, Adam(), 32, CentredCoordinates(cost.layout, maps))
    rows = Labelled(X, {"y": np.arange(32) % 3}) if "y" in cost.aside else X
    return steps, AdamState(start(cost), *np.ones((2, cost.layout.size))), rows


@pytest.mark.parametrize("name", LARGE)
def test_steps_leave_states_as_they_were(name):
    steps, state, rows = large_steps(name)
    states, written = [], []
    for _ in range(6):
        states.append(state)
        written.append(bits(state))
        state, _ = steps.step(state, rows, 0.01)
    assert list(map(bits, states)) == written


@pytest.mark.parametrize("name", LARGE)
def test_steps_take_no_fresh_memory_for_vectors(name, monkeypatch):
    monkeypatch.setattr(POOL, "most_bytes", np.inf)  # whatever other tests left in it
    steps, state, rows = large_steps(name)
    for _ in range(3):
        state, _ = steps.step(state, rows, 0.01)
    tracemalloc.start()
    try:
        state, _ = steps.step(state, rows, 0.01)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < state.params.nbytes / 2


def test_streams_are_gone_through_in_order_at_the_full_rate():
    steps = Seen()
    rows = np.arange(50)[:, None]
    state = AdamState(np.zeros(1), np.zeros(1), np.zeros(1), epoch=3)
    assert adam_on(steps, state, rows) is state
    assert order(steps.batches) == list(range(50))
    assert [len(batch) for batch, _ in steps.batches] == [12, 13, 12, 13]
    assert {rate for _, rate in steps.batches} == {1.0}


def test_rows_without_weight_are_no_harm():
    rng, cost = np.random.default_rng(0), ClassifierCost((6, 3), n_classes=2)
    X, y = rng.random((512, 6)), np.arange(512) % 2
    weight = np.where(np.arange(512) < 300, 0.0, 1.0)  # whole shards of a replica's first ones
    rows = Labelled(X, {"y": y, "weight": weight})
    shards = Shards(blocks_of(rows, (32,) * 16), (32,) * 16, 6, X.dtype, held=True, here=True)
    local = LocalSteps(replace(STEPS, cost=cost), shards, 1, 2)
    state, told = epochs(local, 1, start(cost))
    assert np.isfinite(state.params).all()
    assert (state.params != start(cost)).any()
    assert 0.5 < told[0] < 1.5  # about log 2: batches that were left out do not count
    nothing = Labelled(X, {"y": y, "weight": np.zeros(512)})
    shards = replace(shards, blocks=blocks_of(nothing, (32,) * 16))
    state, told = epochs(replace(local, shards=shards), 1, start(cost))
    assert (state.params.tobytes(), told, state.n_steps) == (start(cost).tobytes(), [0.0], 0)


def test_epochs_lower_the_cost(X):
    local = LocalSteps(STEPS, sharded(X), 8, 3)
    state, costs = epochs(local, 8)
    assert costs[-1] < costs[0] / 2
    exact = COST.evaluate(state.params, X.astype(float))
    assert costs[-1] == pytest.approx(exact.cost, rel=0.1)
    assert state.means == pytest.approx(exact.means["activations"], abs=0.01)


@pytest.mark.parametrize("epoch", [0, 1])
def test_noise_is_new_in_every_epoch(X, epoch):
    """One step on all rows has the gradient for the noise of its epoch."""
    cost = AutoEncoderCost(6, 4, corruption=Corruption("masking", 0.4, seed=7, phase=3))
    rows = Labelled(X, {"row": np.arange(N)})
    shards = Shards([rows], (N,), 6, X.dtype, held=True, here=True)
    steps = BatchSteps(cost, Adam(0.02), batch_size=N)
    state = replace(steps.adam.init(start(cost)), epoch=epoch)
    _, reported = LocalSteps(steps, shards, 3).epoch(state)
    of_epoch = replace(cost, corruption=replace(cost.corruption, phase=3 + epoch * 2**32))
    expected = of_epoch.evaluate(start(cost).astype("f4"), X, row=np.arange(N)).cost
    assert reported == pytest.approx(expected, rel=1e-6)
    if epoch:
        other = cost.evaluate(start(cost).astype("f4"), X, row=np.arange(N)).cost
        assert abs(reported - other) > 1e-4 * other
