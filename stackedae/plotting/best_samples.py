"""The samples that activate units most, found in one pass over all there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.cluster import OnCluster
from stackedae.containers import Container, cut_into_shards
from stackedae.errors import ArgumentError
from stackedae.layers import Stack
from stackedae.layout import Array
from stackedae.memory import MAX_BLOCK_ROWS
from stackedae.plotting.fitted import layer_of
from stackedae.samples import FittedStack, check_samples
from stackedae.shards import RowSource

_MERGED_TOGETHER = 8


def best_samples(
    estimator: FittedStack, X: Container, layer: int, n_best: int, units: NDArray[np.integer]
) -> Array:
    """Return the samples that activate units most, the best one first.

    Every task passes over a shard, a block at a time, and returns the best of it; these are merged
    in a tree, on the workers.

    Parameters
    ----------
    estimator : FittedStack
        Whose units they are.
    X : container of shape (n_samples, …)
        Where to look.
    layer : int
        Whose activations.
    n_best : int
        Samples for each unit; fewer if X has no more.
    units : ndarray of int
        Which units of the layer.

    Returns
    -------
    ndarray of shape (len(units), n_best, n_features)
    """
    if n_best < 1:
        raise ArgumentError("n_best", n_best, "leaves nothing to show", "pass 1 or more")
    layer_of(estimator, layer)
    shards = cut_into_shards(check_samples(estimator, X, reset=False))
    run, name = OnCluster(), "stackedae-best"
    stack = run.send(f"{name}-parameters", Stack(list(estimator.layers_[: layer + 1])))
    calls = ((stack, units, n_best, block) for block in shards.blocks)
    parts: list[Any] = run.calls(name, _best_of_shard, calls)
    while len(parts) > 1:
        groups = [parts[i : i + _MERGED_TOGETHER] for i in range(0, len(parts), _MERGED_TOGETHER)]
        parts = [run.call(f"{name}-of", _best_of_all, group) for group in groups]
    (best,) = run.compute(*parts)
    rows: Array = best.rows
    return rows


@dataclass(frozen=True)
class _Best:
    """Activations (n_units, ≤ n_best), the largest first, and the rows (…, n_features) behind."""

    values: Array
    rows: Array
    n_best: int

    @classmethod
    def of(cls, values: Array, rows: Array, n_best: int) -> _Best:
        """Choose from activations (n_units, n) and rows (n_units or 1, n, n_features)."""
        unit = np.arange(len(values))[:, None]
        chosen = np.argpartition(-values, min(n_best, values.shape[1]) - 1)[:, :n_best]
        order = np.argsort(-values[unit, chosen], axis=1, kind="stable")
        chosen = chosen[unit, order]
        return cls(values[unit, chosen], rows[unit if len(rows) > 1 else 0, chosen], n_best)

    def merged(self, other: _Best) -> _Best:
        """Return the best of both."""
        values = np.concatenate([self.values, other.values], axis=1)
        rows = np.concatenate([self.rows, other.rows], axis=1)
        return _Best.of(values, rows, self.n_best)


def _best_of_shard(
    stack: Stack, units: NDArray[np.integer], n_best: int, block: Array | RowSource
) -> _Best:
    return reduce(
        _Best.merged,
        (_best_of_rows(stack, units, n_best, rows) for rows in _blocks(block)),
    )


def _best_of_rows(stack: Stack, units: NDArray[np.integer], n_best: int, rows: Array) -> _Best:
    activations = stack.encode(rows)[:, units].T
    return _Best.of(np.nan_to_num(activations, nan=-np.inf), rows[None], n_best)


def _best_of_all(parts: list[_Best]) -> _Best:
    return reduce(_Best.merged, parts)


def _blocks(block: Array | RowSource) -> Iterator[Array]:
    portions = block.portions() if isinstance(block, RowSource) else iter((block,))
    for rows in portions:
        for start in range(0, len(rows), MAX_BLOCK_ROWS):
            yield rows[start : start + MAX_BLOCK_ROWS]
