"""Rows where the workers are: shards, what is summed over them, what is mapped over them.

Whatever Dask scheduler is active is used: a `distributed.Client` if there is one, else threads.
"""

from __future__ import annotations

import math
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, TypeVar, cast

import dask.base
import distributed
import distributed.system
import numpy as np
import psutil
from dask.delayed import Delayed, delayed
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from numpy.typing import DTypeLike

from stackedae.blas import one_blas_thread
from stackedae.layout import Array, Vector
from stackedae.memory import rows_per_shard

TREE_ARITY = 16
"""Sums that one task adds up: fixed, so that the order of additions is."""

T = TypeVar("T")

Kernel = Callable[..., Vector]
"""``kernel(*arguments, rows, out)`` adds sums over rows to `out` (None: to zero), returns them."""


class RowSource:
    """Rows that are read, or computed, whenever they are needed."""

    def portions(self) -> Iterator[Array]:
        """Yield the rows in order, a multiple of `MAX_BLOCK_ROWS` of them at a time."""
        raise NotImplementedError


class MappedRows(RowSource):
    """Rows that a function computes of others, a portion at a time."""

    def __init__(self, function: Callable[..., Array], *arguments: Any) -> None:
        *self.arguments, self.rows = arguments
        self.function = function

    def portions(self) -> Iterator[Array]:
        """Yield what the function makes of every portion."""
        for rows in _portions(self.rows):
            yield self.function(*self.arguments, rows)


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

    Parameters
    ----------
    blocks : sequence of Delayed, RowSource or ndarray
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
    """

    blocks: Sequence[Any]
    rows: tuple[int, ...]
    n_features: int
    dtype: np.dtype[Any]
    held: bool = False
    here: bool = False

    @property
    def n_rows(self) -> int:
        """Rows of all shards together."""
        return sum(self.rows)

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows."""
        return self.n_rows * self.n_features * self.dtype.itemsize

    @property
    def _runner(self) -> _Here | _OnCluster:
        return _Here() if self.here else _OnCluster()

    def hold(self, *, here: bool = False) -> Shards:
        """Compute every shard and keep it in memory: of the client if `here`, else of the workers.

        What is lost with a worker is computed again from its source.
        """
        if self.held and (self.here or not here):
            return self
        run = self._runner
        loads = run.calls("stackedae-load", _whole, ((block,) for block in self.blocks))
        blocks = (run.compute if here else run.persist)(*loads)
        return replace(self, blocks=blocks, held=True, here=self.here or here)

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
        sent = [run.send(f"{name}-argument", argument) for argument in arguments]
        blocks = [run.call(name, MappedRows, function, *sent, block) for block in self.blocks]
        return Shards(blocks, self.rows, n_features, np.dtype(dtype), here=self.here)

    def sum(self, kernel: Kernel, *arguments: Any, name: str) -> Vector:
        """Return the sum over shards of ``kernel(*arguments, rows, out)``, in a fixed tree.

        Parameters
        ----------
        kernel : callable
            Adds sums to a flat float64 vector, the same size for every shard.
        *arguments : object
            Handed to every call; travels once to every worker, not once with every task.
        name : str
            What dashboards call the tasks.
        """
        sizes = (len(self.rows),)
        (total,) = self.sum_groups(kernel, *arguments, sizes=sizes, name=name)
        return total

    def sum_groups(
        self, kernel: Kernel, *arguments: Any, sizes: Sequence[int], name: str
    ) -> tuple[Vector, ...]:
        """Return what `sum` does for groups of so many shards, which follow each other."""
        run = self._runner
        parts: list[Any] = self._calls(partial(_sum_rows, kernel), arguments, name)
        borders = pairwise(np.cumsum((0, *sizes)).tolist())
        return run.compute(*(run.tree(parts[start:stop]) for start, stop in borders))

    def followed_by(self, others: Shards) -> Shards:
        """Return these shards and others of the same kind."""
        blocks, rows = (*self.blocks, *others.blocks), self.rows + others.rows
        return replace(self, blocks=blocks, rows=rows)

    def sum_and_draw(
        self, kernel: Kernel, *arguments: Any, draw: Draw, here: bool, name: str
    ) -> tuple[Vector, Shards]:
        """Return what `sum` does, and a sample of the rows, from one read of them.

        Parameters
        ----------
        kernel, *arguments, name
            As for `sum`.
        draw : Draw
            The sample.
        here : bool
            Whether the client is to hold it.
        """
        run = self._runner
        both: list[Any] = self._calls(
            partial(_sum_and_take, kernel, draw), arguments, name, *self._numbers
        )
        sums: list[Any] = [run.call("stackedae-sums-of", operator.itemgetter(0), b) for b in both]
        total = run.tree(sums)
        drawn = [run.call("stackedae-drawn-of", operator.itemgetter(1), b) for b in both]
        sample = self._joined(drawn, draw)
        if here or self.here:
            values, *blocks = run.compute(total, *sample.blocks)
        else:
            kept, *blocks = run.persist(total, *sample.blocks)
            (values,) = run.compute(kept)
        return values, replace(sample, blocks=blocks, here=here or self.here)

    def draw(self, draw: Draw) -> Shards:
        """Return a sample of rows, held where these are."""
        parts = self._calls(partial(_take, draw), (), "stackedae-draw", *self._numbers)
        sample = self._joined(parts, draw)
        return replace(sample, blocks=self._runner.persist(*sample.blocks))

    @property
    def _numbers(self) -> tuple[Sequence[int], Sequence[int]]:
        return range(len(self.rows)), self.rows

    def _joined(self, parts: Sequence[Any], draw: Draw) -> Shards:
        """Join what was drawn of shards to as many shards as so many rows should have."""
        run = self._runner
        drawn = [draw.size(shard, n_rows) for shard, n_rows in zip(*self._numbers, strict=True)]
        target = rows_per_shard(sum(drawn), self.n_features * self.dtype.itemsize)
        groups: dict[int, list[int]] = {}
        for shard, before in enumerate(np.cumsum([0, *drawn[:-1]])):
            if drawn[shard]:
                groups.setdefault(int(before) // target, []).append(shard)
        blocks = [
            run.call("stackedae-join", np.concatenate, [parts[shard] for shard in group])
            for group in groups.values()
        ]
        sizes = tuple(sum(drawn[shard] for shard in group) for group in groups.values())
        return replace(self, blocks=blocks, rows=sizes, held=True)

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
        run = self._runner
        calls = zip(*each, self.blocks, strict=True)
        return run.compute(*run.calls(name, partial(_on_whole, function), calls))

    def _calls(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        name: str,
        *each: Sequence[Any],
    ) -> list[Any]:
        run = self._runner
        sent = [run.send(f"{name}-argument", argument) for argument in arguments]
        calls = ((*sent, *rest) for rest in zip(*each, self.blocks, strict=True))
        return run.calls(name, function, calls)


class _Here:
    """Runs calls at once, in this process, on as many threads as Dask would."""

    def send(self, name: str, value: T) -> T:
        return value

    def call(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)

    def calls(
        self, name: str, function: Callable[..., T], arguments: Iterator[tuple[Any, ...]]
    ) -> list[T]:
        return run_here(function, arguments)

    def tree(self, level: list[Vector]) -> Vector:
        return cast(Vector, _tree(self, level))

    def compute(self, *values: Any) -> tuple[Any, ...]:
        return values

    persist = compute


class _OnCluster:
    """Makes tasks of calls, and computes them on the active Dask scheduler."""

    def send(self, name: str, value: Any) -> Delayed:
        return literal(name, value)

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Delayed:
        return task(name, function, *arguments)

    def calls(
        self, name: str, function: Callable[..., Any], arguments: Iterator[tuple[Any, ...]]
    ) -> list[Delayed]:
        return [task(name, function, *each) for each in arguments]

    def tree(self, level: list[Delayed]) -> Delayed:
        return cast(Delayed, _tree(self, level))

    def compute(self, *tasks: Any) -> tuple[Any, ...]:
        with _large_graphs():
            return tuple(dask.base.compute(*tasks))

    def persist(self, *tasks: Any) -> tuple[Any, ...]:
        with _large_graphs():
            return tuple(dask.base.persist(*tasks))


def run_here(function: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
    """Return ``function(*each)`` of each of the arguments, computed by threads of this process."""
    every = list(arguments)
    if len(every) == 1 or n_threads() == 1:
        return [_single_threaded(function, *each) for each in every]
    run = partial(_single_threaded, function)
    return list(_pool(n_threads()).map(lambda each: run(*each), every))


def capacity() -> float:
    """Return the bytes of memory that the workers of the active scheduler have together.

    ``dask.config.set({"stackedae.memory": "10GB"})`` says so instead.
    """
    told = dask.config.get("stackedae.memory", None)
    if told is not None:
        return float(parse_bytes(told))
    client = active_client()
    if client is None:
        return float(min(psutil.virtual_memory().available, distributed.system.MEMORY_LIMIT))
    client.wait_for_workers(1)
    return float(client.run_on_scheduler(_memory_limits))


def active_client() -> distributed.Client | None:
    """Return the client that `dask.compute` would use, if it would use one."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if isinstance(client, distributed.Client) else None


def n_threads() -> int:
    """Return the threads that Dask's threaded scheduler would use in this process."""
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


@cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_workers, thread_name_prefix="stackedae")


def _memory_limits(dask_scheduler: Any) -> float:
    # A worker without a limit is not one without memory.
    return sum(worker.memory_limit or math.inf for worker in dask_scheduler.workers.values())


def _single_threaded(function: Callable[..., T], *arguments: Any) -> T:
    with one_blas_thread():
        return function(*arguments)


def task(name: str, function: Callable[..., Any], *arguments: Any) -> Delayed:
    """Return a call to be made on a worker, with one BLAS thread, under a readable name."""
    # A fresh key every time: Dask would answer a key it still knows with the
    # old result, or with the old error.
    key = f"{name}-{uuid.uuid4().hex}"
    call = delayed(_single_threaded, pure=False)
    return cast(Delayed, call(function, *arguments, dask_key_name=key))


def literal(name: str, value: Any) -> Delayed:
    """Return a value as a task of its own, which travels once to every worker."""
    # Lives in the graph, so with the scheduler: it outlives any worker, as
    # scattered data would not.
    key = f"{name}-{uuid.uuid4().hex}"
    return cast(Delayed, delayed(value, name=key, traverse=False))


def _tree(run: _Here | _OnCluster, level: list[Any]) -> Any:
    while len(level) > 1:
        level = [
            run.call("stackedae-sum", _add, level[i : i + TREE_ARITY])
            for i in range(0, len(level), TREE_ARITY)
        ]
    return level[0]


def add_up(parts: Sequence[Vector]) -> Vector:
    """Return the sum of what the client has, in the same tree as on a cluster."""
    return _Here().tree(list(parts))


def _add(parts: list[Vector]) -> Vector:
    total = np.array(parts[0])
    for part in parts[1:]:
        total += part
    return total


def _portions(block: Array | RowSource) -> Iterator[Array]:
    """Yield the rows of a block, which is one portion if they are in memory."""
    if isinstance(block, RowSource):
        yield from block.portions()
    else:
        yield block


def _whole(block: Array | RowSource) -> Array:
    portions = list(_portions(block))
    return portions[0] if len(portions) == 1 else np.concatenate(portions)


def _on_whole(function: Callable[..., T], *arguments: Any) -> T:
    *others, block = arguments
    return function(*others, _whole(block))


def _sum_rows(kernel: Kernel, *arguments: Any) -> Vector:
    *others, block = arguments
    total: Vector | None = None
    for rows in _portions(block):
        total = kernel(*others, rows, total)
    assert total is not None, "a shard has rows"
    return total


def _sum_and_take(kernel: Kernel, draw: Draw, *arguments: Any) -> tuple[Vector, Array]:
    *others, shard, n_rows, block = arguments
    chosen = draw.rows(shard, n_rows)
    total, taken, start = None, [], 0
    for rows in _portions(block):
        total = kernel(*others, rows, total)
        inside = chosen[(chosen >= start) & (chosen < start + len(rows))]
        taken.append(rows[inside - start])
        start += len(rows)
    assert total is not None, "a shard has rows"
    return total, np.concatenate(taken)


def _take(draw: Draw, shard: int, n_rows: int, block: Array) -> Array:
    taken: Array = block[draw.rows(shard, n_rows)]
    return taken


def _large_graphs() -> Any:
    """Silence the warning about graphs above 10 MB: rows and parameters in them are on purpose."""
    return dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})
