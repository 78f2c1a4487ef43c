"""Gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stackedae.layout import Vector
from stackedae.solvers.descent import Descent
from stackedae.solvers.line_search import Trial
from stackedae.solvers.state import Pair, SolverState


@dataclass(frozen=True)
class GradientDescent(Descent):
    r"""The classic rule :math:`\theta \leftarrow \theta - \eta\,g`, with a line search for η.

    The first trial of a step is twice the last accepted step, so that η can grow again after a
    narrow passage.

    Parameters
    ----------
    line_search : StrongWolfe
        How η is found.
    """

    def direction(self, state: SolverState, gradient: Vector) -> Vector:
        """Return the negative gradient."""
        return -gradient

    def first_trial(self, state: SolverState, slope: float) -> float:
        """Return twice the last η; at first, a step of length 1."""
        return 2 * state.step_length if state.step_length > 0 else float(1.0 / np.sqrt(-slope))

    def remember(self, state: SolverState, trial: Trial) -> tuple[Pair, ...]:
        """Remember nothing."""
        return ()
