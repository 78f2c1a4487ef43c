"""Limited-memory BFGS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stackedae.layout import Vector
from stackedae.solvers.descent import Descent
from stackedae.solvers.line_search import Trial
from stackedae.solvers.state import Pair, SolverState


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
        q, weights = np.negative(gradient), []
        scaled = np.empty_like(q)  # fresh memory takes as long as what is done in it
        for s, y, curvature in reversed(state.pairs):
            weights.append((s @ q) / curvature)
            q -= np.multiply(weights[-1], y, out=scaled)
        q = self.precondition(q)
        if state.pairs:
            _, y, curvature = state.pairs[-1]
            q *= curvature / (y @ self.precondition(y))
        for (s, y, curvature), weight in zip(state.pairs, reversed(weights), strict=True):
            q += np.multiply(weight - (y @ q) / curvature, s, out=scaled)
        return q

    def first_trial(self, state: SolverState, slope: float) -> float:
        """Return 1, the quasi-Newton step; without pairs, a step of length 1 in the metric of M."""
        return 1.0 if state.pairs else 1.0 / np.sqrt(-slope)

    def remember(self, state: SolverState, trial: Trial) -> tuple[Pair, ...]:
        """Keep the newest pairs; one without positive curvature would make H indefinite."""
        assert state.evaluation is not None
        s = trial.params - state.params
        y = trial.evaluation.gradient - state.evaluation.gradient
        curvature = float(s @ y)
        if curvature <= np.finfo(np.float64).eps * (y @ y):
            return state.pairs
        return (*state.pairs, Pair(s, y, curvature))[-self.memory :]

    def precondition(self, vector: Vector) -> Vector:
        """Return M·vector."""
        return vector if self.preconditioner is None else self.preconditioner(vector)
