import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

from stackedae import HistoryDisplay
from stackedae.errors import MissingExtraError
from stackedae.plotting.pictures import grouped, joined, side_by_side, stretched


def test_missing_values_have_a_colour_of_their_own():
    pictures = np.array([[[[0.0, np.nan], [1.0, 0.5]]]])
    scaled = stretched(pictures)
    assert scaled.shape == (1, 1, 2, 2, 3)
    assert scaled[0, 0, 0, 1] == pytest.approx(np.array([86, 180, 233]) / 255)
    assert scaled[0, 0, 1, 1] == pytest.approx(0.5)
    assert stretched(np.full((1, 1, 2, 2), np.nan)).shape == (1, 1, 2, 2, 3)
    assert (stretched(np.full((1, 1, 2, 2), 7.0)) == 0).all()


def test_slices_are_joined_with_white_between():
    slices = np.zeros((2, 3, 4, 5))
    assert joined(slices).shape == (2, 4, 3 * 5 + 2)
    assert (joined(slices)[0, 0] == [0] * 5 + [1] + [0] * 5 + [1] + [0] * 5).all()
    assert joined(slices, axis="y").shape == (2, 3 * 4 + 2, 5)


def test_tiles_make_about_a_square():
    assert grouped(np.zeros((9, 4, 4))).shape == (14, 14)
    assert grouped(np.zeros((6, 4, 4))).shape == (9, 14)
    assert side_by_side(np.zeros((3, 2, 20))).shape == (2 * 3 + 4, 20 + 2)


def test_without_matplotlib_the_extra_is_named(sae, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stackedae\[plot\]'"):
        HistoryDisplay.from_estimator(sae)
    assert not plt.get_fignums()
