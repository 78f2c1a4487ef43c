"""A cost over a mini-batch, one of whose terms is of a mean over all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stackedae.arrays import POOL, arithmetic_dtype
from stackedae.costs.activations import ACTIVATIONS
from stackedae.evaluation import Evaluation
from stackedae.labelled import SomeRows, features_in, known_to
from stackedae.layout import Vector

HORIZON = 32
"""Batches over which mean activations are averaged."""


@dataclass(frozen=True)
class RunningMean:
    """Mean activations of hidden units, over the last `HORIZON` batches or so.

    Parameters
    ----------
    means : ndarray of shape (n_hidden,)
        The means; empty before the first batch, and for costs without a sparsity term.
    n_rows : float
        Rows that they are over, older ones counted less.
    """

    means: Vector
    n_rows: float

    def including(self, sums: Vector, n_rows: float) -> RunningMean:
        """Return the means once a batch is in them, whose activations sum up to these."""
        kept = (1 - 1 / HORIZON) * self.n_rows
        total = kept + n_rows
        return RunningMean((kept * self.means + sums) / total if kept else sums / total, total)


@dataclass(frozen=True)
class Batch:
    r"""A cost over one mini-batch, for stochastic gradients.

    The sparsity term needs the mean activations :math:`\hat\rho` over *all* rows. Those of a batch
    are noise, of which the divergence makes a bias; an average over past batches is of parameters
    that are no more, and steps that trust it overshoot and swing. So this one is *followed*: after
    a step Δ, :math:`\hat\rho` is moved by what the batch says that Δ does to it, to first order,

    .. math::

        \hat\rho_j \leftarrow \hat\rho_j +
            \frac1n \sum_i f'(z_{ij}) \, (\Delta W_{1,j} \cdot x_i + \Delta b_{1,j})

    which are sums that `chunk_sums` has anyway. Then the average is over many batches, and of
    the parameters as they are.

    Parameters
    ----------
    evaluation : Evaluation
        The cost and its gradient over the batch; in the sparsity term, for the running mean.
    running : RunningMean
        With the batch in it.
    cost : Any
        Where it comes from.
    sums : ndarray of shape (cost.sums_layout.size,)
        Over the batch.

    References
    ----------
    Wang, M., Fang, E., Liu, H., "Stochastic compositional gradient descent", Math. Program. 161,
    2017 (the running mean). Chen, T., Sun, Y., Yin, W., "Solving stochastic compositional
    optimization is nearly as easy as solving stochastic optimization", IEEE Trans. Signal Process.
    69, 2021 (following it; there by a second evaluation).
    """

    evaluation: Evaluation
    running: RunningMean
    cost: Any
    sums: Vector

    @classmethod
    def of(cls, cost: Any, params: Vector, rows: SomeRows, running: RunningMean) -> Batch:
        """Evaluate a cost over the rows of a batch.

        Parameters
        ----------
        cost : AutoEncoderCost, or any cost without a sparsity term
            What to evaluate.
        params : ndarray of shape (cost.layout.size,)
            Where.
        rows : array of shape (n_rows, n_features), or Labelled
            The batch.
        running : RunningMean
            Before it.
        """
        X = features_in(rows)
        rounded = POOL.empty(params.shape, arithmetic_dtype(X))
        rounded[...] = params
        kernel = cost.kernel(rounded, X)
        sums = kernel.chunk_sums(X, **known_to(cost, rows))
        if _is_sparse(cost):
            S = cost.sums_layout.unpack(sums)
            running = running.including(S["activation"], float(S["weight"]))
            S["activation"][...] = float(S["weight"]) * running.means
        return cls(cost.finish(params, sums), running, cost, sums)

    def after(self, step: Vector) -> RunningMean:
        """Return the running mean after a step of the parameters.

        Followed blindly, one could leave the range of the activation function: it moves at most
        half of the way to an end of it.
        """
        cost, running = self.cost, self.running
        if not _is_sparse(cost):
            return running
        S, P = cost.sums_layout.unpack(self.sums), cost.layout.unpack(step)
        change = np.einsum("jk,jk->j", S["slope_x"], P["W1"]) + S["slope"] * P["b1"]
        f = ACTIVATIONS[cost.activation]
        moved = running.means + change / float(S["weight"])
        nearest = (running.means + f.low) / 2, (running.means + f.high) / 2
        return RunningMean(np.clip(moved, *nearest), running.n_rows)


def _is_sparse(cost: Any) -> bool:
    return "slope_x" in cost.sums_layout.slices
