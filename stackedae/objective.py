"""The one bridge between costs and data: parameters in, cost and gradient out."""

from __future__ import annotations

from numpy.typing import DTypeLike

from stackedae.cluster import Shards
from stackedae.containers import Container, cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.errors import ArgumentError
from stackedae.evaluation import Evaluation
from stackedae.layout import Vector


class DaskObjective:
    """A cost over data on whatever Dask scheduler is active.

    Every shard of rows is one task, which returns its sums; the sums are added up in a tree of
    fixed shape, in float64. Shards depend on the data alone, and BLAS uses one thread inside a
    task, so the bits of the cost and the gradient are the same on every scheduler and any number of
    workers.

    Parameters
    ----------
    cost : AutoEncoderCost
        What to evaluate.
    X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …), or Shards
        Samples; trailing dimensions are flattened. They are read once, here, and held in the memory
        of the workers.
    dtype : {"float32", "float64"} or None
        Precision of the arithmetic; float64 for float64 data and float32 otherwise if None.

    Raises
    ------
    ArgumentError
        If samples do not have ``cost.n_features`` entries.
    DataError
        If X holds no samples, or entries that are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.costs import AutoEncoderCost
    >>> from stackedae.objective import DaskObjective
    >>> cost = AutoEncoderCost(n_features=64, n_hidden=4)
    >>> objective = DaskObjective(cost, np.full((100, 8, 8), 0.5))
    >>> objective(cost.layout.zeros()).terms["reconstruction"]
    0.0
    """

    def __init__(
        self,
        cost: AutoEncoderCost,
        X: Container | Shards,
        *,
        dtype: DTypeLike | None = None,
    ) -> None:
        shards = X if isinstance(X, Shards) else cut_into_shards(X, dtype)
        if shards.n_features != cost.n_features:
            raise ArgumentError(
                "X",
                f"{shards.n_features} features per sample",
                f"does not fit a cost of {cost.n_features} features",
                "pass samples of that many entries",
            )
        self.cost = cost
        self.shards = shards if isinstance(X, Shards) else shards.hold()

    def __call__(self, params: Vector) -> Evaluation:
        """Evaluate the cost and its gradient: one read of the data, one round trip."""
        sums = self.shards.sum(self.cost.chunk_sums, params, name="stackedae-cost-gradient")
        return self.cost.finish(params, sums)
