"""Rows in shards, where the workers are: summed over, mapped over, drawn from."""

from __future__ import annotations

import logging
import operator
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from dask.sizeof import sizeof
from numpy.typing import DTypeLike

from stackedae.arrays import Scratch
from stackedae.clock import NO_TIME, Clock, Seconds, Stopwatch, Timed
from stackedae.cluster import Here, OnCluster, Place, Runner, follow
from stackedae.labelled import (
    Labelled,
    SomeRows,
    aside_of,
    concatenated,
    features_in,
    with_features,
)
from stackedae.layout import Array, Vector
from stackedae.malloc import return_freed_memory
from stackedae.memory import (
    MAX_BLOCK_ROWS,
    MAX_SHARD_BYTES,
    halvings,
    n_levels,
    n_tasks,
    rows_per_shard,
)

T = TypeVar("T")

_LOGGER = logging.getLogger("stackedae")

Begin = Callable[..., Callable[..., Any]]
"""``begin(*arguments, rows)`` prepares for rows like these, and returns ``step(rows, out)``, which
adds sums over rows to `out` (None: to zero) and returns it. Rows are arrays or `Labelled`."""


class Plan(NamedTuple):
    """Who takes what.

    Parameters
    ----------
    branches : list of (int, int)
        The first shard of each, and the first that is not in it any more.
    places : list of str or None
        Where each is to be worked on.
    threads : mapping of str or None to int
        Threads of every worker.
    """

    branches: list[tuple[int, int]]
    places: list[Place] | None
    threads: Mapping[Place, int]

    @property
    def n_threads(self) -> int:
        """Threads that work on them."""
        return _number_of(self.threads)


class RowSource:
    """Rows that are read, or computed, whenever they are needed."""

    def portions(self) -> Iterator[SomeRows]:
        """Yield the rows in order, a multiple of `MAX_BLOCK_ROWS` of them at a time.

        What takes waiting for begins with the call, not with the first portion asked for.
        """
        raise NotImplementedError


class MappedRows(RowSource):
    """Rows that a function computes of others, a portion at a time."""

    def __init__(self, function: Callable[..., Array], *arguments: Any) -> None:
        *self.arguments, self.rows = arguments
        self.function = function

    def portions(self) -> Iterator[SomeRows]:
        """Yield what the function makes of every portion."""
        return map(self.of_portion, _portions(self.rows))

    def of_portion(self, rows: SomeRows) -> SomeRows:
        """Return what the function makes of rows; what is beside them stays."""
        return with_features(rows, self.function(*self.arguments, features_in(rows)))


class LabelledRows(RowSource):
    """Rows with columns beside them, which are in memory though the rows are not."""

    def __init__(self, source: RowSource, aside: Mapping[str, Array]) -> None:
        self.source, self.aside = source, aside

    def portions(self) -> Iterator[SomeRows]:
        """Yield every portion with its part of the columns."""
        return self.labelled(self.source.portions())

    def labelled(self, portions: Iterator[SomeRows]) -> Iterator[SomeRows]:
        """Yield portions, which have begun to be read, with their parts of the columns."""
        start = 0
        for rows in portions:
            part = slice(start, start + len(rows))
            known = {name: values[part] for name, values in self.aside.items()}
            yield Labelled(features_in(rows), {**aside_of(rows), **known})
            start = part.stop


class WeightedRows(RowSource):
    """Other rows with the column of this name for their weights."""

    def __init__(self, name: str, rows: RowSource) -> None:
        self.name, self.rows = name, rows

    def portions(self) -> Iterator[SomeRows]:
        """Yield every portion with its weights."""
        return (_with_weight(self.name, rows) for rows in _portions(self.rows))


class PickedRows(RowSource):
    """Those of other rows whose column of this name is not NaN."""

    def __init__(self, name: str, rows: Array | RowSource) -> None:
        self.name, self.rows = name, rows

    def portions(self) -> Iterator[SomeRows]:
        """Yield what is left of the portions, put together to whole blocks of any kernel."""
        return self.of_portions(_portions(self.rows))

    def of_portions(self, portions: Iterator[SomeRows]) -> Iterator[SomeRows]:
        """Yield what is left of portions that have begun to be read."""
        waiting: list[SomeRows] = []
        for rows in portions:
            waiting = [concatenated([*waiting, _known(self.name, rows)])]
            n_whole = len(waiting[0]) // MAX_BLOCK_ROWS * MAX_BLOCK_ROWS
            if n_whole:
                yield waiting[0][:n_whole]
                waiting = [waiting[0][n_whole:]]
        if len(waiting[0]):
            yield waiting[0]


@dataclass(frozen=True)
class Draw:
    """A stratified random sample: of every shard, its share of the rows.

    Rows of a shard have a random order, which depends on `seed` and the number of the shard alone;
    a sample is a stretch of it. So samples from the same start are nested, and stretches that do
    not overlap are disjoint.

    Parameters
    ----------
    start, stop : float
        The stretch, between 0 and 1.
    seed : int
        Of the random order.
    """

    start: float
    stop: float
    seed: int

    def size(self, shard: int, n_rows: int) -> int:
        """Return how many of the rows of a shard are drawn."""
        first, last = self._ends(shard, n_rows)
        return last - first

    def rows(self, shard: int, n_rows: int) -> np.ndarray[Any, Any]:
        """Return which they are, in ascending order."""
        first, last = self._ends(shard, n_rows)
        order = np.random.default_rng((self.seed, shard)).permutation(n_rows)
        return np.sort(order[first:last])

    def _ends(self, shard: int, n_rows: int) -> tuple[int, int]:
        # A fraction of a row is rounded up in some shards and down in others.
        dither = (shard * 0.6180339887498949) % 1.0
        return int(self.start * n_rows + dither), int(self.stop * n_rows + dither)


@dataclass(frozen=True)
class Shards:
    """Rows of a data set, cut into shards that stay where the workers are.

    Sums over shards are added up in a tree that halves them again and again, whatever the cluster
    is. A task takes one whole branch, so that the number of tasks is a matter of the cluster, and
    of no consequence for the bits.

    Parameters
    ----------
    blocks : list of Delayed, RowSource or ndarray
        The rows of each shard, (rows, n_features) once computed; ndarrays if the client has them.
    rows : tuple of int
        Rows of each shard; they depend on the data alone, never on the cluster.
    n_features : int
        Columns.
    dtype : dtype
        Of the rows.
    held : bool
        Whether rows are kept in memory, and not read or computed again by every use.
    here : bool
        Whether the client has the rows and works on them itself.
    places : list of str or None
        Workers that hold the shards; None: nobody in particular. When workers come and go, these
        and the blocks change in place, for all that use them.
    whole : bool
        Whether all rows of a shard come at once where they are not held, and not in portions.
    aside : tuple of str
        What is known of each row beside it: names of columns.
    anywhere : bool
        Whether no worker is nearer to the rows than others, where these are not held.
    """

    blocks: list[Any]
    rows: tuple[int, ...]
    n_features: int
    dtype: np.dtype[Any]
    held: bool = False
    here: bool = False
    places: list[Place] | None = None
    whole: bool = True
    aside: tuple[str, ...] = ()
    anywhere: bool = True

    @property
    def n_rows(self) -> int:
        """Rows of all shards together."""
        return sum(self.rows)

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows."""
        return self.n_rows * self.n_features * self.dtype.itemsize

    @property
    def description(self) -> dict[str, Any]:
        """What the bits of sums depend on, but for the rows themselves."""
        return {
            "n_samples": self.n_rows,
            "n_features": self.n_features,
            "dtype": str(self.dtype),
            "shards": zlib.crc32(repr(self.rows).encode()),
        }

    @property
    def _runner(self) -> Runner:
        return Here() if self.here else OnCluster()

    def hold(self, *, here: bool = False) -> Shards:
        """Compute every shard and keep it in memory: of the client if `here`, else of the workers.

        What is lost with a worker is computed again from its source.
        """
        if self.held and (self.here or not here):
            return self
        run = self._runner
        places = None if here else run.share_out(self.rows)
        calls, each = ((block,) for block in self.blocks), pairwise(range(len(self.rows) + 1))
        loads = run.calls("stackedae-load", _aligned, calls, places, each)
        blocks = list((run.compute if here else run.persist)(*loads))
        return_freed_memory()  # what reading took; workers have set that it goes back at once
        return replace(self, blocks=blocks, held=True, here=self.here or here, places=places)

    def map(
        self,
        function: Callable[..., Array],
        *arguments: Any,
        n_features: int,
        dtype: DTypeLike,
        name: str,
    ) -> Shards:
        """Return the shards ``function(*arguments, rows)``; nothing is computed yet.

        Parameters
        ----------
        function : callable
            Returns as many rows as it is given, each whatever the others are.
        *arguments : object
            Handed to every call; travels once to every worker, not once with every task.
        n_features, dtype : int, dtype
            Columns and dtype of what the function returns.
        name : str
            What dashboards call the tasks.
        """
        run = self._runner
        sent = [run.send(f"{name}-parameters", argument) for argument in arguments]
        blocks = [run.call(name, MappedRows, function, *sent, block) for block in self.blocks]
        return replace(
            self,
            blocks=blocks,
            n_features=n_features,
            dtype=np.dtype(dtype),
            held=False,
            places=None,
            anywhere=self.anywhere and not self.held,
        )

    def sum(self, begin: Begin, *arguments: Any, name: str, clock: Clock | None = None) -> Vector:
        """Return the sum over shards of what ``begin(*arguments, rows)`` sums, in a fixed tree.

        Parameters
        ----------
        begin : callable
            See `Begin`; sums are flat float64 vectors, of the same size for every shard.
        *arguments : object
            Handed to every call; travels once to every worker, not once with every task.
        name : str
            What dashboards call the tasks.
        clock : Clock or None
            Who is told how long it took.
        """
        (total,) = sum_each((self,), begin, *arguments, name=name, clock=clock)
        return total

    def sum_in_two_stages(
        self,
        first: Begin,
        second: Begin,
        *arguments: Any,
        name: str,
        clock: Clock | None = None,
    ) -> tuple[Vector, Vector]:
        """Return a sum over shards, and one whose terms depend on the first.

        Parameters
        ----------
        first : callable
            Its steps return what those of `second` are to have of the same rows, and the sums.
        second : callable
            ``second(*arguments, sums, rows)`` begins, given the sums of `first` over all shards;
            a step is ``step(rows, kept, out)``. What was kept is None if rows are not held either.
        *arguments, name, clock
            As for `sum`.
        """
        watch, run, plan = Stopwatch(), self._runner, self._plan()
        branches, places, _ = plan
        sent = self._send(arguments, name, plan)
        groups = [self.blocks[start:stop] for start, stop in branches]
        calls = ((*own, group) for own, group in zip(sent, groups, strict=True))
        both = run.calls(name, partial(_first_stage, first, self.held), calls, places, branches)
        sums = [run.call("stackedae-sums-of", operator.itemgetter(1), each) for each in both]
        total = self._tree(branches, sums)
        calls = ((*own, total, *each) for own, *each in zip(sent, both, groups, strict=True))
        parts = run.calls(name, partial(_second_stage, second), calls, places, branches)
        of_first, of_second = run.compute(total, self._tree(branches, parts))
        self.tell(clock, (of_first.seconds, of_second.seconds), watch, plan.n_threads)
        return of_first.sums, of_second.sums

    def sum_and_draw(
        self,
        begin: Begin,
        *arguments: Any,
        draw: Draw,
        here: bool,
        name: str,
        clock: Clock | None = None,
    ) -> tuple[Vector, Shards]:
        """Return what `sum` does, and a sample of the rows, from one read of them.

        Parameters
        ----------
        begin, *arguments, name, clock
            As for `sum`.
        draw : Draw
            The sample.
        here : bool
            Whether the client is to hold it.
        """
        watch, run, plan = Stopwatch(), self._runner, self._plan()
        sums, drawn = self._sums_and_draws(begin, arguments, draw, name, plan)
        total = self._tree(plan.branches, sums)
        sample = self._joined(plan.branches, drawn, self._sizes_of(draw))
        if here or self.here:
            timed, *blocks = run.compute(total, *sample.blocks)
        else:
            kept, *blocks = run.persist(total, *sample.blocks)
            (timed,) = run.compute(kept)
        self.tell(clock, (timed.seconds,), watch, plan.n_threads)
        return timed.sums, replace(sample, blocks=blocks, here=here or self.here)

    def draw(self, draw: Draw, *, here: bool = False) -> Shards:
        """Return a sample of rows, held by the client if `here`, else where these are."""
        plan = self._plan()
        return self._joined(plan.branches, self._draws(draw, plan), self._sizes_of(draw))._made(
            here
        )

    def numbered(self) -> Shards:
        """Return the same rows with their numbers beside them, as "row"."""
        borders = pairwise(np.cumsum((0, *self.rows)).tolist())
        return self._with(("row",), _numbered, list(borders), "stackedae-number")

    def beside(self, **columns: Sequence[Any]) -> Shards:
        """Return the same rows with columns beside them.

        Parameters
        ----------
        **columns : sequence
            Under the name of each, the values for the rows of every shard: ndarrays, or tasks.
        """
        names = tuple(columns)
        each = [(names, *values) for values in zip(*columns.values(), strict=True)]
        return self._with(names, _beside, each, "stackedae-label")

    @property
    def total_weight(self) -> float:
        """Sum of the weights of all rows; their number, if they have none."""
        if "weight" not in self.aside:
            return float(self.n_rows)
        return float(self.sum(each_alone(_weight), name="stackedae-weight")[0])

    def _with(
        self,
        names: tuple[str, ...],
        function: Callable[..., Any],
        each: Sequence[tuple[Any, ...]],
        name: str,
    ) -> Shards:
        calls = [(*others, block) for block, others in zip(self.blocks, each, strict=True)]
        run, shards = self._runner, list(pairwise(range(len(self.rows) + 1)))
        blocks = run.calls(name, function, calls, self.places, shards)
        if self.held:
            blocks = list(run.persist(*blocks))
        places = None if self.places is None else [*self.places]
        aside = tuple(dict.fromkeys((*self.aside, *names)))
        return replace(self, blocks=blocks, places=places, aside=aside)

    def lend_columns(self, others: Shards) -> Shards:
        """Return other shards of as many rows with what is beside these."""
        run, columns = self._runner, dict[str, Sequence[Any]]()
        for name in self.aside:
            calls = [(name, block) for block in self.blocks]
            columns[name] = run.persist(*run.calls("stackedae-label", _column, calls))
        return others.beside(**columns) if columns else others

    def weighted_by(self, name: str) -> Shards:
        """Return the same rows with the column of this name for their weights."""
        if self.held:
            each = [(name,)] * len(self.blocks)
            return self._with(("weight",), _with_weight, each, "stackedae-label")
        run, aside = self._runner, tuple(dict.fromkeys((*self.aside, "weight")))
        blocks = [run.call("stackedae-label", WeightedRows, name, block) for block in self.blocks]
        return replace(self, blocks=blocks, aside=aside)

    def n_known(self, name: str) -> list[int]:
        """Return how many rows of each shard have a value in this column; none is read for it."""
        parts = self._calls(partial(_n_known, name), (), "stackedae-count", self._plan())
        return [n for part in self._runner.compute(*parts) for n in part]

    def known(self, name: str, sizes: Sequence[int], *, here: bool = False) -> Shards:
        """Return the rows whose column of this name is not NaN, held like a sample of them.

        Parameters
        ----------
        name : str
            Of a column beside the rows.
        sizes : sequence of int
            `n_known` of it.
        here : bool
            Whether the client is to hold them.
        """
        plan = self._plan()
        parts = self._calls(partial(_pick, name), (), "stackedae-pick", plan)
        return self._joined(plan.branches, parts, sizes)._made(here)

    def known_later(self, name: str, sizes: Sequence[int]) -> Shards:
        """Return what `known` does, to be picked out by every use."""
        run, kept = self._runner, [shard for shard, size in enumerate(sizes) if size]
        blocks = [
            run.call("stackedae-pick", PickedRows, name, self.blocks[shard]) for shard in kept
        ]
        rows = tuple(sizes[shard] for shard in kept)
        return replace(self, blocks=blocks, rows=rows, held=False, places=None)

    def some(self, numbers: Sequence[int]) -> Shards:
        """Return the shards of these numbers."""
        places = None if self.places is None else [self.places[number] for number in numbers]
        blocks = [self.blocks[number] for number in numbers]
        rows = tuple(self.rows[number] for number in numbers)
        return replace(self, blocks=blocks, rows=rows, places=places)

    def _made(self, here: bool) -> Shards:
        """Return shards whose blocks are computed, to be kept by the client or the workers."""
        run = self._runner
        blocks = list((run.compute if here else run.persist)(*self.blocks))
        return replace(self, blocks=blocks, here=here or self.here)

    def gather(self, function: Callable[..., T], *each: Sequence[Any], name: str) -> tuple[T, ...]:
        """Return ``function(*of_each, rows)`` of every shard, in order; results should be small.

        Parameters
        ----------
        function : callable
            What to call.
        *each : sequence
            One argument per shard.
        name : str
            What dashboards call the tasks.
        """
        parts = self._calls(partial(_on_each, function), (), name, self._plan(), *each)
        return tuple(value for part in self._runner.compute(*parts) for value in part)

    @property
    def shards_per_task(self) -> int:
        """Shards that a task takes, at most."""
        return self.shards_of_a_task(_number_of(self._runner.threads))

    def shards_of_a_task(self, n_threads: int) -> int:
        """Return how many shards a task takes, at most, where there are so many threads."""
        return max(stop - start for start, stop in self._branches(n_threads))

    def located(self) -> tuple[Runner, list[Place] | None, int]:
        """Return who makes calls about these rows, the places of the shards, if any, and threads.

        For calls about runs of shards in an order of their own: calls of the runner, with the
        blocks of a run as their last argument. Workers that came have their shards by then.
        """
        run, threads = self._runner, self._runner.threads
        return run, self._followed(threads), _number_of(threads)

    def _plan(self) -> Plan:
        """Return which shards each task is to take, and where; see that they are there."""
        threads = self._runner.threads
        n_threads, places = _number_of(threads), self._followed(threads)
        branches = self._branches(n_threads)
        if places is None:
            return Plan(branches, self._evenly(branches, n_threads), threads)
        # Who holds the middle of a branch holds most of it.
        return Plan(branches, [places[(start + stop) // 2] for start, stop in branches], threads)

    def _evenly(self, branches: Sequence[tuple[int, int]], n_threads: int) -> list[Place] | None:
        """Return places for branches of rows that are read, if Dask would not hand them out evenly.

        It does so while they are many. If not, it gives all of them to the worker that has their
        parameters, from which others get them bit by bit (seen: eight tasks to six of eight
        workers, three to one).
        """
        if self.here or self.held or self.whole or not self.anywhere:
            return None
        if len(branches) > EVEN_TASKS * n_threads:
            return None
        return self._runner.share_out([sum(self.rows[slice(*branch)]) for branch in branches])

    def tell(
        self, clock: Clock | None, parts: Iterable[Seconds], watch: Stopwatch, n_threads: int
    ) -> None:
        """Tell a clock, if there is one, what was just computed of these rows.

        Parameters
        ----------
        clock : Clock or None
            Who is told.
        parts : iterable of Seconds
            Of tasks.
        watch : Stopwatch
            Made when it was begun.
        n_threads : int
            Threads that there are for it.
        """
        if clock is not None:
            spent, fed = sum(parts, NO_TIME), self.whole and not self.held
            clock.took(spent.of_each_thread(watch.wall, n_threads, fed=fed))

    def _followed(self, threads: Mapping[Place, int]) -> list[Place] | None:
        """Return the places of the shards, once these are there."""
        if self.here or self.places is None:
            return None
        self._follow(self.places, threads)
        return self.places

    def _branches(self, n_threads: int) -> list[tuple[int, int]]:
        tasks = n_tasks(self.n_bytes, n_threads)
        if self.whole and not self.held:  # all of a task's shards are in memory before it begins
            tasks = max(tasks, -(-self.n_bytes // MAX_SHARD_BYTES))
        return halvings(len(self.rows), tasks)

    def _follow(self, places: list[Place], threads: Mapping[Place, int]) -> None:
        """Move shards to workers that came, which would have nothing to do."""
        after = follow(places, self.rows, threads)
        moved = [shard for shard, place in enumerate(after) if place != places[shard]]
        if not moved:
            return
        _LOGGER.info("%d of %d shards go to workers that came", len(moved), len(places))
        calls = [(self.blocks[shard],) for shard in moved]
        to, each = [after[shard] for shard in moved], [(shard, shard + 1) for shard in moved]
        run = self._runner
        blocks = run.persist(*run.calls("stackedae-move", _aligned, calls, to, each))
        for shard, block in zip(moved, blocks, strict=True):
            self.blocks[shard] = block
        places[:] = after

    def _tree(self, branches: Sequence[tuple[int, int]], sums: Sequence[Any]) -> Any:
        return _tree(self._runner, dict(zip(branches, sums, strict=True)), 0, len(self.rows))

    def _sums(self, begin: Begin, arguments: tuple[Any, ...], name: str, plan: Plan) -> list[Any]:
        """Sum up every branch."""
        return self._calls(partial(_sum_rows, begin), arguments, name, plan)

    def _draws(self, draw: Draw, plan: Plan) -> list[Any]:
        """Draw from the shards of every branch."""
        return self._calls(partial(_take, draw), (), "stackedae-draw", plan, *self._numbers)

    def _sums_and_draws(
        self, begin: Begin, arguments: tuple[Any, ...], draw: Draw, name: str, plan: Plan
    ) -> tuple[list[Any], list[Any]]:
        """Do both in one read."""
        run, do = self._runner, partial(_sum_and_take, begin, draw)
        both = self._calls(do, arguments, name, plan, *self._numbers)
        sums = [run.call("stackedae-sums-of", operator.itemgetter(0), each) for each in both]
        drawn = [run.call("stackedae-drawn-of", operator.itemgetter(1), each) for each in both]
        return sums, drawn

    @property
    def _numbers(self) -> tuple[Sequence[int], Sequence[int]]:
        return range(len(self.rows)), self.rows

    def _sizes_of(self, draw: Draw) -> list[int]:
        return [draw.size(shard, n_rows) for shard, n_rows in zip(*self._numbers, strict=True)]

    def _joined(
        self, branches: Sequence[tuple[int, int]], parts: Sequence[Any], drawn: Sequence[int]
    ) -> Shards:
        """Join what was drawn of shards to as many shards as so many rows should have."""
        target = rows_per_shard(sum(drawn), self.n_features * self.dtype.itemsize)
        pieces = [
            (number, shard - start)
            for number, (start, stop) in enumerate(branches)
            for shard in range(start, stop)
        ]
        groups: dict[int, list[int]] = {}
        for shard, before in enumerate(np.cumsum([0, *drawn[:-1]])):
            if drawn[shard]:
                groups.setdefault(int(before) // target, []).append(shard)
        sizes = tuple(sum(drawn[shard] for shard in group) for group in groups.values())
        calls = []
        for group in groups.values():
            needed = sorted({pieces[shard][0] for shard in group})
            where = [(needed.index(number), at) for number, at in (pieces[s] for s in group)]
            calls.append((where, [parts[number] for number in needed]))
        run = self._runner
        places = run.share_out(sizes)
        blocks = run.calls("stackedae-join", _join, calls, places)
        return replace(self, blocks=blocks, rows=sizes, held=True, places=places)

    def _send(self, arguments: Iterable[Any], name: str, plan: Plan) -> Sequence[tuple[Any, ...]]:
        """Bring arguments to tasks; return those of each."""
        branches, places, threads = plan
        wishes = [None] * len(branches) if places is None else places
        key, hand_out = f"{name}-parameters", self._runner.hand_out
        every = [hand_out(key, each, wishes, threads) for each in arguments]
        return list(zip(*every, strict=True)) if every else [()] * len(branches)

    def _calls(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        name: str,
        plan: Plan,
        *each: Sequence[Any],
    ) -> list[Any]:
        """Call ``function(*arguments, *of_each, blocks)`` for every branch."""
        branches, places, _ = plan
        calls = (
            (*sent, *(values[start:stop] for values in (*each, self.blocks)))
            for sent, (start, stop) in zip(self._send(arguments, name, plan), branches, strict=True)
        )
        return self._runner.calls(name, function, calls, places, branches)


EVEN_TASKS = 2
"""For each thread: of more, Dask gives a worker the next when it is done with one."""


def _number_of(threads: Mapping[Place, int]) -> int:
    return max(1, sum(threads.values()))


def sum_each(
    parts: Sequence[Shards],
    begin: Begin,
    *arguments: Any,
    name: str,
    clock: Clock | None = None,
) -> tuple[Vector, ...]:
    """Return what `Shards.sum` does of each of several, from one round trip."""
    watch, totals = Stopwatch(), []
    for shards in parts:
        plan = shards._plan()
        totals.append(shards._tree(plan.branches, shards._sums(begin, arguments, name, plan)))
    every = parts[0]._runner.compute(*totals)
    parts[0].tell(clock, (timed.seconds for timed in every), watch, plan.n_threads)
    return tuple(timed.sums for timed in every)


def each_alone(function: Callable[..., Vector]) -> Begin:
    """Return how to begin with ``function(*arguments, rows, out)``, which needs no preparation.

    It gets the weights of rows that have some, as `weight`, and nothing else that is beside them.
    """
    return partial(_unprepared, function)


def _unprepared(function: Callable[..., Vector], *arguments: Any) -> Callable[..., Vector]:
    *others, _ = arguments

    def step(rows: SomeRows, out: Vector | None) -> Vector:
        aside = aside_of(rows)
        weight = {"weight": aside["weight"]} if "weight" in aside else {}
        return function(*others, features_in(rows), out, **weight)

    return step


def _tree(
    run: Runner, branches: dict[tuple[int, int], Any], start: int, stop: int, depth: int = 0
) -> Any:
    """Add up branches; a call adds two levels, to be few calls with few arguments each.

    Levels are counted from the branches, most of which then go into calls by fours.
    """
    if (start, stop) in branches:
        return branches[start, stop]
    middle = (start + stop) // 2
    pair = [_tree(run, branches, *half, depth + 1) for half in ((start, middle), (middle, stop))]
    ends_here = depth == 0 or (n_levels(len(branches)) - depth) % 2 == 0
    return run.call("stackedae-sum", _add, pair) if ends_here else pair


def _add(nested: Any) -> Timed:
    watch, spent = Stopwatch(), list[Seconds]()
    total = _added(nested, spent)
    return Timed(total, sum(spent, Seconds(reduce=watch.wall)))


def _added(nested: Any, spent: list[Seconds]) -> Vector:
    if isinstance(nested, Timed):
        spent.append(nested.seconds)
        return nested.sums
    left, right = (_added(half, spent) for half in nested)
    total: Vector = left + right
    return total


def _halves(
    term: Callable[[int, Vector | None], Vector],
    start: int,
    stop: int,
    out: Vector | None = None,
    depth: int = 0,
) -> Vector:
    """Add up terms in the order of the tree.

    ``term(number, out)`` returns a vector of its own; it may be `out`, which is zeros or None.
    """
    # No closure that calls itself: a circle, it would keep what terms hold until Python looks.
    if stop - start == 1:
        return term(start, out)
    middle = (start + stop) // 2
    left = _halves(term, start, middle, out, depth + 1)
    zeros = _SCRATCH.empty(f"branch {depth}", left.shape, "float64")
    zeros[...] = 0.0
    left += _halves(term, middle, stop, zeros, depth + 1)
    return left


def _portions(block: SomeRows | RowSource) -> Iterator[SomeRows]:
    """Yield the rows of a block, which is one portion if they are in memory."""
    return block.portions() if isinstance(block, RowSource) else iter((block,))


def portions_of_each(blocks: Sequence[SomeRows | RowSource]) -> Iterator[Iterator[SomeRows]]:
    """Yield the portions of every block; the next one begins to be read as one is begun."""
    begun = _portions(blocks[0])
    for following in (*blocks[1:], None):
        present = begun
        if following is not None:
            begun = _portions(following)
        yield present


def _whole(block: SomeRows | RowSource) -> SomeRows:
    return concatenated(list(_portions(block)))


def _aligned(block: SomeRows | RowSource) -> SomeRows:
    return _in_order(_whole(block))


def _in_order(rows: SomeRows) -> SomeRows:
    # What came over a network may lie at any address; BLAS would copy it every time.
    return with_features(rows, np.require(features_in(rows), requirements=("C", "A")))


def _beside(names: Sequence[str], *arguments: Any) -> Any:
    """Return a block, the last of the arguments, with columns beside its rows."""
    *columns, block = arguments
    aside = dict(zip(names, columns, strict=True))
    if isinstance(block, LabelledRows):
        return LabelledRows(block.source, {**block.aside, **aside})
    if isinstance(block, RowSource):
        return LabelledRows(block, aside)
    return Labelled(features_in(block), {**aside_of(block), **aside})


def _numbered(start: int, stop: int, block: SomeRows | RowSource) -> Any:
    return _beside(("row",), np.arange(start, stop), block)


def _known(name: str, rows: Labelled) -> Labelled:
    """Return the rows whose column of this name is not NaN."""
    known = ~np.isnan(rows.aside[name])
    return rows[known.reshape(len(rows), -1).all(axis=1)]


def _column(name: str, block: SomeRows | RowSource) -> Array:
    """Return what is beside rows, which are not read or computed for it."""
    while isinstance(block, (MappedRows, WeightedRows)):
        if isinstance(block, WeightedRows) and name == "weight":
            name = block.name
        block = block.rows
    return block.aside[name] if isinstance(block, LabelledRows) else aside_of(block)[name]


def _n_known(name: str, blocks: Sequence[SomeRows | RowSource]) -> list[int]:
    columns = (_column(name, block) for block in blocks)
    return [
        int((~np.isnan(column.reshape(len(column), -1))).all(axis=1).sum()) for column in columns
    ]


def _with_weight(weight: str, rows: SomeRows) -> SomeRows:
    return Labelled(features_in(rows), {**aside_of(rows), "weight": aside_of(rows)[weight]})


def _pick(name: str, blocks: Sequence[SomeRows | RowSource]) -> list[SomeRows]:
    return [_known(name, _whole(block)) for block in blocks]


def _on_each(function: Callable[..., T], *arguments: Any) -> list[T]:
    *each, blocks = arguments
    return [
        function(*of_each, features_in(_whole(block)))
        for *of_each, block in zip(*each, blocks, strict=True)
    ]


def _sum_rows(begin: Begin, *arguments: Any) -> Timed:
    watch, (*others, blocks) = Stopwatch(), arguments
    every, step = portions_of_each(blocks), _Step(begin, others)

    def sums(_: int, out: Vector | None) -> Vector:
        for rows in next(every):
            out = step(rows, out)
        return _some(out)

    return Timed(_halves(sums, 0, len(blocks)), watch.seconds)


def _first_stage(begin: Begin, keeps: bool, *arguments: Any) -> tuple[list[Any], Timed]:
    watch, (*others, blocks) = Stopwatch(), arguments
    kept: list[Any] = []
    every, step = portions_of_each(blocks), _Step(begin, others)

    def sums(_: int, out: Vector | None) -> Vector:
        of_portions = []
        for rows in next(every):
            keep, out = step(rows, out)
            of_portions.append(keep if keeps else None)
        kept.append(of_portions)
        return _some(out)

    total = _halves(sums, 0, len(blocks))
    return kept, Timed(total, watch.seconds)


def _second_stage(begin: Begin, *arguments: Any) -> Timed:
    watch, (*others, first, (kept, _), blocks) = Stopwatch(), arguments
    every, step = portions_of_each(blocks), _Step(begin, (*others, first.sums))

    def sums(shard: int, out: Vector | None) -> Vector:
        for number, rows in enumerate(next(every)):
            out = step(rows, kept[shard][number], out)
        return _some(out)

    return Timed(_halves(sums, 0, len(blocks)), watch.seconds)


class _Step:
    """The step of a `Begin`, which is begun with the first rows that come."""

    def __init__(self, begin: Begin, arguments: Sequence[Any]) -> None:
        self.begin, self.arguments = begin, arguments
        self.step: Callable[..., Any] | None = None

    def __call__(self, rows: SomeRows, *others: Any) -> Any:
        if self.step is None:
            self.step = self.begin(*self.arguments, rows)
        return self.step(rows, *others)


def _some(out: Vector | None) -> Vector:
    assert out is not None, "a shard has rows"
    return out


def _sum_and_take(begin: Begin, draw: Draw, *arguments: Any) -> tuple[Timed, list[SomeRows]]:
    watch, (*others, numbers, n_rows, blocks) = Stopwatch(), arguments
    taken: list[list[SomeRows]] = [[] for _ in blocks]
    every, step = portions_of_each(blocks), _Step(begin, others)

    def sums(shard: int, out: Vector | None) -> Vector:
        chosen, start = draw.rows(numbers[shard], n_rows[shard]), 0
        for rows in next(every):
            out = step(rows, out)
            inside = chosen[(chosen >= start) & (chosen < start + len(rows))]
            taken[shard].append(rows[inside - start])
            start += len(rows)
        return _some(out)

    total = _halves(sums, 0, len(blocks))
    drawn = list(map(concatenated, taken))
    return Timed(total, watch.seconds), drawn


def _take(draw: Draw, *arguments: Any) -> list[SomeRows]:
    return _sum_and_take(each_alone(_nothing), draw, *arguments)[1]


def _weight(rows: Array, out: Vector | None, weight: Array) -> Vector:
    total = np.zeros(1) if out is None else out
    total += weight.sum()
    return total


def _nothing(rows: Array, out: Vector | None, weight: Any = None) -> Vector:
    return np.zeros(0)


def _join(where: Sequence[tuple[int, int]], parts: Sequence[Sequence[SomeRows]]) -> SomeRows:
    return _in_order(concatenated([parts[number][at] for number, at in where]))


@sizeof.register(Labelled)  # type: ignore[untyped-decorator]
def _bytes_of_labelled(rows: Labelled) -> int:
    return int(sizeof(rows.X)) + sum(int(sizeof(values)) for values in rows.aside.values())


@sizeof.register(Timed)  # type: ignore[untyped-decorator]
def _bytes_of_timed(timed: Timed) -> int:
    return int(sizeof(timed.sums))


_SCRATCH = Scratch()
