import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor

from stackedae.costs import RegressorCost
from stackedae.errors import ArgumentError


def evaluate(cost, params, X, y, **known):
    return cost.finish(params, cost.chunk_sums(params, X, y, **known))


def noisy_plane(n_rows=90):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 4))
    y = X @ [1.0, -2.0, 0.5, 0.0] + 3 + 0.3 * rng.normal(size=n_rows)
    return X, y, rng.uniform(0.2, 2.0, n_rows)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_without_hidden_layers_it_is_ridge_regression(n_outputs):
    X, y, weight = noisy_plane()
    y = y if n_outputs == 1 else np.stack([y, y**2], axis=1)
    alpha = 0.05
    cost = RegressorCost((4,), n_outputs, alpha=alpha)

    def objective(params):
        evaluation = evaluate(cost, params, X, y, weight=weight)
        return evaluation.cost, evaluation.gradient

    settings = {"maxiter": 500, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(objective, cost.layout.zeros(), jac=True, method="L-BFGS-B", options=settings)
    model = Ridge(alpha=alpha * weight.sum()).fit(X, y, sample_weight=weight)
    P = cost.layout.unpack(found.x)
    assert P["S"].reshape(model.coef_.shape) == pytest.approx(model.coef_, abs=1e-6)
    assert P["s"] == pytest.approx(np.atleast_1d(model.intercept_), abs=1e-6)
    predicted = cost.predict(found.x, X)
    assert predicted.shape == (90, n_outputs)
    assert predicted.reshape(y.shape) == pytest.approx(model.predict(X), abs=1e-5)


def test_loss_is_scikit_learns():
    X, y, _ = noisy_plane()
    alpha = 0.01
    model = MLPRegressor(
        hidden_layer_sizes=(5, 3), activation="logistic", solver="lbfgs", alpha=alpha * len(X)
    )
    model.set_params(max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        model.fit(X, y)
    cost = RegressorCost((4, 5, 3), 1, alpha=alpha)
    pairs = zip(model.coefs_, model.intercepts_, strict=True)
    params = np.concatenate([each.T.ravel() for pair in pairs for each in pair])
    assert evaluate(cost, params, X, y).cost == pytest.approx(model.loss_, rel=1e-12)
    assert cost.predict(params, X)[:, 0] == pytest.approx(model.predict(X), rel=1e-12)


def test_targets_of_one_output_may_be_a_column():
    X, y, _ = noisy_plane()
    cost = RegressorCost((4, 3), 1)
    params = cost.initial_params(np.random.default_rng(0))
    sums = cost.chunk_sums(params, X, y)
    assert cost.chunk_sums(params, X, y[:, None]).tobytes() == sums.tobytes()


def test_terms_add_up_to_the_cost():
    X, y, _ = noisy_plane()
    cost = RegressorCost((4, 3), 1)
    evaluation = evaluate(cost, cost.initial_params(np.random.default_rng(0)), X, y)
    assert set(evaluation.terms) == {"squared_error", "decay"}
    assert evaluation.cost == pytest.approx(sum(evaluation.terms.values()), rel=1e-15)


def test_no_output_is_refused():
    with pytest.raises(ArgumentError, match="n_outputs=0 is no size; pass 1 or more"):
        RegressorCost((4, 3), 0)


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 1), (5, 3, 1)])
def test_targets_of_another_shape_are_refused(shape):
    cost = RegressorCost((4,), 3)
    with pytest.raises(ArgumentError, match=r"y.shape\[1:\]=.* does not fit 3 outputs"):
        cost.chunk_sums(cost.layout.zeros(), np.zeros((5, 4)), np.zeros(shape))
