import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from stackedae import FeatureMapDisplay, StackedAutoEncoder, feature_map
from stackedae.errors import ArgumentError


@pytest.fixture
def maps():
    values = np.random.default_rng(0).random((5, 40, 30))
    coords = {"y": 2.0 * np.arange(40), "x": 100 + np.arange(30)}
    return xr.DataArray(values, dims=("feature", "y", "x"), coords=coords)


def test_all_features_on_the_coordinates_of_the_image(maps):
    display = FeatureMapDisplay(maps).plot()
    assert len(display.axes_) == 5
    for number, image in enumerate(display.images_):
        assert (image.get_array() == maps.values[number]).all()
        assert image.get_extent() == [99.5, 129.5, 79.0, -1.0]
        assert image.get_clim() == (maps.min(), maps.max())
    assert [ax.get_title() for ax in display.axes_] == [f"feature {i}" for i in range(5)]
    assert [ax.get_xlabel() for ax in display.axes_] == ["", "", "x", "x", "x"]
    display.figure_.canvas.draw()
    assert display.description.startswith("5 maps of 40 × 30 pixels; values from 0.")


def test_chosen_features_with_names_on_given_axes(maps):
    named = maps.assign_coords(feature=list("abcde"))
    figure, (ax, _) = plt.subplots(1, 2)
    display = FeatureMapDisplay(named, features=[3, 1]).plot(ax=ax)
    assert display.figure_ is figure
    assert [ax.get_title() for ax in display.axes_] == ["feature d", "feature b"]
    assert (display.images_[0].get_array() == maps.values[3]).all()


def test_of_large_lazy_maps_a_part_is_kept():
    values = da.zeros((1030, 600, 3), chunks=(200, 200, 1))
    display = FeatureMapDisplay(xr.DataArray(values, dims=("y", "x", "feature")), features=[2])
    assert display.maps.shape == (344, 300, 1)
    assert isinstance(display.maps.data, np.ndarray)
    assert display.plot().images_[0].get_extent() == [-1.0, 599.0, 1030.5, -1.5]


def test_maps_of_an_image_in_its_own_coordinates():
    image = xr.DataArray(
        np.random.default_rng(0).random((20, 30)),
        dims=("lat", "lon"),
        coords={"lat": ("lat", 50 - 0.5 * np.arange(20), {"units": "degrees_north"})},
    )
    X = np.random.default_rng(0).random((50, 4, 4))
    sae = StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0).fit(X)
    display = FeatureMapDisplay.from_estimator(sae, image, features=[0, 2], stride=2)
    expected = feature_map(sae, image, stride=2)
    assert (display.images_[1].get_array() == expected.values[..., 2]).all()
    assert display.images_[0].get_extent() == [-1.0, 29.0, 40.5, 50.5]
    assert display.axes_[0].get_ylabel() == "lat (degrees_north)"
    assert display.axes_[0].get_xlabel() == "lon"


def test_what_are_no_maps_is_refused(maps):
    for wrong in (maps.values, maps.rename(feature="band"), maps[:, 0]):
        with pytest.raises(ArgumentError, match="are not the dimensions of maps"):
            FeatureMapDisplay(wrong)
    for features in ([5], []):
        with pytest.raises(ArgumentError, match=r"are none of the 5 features"):
            FeatureMapDisplay(maps, features=features)
