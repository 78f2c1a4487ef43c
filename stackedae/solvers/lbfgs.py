"""Limited-memory BFGS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stackedae.layout import Vector
from stackedae.solvers.descent import Descent
from stackedae.solvers.line_search import Trial
from stackedae.solvers.state import SolverState


@dataclass(frozen=True)
class LBFGS(Descent):
    r"""Limited-memory BFGS with a strong-Wolfe line search.

    The direction is :math:`-H g`, where H approximates the inverse Hessian by the last changes
    :math:`s` of the parameters and :math:`y` of the gradient, starting from
    :math:`H_0 = \gamma M` with :math:`\gamma = s^T y / y^T M y` of the newest pair.

    Parameters
    ----------
    line_search : StrongWolfe
        How far to go along a direction.
    memory : int
        Pairs (s, y) kept.
    preconditioner : callable or None
        ``preconditioner(vector)`` multiplies by a symmetric positive definite M that is closer to
        the inverse Hessian than the identity; the identity if None.

    References
    ----------
    Nocedal, J., Wright, S., "Numerical Optimization", 2nd ed., 2006, algorithms 7.4 (two loops; its
    ρ_i is 1/sᵀy here) and 7.5.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.evaluation import Evaluation
    >>> from stackedae.solvers import LBFGS, minimize
    >>> state = minimize(LBFGS(), lambda p: Evaluation(float(p @ p), 2 * p), np.ones(3))
    >>> state.status.name, state.evaluation.cost
    ('CONVERGED', 0.0)
    """

    memory: int = 10
    preconditioner: Callable[[Vector], Vector] | None = None

    def direction(self, state: SolverState, gradient: Vector) -> Vector:
        """Return −H·gradient by the two-loop recursion."""
        q = gradient
        weights = []
        for s, y in reversed(state.pairs):
            weights.append((s @ q) / (s @ y))
            q = q - weights[-1] * y
        q = self.precondition(q)
        if state.pairs:
            s, y = state.pairs[-1]
            q = q * ((s @ y) / (y @ self.precondition(y)))
        for (s, y), weight in zip(state.pairs, reversed(weights), strict=True):
            q = q + (weight - (y @ q) / (s @ y)) * s
        return -q

    def first_trial(self, state: SolverState, slope: float) -> float:
        """Return 1, the quasi-Newton step; without pairs, a step of length 1 in the metric of M."""
        return 1.0 if state.pairs else 1.0 / np.sqrt(-slope)

    def remember(self, state: SolverState, trial: Trial) -> tuple[tuple[Vector, Vector], ...]:
        """Keep the newest pairs; one without positive curvature would make H indefinite."""
        assert state.evaluation is not None
        s = trial.params - state.params
        y = trial.evaluation.gradient - state.evaluation.gradient
        if s @ y <= np.finfo(np.float64).eps * (y @ y):
            return state.pairs
        return (*state.pairs, (s, y))[-self.memory :]

    def precondition(self, vector: Vector) -> Vector:
        """Return M·vector."""
        return vector if self.preconditioner is None else self.preconditioner(vector)
