from dataclasses import replace

import numpy as np
import pytest

from stackedae.costs import AutoEncoderCost, ClassifierCost, DeepCost, RegressorCost
from stackedae.costs.coordinates import WIDTH, AffineMap, CentredCoordinates, width_of
from stackedae.costs.network_cost import LEAST_WIDTH
from stackedae.layout import Layout
from stackedae.moments import Moments, scatter_sums
from stackedae.noise import Corruption

LAYOUT = Layout.of(W=(3, 4), b=(3,), A=(2, 3), a=(2,), lonely=(5,))


def coordinates():
    rng = np.random.default_rng(0)
    first = AffineMap("W", "b", rng.normal(size=4), input_width=3.0, output_width=0.5)
    return CentredCoordinates(LAYOUT, [first, AffineMap("A", "a", rng.normal(size=3), 0.2)])


def moments_of(X):
    mean = X.mean(axis=0)
    return Moments.from_sums(mean, scatter_sums(mean, X), len(X))


def test_gradients_and_steps_are_adjoint():
    rng, there = np.random.default_rng(1), coordinates()
    for _ in range(10):
        gradient, step = rng.normal(size=(2, LAYOUT.size))
        slope = there.gradient(gradient) @ step
        assert slope == pytest.approx(gradient @ there.step(step), rel=1e-12)


def test_steps_add_up_and_leave_what_they_are_given():
    one, other = np.random.default_rng(1).normal(size=(2, LAYOUT.size))
    there, before = coordinates(), one.tobytes()
    combined = there.step(one) + 3 * there.step(other)
    np.testing.assert_allclose(there.step(one + 3 * other), combined, atol=1e-12)
    there.gradient(one)
    assert one.tobytes() == before


def test_maps_are_of_what_is_centred_and_measured():
    there, ours = coordinates(), np.random.default_rng(1).normal(size=LAYOUT.size)
    P, theirs = LAYOUT.unpack(ours), LAYOUT.unpack(there.step(ours))
    for each in there.maps:
        x = np.random.default_rng(2).normal(size=(9, len(each.mean)))
        z = x @ theirs[each.weights].T + theirs[each.bias]
        seen = (x - each.mean) / each.input_width
        expected = each.output_width * (seen @ P[each.weights].T + P[each.bias])
        np.testing.assert_allclose(z, expected, rtol=1e-11, atol=1e-11)


def test_parameters_of_no_map_stay():
    there, ours = coordinates(), np.random.default_rng(1).normal(size=LAYOUT.size)
    for theirs in (there.step(ours), there.gradient(ours)):
        lonely = LAYOUT.unpack(theirs)["lonely"]
        assert lonely.tobytes() == LAYOUT.unpack(ours)["lonely"].tobytes()
    nothing = CentredCoordinates(LAYOUT, [])
    assert nothing.step(ours).tobytes() == nothing.gradient(ours).tobytes() == ours.tobytes()


def test_the_width_is_that_of_four_deviations_on_either_side():
    X = np.random.default_rng(0).normal(5, 0.3, size=(20_000, 4))
    assert width_of(moments_of(X)) == pytest.approx(WIDTH * 0.3, rel=0.02)
    assert width_of(moments_of(np.full((7, 4), 5.0))) == 1


COSTS = {
    "one layer": AutoEncoderCost(4, 3),
    "tanh": AutoEncoderCost(4, 3, "tanh", "identity"),
    "not sparse": AutoEncoderCost(4, 3, "relu", "identity", sparsity_weight=0.0),
    "tied": AutoEncoderCost(4, 3, tied=True),
    "noise": AutoEncoderCost(4, 3, corruption=Corruption("gaussian", 0.2)),
    "deep": DeepCost((4, 3, 2)),
    "deep and tied": DeepCost((4, 3, 2), tied=True),
    "classifier": ClassifierCost((4, 3), n_classes=3),
    "softmax regression": ClassifierCost((4,), n_classes=3),
    "regressor": RegressorCost((4, 3), n_outputs=2),
}


def of_rows(cost, X):
    """The coordinates of a cost whose rows, and activations in all layers, are some of X."""
    if isinstance(cost, AutoEncoderCost):
        return cost.coordinates(moments_of(X))
    shapes = cost._chain_layout.shapes
    return cost.coordinates([moments_of(X[:, : s[1]]) for _, s in shapes if len(s) == 2])


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("constant", [False, True])
def test_coordinates_of_costs_can_be_worked_in(name, constant):
    cost, rng = COSTS[name], np.random.default_rng(3)
    X = np.full((9, 4), 0.7) if constant else rng.normal(2, 0.5, size=(200, 4))
    there = of_rows(cost, X)
    gradient, step = rng.normal(size=(2, cost.layout.size))
    assert np.isfinite(there.step(step)).all()
    slope = there.gradient(gradient) @ step
    assert slope == pytest.approx(gradient @ there.step(step), rel=1e-11, abs=1e-11)
    # One to one: nothing of a step is lost.
    matrix = np.array([there.step(unit) for unit in np.eye(cost.layout.size)])
    assert np.linalg.matrix_rank(matrix) == cost.layout.size


def test_a_step_in_weights_does_not_move_the_mean_row():
    cost, X = COSTS["one layer"], np.random.default_rng(3).normal(50, 0.5, size=(200, 4))
    step = cost.layout.zeros()
    cost.layout.unpack(step)["W1"][...] = 1.0
    P = cost.layout.unpack(of_rows(cost, X).step(step))
    moved = X @ P["W1"].T + P["b1"]
    assert moved.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert moved.std(axis=0) == pytest.approx(np.sqrt(4) / WIDTH, rel=0.1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 255.0])
def test_what_a_step_does_depends_on_no_scale(scale):
    cost, X = COSTS["tanh"], np.random.default_rng(3).normal(2, 0.5, size=(200, 4))
    step = np.random.default_rng(4).normal(size=cost.layout.size)
    plain, scaled = (cost.layout.unpack(of_rows(cost, s * X).step(step)) for s in (1.0, scale))
    for name, factor in {"W1": 1 / scale, "b1": 1, "W2": scale, "b2": scale}.items():
        np.testing.assert_allclose(scaled[name], factor * plain[name], rtol=1e-9)


def test_units_are_taken_to_be_as_active_as_they_are_wanted():
    X = np.random.default_rng(3).random((50, 4))
    wanted = {"one layer": 0.05, "tanh": -0.9, "not sparse": 0.0}
    for name, activation in wanted.items():
        assert of_rows(COSTS[name], X).maps[1].mean == pytest.approx(activation)


def test_tied_decoders_have_no_map():
    X = np.random.default_rng(3).random((50, 4))
    assert [each.weights for each in of_rows(COSTS["tied"], X).maps] == ["W1"]
    assert [each.weights for each in of_rows(COSTS["deep and tied"], X).maps] == ["W1", "W2"]
    assert len(of_rows(COSTS["deep"], X).maps) == 4


def test_noise_widens_what_the_encoder_sees():
    X = np.random.default_rng(3).normal(1, 0.5, size=(5000, 4))
    encoder = of_rows(COSTS["noise"], X).maps[0]
    assert encoder.input_width == pytest.approx(WIDTH * np.hypot(0.5, 0.2), rel=0.03)
    masked = replace(COSTS["noise"], corruption=Corruption("masking", 0.5))
    assert of_rows(masked, X).maps[0].mean == pytest.approx(X.mean(axis=0) / 2)


def test_layers_that_hardly_vary_are_not_blown_up():
    X = 0.5 + 1e-4 * np.random.default_rng(3).random((50, 4))
    below, *above = of_rows(COSTS["deep"], X).maps
    assert below.input_width == pytest.approx(width_of(moments_of(X)))
    assert {each.input_width for each in above} == {LEAST_WIDTH}
