import numpy as np
import pytest

from stackedae import ErrorDisplay
from stackedae.errors import ArgumentError


def test_every_sample_is_in_the_histogram(sae, X):
    display = ErrorDisplay.from_estimator(sae, X)
    assert display.errors.shape == (300,)
    assert sum(bar.get_height() for bar in display.ax_.patches) == 300
    assert display.ax_.get_xscale() == "linear"


def test_wide_ranges_are_logarithmic_and_no_number_is_left_out():
    display = ErrorDisplay(np.array([0.01, 0.1, 5.0, 40.0, np.nan])).plot()
    assert display.ax_.get_xscale() == "log"
    assert display.quantiles == (pytest.approx(2.55), pytest.approx(34.75), 40.0)
    assert sum(bar.get_height() for bar in display.ax_.patches) == 4
    assert "the largest is 40." in display.description


def test_nothing_finite_is_refused():
    with pytest.raises(ArgumentError, match="has no finite value"):
        ErrorDisplay(np.array([np.nan]))
