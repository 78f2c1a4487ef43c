from dataclasses import replace

import numpy as np
import pytest

from stackedae.costs import AutoEncoderCost, ClassifierCost, DeepCost, RegressorCost
from stackedae.costs.batches import HORIZON, Batch, RunningMean
from stackedae.labelled import Labelled
from stackedae.noise import Corruption

EMPTY = RunningMean(np.zeros(0), 0.0)
COSTS = {
    "logistic": AutoEncoderCost(5, 3, alpha=0.01, sparsity_target=0.1),
    "tanh": AutoEncoderCost(5, 3, "tanh", "identity", sparsity_weight=0.7),
    "tied": AutoEncoderCost(5, 3, alpha=0.02, tied=True),
    "noise": AutoEncoderCost(5, 3, corruption=Corruption("masking", 0.3)),
    "gaps": AutoEncoderCost(5, 3, fill=(0.5,) * 5),
}
EACH = pytest.mark.parametrize("name", COSTS)
WEIGHTS = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weights"])


def problem(cost, n_rows=40, weighted=False, seed=0):
    rng = np.random.default_rng(seed)
    X, params = rng.random((n_rows, 5)), rng.normal(scale=0.7, size=cost.layout.size)
    if getattr(cost, "fill", ()):
        X[::3, 1] = X[1, 2:] = np.nan
    aside = {"row": np.arange(n_rows), "weight": rng.random(n_rows)}
    return params, Labelled(X, aside) if weighted else Labelled(X, {"row": aside["row"]})


def evaluate(cost, params, rows):
    known = {name: rows.aside[name] for name in (*cost.aside, "weight") if name in rows.aside}
    return cost.finish(params, cost.chunk_sums(params, rows.X, **known))


def n_of(rows):
    return rows.aside["weight"].sum() if "weight" in rows.aside else len(rows)


def slopes(function, at, step=1e-6):
    moved = (at + sign * step * unit for unit in np.eye(at.size) for sign in (1, -1))
    values = np.array([function(point) for point in moved]).reshape(at.size, 2, -1)
    return ((values[:, 0] - values[:, 1]) / (2 * step)).squeeze(-1)


@EACH
@WEIGHTS
def test_a_first_batch_is_evaluated_as_all_rows_are(name, weighted):
    params, rows = problem(COSTS[name], weighted=weighted)
    batch, exact = Batch.of(COSTS[name], params, rows, EMPTY), evaluate(COSTS[name], params, rows)
    assert batch.evaluation.cost == pytest.approx(exact.cost, rel=1e-13)
    assert batch.evaluation.terms == pytest.approx(exact.terms, rel=1e-12)
    assert batch.evaluation.gradient == pytest.approx(exact.gradient, rel=1e-11)
    assert batch.running.means == pytest.approx(exact.means["activations"], rel=1e-13)
    assert batch.running.n_rows == pytest.approx(n_of(rows))


def mixture(cost, params, rows, running):
    """What the mean activations are taken to be, and the cost that goes with them."""
    own = evaluate(replace(cost, sparsity_weight=0.0), params, rows)
    kept = (1 - 1 / HORIZON) * running.n_rows
    n = n_of(rows)
    means = (kept * running.means + n * own.means["activations"]) / (kept + n)
    low = {"logistic": 0.0, "tanh": -1.0}[cost.activation]
    q, rho = (means - low) / (1 - low), cost.sparsity_target
    kl = rho * np.log(rho / q) + (1 - rho) * np.log((1 - rho) / (1 - q))
    return means, own.cost + cost.sparsity_weight * kl.sum()


@EACH
@WEIGHTS
def test_the_divergence_is_of_the_running_mean(name, weighted):
    cost = COSTS[name]
    params, rows = problem(cost, weighted=weighted)
    running = RunningMean(np.array([0.3, 0.6, 0.1]), 70.0)
    batch = Batch.of(cost, params, rows, running)
    means, J = mixture(cost, params, rows, running)
    assert batch.running.means == pytest.approx(means, rel=1e-12)
    assert batch.evaluation.means["activations"] == pytest.approx(means, rel=1e-12)
    assert batch.evaluation.cost == pytest.approx(J, rel=1e-12)


@EACH
@WEIGHTS
def test_the_gradient_moves_all_rows_as_it_moves_those_of_the_batch(name, weighted):
    cost = COSTS[name]
    params, rows = problem(cost, weighted=weighted)
    running = RunningMean(np.array([0.3, 0.6, 0.1]), 70.0)
    batch = Batch.of(cost, params, rows, running)
    means = mixture(cost, params, rows, running)[0]
    low = {"logistic": 0.0, "tanh": -1.0}[cost.activation]

    def own(params):  # at the divergence's slope in the mixture, as if the mean were the batch's
        evaluation = evaluate(replace(cost, sparsity_weight=0.0), params, rows)
        return evaluation.cost + slope @ evaluation.means["activations"]

    q, rho = (means - low) / (1 - low), cost.sparsity_target
    slope = cost.sparsity_weight * (-rho / q + (1 - rho) / (1 - q)) / (1 - low)
    expected = slopes(own, params)
    error = np.linalg.norm(batch.evaluation.gradient - expected)
    assert error < 1e-8 * np.linalg.norm(expected)


@EACH
@WEIGHTS
def test_the_mean_follows_a_step_to_first_order(name, weighted):
    cost = COSTS[name]
    params, rows = problem(cost, weighted=weighted)
    batch = Batch.of(cost, params, rows, EMPTY)
    step = np.random.default_rng(1).normal(size=params.size)
    errors = []
    for size in (1e-2, 1e-3, 1e-4):
        followed = batch.after(size * step)
        exact = evaluate(cost, params + size * step, rows).means["activations"]
        errors.append(np.linalg.norm(followed.means - exact))
        assert np.linalg.norm(exact - batch.running.means) > 10 * errors[-1]  # it had moved
        assert followed.n_rows == batch.running.n_rows
    assert np.log10(errors[:-1]) - np.log10(errors[1:]) == pytest.approx(2, abs=0.1)


def test_an_average_that_is_followed_is_closer_than_one_that_is_not():
    cost = AutoEncoderCost(5, 3)
    params, rows = problem(cost, 2000)
    drift = np.random.default_rng(1).normal(scale=2e-3, size=params.size)
    followed = stale = EMPTY
    for number in range(200):
        some = rows[np.arange(number * 10, number * 10 + 10)]
        batch = Batch.of(cost, params, some, followed)
        followed, stale = batch.after(drift), Batch.of(cost, params, some, stale).running
        params = params + drift
    exact = evaluate(cost, params, rows).means["activations"]
    assert np.abs(followed.means - exact).max() < np.abs(stale.means - exact).max() / 2


@pytest.mark.parametrize("name", ["logistic", "tanh"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_giant_step_leads_no_further_than_half_of_the_way(name, sign):
    cost = COSTS[name]
    params, rows = problem(cost)
    batch = Batch.of(cost, params, rows, EMPTY)
    step = cost.layout.zeros()
    cost.layout.unpack(step)["b1"][...] = sign * 1e9
    end = 1.0 if sign > 0 else {"logistic": 0.0, "tanh": -1.0}[name]
    assert batch.after(step).means == pytest.approx((batch.running.means + end) / 2)


def test_the_average_forgets_older_batches():
    running = EMPTY
    for value in np.linspace(0, 1, 400):
        running = running.including(np.full(2, 8 * value), 8.0)
    assert running.n_rows == pytest.approx(8 * HORIZON, rel=1e-3)
    kept = (1 - 1 / HORIZON) ** np.arange(399, -1, -1)
    assert running.means == pytest.approx(np.average(np.linspace(0, 1, 400), weights=kept))


def test_batches_of_single_precision_keep_an_average_in_double():
    cost = AutoEncoderCost(5, 3)
    params, rows = problem(cost)
    single = Batch.of(cost, params, rows.X.astype(np.float32), EMPTY)
    double = Batch.of(cost, params, rows.X, EMPTY)
    assert single.evaluation.gradient.dtype == single.running.means.dtype == np.float64
    assert single.evaluation.gradient == pytest.approx(double.evaluation.gradient, rel=1e-3)
    assert single.running.means == pytest.approx(double.running.means, rel=1e-6)


WITHOUT = {
    "not sparse": AutoEncoderCost(5, 3, sparsity_weight=0.0),
    "classifier": ClassifierCost((5, 3), n_classes=4, alpha=0.1),
    "regressor": RegressorCost((5, 3), n_outputs=2),
    "deep": DeepCost((5, 4, 3), tied=True),
}


@pytest.mark.parametrize("name", WITHOUT)
@WEIGHTS
def test_costs_without_a_mean_over_all_rows_have_none_to_follow(name, weighted):
    cost = WITHOUT[name]
    params, rows = problem(cost, weighted=weighted)
    y = {"classifier": np.arange(40) % 4, "regressor": rows.X[:, :2] ** 2}.get(name)
    if y is not None:
        rows = Labelled(rows.X, {**rows.aside, "y": y})
    batch, exact = Batch.of(cost, params, rows, EMPTY), evaluate(cost, params, rows)
    assert batch.evaluation.cost == exact.cost
    assert batch.evaluation.gradient.tobytes() == exact.gradient.tobytes()
    assert batch.after(np.ones(params.size)) is batch.running is EMPTY
    expected = slopes(lambda params: evaluate(cost, params, rows).cost, params)
    assert batch.evaluation.gradient == pytest.approx(expected, rel=1e-6, abs=1e-8)
