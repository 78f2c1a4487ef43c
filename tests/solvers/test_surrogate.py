from dataclasses import replace

import numpy as np
import pytest

from stackedae.evaluation import Evaluation
from stackedae.solvers import LBFGS, SolverState, Status, Surrogate, minimize


class LeastSquares:
    """½/n ‖A p − b‖², its samples every eighth row from another one on."""

    def __init__(self, A, b, share=8):
        self.A, self.b, self.share, self.n_calls = A, b, share, 0

    def __call__(self, p):
        self.n_calls += 1
        error = self.A @ p - self.b
        return Evaluation(error @ error / (2 * len(error)), self.A.T @ error / len(error))

    def evaluate(self, p, sample):
        return self(p)

    def sample(self, number):
        rows = slice(number % self.share, None, self.share)
        return LeastSquares(self.A[rows], self.b[rows])


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(4000, 20)) * np.logspace(-1, 1, 20)
    return LeastSquares(A, A @ rng.normal(size=20) + rng.normal(size=4000))


def surrogate(**settings):
    return Surrogate(LBFGS(), lambda v: v, **settings)


def test_samples_lead_to_the_minimum_over_all_examples(problem):
    state = minimize(surrogate(), problem, np.zeros(20), max_iter=400, tol=1e-7)
    exact = np.linalg.lstsq(problem.A, problem.b)[0]
    assert state.status is Status.CONVERGED
    assert state.params == pytest.approx(exact, abs=1e-4)


def test_all_examples_are_seen_less_often_than_by_lbfgs(problem):
    minimize(surrogate(), problem, np.zeros(20), max_iter=200, tol=1e-9)
    ours, problem.n_calls = problem.n_calls, 0
    minimize(LBFGS(), problem, np.zeros(20), max_iter=200, tol=1e-9)
    assert ours < problem.n_calls / 2


def test_the_cost_never_rises_and_bad_samples_are_survived(problem):
    class Misled(LeastSquares):
        def sample(self, number):  # every third sample is of another problem
            inside = super().sample(number)
            return LeastSquares(inside.A[:, ::-1], inside.b) if number % 3 == 0 else inside

    misled, costs = Misled(problem.A, problem.b), []
    state = minimize(
        surrogate(),
        misled,
        np.zeros(20),
        max_iter=150,
        tol=1e-6,
        on_step=lambda state: costs.append(state.evaluation.cost),
    )
    assert (np.diff(costs) <= 0).all()
    assert state.evaluation.cost < problem(np.zeros(20)).cost / 100


def test_failures_hold_back_and_end(problem):
    class Rising(LeastSquares):
        def evaluate(self, p, sample):  # no step is good enough
            return replace(self(p), cost=self.n_calls)

    state = minimize(surrogate(), Rising(problem.A, problem.b), np.zeros(20), max_iter=50)
    assert state.status is Status.LINE_SEARCH_FAILED
    assert (state.params == 0).all()
    assert state.damping >= 1


def test_a_state_is_all_that_a_step_needs(problem):
    solver = surrogate()
    whole = minimize(solver, problem, np.ones(20), max_iter=9, tol=0)
    half = minimize(solver, problem, np.ones(20), max_iter=4, tol=0)
    assert half.status is Status.MAX_ITER
    again = minimize(solver, problem, replace(half, status=Status.RUNNING), max_iter=9, tol=0)
    assert again.params.tobytes() == whole.params.tobytes()
    assert again.damping == whole.damping


def test_a_start_without_cost_or_slope_ends_at_once(problem):
    class NotFinite(LeastSquares):
        def evaluate(self, p, sample):
            return Evaluation(np.nan, p)

    ended = surrogate().step(SolverState(np.ones(20)), NotFinite(problem.A, problem.b))
    assert ended.status is Status.NOT_FINITE
    flat = LeastSquares(np.zeros((8, 2)), np.zeros(8))
    assert surrogate().step(SolverState(np.ones(2)), flat).status is Status.CONVERGED


def test_a_few_failures_end_it_where_it_stands(problem):
    class Misjudged(LeastSquares):
        def evaluate(self, p, sample):  # every other step is said to have gone up
            true = self(p)
            return replace(true, cost=true.cost + 1e9 * (sample % 2))

    objective, costs = Misjudged(problem.A, problem.b), []
    state = minimize(
        surrogate(patience=2),
        objective,
        np.zeros(20),
        max_iter=50,
        on_step=lambda state: costs.append(state.evaluation.cost),
    )
    assert state.status is Status.LINE_SEARCH_FAILED
    assert (state.failures, state.iteration, state.damping < 1) == (2, 3, True)
    assert costs[0] > costs[1] == costs[2]
