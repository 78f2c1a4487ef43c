import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pytest

from stackedae import FilterDisplay, StackedAutoEncoder, extract_patches
from stackedae.errors import ArgumentError
from stackedae.plotting import filter_montage, filters_of


def fitted(shape):
    X = np.random.default_rng(0).random((30, *shape))
    return StackedAutoEncoder(5, max_iter=1, tol=0, random_state=0).fit(X)


@pytest.mark.parametrize(
    ("shape", "patch_shape", "expected"),
    [
        ((4, 6), None, (5, 4, 6)),
        ((4, 6, 3), None, (5, 4, 6, 3)),
        ((4, 6, 5), None, (5, 4, 6, 5)),
        ((2, 4, 6, 3), None, (5, 2, 4, 6, 3)),
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


def test_filters_of_a_higher_layer_are_weighted_sums(sae):
    first, second = (layer.W1 for layer in sae.layers_)
    expected = np.einsum("ij,jk->ik", second, first)
    assert filters_of(sae, layer=1).reshape(3, -1) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ArgumentError, match="layer=2 is none of the 2 layers; pass 0 to 1"):
        filters_of(sae, layer=2)


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


def test_display_draws_on_given_axes_or_its_own(sae):
    display = FilterDisplay.from_estimator(sae)
    assert (display.im_.get_array() == display.montage()).all()
    figure, ax = plt.subplots()
    again = display.plot(ax=ax)
    assert again is display
    assert display.ax_ is ax
    assert display.figure_ is figure


@pytest.mark.parametrize(
    ("shape", "channel_axis", "slices", "in_colour"),
    [
        ((4, 4), "auto", 1, False),
        ((4, 4, 3), "auto", 1, True),
        ((4, 4, 3), None, 4, False),
        ((4, 4, 2), "auto", 2, False),
        ((6, 4, 4), 0, 6, False),
        ((3, 4, 4), 0, 1, True),
        ((5, 4, 4, 3), "auto", 5, True),
    ],
)
def test_what_is_shown_of_channels_and_slices(shape, channel_axis, slices, in_colour):
    filters = np.random.default_rng(0).normal(size=(1, *shape))
    display = FilterDisplay(filters, channel_axis=channel_axis)
    picture = display.montage()
    assert (picture.ndim == 3) is in_colour
    width = 3 if shape == (4, 4, 3) and channel_axis is None else 4
    padding = 1 if slices == 1 else 2
    assert picture.shape[1] == slices * width + (slices - 1) + 2 * padding


def test_names_of_dimensions_say_what_is_colour():
    sae = fitted((4, 6, 3))
    for names, channel_axis in (
        (("y", "x", "channel"), 2),
        (("z", "y", "x"), None),
        (("dim_1", "dim_2", "dim_3"), 2),
        (None, 2),
    ):
        sae.sample_dims_ = names
        assert FilterDisplay.from_estimator(sae).channel_axis == channel_axis
        given = FilterDisplay.from_estimator(sae, channel_axis=None)
        assert given.channel_axis is None


def best(sae, X, layer, n_best):
    activations = X.reshape(len(X), -1)
    for each in sae.layers_[: layer + 1]:
        activations = each.cost.encode(each.params, activations)
    return X[np.argsort(-activations, axis=0)[:n_best].T]


@pytest.mark.parametrize("layer", [0, 1])
def test_patches_are_those_that_activate_a_unit_most(sae, X, layer):
    display = FilterDisplay.from_estimator(
        sae, layer=layer, kind="patches", X=X, n_best=5, units=[2, 0]
    )
    assert display.filters.shape == (2, 5, 4, 6)
    assert (display.filters == best(sae, X, layer, 5)[[2, 0]]).all()
    assert display.montage().shape[2] == 3
    assert "the 5 best samples" in display.description


def test_patches_are_found_wherever_they_lie(sae, cluster, tmp_path):
    images = np.random.default_rng(0).random((3, 60, 60)).astype("float32")
    store = tmp_path / "patches.zarr"
    stored = extract_patches(images, (4, 6), 70_000, store=store, chunks=9_000, rng=0)
    expected = best(sae, stored.values, 0, 6)
    lazy = da.from_array(stored.values[:700], chunks=(3, 2, 6))
    for X, right in ((stored, expected), (lazy, best(sae, stored.values[:700], 0, 6))):
        with cluster.as_current():
            display = FilterDisplay.computed(sae, kind="patches", X=X, n_best=6)
        assert (display.filters == right).all()


def test_fewer_samples_than_asked_for(sae, X):
    display = FilterDisplay.computed(sae, kind="patches", X=X[:4])
    assert display.filters.shape == (7, 4, 4, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "patches"}, "X=None has no patches to show"),
        ({"kind": "best"}, "kind='best' is unknown"),
        ({"units": [7]}, "units=.* are none of the 7 units"),
        ({"units": []}, "units=.* are none of the 7 units"),
        ({"channel_axis": 5, "patch_shape": (2, 4, 3)}, "channel_axis=5 is no axis of samples"),
    ],
)
def test_what_cannot_be_shown_is_refused(sae, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        FilterDisplay.from_estimator(sae, **arguments)
