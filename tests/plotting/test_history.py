import matplotlib.pyplot as plt
import numpy as np
import pytest

from stackedae import HistoryDisplay
from stackedae.errors import ArgumentError

RECORD = {"sparsity": 0.0, "rows_visited": 100, "seconds": 0.5}


def record(layer, phase, cost):
    terms = {"cost": cost, "reconstruction": 0.75 * cost, "decay": 0.25 * cost}
    return {"layer": layer, "phase": phase, **terms, **RECORD}


HISTORY = [
    *(record(0, "sample", cost) for cost in (32.0, 16.0)),
    *(record(0, "full", cost) for cost in (20.0, 8.0)),
    record(1, "full", 2.0),
]


@pytest.mark.parametrize(
    ("x", "last", "label"),
    [("iteration", 5, "iteration"), ("rows", 500, "rows visited"), ("seconds", 2.5, "seconds")],
)
def test_layers_and_phases_can_be_told_apart(x, last, label):
    display = HistoryDisplay(HISTORY, x=x).plot()
    cost, terms = display.axes_
    assert display.position[-1] == last
    assert terms.get_xlabel() == label
    assert set(display.lines_) == {"cost", "reconstruction", "decay"}  # none is of zeros
    first, second = display.lines_["cost"]
    assert list(first.get_ydata()) == [32, 16, 20, 8]
    assert second.get_marker() == "o"  # a line of one point would not be seen
    assert [text.get_text() for text in cost.texts] == ["layer 0", "layer 1"]
    (shade,) = cost.patches
    assert shade.get_width() == pytest.approx(last * 2 / 5)
    assert cost.get_yscale() == "log"


def test_a_narrow_range_is_not_logarithmic():
    display = HistoryDisplay([record(0, "full", cost) for cost in (3.0, 2.5)])
    assert display.plot().axes_[0].get_yscale() == "linear"


def predicting(layer, cost, **more):
    terms = {"cost": cost, "cross_entropy": 0.5 * cost, "decay": 0.5 * cost}
    return {"layer": layer, "phase": "full", **terms, "rows_visited": 100, "seconds": 0.5, **more}


OF_A_CLASSIFIER = [
    *HISTORY[2:4],
    *(predicting(1, cost, validation=0.75) for cost in (4.0, 2.0)),
    *(predicting(2, cost, validation=0.25 * cost) for cost in (2.0, 1.0)),
]


def test_a_head_and_all_layers_together_have_names_and_terms_of_their_own():
    display = HistoryDisplay(OF_A_CLASSIFIER, n_layers=1).plot()
    cost, terms = display.axes_
    assert [text.get_text() for text in cost.texts] == ["layer 0", "head", "all layers"]
    lines = {
        name: [list(line.get_ydata()) for line in lines] for name, lines in display.lines_.items()
    }
    assert lines == {
        "cost": [[20, 8], [4, 2], [2, 1]],
        "validation": [[0.75, 0.75], [0.5, 0.25]],
        "reconstruction": [[15, 6]],
        "cross_entropy": [[2, 1], [1, 0.5]],
        "decay": [[5, 2], [2, 1], [1, 0.5]],
    }
    assert {line.axes for line in display.lines_["validation"]} == {cost}
    assert {line.axes for line in display.lines_["cross_entropy"]} == {terms}
    assert cost.get_ylim()[0] < 0.25
    assert display.description.endswith(
        "Head: the cost falls from 4 to 2 over 2 iterations; samples held out cost 0.75. "
        "All layers: the cost falls from 2 to 1 over 2 iterations; samples held out cost 0.25."
    )
    assert "Layer 2: the cost falls" in HistoryDisplay(OF_A_CLASSIFIER).description


def test_names_are_left_out_where_there_is_no_room():
    display = HistoryDisplay([*HISTORY[2:4] * 20, *OF_A_CLASSIFIER[2:]], n_layers=1).plot()
    assert [text.get_text() for text in display.axes_[0].texts] == ["layer 0"]


def test_words():
    assert HistoryDisplay(HISTORY).description == (
        "Layer 0: the cost falls from 32 to 8 over 4 iterations. "
        "Layer 1: the cost goes from 2 to 2 over 1 iteration."
    )


def test_what_became_infinite_is_drawn_without(sae):
    HistoryDisplay([*HISTORY, record(1, "full", np.inf), record(1, "full", np.nan)]).plot()
    plt.gcf().canvas.draw()


def test_from_estimator_on_given_axes(sae):
    figure, (_, ax) = plt.subplots(1, 2)
    display = HistoryDisplay.from_estimator(sae, ax=ax)
    assert display.figure_ is figure
    assert sum(len(line.get_ydata()) for line in display.lines_["cost"]) == sae.n_iter_
    with pytest.raises(ArgumentError, match=r"ax=.* has no place in a grid"):
        display.plot(ax=figure.add_axes((0, 0, 1, 1)))


@pytest.mark.parametrize(
    ("history", "x", "message"),
    [(HISTORY, "epoch", "x='epoch' is unknown"), ([], "rows", r"history=\[\] has no iterations")],
)
def test_what_cannot_be_drawn_is_refused(history, x, message):
    with pytest.raises(ArgumentError, match=message):
        HistoryDisplay(history, x=x)
