import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from stackedae import StackedAutoEncoder
from stackedae.errors import ArgumentError
from stackedae.plotting import FilterDisplay, filter_montage, filters_of

mpl.use("Agg")


def fitted(shape):
    X = np.random.default_rng(0).random((30, *shape))
    return StackedAutoEncoder(5, max_iter=1, tol=0, random_state=0).fit(X)


@pytest.mark.parametrize(
    ("shape", "patch_shape", "expected"),
    [
        ((4, 6), None, (5, 4, 6)),
        ((4, 6, 3), None, (5, 4, 6, 3)),
        ((16,), None, (5, 4, 4)),
        ((24,), (4, 6), (5, 4, 6)),
        ((24,), (2, 4, 3), (5, 2, 4, 3)),
    ],
)
def test_filters_have_the_shape_of_samples(shape, patch_shape, expected):
    sae = fitted(shape)
    filters = filters_of(sae, patch_shape)
    assert filters.shape == expected
    assert (filters.ravel() == sae.components_.ravel()).all()


def test_samples_that_are_no_images_are_refused():
    with pytest.raises(ArgumentError, match="patch_shape=None does not make images of 24 features"):
        filters_of(fitted((24,)))


@pytest.mark.parametrize(("channels", "shape"), [((), ()), ((3,), (3,)), ((5,), ())])
def test_montage(channels, shape):
    filters = np.random.default_rng(0).normal(size=(7, 4, 4, *channels))
    picture = filter_montage(filters, zoom=4)
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * 16 + 4 * 2, 3 * 16 + 4 * 2, *shape)


def test_montage_of_zero_filters_is_grey():
    assert set(np.unique(filter_montage(np.zeros((1, 3, 3))))) == {128, 255}


def test_display_draws_on_given_axes_or_its_own():
    display = FilterDisplay.from_estimator(fitted((4, 4)))
    assert display.im_.get_array().shape == filter_montage(display.filters).shape
    figure, ax = plt.subplots()
    again = display.plot(ax=ax)
    assert again is display
    assert display.ax_ is ax
    assert display.figure_ is figure
    plt.close("all")
