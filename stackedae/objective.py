"""The one bridge between costs and data: parameters in, cost and gradient over all rows out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from stackedae.cluster import Draw, Shards, add_up
from stackedae.containers import Container, cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.errors import ArgumentError
from stackedae.evaluation import Evaluation
from stackedae.layout import Array, Vector
from stackedae.memory import SAMPLE_SHARE, runs_on_client

_NAME = "stackedae-cost-gradient"


class DaskObjective:
    r"""A cost over all rows of a container, evaluated where the rows are.

    Calling it with parameters returns an `Evaluation`: anything that can be driven by that can be
    driven by this. Equal rows in equal chunks give equal bits on every scheduler and any number of
    workers.

    Parameters
    ----------
    cost : AutoEncoderCost
        What to evaluate.
    X : container of shape (n_samples, …), or Shards
        Samples; trailing dimensions are flattened. They are read once, here, and held in the memory
        of the workers; Shards are taken as they are.
    dtype : {"float32", "float64"} or None
        Precision of the arithmetic; float64 for float64 data and float32 otherwise if None.
    seed : int
        Of samples.
    visits : Visits or None
        Where rows are counted; a counter of its own if None.

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
        seed: int = 0,
        visits: Visits | None = None,
    ) -> None:
        shards = X if isinstance(X, Shards) else cut_into_shards(X, dtype)
        if shards.n_features != cost.n_features:
            raise ArgumentError(
                "X",
                f"{shards.n_features} features per sample",
                f"does not fit a cost of {cost.n_features} features",
                "pass samples of that many entries",
            )
        if not isinstance(X, Shards):
            shards = shards.hold(here=belongs_here(cost, shards))
        self.cost, self.shards, self.seed = cost, shards, seed
        self.visits = Visits() if visits is None else visits
        self._codes: list[Any] = [None] * len(shards.rows)
        self._sample: tuple[int, DaskObjective] | None = None

    def __call__(self, params: Vector) -> Evaluation:
        """Evaluate the cost and its gradient: one read of the data, one round trip."""
        self.visits.count(self.shards)
        if self.shards.here and self.cost.sparsity_weight > 0:
            return self._keeping_codes(params)
        sums = self.shards.sum(self.cost.chunk_sums, params, name=_NAME)
        return self.cost.finish(params, sums)

    def _keeping_codes(self, params: Vector) -> Evaluation:
        # Where a round trip costs nothing, two of them save a product.
        cost, shards = self.cost, self.shards
        passed = shards.gather(partial(_forward, cost, params), self._codes, name=_NAME)
        self._codes = [codes for codes, _ in passed]
        activations = [activation for _, activation in passed]
        mean = add_up(activations) / shards.n_rows
        backward = partial(_backward, cost, params, mean)
        sums = shards.gather(backward, self._codes, activations, name=_NAME)
        return cost.finish(params, add_up(sums))

    def evaluate(self, params: Vector, sample: int) -> Evaluation:
        """Evaluate, and draw a sample from the same read of the rows.

        Parameters
        ----------
        params : ndarray of shape (n_parameters,)
            Where to evaluate.
        sample : int
            Number of the sample, for `sample`.

        Returns
        -------
        Evaluation
            Over all rows.
        """
        self.visits.count(self.shards)
        return self.cost.finish(params, self._sum_and_draw(self.cost.chunk_sums, params, sample))

    def sample(self, number: int) -> DaskObjective:
        """Return the objective over a sample of the rows.

        Parameters
        ----------
        number : int
            Which: samples of other numbers are other rows, as long as there are any.

        Returns
        -------
        DaskObjective
            It counts its visits with ours.
        """
        if self._sample is None or self._sample[0] != number:
            self.visits.reads += not self.shards.held
            self._sum_and_draw(_nothing, None, number)
        assert self._sample is not None
        return self._sample[1]

    def _sum_and_draw(self, kernel: Any, params: Any, number: int) -> Vector:
        # Number 0 is another stretch than that from which training starts.
        start = (number + 1) * SAMPLE_SHARE % 1.0
        draw = Draw(start, start + SAMPLE_SHARE, self.seed)
        here = belongs_here(self.cost, self.shards, SAMPLE_SHARE)
        sums, drawn = self.shards.sum_and_draw(kernel, params, draw=draw, here=here, name=_NAME)
        self._sample = number, DaskObjective(self.cost, drawn, visits=self.visits)
        return sums


class HalvedObjective:
    """A cost over a sample in two halves, whose gradients tell how far chance takes them apart.

    Parameters
    ----------
    cost : AutoEncoderCost
        What to evaluate.
    first, second : Shards
        The halves.
    visits : Visits
        Where rows are counted.
    """

    def __init__(
        self, cost: AutoEncoderCost, first: Shards, second: Shards, visits: Visits
    ) -> None:
        self.cost, self.visits = cost, visits
        self.shards = first.followed_by(second)
        self.sizes = (len(first.rows), len(second.rows))

    def __call__(self, params: Vector) -> Evaluation:
        """Evaluate over the whole sample, with the variance of the gradient."""
        cost = self.cost
        self.visits.count(self.shards)
        first, second = self.shards.sum_groups(
            cost.chunk_sums, params, sizes=self.sizes, name=_NAME
        )
        whole = cost.finish(params, first + second)
        difference = cost.finish(params, first).gradient - cost.finish(params, second).gradient
        return replace(whole, gradient_variance=float(difference @ difference) / 4)


@dataclass
class Visits:
    """What evaluations took so far.

    Parameters
    ----------
    rows : int
        Rows that passed through a kernel, those of samples included.
    reads : int
        How often all rows were read or computed again, because they are not held.
    """

    rows: int = 0
    reads: int = 0

    def count(self, shards: Shards) -> None:
        """Count one visit of all rows of shards."""
        self.rows += shards.n_rows
        self.reads += not shards.held


def belongs_here(cost: AutoEncoderCost, shards: Shards, share: float = 1.0) -> bool:
    """Say whether the client should work itself on rows, or on a share of them."""
    return runs_on_client(share * shards.n_bytes, share * cost.flops(shards.n_rows))


def _forward(cost: AutoEncoderCost, params: Vector, codes: Any, rows: Array) -> Any:
    return cost.forward(params, rows, codes)


def _backward(
    cost: AutoEncoderCost,
    params: Vector,
    mean: Vector,
    codes: Array,
    activation: Vector,
    rows: Array,
) -> Vector:
    return cost.backward(params, mean, rows, codes, activation)


def _nothing(params: None, rows: Array, out: Vector | None) -> Vector:
    return np.zeros(0)
