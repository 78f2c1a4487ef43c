import json
import pickle
from dataclasses import asdict

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der
from sklearn.datasets import load_digits

from stackedae.evaluation import Evaluation
from stackedae.solvers import LBFGS, GradientDescent, Status, StrongWolfe, minimize


def rosenbrock(params):
    return Evaluation(float(rosen(params)), rosen_der(params))


def quadratic(params):
    scales = np.linspace(1, 10, params.size)
    return Evaluation(1 + float(scales @ params**2) / 2, scales * params)


def softmax_regression():
    X, y = load_digits(return_X_y=True)
    X, Y = np.c_[X / 16, np.ones(len(X))], np.eye(10)[y]

    def objective(params):
        W = params.reshape(65, 10)
        Z = X @ W
        Z -= Z.max(axis=1, keepdims=True)
        P = np.exp(Z)
        P /= P.sum(axis=1, keepdims=True)
        cost = -np.log((P * Y).sum(axis=1)).mean() + 0.5e-4 * params @ params
        return Evaluation(float(cost), (X.T @ (P - Y) / len(X) + 1e-4 * W).ravel())

    return objective


class Reached(Exception):
    pass


def evaluations_to_reach(costs, objective, run):
    """Count the evaluations that `run` needs until the objective is as low as each of these."""
    seen = []

    def counted(params):
        evaluation = objective(params)
        seen.append(evaluation.cost)
        if evaluation.cost <= min(costs):
            raise Reached
        return evaluation

    with pytest.raises(Reached):
        run(counted)
    return np.array([next(i for i, lower in enumerate(seen, 1) if lower <= cost) for cost in costs])


PROBLEMS = {
    "Rosenbrock-100": (rosenbrock, np.tile([-1.2, 1.0], 50), [1e-1, 1e-4, 1e-8, 1e-12]),
    "softmax regression": (softmax_regression(), np.zeros(650), [0.2, 0.12, 0.1, 0.09, 0.0888]),
}


@pytest.mark.parametrize(("objective", "start", "costs"), PROBLEMS.values(), ids=PROBLEMS)
def test_lbfgs_needs_no_more_evaluations_than_scipy(objective, start, costs):
    def scipys(objective):
        def pair(params):
            evaluation = objective(params)
            return evaluation.cost, evaluation.gradient

        options = {"maxcor": 10, "maxiter": 5000, "maxfun": 5000, "ftol": 0, "gtol": 0}
        scipy_minimize(pair, start, jac=True, method="L-BFGS-B", options=options)

    def ours(objective):
        minimize(LBFGS(), objective, start, max_iter=5000, tol=0)

    most = 1.05 * evaluations_to_reach(costs, objective, scipys)
    assert (evaluations_to_reach(costs, objective, ours) <= most).all()


@pytest.mark.parametrize("solver", [LBFGS(), GradientDescent()], ids=["lbfgs", "gd"])
def test_a_quadratic_is_solved(solver):
    state = minimize(solver, quadratic, np.ones(20), max_iter=500, tol=1e-9)
    assert state.status is Status.CONVERGED
    assert state.params == pytest.approx(np.zeros(20), abs=1e-6)


def test_a_good_preconditioner_saves_iterations():
    scales = np.logspace(0, 6, 30)

    def stretched(params):
        return Evaluation(float(scales @ params**2) / 2, scales * params)

    plain = minimize(LBFGS(), stretched, np.ones(30), max_iter=500)
    helped = minimize(LBFGS(preconditioner=lambda v: v / scales), stretched, np.ones(30))
    assert helped.evaluation.cost < 1e-9
    assert helped.iteration < plain.iteration / 4


@pytest.mark.parametrize("solver", [LBFGS(), GradientDescent()], ids=["lbfgs", "gd"])
def test_a_state_written_down_continues_bit_for_bit(solver):
    start = np.tile([-1.2, 1.0], 5)
    whole = minimize(solver, rosenbrock, start, max_iter=30, tol=0)
    half = solver.init(start)
    for _ in range(15):
        half = solver.step(half, rosenbrock)
    again = minimize(solver, rosenbrock, pickle.loads(pickle.dumps(half)), max_iter=30, tol=0)
    assert (again.params == whole.params).all()
    assert again.evaluation.cost == whole.evaluation.cost


def test_a_state_is_arrays_and_numbers():
    state = minimize(LBFGS(), rosenbrock, np.zeros(4), max_iter=5, tol=0)

    def plain(value):
        if isinstance(value, np.ndarray):
            return value.tolist()
        return value.name if isinstance(value, Status) else dict(value)

    assert json.loads(json.dumps(asdict(state), default=plain))["iteration"] == 5


def test_a_step_leaves_the_old_state_alone():
    solver = LBFGS()
    first = solver.step(solver.init(np.zeros(4)), rosenbrock)
    params, pairs = first.params.copy(), len(first.pairs)
    solver.step(first, rosenbrock)
    assert (first.params == params).all()
    assert len(first.pairs) == pairs


@pytest.mark.parametrize("solver", [LBFGS(), GradientDescent()], ids=["lbfgs", "gd"])
def test_max_iter_is_a_status_with_advice(solver):
    state = minimize(solver, rosenbrock, np.zeros(10), max_iter=3)
    assert state.status is Status.MAX_ITER
    assert state.iteration == 3
    assert "raise max_iter" in state.status.advice


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["cost", "gradient"])
def test_a_start_that_is_not_finite_is_a_status(poison, where):
    def objective(params):
        if where == "cost":
            return Evaluation(poison, np.ones_like(params))
        return Evaluation(1.0, np.full_like(params, poison))

    state = minimize(LBFGS(), objective, np.zeros(3))
    assert state.status is Status.NOT_FINITE
    assert (state.params == 0).all()


def test_a_cliff_of_nan_is_kept_away_from():
    def log_barrier(params):
        with np.errstate(invalid="ignore"):
            return Evaluation(float((params - np.log(params)).sum()), 1 - 1 / params)

    state = minimize(LBFGS(), log_barrier, np.full(3, 1e-3), tol=1e-8)
    assert state.status is Status.CONVERGED
    assert state.params == pytest.approx(np.ones(3), abs=1e-5)


def test_nan_all_around_is_a_status():
    start = np.ones(3)

    def island(params):
        cost = 1.0 if (params == start).all() else np.nan
        return Evaluation(cost, np.ones(3))

    state = minimize(LBFGS(), island, start)
    assert state.status is Status.NOT_FINITE
    assert (state.params == start).all()


def test_a_gradient_that_lies_is_a_failed_line_search():
    state = minimize(LBFGS(), lambda p: Evaluation(float(p @ p), -2 * p), np.ones(3))
    assert state.status is Status.LINE_SEARCH_FAILED
    assert "disagree" in state.status.advice
    assert state.step_length == 0
    assert (state.params == 1).all()


def test_a_zero_gradient_has_converged_even_with_tol_zero():
    state = minimize(LBFGS(), quadratic, np.zeros(3), tol=0)
    assert state.status is Status.CONVERGED


def test_tol_asks_for_a_flat_cost_and_a_small_gradient():
    state = minimize(LBFGS(), quadratic, np.arange(10.0), max_iter=1000, tol=1e-8)
    assert state.status is Status.CONVERGED
    assert np.abs(state.evaluation.gradient).max() <= 1e-8 * state.evaluation.cost
    assert state.costs[0] - state.costs[-1] <= 1e-8 * state.costs[0]
    looser = minimize(LBFGS(), quadratic, np.arange(10.0), max_iter=1000, tol=1e-2)
    assert looser.iteration < state.iteration


def test_a_search_that_only_rounding_stops_has_converged():
    def high_up(params):
        return Evaluation(1e9 + float(params @ params), 2 * params)

    state = minimize(GradientDescent(), high_up, np.full(2, 3.0), tol=1e-6)
    assert state.status is Status.CONVERGED


def test_noise_of_rounding_does_not_end_the_search():
    def rounded(params):
        return Evaluation(float(np.float32(quadratic(params).cost)), quadratic(params).gradient)

    solver = LBFGS(StrongWolfe(rounding=float(np.finfo(np.float32).eps)))
    state = minimize(solver, rounded, np.ones(10), max_iter=100, tol=1e-6)
    assert np.abs(state.params).max() < 1e-4
