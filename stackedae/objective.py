"""The one bridge between costs and data: parameters in, cost and gradient over all rows out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from stackedae.clock import NO_TIME, Seconds
from stackedae.containers import Container, cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.errors import ArgumentError
from stackedae.evaluation import Cost, Evaluation
from stackedae.labelled import SomeRows, features_in, known_to
from stackedae.layout import Array, Vector
from stackedae.memory import is_worth_two_stages, runs_on_client, sample_share
from stackedae.shards import Draw, Shards, sum_each

_NAME = "stackedae-cost-gradient"


class DaskObjective:
    r"""A cost over all rows of a container, evaluated where the rows are.

    Calling it with parameters returns an `Evaluation`: anything that can be driven by that can be
    driven by this. Equal rows in equal chunks give equal bits on every scheduler and any number of
    workers.

    Parameters
    ----------
    cost : Cost
        What to evaluate.
    X : container of shape (n_samples, …), or Shards
        Samples; trailing dimensions are flattened. They are read once, here, and held in the memory
        of the workers; Shards are taken as they are, with what the cost needs beside them.
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
        cost: Cost,
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
            shards = shards.numbered() if "row" in cost.aside else shards
            shards = shards.hold(here=belongs_here(cost, shards))
        if not set(cost.aside) <= set(shards.aside):
            raise ArgumentError(
                "X",
                f"samples with {shards.aside} beside them",
                f"does not have all that the cost needs, {cost.aside}",
                "pass Shards with these",
            )
        self.cost, self.shards, self.seed = cost, shards, seed
        self.visits = Visits() if visits is None else visits
        self._sample: tuple[int, DaskObjective] | None = None

    def __call__(self, params: Vector) -> Evaluation:
        """Evaluate the cost and its gradient, in one round trip."""
        cost = self.cost
        if not (self._in_two_stages and isinstance(cost, AutoEncoderCost)):
            self.visits.count(self.shards)
            sums = self.shards.sum(
                partial(_summing, cost), self._sent(params), name=_NAME, clock=self.visits
            )
            return cost.finish(params, sums)
        self.visits.count(self.shards, reads=2)
        activation, sums = self.shards.sum_in_two_stages(
            partial(_passing, cost),
            partial(_passing_back, cost, self.shards.n_rows),
            self._sent(params),
            name=_NAME,
            clock=self.visits,
        )
        return cost.finish(params, sums, activation)

    def _sent(self, params: Vector) -> Array:
        """Return parameters in the precision of the arithmetic: what a kernel makes of them."""
        return params.astype(np.result_type(self.shards.dtype, np.float32))

    @cached_property
    def _in_two_stages(self) -> bool:
        return needs_two_stages(self.cost, self.shards)

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
        if self._in_two_stages:
            self.sample(sample)
            return self(params)
        draw, here = self._draw_of(sample)
        self.visits.count(self.shards)
        sums, drawn = self.shards.sum_and_draw(
            partial(_summing, self.cost),
            self._sent(params),
            draw=draw,
            here=here,
            name=_NAME,
            clock=self.visits,
        )
        self._keep_sample(sample, drawn)
        return self.cost.finish(params, sums)

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
            draw, here = self._draw_of(number)
            self._keep_sample(number, self.shards.draw(draw, here=here))
        assert self._sample is not None
        return self._sample[1]

    def _draw_of(self, number: int) -> tuple[Draw, bool]:
        """Return which rows a sample has, and whether the client is to hold them."""
        # Number 0 is another stretch than that from which training starts.
        share = sample_share(self.shards.n_bytes)
        start, here = (number + 1) * share % 1.0, belongs_here(self.cost, self.shards, share)
        return Draw(start, start + share, self.seed), here

    def _keep_sample(self, number: int, drawn: Shards) -> None:
        self._sample = number, DaskObjective(self.cost, drawn, visits=self.visits)


class HalvedObjective:
    """A cost over a sample in two halves, whose gradients tell how far chance takes them apart.

    Parameters
    ----------
    cost : Cost
        What to evaluate.
    first, second : Shards
        The halves.
    visits : Visits
        Where rows are counted.
    """

    def __init__(self, cost: Cost, first: Shards, second: Shards, visits: Visits) -> None:
        self.cost, self.halves, self.visits = cost, (first, second), visits

    def __call__(self, params: Vector) -> Evaluation:
        """Evaluate over the whole sample, with the variance of the gradient."""
        cost = self.cost
        for half in self.halves:
            self.visits.count(half)
        first, second = sum_each(
            self.halves, partial(_summing, cost), params, name=_NAME, clock=self.visits
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
    reads_held_out : int
        The same of those that are held out.
    seconds : Seconds
        Of evaluations, a mean over threads.
    """

    rows: int = 0
    reads: int = 0
    reads_held_out: int = 0
    seconds: Seconds = NO_TIME

    def took(self, seconds: Seconds) -> None:
        """Take note of what an evaluation took."""
        self.seconds += seconds

    def count(self, shards: Shards, reads: int = 1) -> None:
        """Count one visit of all rows of shards, which are read so often if they are not held."""
        self.rows += shards.n_rows
        self.reads += 0 if shards.held else reads

    def take_in(self, held_out: Visits) -> None:
        """Take over visits of rows that are held out, and leave none."""
        self.rows += held_out.rows
        self.reads_held_out += held_out.reads
        self.seconds += held_out.seconds
        held_out.rows, held_out.reads, held_out.seconds = 0, 0, NO_TIME


def belongs_here(cost: Cost, shards: Shards, share: float = 1.0) -> bool:
    """Say whether the client should work itself on rows, or on a share of them."""
    return runs_on_client(share * shards.n_bytes, share * cost.flops(shards.n_rows))


def needs_two_stages(cost: Cost, shards: Shards) -> bool:
    """Say whether an evaluation passes over rows twice, and keeps their codes meanwhile."""
    # Of rows with weights, the mean activations would take their total, too.
    if not isinstance(cost, AutoEncoderCost) or "weight" in shards.aside:
        return False
    row_bytes = (cost.n_features + cost.n_hidden) * np.dtype(np.float32).itemsize
    return cost.sparsity_weight > 0 and is_worth_two_stages(shards.n_rows * row_bytes)


def _summing(cost: Cost, params: Vector, rows: SomeRows) -> Any:
    kernel = cost.kernel(params, features_in(rows))
    return lambda rows, out: kernel.chunk_sums(features_in(rows), out, **known_to(cost, rows))


def _passing(cost: AutoEncoderCost, params: Vector, rows: SomeRows) -> Any:
    kernel = cost.kernel(params, features_in(rows))
    return lambda rows, out: kernel.forward(features_in(rows), out, **known_to(cost, rows))


def _passing_back(
    cost: AutoEncoderCost, total: float, params: Vector, activation: Vector, rows: SomeRows
) -> Any:
    kernel = cost.kernel(params, features_in(rows), activation / total)
    return lambda rows, codes, out: kernel.backward(
        features_in(rows), out, codes=codes, **known_to(cost, rows)
    )
