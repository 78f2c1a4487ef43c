import numpy as np
import pytest

from stackedae import ActivationDisplay
from stackedae.costs import AutoEncoderCost
from stackedae.errors import ArgumentError
from stackedae.layers import Layer
from stackedae.plotting.activations import UnitActivity
from stackedae.solvers import Status


def layer(means, **hyper):
    cost = AutoEncoderCost(n_features=2, n_hidden=len(means), **hyper)
    return Layer(cost, cost.layout.zeros(), np.array(means, dtype=float), Status.CONVERGED)


@pytest.mark.parametrize(
    ("means", "hyper", "dead", "saturated"),
    [
        ([0.05, 0.004, 0.0, 0.95], {"sparsity_target": 0.05}, 2, 1),
        ([0.05, 0.004, 0.0, 0.95], {"sparsity_weight": 0.0}, 1, 1),
        ([0.0, -0.9, -0.99, 0.9], {"activation": "tanh", "sparsity_target": 0.1}, 1, 1),
        ([3.0, 2.0, 0.0, 100.0], {"activation": "relu", "sparsity_weight": 0.0}, 1, 0),
        ([0.0, 0.0, 0.0, 0.0], {"activation": "relu", "sparsity_weight": 0.0}, 4, 0),
        ([-3.0, 2.0, 0.0, 9.0], {"activation": "identity", "sparsity_weight": 0.0}, 0, 0),
    ],
)
def test_dead_and_saturated_units_are_counted(means, hyper, dead, saturated):
    display = ActivationDisplay([UnitActivity.of(layer(means, **hyper))]).plot()
    assert display.n_dead == [dead]
    assert display.n_saturated == [saturated]
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    expected = [f"{dead} dead", f"{saturated} saturated", f"{4 - dead - saturated} in between"]
    assert labels[:3] == expected
    assert f"{dead} {'unit is' if dead == 1 else 'units are'} dead" in display.description
    display.figure_.canvas.draw()


def test_every_unit_is_a_point_within_the_axes(sae):
    display = ActivationDisplay.from_estimator(sae)
    points = np.concatenate([each.get_offsets() for each in display.ax_.collections])
    assert sorted(points[:, 0]) == list(range(10))
    low, high = display.ax_.get_ylim()
    assert ((low < points[:, 1]) & (points[:, 1] < high)).all()
    assert [text.get_text() for text in display.ax_.texts] == ["layer 0", "layer 1"]


def test_no_layer_is_refused():
    with pytest.raises(ArgumentError, match=r"activities=\[\] has no layer"):
        ActivationDisplay([])
