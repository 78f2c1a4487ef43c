"""What L-BFGS and gradient descent have in common: a direction, and a search along it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from stackedae.evaluation import Evaluation, Objective
from stackedae.layout import Vector
from stackedae.solvers.line_search import SearchResult, StrongWolfe, Trial
from stackedae.solvers.state import COST_WINDOW, Pair, SolverState, Status


@dataclass(frozen=True)
class Descent(ABC):
    """A solver that steps along descent directions.

    ``init(params)`` gives a state, ``step(state, objective)`` the next one. A solver holds settings
    only, so that a state written down and read back continues on the same trajectory.

    Parameters
    ----------
    line_search : StrongWolfe
        How far to go along a direction.
    """

    line_search: StrongWolfe = field(default_factory=StrongWolfe)

    @abstractmethod
    def direction(self, state: SolverState, gradient: Vector) -> Vector:
        """Return a direction along which the cost falls."""

    @abstractmethod
    def first_trial(self, state: SolverState, slope: float) -> float:
        """Return the first step to try along the direction, on which the cost has this slope."""

    @abstractmethod
    def remember(self, state: SolverState, trial: Trial) -> tuple[Pair, ...]:
        """Return the pairs (s, y) to keep after the step to `trial`."""

    def init(self, params: Vector) -> SolverState:
        """Return the state before the first step."""
        return SolverState(params=params)

    def step(self, state: SolverState, objective: Objective) -> SolverState:
        """Take one step; the first one evaluates the start too.

        A step that cannot be taken leaves the parameters as they are and sets the status.
        """
        n_evaluations, evaluation = 0, state.evaluation
        if evaluation is None:
            n_evaluations, evaluation = 1, objective(state.params)
            state = replace(state, evaluation=evaluation, costs=(evaluation.cost,))
        state = replace(state, iteration=state.iteration + 1, n_evaluations=n_evaluations)
        if not evaluation.is_finite:
            return replace(state, status=Status.NOT_FINITE)
        if not evaluation.gradient.any():
            return replace(state, status=Status.CONVERGED)
        found = self._search(state, evaluation, objective)
        state = replace(state, n_evaluations=state.n_evaluations + found.n_trials)
        if found.trial is None and state.pairs:
            # The pairs may have gone bad; without them the direction is the gradient's.
            state = replace(state, pairs=())
            found = self._search(state, evaluation, objective)
            state = replace(state, n_evaluations=state.n_evaluations + found.n_trials)
        if found.trial is None:
            status = Status.LINE_SEARCH_FAILED if found.saw_finite else Status.NOT_FINITE
            return replace(state, status=status, step_length=0.0)
        return replace(
            state,
            params=found.trial.params,
            evaluation=found.trial.evaluation,
            step_length=found.trial.t,
            costs=(*state.costs, found.trial.cost)[-COST_WINDOW - 1 :],
            pairs=self.remember(state, found.trial),
        )

    def _search(
        self, state: SolverState, evaluation: Evaluation, objective: Objective
    ) -> SearchResult:
        direction = self.direction(state, evaluation.gradient)
        slope = float(direction @ evaluation.gradient)
        phi = _along(state.params, direction, objective)
        origin = Trial(0.0, state.params, evaluation, slope)
        return self.line_search.search(phi, origin, self.first_trial(state, slope))


def _along(params: Vector, direction: Vector, objective: Objective) -> Callable[[float], Trial]:
    def phi(t: float) -> Trial:
        point = params + t * direction
        evaluation = objective(point)
        return Trial(t, point, evaluation, float(evaluation.gradient @ direction))

    return phi
