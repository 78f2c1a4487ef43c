"""Rows where the workers are: shards, what is summed over them, what is mapped over them.

Whatever Dask scheduler is active is used: a `distributed.Client` if there is one, else threads.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import dask.base
import distributed  # noqa: F401 (its defaults must be there before a setting of it is overridden)
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import DTypeLike

from stackedae.blas import one_blas_thread
from stackedae.layout import Array, Vector
from stackedae.memory import runs_on_client

TREE_ARITY = 16
"""Sums that one task adds up: fixed, so that the order of additions is."""

T = TypeVar("T")


@dataclass(frozen=True)
class Shards:
    """Rows of a data set, cut into shards that stay where the workers are.

    Parameters
    ----------
    blocks : sequence of Delayed, or of ndarray
        The rows of each shard, (rows, n_features) once computed; ndarrays if the client has them.
    rows : tuple of int
        Rows of each shard; they depend on the data alone, never on the cluster.
    n_features : int
        Columns.
    dtype : dtype
        Of the rows.
    """

    blocks: Sequence[Delayed | Array]
    rows: tuple[int, ...]
    n_features: int
    dtype: np.dtype[Any]

    @property
    def n_rows(self) -> int:
        """Rows of all shards together."""
        return sum(self.rows)

    @property
    def _runner(self) -> _Here | _OnCluster:
        return _Here() if isinstance(self.blocks[0], np.ndarray) else _OnCluster()

    def hold(self) -> Shards:
        """Compute every shard and keep it in the memory of the workers.

        What is lost with a worker is computed again from its source. Data that are not worth a
        round trip are kept, and worked on, by the client.
        """
        n_bytes = self.n_rows * self.n_features * self.dtype.itemsize
        keep = self._runner.compute if runs_on_client(n_bytes) else self._runner.persist
        return replace(self, blocks=keep(*self.blocks))

    def map(
        self,
        kernel: Callable[..., Array],
        *arguments: Any,
        n_features: int,
        dtype: DTypeLike,
        name: str,
    ) -> Shards:
        """Return the shards ``kernel(*arguments, rows)``; on a cluster, nothing is computed yet.

        Parameters
        ----------
        kernel : callable
            Returns as many rows as it is given.
        *arguments : object
            Handed to every call; travels once to every worker, not once with every task.
        n_features, dtype : int, dtype
            Columns and dtype of what the kernel returns.
        name : str
            What dashboards call the tasks.
        """
        blocks = self._calls(kernel, arguments, name)
        return Shards(blocks, self.rows, n_features, np.dtype(dtype))

    def sum(self, kernel: Callable[..., Vector], *arguments: Any, name: str) -> Vector:
        """Return the sum over shards of ``kernel(*arguments, rows)``, added up in a fixed tree.

        Parameters
        ----------
        kernel : callable
            Returns one flat float64 vector, the same size for every shard.
        *arguments : object
            Handed to every call; travels once to every worker, not once with every task.
        name : str
            What dashboards call the tasks.
        """
        run = self._runner
        level = self._calls(kernel, arguments, name)
        while len(level) > 1:
            level = [
                run.call("stackedae-sum", _add, level[i : i + TREE_ARITY])
                for i in range(0, len(level), TREE_ARITY)
            ]
        return cast(Vector, run.compute(level[0])[0])

    def gather(self, kernel: Callable[[Array], T], name: str) -> tuple[T, ...]:
        """Return ``kernel(rows)`` of every shard, in order; the results should be small."""
        return self._runner.compute(*self._calls(kernel, (), name))

    def _calls(
        self, kernel: Callable[..., Any], arguments: tuple[Any, ...], name: str
    ) -> list[Any]:
        run = self._runner
        sent = [run.send(f"{name}-argument", argument) for argument in arguments]
        return [run.call(name, kernel, *sent, block) for block in self.blocks]


class _Here:
    """Runs calls at once, in this process."""

    def send(self, name: str, value: T) -> T:
        return value

    def call(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        return _single_threaded(function, *arguments)

    def compute(self, *values: Any) -> tuple[Any, ...]:
        return values

    persist = compute


class _OnCluster:
    """Makes tasks of calls, and computes them on the active Dask scheduler."""

    def send(self, name: str, value: Any) -> Delayed:
        return literal(name, value)

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Delayed:
        return task(name, function, *arguments)

    def compute(self, *tasks: Any) -> tuple[Any, ...]:
        with _large_graphs():
            return tuple(dask.base.compute(*tasks))

    def persist(self, *tasks: Any) -> tuple[Any, ...]:
        with _large_graphs():
            return tuple(dask.base.persist(*tasks))


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


def _add(parts: list[Vector]) -> Vector:
    total = np.array(parts[0])
    for part in parts[1:]:
        total += part
    return total


def _large_graphs() -> Any:
    """Silence the warning about graphs above 10 MB: rows and parameters in them are on purpose."""
    return dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})
