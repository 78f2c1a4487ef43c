import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from stackedae.costs import ClassifierCost
from stackedae.errors import ArgumentError

# Octave's numbers for the camera patches, 64-12-7-3, labels 0, 1, 2, 0, …, without softmax bias:
# J, norm of the gradient, gradient·cos(1, 2, …), and its entries 0, 767 and -1.
REFERENCE = {
    1e-3: (
        1.11836025724726,
        0.011388586905110309,
        0.0004235428329882558,
        0.00028425360332243,
        0.000364797710840886,
        0.002249766912334832,
    ),
    0.0: (
        1.0987043929476734,
        0.009467198136014014,
        0.0005815507604328766,
        3.181230788006105e-05,
        6.693376139197936e-05,
        0.002312983551724544,
    ),
}


def evaluate(cost, params, X, y, **known):
    return cost.finish(params, cost.chunk_sums(params, X, y, **known))


def three_clouds(n_rows=90):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n_rows)
    return rng.normal(size=(n_rows, 4)) + np.eye(3, 4)[y], y, rng.uniform(0.2, 2.0, n_rows)


@pytest.mark.parametrize("alpha", REFERENCE)
def test_reference_numbers(camera_patches, alpha):
    cost = ClassifierCost((64, 12, 7), 3, alpha=alpha)
    theta = 0.3 * np.sin(np.arange(1, cost.layout.size - 2))
    y = np.arange(len(camera_patches)) % 3
    evaluation = evaluate(cost, np.append(theta, np.zeros(3)), camera_patches, y)
    J, norm, product_with_cos, first, middle, last = REFERENCE[alpha]
    g = evaluation.gradient[:-3]
    assert evaluation.cost == pytest.approx(J, rel=1e-12)
    assert np.linalg.norm(g) == pytest.approx(norm, rel=1e-10)
    seen = [g @ np.cos(np.arange(1, g.size + 1)), g[0], g[767], g[-1]]
    assert seen == pytest.approx([product_with_cos, first, middle, last], abs=1e-10 * norm)


def test_without_hidden_layers_it_is_logistic_regression():
    X, y, weight = three_clouds()
    alpha = 0.05
    cost = ClassifierCost((4,), 3, alpha=alpha)

    def objective(params):
        evaluation = evaluate(cost, params, X, y, weight=weight)
        return evaluation.cost, evaluation.gradient

    settings = {"maxiter": 500, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(objective, cost.layout.zeros(), jac=True, method="L-BFGS-B", options=settings)
    model = LogisticRegression(C=1 / (alpha * weight.sum()), tol=1e-10, max_iter=1000)
    model.fit(X, y, sample_weight=weight)
    S = cost.layout.unpack(found.x)["S"]
    assert pytest.approx(model.coef_, abs=1e-5) == S
    probabilities = softmax(cost.decision(found.x, X), axis=1)
    assert probabilities == pytest.approx(model.predict_proba(X), abs=1e-5)


def test_loss_is_scikit_learns():
    X, y, _ = three_clouds()
    alpha = 0.01
    model = MLPClassifier((5, 3), activation="tanh", solver="lbfgs", alpha=alpha * len(X))
    model.set_params(max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        model.fit(X, y)
    cost = ClassifierCost((4, 5, 3), 3, "tanh", alpha=alpha)
    pairs = zip(model.coefs_, model.intercepts_, strict=True)
    params = np.concatenate([each.T.ravel() for pair in pairs for each in pair])
    assert evaluate(cost, params, X, y).cost == pytest.approx(model.loss_, rel=1e-12)
    probabilities = softmax(cost.decision(params, X), axis=1)
    assert probabilities == pytest.approx(model.predict_proba(X), rel=1e-12)


def test_terms_add_up_to_the_cost():
    X, y, _ = three_clouds()
    cost = ClassifierCost((4, 3), 3)
    evaluation = evaluate(cost, cost.initial_params(np.random.default_rng(0)), X, y)
    assert set(evaluation.terms) == {"cross_entropy", "decay"}
    assert evaluation.cost == pytest.approx(sum(evaluation.terms.values()), rel=1e-15)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_classes_are_numbers_of_any_dtype(dtype):
    X, y, _ = three_clouds()
    cost = ClassifierCost((4, 3), 3)
    params = cost.initial_params(np.random.default_rng(0))
    sums = cost.chunk_sums(params, X, y)
    assert cost.chunk_sums(params, X, y.astype(dtype)).tobytes() == sums.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_outputs_leave_cost_and_gradient_finite(dtype):
    X, y, _ = three_clouds()
    cost = ClassifierCost((4,), 3, alpha=0.0)
    params = cost.layout.pack({"S": np.zeros((3, 4)), "s": np.array([1e4, 0.0, -1e4])})
    evaluation = evaluate(cost, params, X.astype(dtype), y)
    assert evaluation.is_finite
    assert evaluation.cost == pytest.approx(1e4 * y.mean(), rel=1e-6)


def test_encode_is_the_hidden_half():
    X, y, _ = three_clouds()
    cost = ClassifierCost((4, 5, 3), 3, "tanh")
    params = cost.initial_params(np.random.default_rng(0))
    means = evaluate(cost, params, X, y).means["activations"]
    A = cost.encode(params, X)
    assert A.mean(axis=0) == pytest.approx(means[5:])
    P = cost.layout.unpack(params)
    assert cost.decision(params, X) == pytest.approx(A @ P["S"].T + P["s"], rel=1e-13)


def test_one_class_is_refused():
    with pytest.raises(ArgumentError, match="n_classes=1 leaves no choice; pass 2 or more"):
        ClassifierCost((4, 3), 1)


def test_classes_in_a_table_are_refused():
    cost = ClassifierCost((4,), 3)
    with pytest.raises(ArgumentError, match=r"y.shape\[1:\]=\(2,\) does not fit 3 outputs"):
        cost.chunk_sums(cost.layout.zeros(), np.zeros((5, 4)), np.zeros((5, 2)))
