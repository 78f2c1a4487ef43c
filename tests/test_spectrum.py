import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from stackedae import whiten_image
from stackedae.contrast import whiten_image as whiten_plane
from stackedae.errors import ArgumentError, DataError


@pytest.fixture(scope="module")
def photograph():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 30, 3)).cumsum(axis=0).cumsum(axis=1)


def test_planes_are_whitened_on_their_own(photograph):
    planes = [whiten_plane(photograph[..., channel], cutoff=0.3) for channel in range(3)]
    grey = photograph[..., 1]
    assert (whiten_image(grey, cutoff=0.3) == planes[1]).all()
    assert (whiten_image(grey.tolist(), cutoff=0.3) == planes[1]).all()
    assert (whiten_image(photograph, cutoff=0.3) == np.stack(planes, axis=-1)).all()
    stack = np.stack([photograph, 2 * photograph])
    assert whiten_image(stack, cutoff=0.3)[1] == pytest.approx(np.stack(planes, axis=-1))
    assert (whiten_image(np.moveaxis(stack[0], -1, 0), cutoff=0.3) == np.stack(planes)).all()


def test_labels_of_an_image_are_kept(photograph):
    image = xr.DataArray(
        photograph,
        dims=("y", "x", "channel"),
        coords={"y": np.arange(20) * 0.5, "channel": list("rgb")},
        name="photograph",
        attrs={"units": "counts"},
    )
    whitened = whiten_image(image)
    xr.testing.assert_identical(whitened, image.copy(data=whiten_image(photograph)))
    turned = whiten_image(image.transpose("x", "channel", "y"))
    assert turned.dims == ("x", "channel", "y")
    xr.testing.assert_allclose(turned.transpose(*image.dims), whitened)
    unnamed = whiten_image(xr.DataArray(photograph[..., 0], dims=("lat", "lon")))
    assert (unnamed.values == whitened.values[..., 0]).all()


def test_lazy_images_stay_lazy(photograph):
    expected = whiten_image(photograph)
    lazy = da.from_array(photograph, chunks=(7, 11, 2))
    whitened = whiten_image(lazy)
    assert whitened.chunks == ((20,), (30,), (2, 1))
    assert whitened.dtype == np.float64
    assert (whitened.compute() == expected).all()
    labelled = whiten_image(xr.DataArray(lazy, dims=("y", "x", "channel")))
    assert isinstance(labelled.data, da.Array)
    stored = zarr.create_array({}, data=photograph, chunks=(7, 11, 2))
    assert (whiten_image(stored).compute() == expected).all()
    lazy[4, 5, 2] = np.nan
    with pytest.raises(DataError, match="first at y=4, x=5"):
        whiten_image(lazy).compute()


@pytest.mark.parametrize(
    ("image", "cutoff", "message"),
    [
        (np.ones((8, 8)), 0, "cutoff=0 lets no frequency pass"),
        (np.ones((8, 8)), np.nan, "cutoff=nan lets"),
        (np.ones(8), 0.4, r"image.shape=\(8,\) \(dimensions"),
        (np.ones((0, 8)), 0.4, r"image.shape=\(0, 8\) is empty"),
        (np.ones((8, 8), complex), 0.4, "image.dtype='complex128' is not of real numbers"),
    ],
)
def test_what_is_no_image_is_refused(image, cutoff, message):
    with pytest.raises(ArgumentError, match=message):
        whiten_image(image, cutoff=cutoff)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_an_image_with_bad_pixels_is_refused(photograph, bad):
    image = photograph.copy()
    image[3, 17, 1] = bad
    with pytest.raises(DataError, match="image contains NaN or infinity, first at y=3, x=17"):
        whiten_image(image)
