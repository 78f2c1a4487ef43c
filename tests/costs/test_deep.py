from dataclasses import replace

import numpy as np
import pytest

from stackedae.costs import AutoEncoderCost, DeepCost
from stackedae.errors import ArgumentError


def evaluate(cost, params, X):
    return cost.finish(params, cost.chunk_sums(params, X))


def params_for(cost):
    return np.random.default_rng(0).normal(scale=0.7, size=cost.layout.size)


@pytest.mark.parametrize("fill", [(), (0.3, -0.2, 0.0, 0.9, 0.5)], ids=["whole", "gaps"])
@pytest.mark.parametrize("g", ["logistic", "tanh", "relu", "identity"])
@pytest.mark.parametrize("f", ["logistic", "tanh", "relu", "identity"])
def test_one_layer_is_an_auto_encoder(f, g, fill):
    deep = DeepCost((5, 3), f, g, alpha=0.01, fill=fill)
    one = AutoEncoderCost(5, 3, f, g, alpha=0.01, sparsity_weight=0.0, fill=fill)
    X, params = np.random.default_rng(1).random((3000, 5)), params_for(deep)
    if fill:
        X[::3, 1] = X[5] = np.nan
    ours, theirs = evaluate(deep, params, X), evaluate(one, params, X)
    assert ours.cost == pytest.approx(theirs.cost, rel=1e-12)
    assert ours.terms == pytest.approx(theirs.terms, rel=1e-12)
    error = np.linalg.norm(ours.gradient - theirs.gradient)
    assert error < 1e-12 * np.linalg.norm(theirs.gradient)
    means = theirs.means["activations"]
    assert ours.means["activations"] == pytest.approx(means, rel=1e-12)
    assert (deep.flops(7), deep.n_features, deep.n_hidden) == (one.flops(7), 5, 3)
    assert deep.encode(params, X) == pytest.approx(one.encode(params, X), rel=1e-14)
    A = np.random.default_rng(2).random((4, 3))
    assert deep.decode(params, A) == pytest.approx(one.decode(params, A), rel=1e-14)


def test_segments_lie_in_the_order_in_which_they_are_applied():
    cost = DeepCost((9, 5, 3, 2))
    encoder = (
        *(("W1", (5, 9)), ("b1", (5,)), ("W2", (3, 5)), ("b2", (3,))),
        *(("W3", (2, 3)), ("b3", (2,))),
    )
    decoder = (
        *(("V1", (3, 2)), ("c1", (3,)), ("V2", (5, 3)), ("c2", (5,))),
        *(("V3", (9, 5)), ("c3", (9,))),
    )
    assert cost.layout.shapes == encoder + decoder
    tied = replace(cost, tied=True).layout.shapes
    assert tied == (*encoder, ("c1", (3,)), ("c2", (5,)), ("c3", (9,)))


def test_tied_weights_are_those_of_both():
    tied, free = (DeepCost((6, 5, 3), alpha=0.02, tied=each) for each in (True, False))
    X, params = np.random.default_rng(1).random((40, 6)), params_for(tied)
    P = tied.layout.unpack(params)
    untied = free.layout.pack({**P, "V1": P["W2"].T, "V2": P["W1"].T})
    one, other = evaluate(tied, params, X), evaluate(free, untied, X)
    assert one.terms == pytest.approx(other.terms, rel=1e-13)
    G, F = tied.layout.unpack(one.gradient), free.layout.unpack(other.gradient)
    assert G["W1"] == pytest.approx(F["W1"] + F["V2"].T, rel=1e-12)
    assert G["W2"] == pytest.approx(F["W2"] + F["V1"].T, rel=1e-12)
    for name in ("b1", "b2", "c1", "c2"):
        assert G[name] == pytest.approx(F[name], rel=1e-12)
    assert tied.decode(params, X[:, :3]) == pytest.approx(free.decode(untied, X[:, :3]), rel=1e-14)


def test_activations_are_counted_from_the_data_up():
    cost = DeepCost((6, 5, 3), ("relu", "tanh"), ("identity", "logistic"))
    assert [layer.f.name for layer in cost.chain] == ["relu", "tanh", "logistic", "identity"]


def test_there_is_no_stack_without_a_layer():
    with pytest.raises(ArgumentError, match=r"layer_sizes=\(5,\) is no network"):
        DeepCost((5,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sine", "output_activation='sine' is unknown; choose from"),
        (("tanh",), r"output_activation=\('tanh',\) has 1 names for 2 layers"),
    ],
)
def test_output_activations_are_checked(given, message):
    with pytest.raises(ArgumentError, match=message):
        DeepCost((6, 5, 3), output_activation=given)
