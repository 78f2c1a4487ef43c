"""Mini-batches where the rows are: replicas take steps of their own, and meet at averages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, zip_longest
from typing import Any, Protocol

import numpy as np

from stackedae.clock import NO_TIME, Clock, Seconds, Stopwatch
from stackedae.cluster import Runner, cut_in_proportion
from stackedae.costs.batches import Batch, RunningMean
from stackedae.labelled import SomeRows, aside_of, concatenated
from stackedae.layout import Vector
from stackedae.memory import MAX_SHARD_BYTES, halvings, rows_per_portion_read
from stackedae.shards import RowSource, Shards
from stackedae.solvers.adam import Adam, AdamState


class Coordinates(Protocol):
    """Other coordinates of parameters, in which steps are taken.

    Nobody else has what is returned: it may be overwritten.
    """

    def gradient(self, gradient: Vector, /) -> Vector:
        """Return a gradient in them."""

    def step(self, step: Vector, /) -> Vector:
        """Return what a step in them is in the parameters."""


@dataclass(frozen=True)
class BatchSteps:
    """How steps on mini-batches are taken, of whatever rows.

    Parameters
    ----------
    cost : AutoEncoderCost, or any cost without a sparsity term
        What to minimise.
    adam : Adam
        How.
    batch_size : int
        Rows of a batch, at most.
    coordinates : Coordinates or None
        Where; None: in the parameters themselves.
    """

    cost: Any
    adam: Adam
    batch_size: int
    coordinates: Coordinates | None = None

    def in_epoch(self, epoch: int) -> BatchSteps:
        """Return the steps of an epoch: each has noise of its own, if there is any."""
        noise = getattr(self.cost, "corruption", None)
        if noise is None:
            return self
        noise = replace(noise, phase=noise.phase + (epoch << 32))
        return replace(self, cost=replace(self.cost, corruption=noise))

    def step(self, state: AdamState, rows: SomeRows, rate: float) -> tuple[AdamState, float]:
        """Return the state after a step on one batch, and the cost of the batch before."""
        running = RunningMean(state.means, state.n_averaged)
        batch = Batch.of(self.cost, state.params, rows, running)
        gradient = batch.evaluation.gradient
        if self.coordinates is not None:
            gradient = self.coordinates.gradient(gradient)
        moved, step = self.adam.moments(state, gradient, rate)
        if self.coordinates is not None:
            step = self.coordinates.step(step)
        running = batch.after(step)
        step += state.params  # in its memory, for nobody needs it any more
        moved = replace(moved, params=step, means=running.means, n_averaged=running.n_rows)
        return moved, batch.evaluation.cost


def adam_on(steps: BatchSteps, state: AdamState, rows: SomeRows) -> AdamState:
    """Return the state after one pass over rows, in their order and at the full learning rate.

    Parameters
    ----------
    steps : BatchSteps
        How.
    state : AdamState
        Where to go on from.
    rows : ndarray of shape (n_rows, n_features), or Labelled
        Rows of a stream that have come.

    Returns
    -------
    AdamState
    """
    for start, stop in _even(len(rows), steps.batch_size):
        state, _ = steps.step(state, rows[start:stop], steps.adam.rate(0.0))
    return state


@dataclass(frozen=True)
class LocalSteps:
    """Epochs of Adam over rows in shards, by replicas whose states are averaged now and then.

    Replicas have runs of neighbouring shards. In a round, each goes from the common state through
    some of its shards, batch by batch; then states are averaged. A round is a whole number of
    shards, so that rows that are not held are read once in an epoch, and the bits are the same as
    if they were; within a shard, they are shuffled a portion at a time. How many replicas there
    are, and what makes up a round, are functions of the data and of what is asked for alone: so
    are the bits.

    Parameters
    ----------
    steps : BatchSteps
        How steps are taken.
    shards : Shards
        The rows.
    n_epochs : int
        Epochs until the learning rate is down at 0.
    local_steps : int
        Of a round, at least, unless an epoch has fewer, or their rows are more than a task should
        have in memory.
    seed : int
        Of the order of rows.
    clock : Clock or None
        Who is told how long epochs took.

    References
    ----------
    Stich, S., "Local SGD converges fast and communicates little", ICLR 2019.
    """

    steps: BatchSteps
    shards: Shards
    n_epochs: int
    local_steps: int = 32
    seed: int = 0
    clock: Clock | None = None

    def init(self, params: Vector) -> AdamState:
        """Return the state before the first epoch."""
        return self.steps.adam.init(params)

    def epoch(self, state: AdamState) -> tuple[AdamState, float]:
        """Visit every row once.

        Parameters
        ----------
        state : AdamState
            `init`, or the state after another epoch, whose number it has.

        Returns
        -------
        state : AdamState
            After the epoch.
        cost : float
            Mean over rows of the costs of their batches, each before its step.
        """
        watch, name, shards = Stopwatch(), "stackedae-local-steps", self.shards
        run, places, n_threads = shards.located()
        steps = self.steps.in_epoch(state.epoch)
        plan = _Plan(steps, self.n_epochs, self.seed, _rows_of_a_portion(shards))
        sent = run.send(f"{name}-parameters", plan)
        share: Any = run.send(f"{name}-state", _Share(state))
        sums = []
        for visits in self._rounds(state.epoch):
            spans = [(visit.start, visit.stop) for visit in visits]
            calls = (
                (sent, share, visit, shards.blocks[start:stop])
                for visit, (start, stop) in zip(visits, spans, strict=True)
            )
            wishes = None if places is None else [places[(a + b) // 2] for a, b in spans]
            share = _averaged(run, run.calls(name, _take_steps, calls, wishes, spans))
            sums.append(run.call(f"{name}-sums-of", _Share.sums, share))
        share, *of_rounds = run.compute(share, *sums)
        shards.tell(self.clock, (seconds for *_, seconds in of_rounds), watch, n_threads)
        n_rows, cost = (sum(each[number] for each in of_rounds) for number in (0, 1))
        return replace(share.state, epoch=state.epoch + 1), cost / max(1, n_rows)

    @cached_property
    def _runs(self) -> list[list[tuple[int, int]]]:
        """The shards that each replica visits in one round, for all rounds, in their order."""
        rows = self.shards.rows
        replicas = halvings(len(rows), n_replicas(len(rows)))
        per_round = len(replicas) * self.local_steps * self.steps.batch_size
        n_rounds = max(1, self.shards.n_rows // per_round)
        most = MAX_SHARD_BYTES // (self.shards.n_features * self.shards.dtype.itemsize)
        return [_runs_of(rows, *each, n_rounds, most) for each in replicas]

    def _rounds(self, epoch: int) -> Iterator[list[_Visit]]:
        """Yield what replicas visit, round by round; one that has no more rows sits out."""
        visits = list[list[_Visit]]()
        for replica, runs in enumerate(self._runs):
            order = np.random.default_rng((self.seed, epoch, replica)).permutation(len(runs))
            sizes = [sum(self.shards.rows[slice(*runs[number])]) for number in order]
            before = np.cumsum((0, *sizes))
            visits.append([])
            for number, at in zip(order, before[:-1].tolist(), strict=True):
                start, stop = runs[number]
                visits[-1].append(_Visit(start, stop, epoch, at, int(before[-1])))
        for of_round in zip_longest(*visits):
            yield [visit for visit in of_round if visit is not None]


def n_replicas(n_shards: int) -> int:
    """Return how many replicas rows in so many shards have: a power of two.

    About half the square root of their number, which grows with the square root of the data: so
    both replicas and their rounds become more.

    Examples
    --------
    >>> from stackedae.local_steps import n_replicas
    >>> [n_replicas(n_shards) for n_shards in (1, 15, 16, 64, 4096)]
    [1, 1, 2, 4, 32]
    """
    return int(2 ** int(math.log2(max(1.0, math.sqrt(n_shards) / 2))))


def _runs_of(
    rows: Sequence[int], start: int, stop: int, n_runs: int, most: int
) -> list[tuple[int, int]]:
    """Cut shards from `start` to `stop` into runs of about as many rows, none of which is empty.

    Those of more rows than `most` are halved, for tasks have all rows of a run in memory.
    """
    borders = cut_in_proportion(rows[start:stop], [1] * min(n_runs, stop - start))
    runs = ((start + a, start + b) for a, b in pairwise(borders) if b > a)
    return [part for run in runs for part in _halved(rows, *run, most)]


def _halved(rows: Sequence[int], start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """Halve a run of shards until no part has more rows, but for single shards."""
    if stop - start == 1 or sum(rows[start:stop]) <= most:
        return [(start, stop)]
    middle = (start + stop) // 2
    return [*_halved(rows, start, middle, most), *_halved(rows, middle, stop, most)]


def _rows_of_a_portion(shards: Shards) -> int:
    return rows_per_portion_read(shards.n_features * shards.dtype.itemsize)


@dataclass(frozen=True)
class _Plan:
    """What tasks need to know that is the same for all of an epoch."""

    steps: BatchSteps
    n_epochs: int
    seed: int
    portion_rows: int


@dataclass(frozen=True)
class _Visit:
    """The shards that a replica goes through in a round.

    Parameters
    ----------
    start, stop : int
        The first, and the first that is not among them any more.
    epoch : int
        In which epoch.
    before, of : int
        Rows that the replica has visited in this epoch before, of how many.
    """

    start: int
    stop: int
    epoch: int
    before: int
    of: int


@dataclass(frozen=True)
class _Share:
    """What a replica, or several together, bring back from a round.

    Parameters
    ----------
    state : AdamState
        After it.
    n_rows : int
        Of batches that steps were taken on.
    cost : float
        Sum over these rows of the costs of their batches.
    seconds : Seconds
        What that took.
    """

    state: AdamState
    n_rows: int = 0
    cost: float = 0.0
    seconds: Seconds = NO_TIME

    def sums(self) -> tuple[int, float, Seconds]:
        """Return rows, the sum of their costs, and what it took."""
        return self.n_rows, self.cost, self.seconds


def _take_steps(plan: _Plan, share: _Share, visit: _Visit, blocks: Sequence[Any]) -> _Share:
    """Go through shards, batch by batch."""
    steps, state, cost, n_rows, n_visited = plan.steps, share.state, 0.0, 0, 0
    watch = Stopwatch()
    for shard, block in enumerate(blocks, start=visit.start):
        for number, rows in enumerate(_portions(block, plan.portion_rows)):
            rng = np.random.default_rng((plan.seed, visit.epoch, shard, number))
            order = rng.permutation(len(rows))
            for start, stop in _even(len(rows), steps.batch_size):
                done = (visit.epoch + (visit.before + n_visited) / visit.of) / plan.n_epochs
                batch = rows[order[start:stop]]
                n_visited += len(batch)
                if not _counts(batch):
                    continue
                state, of_batch = steps.step(state, batch, steps.adam.rate(done))
                n_rows, cost = n_rows + len(batch), cost + len(batch) * of_batch
    return _Share(state, n_rows, cost, watch.seconds)


def _counts(rows: SomeRows) -> bool:
    """Say whether any row has a weight: of those that were left out, there may be whole shards."""
    weight = aside_of(rows).get("weight")
    return weight is None or bool(weight.any())


def _portions(block: Any, n_rows: int) -> Iterator[SomeRows]:
    """Yield the rows of a shard so many at a time, however they come."""
    waiting: list[SomeRows] = []
    for rows in block.portions() if isinstance(block, RowSource) else (block,):
        waiting.append(rows)
        if sum(map(len, waiting)) >= n_rows:
            rows = concatenated(waiting)
            whole = len(rows) - len(rows) % n_rows
            for start in range(0, whole, n_rows):
                yield rows[start : start + n_rows]
            waiting = [rows[whole:]] if whole < len(rows) else []
    if waiting:
        yield concatenated(waiting)


def _even(n_rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut rows into as few batches of at most so many as there can be, about equal in size."""
    n_batches = -(-n_rows // most)
    return pairwise(n_rows * number // n_batches for number in range(n_batches + 1))


def _averaged(run: Runner, shares: Sequence[Any]) -> Any:
    """Average shares, neighbours first, in an order that depends on their number alone."""
    while len(shares) > 1:
        pairs = zip_longest(shares[::2], shares[1::2])
        shares = [
            left if right is None else run.call("stackedae-average", _average, left, right)
            for left, right in pairs
        ]
    return shares[0]


def _average(left: _Share, right: _Share) -> _Share:
    """Return the mean of two states, each weighted by its rows."""
    watch, seconds = Stopwatch(), left.seconds + right.seconds
    if not left.n_rows or not right.n_rows:
        return replace(left if left.n_rows else right, seconds=seconds)
    n_rows = left.n_rows + right.n_rows
    share = right.n_rows / n_rows
    ours, theirs = left.state, right.state
    state = AdamState(
        params=_between(ours.params, theirs.params, share),
        first=_between(ours.first, theirs.first, share),
        second=_between(ours.second, theirs.second, share),
        n_steps=max(ours.n_steps, theirs.n_steps),
        epoch=ours.epoch,
        means=_between(ours.means, theirs.means, share),
        n_averaged=ours.n_averaged + share * (theirs.n_averaged - ours.n_averaged),
    )
    return _Share(state, n_rows, left.cost + right.cost, seconds + Seconds(reduce=watch.wall))


def _between(left: Vector, right: Vector, share: float) -> Vector:
    between: Vector = left + share * (right - left)
    return between
