"""Few passes: steps on samples, corrected by the gradient over all examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from stackedae.evaluation import Evaluation, Objective, SampledObjective
from stackedae.layout import Vector
from stackedae.solvers.lbfgs import LBFGS
from stackedae.solvers.state import COST_WINDOW, SolverState, Status

FIRST_DAMPING = 0.02
"""μ at first, in units of the curvature that L-BFGS saw last."""

MOST_DAMPING = 1.0
"""μ at which samples have nothing to say: the pull alone is as strong as all curvature."""


@dataclass(frozen=True)
class Surrogate:
    r"""L-BFGS on a sample whose gradient is corrected to that over all examples.

    One step takes a sample S, tilts its cost so that its gradient at the present parameters
    :math:`p_0` is the gradient over all examples, holds it back by a quadratic, and minimises

    .. math::

        J_S(p) + (\nabla J(p_0) - \nabla J_S(p_0))^T (p - p_0)
               + \tfrac\mu2 (p - p_0)^T M^{-1} (p - p_0)

    by a few steps of L-BFGS, which cost what the sample costs. One evaluation over all examples
    says whether J fell, and gives the gradient for the next step. So a step sees all examples once
    and comes as far as several of L-BFGS; at its fixed points the gradient over *all* examples
    vanishes, however small the sample.

    The damping μ goes by how much of the predicted decrease came true, as the radius of a trust
    region does: what curvature the sample cannot tell, M⁻¹ stands in for. Where samples do not
    speak for all examples (heavy tails, say), μ rises until the solver gives up, as
    LINE_SEARCH_FAILED; so it does when `patience` steps have failed, for what is left to gain is
    then about what samples disagree on. Another solver may go on from its state.

    Parameters
    ----------
    inner : LBFGS
        Minimises the surrogate; its preconditioner is M.
    metric : callable
        ``metric(vector)`` multiplies by M⁻¹.
    inner_steps : int
        Steps of L-BFGS on a sample, at most.
    reduction : float
        Share of the gradient, in the norm that M gives, at which they end.
    patience : int
        Steps that fail, after which the solver gives up.
    begun : int
        Iteration from which samples are numbered.

    References
    ----------
    Shamir, O., Srebro, N., Zhang, T., "Communication-efficient distributed optimization using an
    approximate Newton-type method", ICML 2014 (the surrogate, there on every machine).
    Johnson, R., Zhang, T., "Accelerating stochastic gradient descent using predictive variance
    reduction", NIPS 2013 (the correction).
    """

    inner: LBFGS
    metric: Callable[[Vector], Vector]
    inner_steps: int = 8
    reduction: float = 0.1
    patience: int = 3
    begun: int = 0

    def init(self, params: Vector) -> SolverState:
        """Return the state before the first step."""
        return SolverState(params=params)

    def step(self, state: SolverState, objective: SampledObjective) -> SolverState:
        """Take one step; the first one evaluates the start too.

        A step that cannot be taken leaves the parameters as they are.
        """
        n_evaluations, evaluation = 0, state.evaluation
        number = state.iteration - self.begun
        if evaluation is None:
            evaluation = objective.evaluate(state.params, sample=number)
            n_evaluations = 1
            state = replace(state, evaluation=evaluation, costs=(evaluation.cost,))
            if not state.damping:
                state = replace(state, damping=FIRST_DAMPING, curvature=self._curvature(state))
        sample = objective.sample(number)
        state = replace(state, iteration=state.iteration + 1)
        if not evaluation.is_finite:
            return replace(state, status=Status.NOT_FINITE, n_evaluations=n_evaluations)
        if not evaluation.gradient.any():
            return replace(state, status=Status.CONVERGED, n_evaluations=n_evaluations)
        found = self._minimise_surrogate(state, evaluation, sample)
        trial = objective.evaluate(found.params, sample=number + 1)
        state = replace(state, n_evaluations=n_evaluations + 1)
        assert found.evaluation is not None
        predicted = evaluation.cost - found.evaluation.cost
        actual = evaluation.cost - trial.cost
        if not (trial.is_finite and (actual > 0 or self._is_nearer(evaluation, trial))):
            return self._failed(state)
        return replace(
            state,
            params=found.params,
            evaluation=trial,
            pairs=found.pairs,
            step_length=found.step_length,
            costs=(*state.costs, trial.cost)[-COST_WINDOW - 1 :],
            damping=_damped(state.damping, actual / predicted if predicted > 0 else math.inf),
        )

    def _is_nearer(self, evaluation: Evaluation, trial: Evaluation) -> bool:
        """Say whether costs differ by rounding only, and the gradient has become smaller."""
        rounding = self.inner.line_search.rounding * abs(evaluation.cost)
        within = abs(trial.cost - evaluation.cost) <= rounding
        return within and self._norm(trial.gradient) < self._norm(evaluation.gradient)

    def _failed(self, state: SolverState) -> SolverState:
        """Hold the next step back more, until there is no use in it."""
        damping, failures = 4 * state.damping, state.failures + 1
        given_up = damping >= MOST_DAMPING or failures >= self.patience
        return replace(
            state,
            damping=damping,
            failures=failures,
            # After a second failure, the pairs may be what has gone bad.
            pairs=state.pairs if state.step_length else (),
            step_length=0.0,
            status=Status.LINE_SEARCH_FAILED if given_up else Status.RUNNING,
        )

    def _minimise_surrogate(
        self, state: SolverState, evaluation: Evaluation, sample: Objective
    ) -> SolverState:
        damping = state.damping * state.curvature
        surrogate = _Corrected(sample, state.params, evaluation, self.metric, damping)
        inner = replace(
            state.restarted(), evaluation=surrogate.start, costs=(evaluation.cost,), step_length=0.0
        )
        enough = self.reduction * self._norm(evaluation.gradient)
        for _ in range(self.inner_steps):
            inner = self.inner.step(inner, surrogate)
            assert inner.evaluation is not None
            if inner.status is not Status.RUNNING or self._norm(inner.evaluation.gradient) < enough:
                break
        return inner

    def _norm(self, gradient: Vector) -> float:
        return math.sqrt(max(0.0, float(gradient @ self.inner.precondition(gradient))))

    def _curvature(self, state: SolverState) -> float:
        """Return that along the newest pair, relative to M⁻¹."""
        if not state.pairs:
            return 1.0
        _, y, curvature = state.pairs[-1]
        return float(y @ self.inner.precondition(y)) / curvature


class _Corrected:
    """The surrogate around some parameters."""

    def __init__(
        self,
        sample: Objective,
        center: Vector,
        evaluation: Evaluation,
        metric: Callable[[Vector], Vector],
        damping: float,
    ) -> None:
        here = sample(center)
        self.sample, self.center, self.metric, self.damping = sample, center, metric, damping
        self.tilt = evaluation.gradient - here.gradient
        self.offset = evaluation.cost - here.cost
        self.start = evaluation

    def __call__(self, params: Vector) -> Evaluation:
        seen, step = self.sample(params), params - self.center
        pull = self.damping * self.metric(step)
        cost = seen.cost + self.offset + float(self.tilt @ step) + float(pull @ step) / 2
        return Evaluation(cost, seen.gradient + self.tilt + pull)


def _damped(damping: float, share: float) -> float:
    """Return the next damping, from the share of the predicted decrease that came true."""
    if share < 0.25:
        return 4 * damping
    return damping / 1.3 if share > 1 else damping
