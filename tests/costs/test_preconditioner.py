import numpy as np
import pytest

from stackedae.costs import ClassifierCost, DeepCost, RegressorCost
from stackedae.costs.preconditioner import (
    RIDGE,
    AffinePreconditioner,
    AutoEncoderPreconditioner,
    Factor,
    Role,
)
from stackedae.layout import Layout
from stackedae.moments import Moments

COSTS = {
    "deep": DeepCost((6, 4, 3)),
    "tied": DeepCost((6, 4, 3), tied=True),
    "classifier": ClassifierCost((6, 4), 3),
    "regressor": RegressorCost((6,), 2),
}


def moments_for(cost, *, diagonal):
    """Moments of inputs of every layer: of rows drawn at random."""
    rng, moments = np.random.default_rng(0), []
    for n_inputs in cost._widths[:-1]:
        X = rng.normal(loc=2, size=(50, n_inputs)) @ rng.normal(size=(n_inputs, n_inputs))
        covariance = np.cov(X.T, bias=True)
        moments.append(
            Moments(X.mean(axis=0), np.diag(covariance).copy() if diagonal else covariance)
        )
    return moments


def dense(function, layout):
    return np.array([function(e) for e in np.eye(layout.size)]).T


@pytest.mark.parametrize("diagonal", [False, True], ids=["covariances", "variances only"])
@pytest.mark.parametrize("name", COSTS)
def test_it_is_symmetric_positive_and_has_an_inverse(name, diagonal):
    cost = COSTS[name]
    M = cost.preconditioner(moments_for(cost, diagonal=diagonal))
    H, inverse = dense(M.inverse, cost.layout), dense(M, cost.layout)
    assert pytest.approx(inverse.T, abs=1e-12) == inverse
    assert np.linalg.eigvalsh(inverse).min() > 0
    assert pytest.approx(H.T, abs=1e-10) == H
    assert inverse @ H == pytest.approx(np.eye(cost.layout.size), abs=1e-9)


def regularised_second_moment(of):
    """E (x, 1)(x, 1)ᵀ with a share of the mean variance added to that of x."""
    C = of.covariance + RIDGE * np.diag(of.covariance).mean() * np.eye(len(of.mean))
    mean = of.mean[:, None]
    return np.block([[C + mean @ mean.T, mean], [mean.T, np.ones((1, 1))]])


def test_layers_have_the_second_moments_of_their_inputs():
    cost = COSTS["classifier"]
    moments = moments_for(cost, diagonal=False)
    v = np.random.default_rng(1).normal(size=cost.layout.size)
    H = cost.layout.unpack(cost.preconditioner(moments).inverse(v))
    P = cost.layout.unpack(v)
    for (matrix, bias), of in zip((("W1", "b1"), ("S", "s")), moments, strict=True):
        extended = np.column_stack([P[matrix], P[bias]]) @ regularised_second_moment(of)
        assert H[matrix] == pytest.approx(extended[:, :-1] + cost.alpha * P[matrix])
        assert H[bias] == pytest.approx(extended[:, -1])


def test_tied_weights_have_the_second_moments_of_both_inputs():
    cost = DeepCost((5, 3), tied=True)
    below, above = moments_for(cost, diagonal=False)
    v = np.random.default_rng(1).normal(size=cost.layout.size)
    H = cost.layout.unpack(cost.preconditioner([below, above]).inverse(v))
    P = cost.layout.unpack(v)
    encoder = np.column_stack([P["W1"], P["b1"]]) @ regularised_second_moment(below)
    variance, mean = np.diag(above.covariance).mean(), above.mean[:, None]
    second = np.block([[variance * np.eye(3) + mean @ mean.T, mean], [mean.T, np.ones((1, 1))]])
    decoder = np.column_stack([P["W1"].T, P["c1"]]) @ second
    weights = encoder[:, :-1] + decoder[:, :-1].T + cost.alpha * P["W1"]
    assert H["W1"] == pytest.approx(weights)
    assert H["b1"] == pytest.approx(encoder[:, -1])
    assert H["c1"] == pytest.approx(decoder[:, -1])


@pytest.mark.parametrize("ndim", [1, 2])
def test_of_one_auto_encoder(ndim):
    rng, layout = np.random.default_rng(0), Layout.of(W1=(3, 4), b1=(3,), W2=(4, 3), b2=(4,))
    mean, root = rng.normal(size=4), rng.normal(size=(4, 4))
    covariance = root @ root.T if ndim == 2 else np.diag(root @ root.T)
    M = AutoEncoderPreconditioner(layout, mean, covariance, 0.3, 0.05)
    code = Role("b2", np.full(3, 0.3))
    factors = (
        Factor("W1", covariance, (Role("b1", mean),)),
        Factor("W2", 0.05 * np.eye(3), (code,)),
    )
    v = rng.normal(size=layout.size)
    assert M(v) == pytest.approx(AffinePreconditioner(layout, factors)(v), rel=1e-12)


def test_constant_inputs_are_no_harm():
    cost = COSTS["tied"]
    moments = [Moments(np.full(n, 0.5), np.zeros((n, n))) for n in (6, 4, 3, 4)]
    assert np.isfinite(cost.preconditioner(moments)(np.ones(cost.layout.size))).all()
