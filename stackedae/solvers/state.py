"""Where a solver stands: plain arrays and numbers, enough to continue bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

import numpy as np

from stackedae.evaluation import Evaluation
from stackedae.layout import Vector
from stackedae.solvers.adam import AdamState

COST_WINDOW = 10
"""Iterations over which the decrease of the cost is judged."""


class Status(Enum):
    """How a run of a solver stands; the value says what to do about it."""

    RUNNING = "the run has not ended: step on"
    ENOUGH = "these rows have no more to teach: go on with more of them"
    INTERRUPTED = (
        "training was interrupted: fit again, with the same checkpoint if there is one, to go on"
    )
    STOPPED_EARLY = (
        "samples that were held out cost no less any more: the best parameters were kept"
    )
    SCHEDULE_ENDED = "all epochs of mini-batches were gone through: more of them get further"
    CONVERGED = "the tolerance was reached"
    MAX_ITER = (
        "max_iter was reached before the tolerance: raise max_iter, or raise tol "
        "if the cost has become low enough"
    )
    LINE_SEARCH_FAILED = (
        "no step along the last direction lowered the cost: the parameters are as good as the "
        'arithmetic can tell (dtype="float64" tells more), or cost and gradient disagree'
    )
    NOT_FINITE = (
        "the cost or its gradient became NaN or infinite: scale the data to about [0, 1] or unit "
        "variance, or lower the weights of the penalties"
    )

    @property
    def is_good(self) -> bool:
        """Whether there was nothing left to gain."""
        return self in (Status.CONVERGED, Status.STOPPED_EARLY, Status.SCHEDULE_ENDED)

    @property
    def advice(self) -> str:
        """What the status means, and what to do about it."""
        return self.value


class Pair(NamedTuple):
    """What a step says of the Hessian: y ≈ Hessian · s."""

    s: Vector
    """Change of the parameters."""
    y: Vector
    """Change of the gradient."""
    curvature: float
    """sᵀy."""


@dataclass(frozen=True)
class SolverState:
    """State after some iterations.

    `step` of a solver returns a new state and changes no array of the old one. What changes when:
    `params`, `evaluation`, `costs` and `pairs` with every accepted step; `iteration`,
    `n_evaluations` and `step_length` with every call; `status` once, at the end.

    Parameters
    ----------
    params : ndarray of shape (n_parameters,)
        Parameters after the last accepted step.
    evaluation : Evaluation or None
        Cost and gradient at `params`; None before the first step.
    iteration : int
        Steps taken.
    n_evaluations : int
        Evaluations of the objective by the last step alone.
    step_length : float
        Length of the last step, in units of its direction; 0 if it could not be taken.
    costs : tuple of float
        Costs at the last accepted points, oldest first, at most `COST_WINDOW` + 1 of them.
    pairs : tuple of Pair
        Of the last steps, oldest first (L-BFGS only).
    damping, curvature : float
        How strongly steps on samples are held back (`Surrogate` only), and in which unit; 0 before
        the first.
    failures : int
        Steps on samples that could not be taken (`Surrogate` only).
    batches : AdamState or None
        Where steps on mini-batches stand, if such are taken.
    status : Status
        RUNNING until the run ends.
    """

    params: Vector
    evaluation: Evaluation | None = None
    iteration: int = 0
    n_evaluations: int = 0
    step_length: float = 0.0
    costs: tuple[float, ...] = ()
    pairs: tuple[Pair, ...] = ()
    damping: float = 0.0
    curvature: float = 0.0
    failures: int = 0
    batches: AdamState | None = None
    status: Status = Status.RUNNING

    def restarted(self) -> SolverState:
        """Return the state from which another objective goes on: parameters, pairs and counts."""
        return replace(self, evaluation=None, costs=(), status=Status.RUNNING)

    def is_stationary(self, tol: float) -> bool:
        r"""Whether the largest gradient entry is at most `tol`, relative to max(1, \|cost\|)."""
        if self.evaluation is None:
            return False
        largest = float(np.abs(self.evaluation.gradient).max(initial=0.0))
        return largest <= tol * max(1.0, abs(self.evaluation.cost))

    def has_converged(self, tol: float) -> bool:
        """Whether neither the cost nor the gradient leaves anything to gain above `tol`.

        True if the point is stationary, and the cost fell by at most `tol` of itself over the last
        `COST_WINDOW` iterations; or if the gradient is zero, from where no solver moves.
        """
        if self.is_stationary(0.0):
            return True
        if len(self.costs) <= COST_WINDOW or not self.is_stationary(tol):
            return False
        return self.costs[0] - self.costs[-1] <= tol * abs(self.costs[0])
