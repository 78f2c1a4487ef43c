"""Run a solver until it has reason to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from stackedae.layout import Vector
from stackedae.solvers.state import SolverState, Status


class Solver(Protocol):
    """What steps from state to state."""

    def init(self, params: Vector, /) -> SolverState:
        """Return the state before the first step."""
        ...

    def step(self, state: SolverState, objective: Any, /) -> SolverState:
        """Take one step."""
        ...


def minimize(
    solver: Solver,
    objective: Any,
    start: Vector | SolverState,
    *,
    max_iter: int = 400,
    tol: float = 1e-6,
    on_step: Callable[[SolverState], None] | None = None,
    enough: Callable[[SolverState], bool] | None = None,
) -> SolverState:
    """Step until the tolerance is reached, `max_iter` is, or no step can be taken.

    Parameters
    ----------
    solver : Solver
        L-BFGS, gradient descent, or steps on samples.
    objective : Objective
        What the solver asks: ``objective(params)`` returns an `Evaluation`.
    start : ndarray or SolverState
        Parameters to start from, or the state to go on from.
    max_iter : int
        Iterations at most, those before a state was handed in included.
    tol : float
        See `SolverState.has_converged`; 0 runs to `max_iter`.
    on_step : callable or None
        Called with the state after every step.
    enough : callable or None
        Asked with the state after every step whether to stop, as ENOUGH, for a reason of its own.

    Returns
    -------
    SolverState
        With a status other than RUNNING.
    """
    state = start if isinstance(start, SolverState) else solver.init(start)
    while state.status is Status.RUNNING:
        state = solver.step(state, objective)
        if state.status is Status.RUNNING:
            if state.has_converged(tol):
                state = replace(state, status=Status.CONVERGED)
            elif state.iteration >= max_iter:
                state = replace(state, status=Status.MAX_ITER)
        elif state.status is Status.LINE_SEARCH_FAILED and state.is_stationary(tol):
            # Nothing is left to gain: the rounding of the cost is what was in the way.
            state = replace(state, status=Status.CONVERGED)
        if enough is not None and enough(state) and state.status is Status.RUNNING:
            state = replace(state, status=Status.ENOUGH)
        if on_step is not None:
            on_step(state)
    return state
