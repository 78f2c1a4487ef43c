from functools import cache
from itertools import product

import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stackedae import (
    ContrastNormalizer,
    StackedAutoEncoder,
    StackedAutoEncoderClassifier,
    error_map,
    extract_patches,
    feature_map,
    open_image,
    reconstruct_image,
)
from stackedae.errors import ArgumentError, DataError

RNG = np.random.default_rng(0)
GREY = RNG.random((23, 31))
COLOUR = RNG.random((23, 31, 3))
VOLUME = RNG.random((9, 11, 12))


@cache
def fitted(shape, hidden=(4, 3), dims=None):
    """Return a model of patches of this shape."""
    X = np.random.default_rng(1).random((60, *shape))
    if dims is not None:
        X = xr.DataArray(X, dims=("patch", *dims))
    return StackedAutoEncoder(hidden, max_iter=2, tol=0, random_state=0).fit(X)


def every_patch(image, shape, mode, stride):
    """Cut the patch at every position, one by one; channels are last."""
    n_space, starts = len(shape), []
    for axis, size in enumerate(shape):
        if mode == "valid":
            starts.append(range(0, image.shape[axis] - size + 1, stride[axis]))
        else:
            starts.append(range(0, image.shape[axis], stride[axis]))
    if mode == "same":
        pad = [(size, size) for size in shape] + [(0, 0)] * (image.ndim - n_space)
        image = np.pad(image, pad, mode="symmetric")
        starts = [[i + size - size // 2 for i in s] for s, size in zip(starts, shape, strict=True)]
    patches = [
        image[tuple(slice(i, i + size) for i, size in zip(corner, shape, strict=True))]
        for corner in product(*starts)
    ]
    return np.stack(patches), tuple(map(len, starts))


@st.composite
def cases(draw):
    """Draw an image of 2 or 3 dimensions, with channels first, last, or none, and how to map it."""
    n_space = draw(st.sampled_from([2, 3]))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(n_space))
    size = tuple(draw(st.integers(k, 12 if n_space == 2 else 7)) for k in shape)
    return {
        "shape": shape,
        "size": size,
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(n_space)),
        "mode": draw(st.sampled_from(["same", "valid"])),
        "channels": draw(st.sampled_from([None, "first", "last"])),
        "blocks": tuple(draw(st.integers(1, 9)) for _ in range(n_space)),
        "container": draw(st.sampled_from(["ndarray", "dask", "zarr"])),
        "chunks": tuple(draw(st.integers(1, 8)) for _ in range(n_space)),
    }


def contained(image, channels, container, chunks):
    """Put an image (with channels last) into a container, with channels where they are wanted."""
    names = ["z", "y", "x"][-len(chunks) :]
    if channels is not None:
        names, chunks = [*names, "channel"], (*chunks, 2)
    if channels == "first":
        image, names, chunks = np.moveaxis(image, -1, 0), [names[-1], *names[:-1]], None
    if container == "ndarray":
        return xr.DataArray(image, dims=names)
    chunks = chunks or (2,) * image.ndim
    if container == "dask":
        return xr.DataArray(da.from_array(image, chunks=chunks), dims=names)
    array = zarr.create_array(
        {}, shape=image.shape, chunks=chunks, dtype=image.dtype, dimension_names=names
    )
    array[:] = image
    return array


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_map_is_the_transform_of_every_patch(case):
    n_channels = () if case["channels"] is None else (2,)
    image = np.random.default_rng(2).random((*case["size"], *n_channels))
    dims = ("z", "y", "x")[-len(case["shape"]) :] + ("channel",) * len(n_channels)
    sae = fitted((*case["shape"], *n_channels), dims=dims)
    patches, positions = every_patch(image, case["shape"], case["mode"], case["stride"])
    source = contained(image, case["channels"], case["container"], case["chunks"])
    how = {"mode": case["mode"], "stride": case["stride"], "chunks": case["blocks"]}
    features = feature_map(sae, source, **how)
    assert features.dims == (*dims[: len(case["shape"])], "feature")
    expected = sae.transform(patches).reshape(*positions, -1)
    np.testing.assert_allclose(features.values, expected, atol=1e-6, rtol=0)
    errors = error_map(sae, source, **how)
    expected = sae.reconstruction_error(patches).reshape(positions)
    np.testing.assert_allclose(errors.values, expected, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_an_image_is_reconstructed_from_all_of_its_patches(case):
    n_channels = () if case["channels"] is None else (2,)
    image = np.random.default_rng(2).random((*case["size"], *n_channels))
    shape, mode = case["shape"], case["mode"]
    stride = tuple(min(step, size) for step, size in zip(case["stride"], shape, strict=True))
    dims = ("z", "y", "x")[-len(shape) :] + ("channel",) * len(n_channels)
    sae = fitted((*shape, *n_channels), dims=dims)
    patches, positions = every_patch(image, shape, mode, stride)
    total, count = np.zeros([n + 2 * k for n, k in zip(image.shape, (*shape, 0), strict=False)]), 0
    total = np.zeros((*total.shape[: len(shape)], *n_channels))
    count = np.zeros_like(total)
    for corner, patch in zip(np.ndindex(*positions), sae.reconstruct(patches), strict=True):
        before = [size // 2 if mode == "same" else 0 for size in shape]
        along = zip(corner, stride, shape, before, strict=True)
        where = tuple(slice(i * s + k - b, i * s + k - b + k) for i, s, k, b in along)
        total[where] += patch
        count[where] += 1
    inner = tuple(slice(k, k + n) for n, k in zip(case["size"], shape, strict=True))
    with np.errstate(invalid="ignore"):
        expected = (total / count)[inner]
    source = contained(image, case["channels"], case["container"], case["chunks"])
    found = reconstruct_image(sae, source, mode=mode, stride=stride, chunks=case["blocks"])
    np.testing.assert_allclose(found.values, expected, atol=1e-6, rtol=0)
    assert found.dims == dims


def test_a_map_lies_on_its_image():
    image = xr.DataArray(
        GREY,
        dims=("lat", "lon"),
        coords={
            "lat": ("lat", 50 - 0.25 * np.arange(23), {"units": "degrees_north"}),
            "lon": 7 + 0.25 * np.arange(31),
            "land": (("lat", "lon"), GREY > 0.5),
            "time": np.datetime64("2026-01-01", "ns"),
        },
    )
    sae = fitted((4, 4))
    same = feature_map(sae, image)
    assert same.dims == ("lat", "lon", "feature")
    turned = feature_map(fitted((4, 4), dims=("lat", "lon")), image.transpose("lon", "lat"))
    assert (turned.values == same.values).all()
    assert same.lat.attrs == {"units": "degrees_north"}
    assert set(same.coords) == {"lat", "lon", "land", "time"}
    xr.testing.assert_equal(
        same.isel(feature=0, drop=True).coords.to_dataset(), image.coords.to_dataset()
    )
    valid = feature_map(sae, image, mode="valid", stride=(3, 2))
    assert valid.sizes == {"lat": 7, "lon": 14, "feature": 3}
    assert valid.lat.values.tolist() == image.lat.values[2:23:3][:7].tolist()
    np.testing.assert_allclose(valid.values, same.sel(lat=valid.lat, lon=valid.lon), atol=1e-6)
    assert (valid.land == image.land.sel(lat=valid.lat, lon=valid.lon)).all()


def test_arrays_without_names_get_pixels_as_coordinates():
    features = feature_map(fitted((5, 4)), GREY, mode="valid", stride=4)
    assert features.y.values.tolist() == [2, 6, 10, 14, 18]
    assert features.x.values.tolist() == [2, 6, 10, 14, 18, 22, 26]
    assert features.attrs["patch_shape"] == [5, 4]
    with pytest.raises(ArgumentError, match=r"image.shape=\(3, 31\) has no room for a patch"):
        feature_map(fitted((5, 4)), GREY[:3], mode="valid")
    assert feature_map(fitted((5, 4)), GREY[:3]).shape == (3, 31, 3)


def test_channels_by_position():
    sae = fitted((4, 4, 3))
    last = feature_map(sae, COLOUR)
    first = feature_map(sae, np.moveaxis(COLOUR, -1, 0), channel_dim=0)
    assert last.dims == first.dims == ("y", "x", "feature")
    assert (last.values == first.values).all()
    with pytest.raises(ArgumentError, match="has 1 channels, and patches have the shape"):
        feature_map(fitted((4, 4, 3), dims=("y", "x", "channel")), GREY)
    with pytest.raises(ArgumentError, match="has 3 channels, and patches have the shape"):
        feature_map(fitted((4, 4)), xr.DataArray(COLOUR, dims=("y", "x", "channel")))


def test_channels_are_known_by_their_names(tmp_path):
    image = xr.DataArray(COLOUR, dims=("y", "x", "band"), coords={"band": ["r", "g", "b"]})
    turned = image.sel(band=["b", "r", "g"])
    patches = extract_patches(image, (4, 4), 100, rng=0)
    normalized = ContrastNormalizer().fit_transform(patches)
    sae = StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0).fit(normalized)
    assert sae.channel_names_ == ("r", "g", "b")
    sae.save(tmp_path / "model.zarr")
    for model in (sae, StackedAutoEncoder.load(tmp_path / "model.zarr")):
        for other in (turned, turned.chunk(7), turned.astype("float32")):
            expected = feature_map(model, image.astype(other.dtype))
            assert (feature_map(model, other).values == expected.values).all()
        with pytest.raises(
            ArgumentError, match=r"image.band=\('r', 'g', 'x'\) are not the channels"
        ):
            feature_map(model, image.assign_coords(band=["r", "g", "x"]))
        feature_map(model, COLOUR).compute()  # without names, their order is trusted
    both = extract_patches([image, turned], (4, 4), 100, rng=0)
    second = both[both.image == 1][0]
    y0, x0 = int(second.y0), int(second.x0)
    assert (second.values == COLOUR[y0 : y0 + 4, x0 : x0 + 4].astype("float32")).all()
    with pytest.raises(ArgumentError, match=r"images\[1\].band=\('a', 'b', 'c'\) are not"):
        extract_patches([image, image.assign_coords(band=list("abc"))], (4, 4), 100)


def test_names_of_channels_stay_with_a_reconstruction():
    image = xr.DataArray(COLOUR, dims=("y", "x", "band"), coords={"band": ["r", "g", "b"]})
    found = reconstruct_image(fitted((4, 4, 3)), image)
    assert found.dims == ("y", "x", "channel")
    assert found.channel.values.tolist() == ["r", "g", "b"]
    assert "band" not in feature_map(fitted((4, 4, 3)), image).coords


def test_a_time_series_is_mapped_image_by_image():
    series = xr.DataArray(
        np.stack([GREY, GREY.T[:23, :23].repeat(2, 1)[:, :31]]),
        dims=("time", "y", "x"),
        coords={"time": [10, 20]},
    )
    features = feature_map(fitted((4, 4)), series, chunks=9)
    assert features.dims == ("time", "y", "x", "feature")
    assert features.chunks[0] == (1, 1)
    for t in (10, 20):
        alone = feature_map(fitted((4, 4)), series.sel(time=t))
        np.testing.assert_allclose(features.sel(time=t).values, alone.values, atol=1e-6)


def test_layers():
    sae = fitted((4, 4))
    first, last = (feature_map(sae, GREY, layers=number) for number in (0, -1))
    assert first.sizes["feature"] == 4
    assert "layer" not in first.coords
    both = feature_map(sae, GREY, layers=(0, 1))
    assert both.layer.values.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert (both.values == np.concatenate((first, last), axis=-1)).all()
    for bad in (2, (), "all", (0, 5)):
        with pytest.raises(ArgumentError, match="does not name any of 2 layers"):
            feature_map(sae, GREY, layers=bad)


def test_preprocessing_comes_first():
    patches = extract_patches(GREY, (4, 4), 200, rng=0).values.reshape(200, -1)
    contrast, sae = ContrastNormalizer(), StackedAutoEncoder(3, max_iter=3, tol=0, random_state=0)
    pipeline = make_pipeline(StandardScaler(), PCA(9), contrast, sae).fit(patches)
    cut, positions = every_patch(GREY, (4, 4), "same", (1, 1))
    expected = pipeline.transform(cut.reshape(len(cut), -1)).reshape(*positions, -1)
    features = feature_map(pipeline, GREY, patch_shape=(4, 4))
    np.testing.assert_allclose(features.values, expected, atol=1e-5)
    before = feature_map(sae, GREY, preprocess=pipeline[:-1], patch_shape=(4, 4))
    assert (before.values == features.values).all()


def test_reconstructions_go_back_through_what_can_be_undone():
    patches = extract_patches(GREY, (4, 4), 200, rng=0).values.reshape(200, -1)
    scaler = StandardScaler().fit(patches)
    sae = StackedAutoEncoder(3, max_iter=3, tol=0, random_state=0).fit(scaler.transform(patches))
    found = reconstruct_image(sae, GREY, preprocess=scaler, stride=4, mode="valid").values
    cut, _ = every_patch(GREY, (4, 4), "valid", (4, 4))
    rows = scaler.transform(cut.reshape(len(cut), -1))
    expected = scaler.inverse_transform(sae.reconstruct(rows))
    np.testing.assert_allclose(found[:4, :4], expected[0].reshape(4, 4), atol=1e-5)
    assert np.isnan(found[20:]).all()
    normalized = ContrastNormalizer().fit(patches)
    like_patches = reconstruct_image(fitted((4, 4)), GREY, preprocess=normalized)
    assert float(like_patches.min()) > 0


def test_what_cannot_be_mapped_is_named():
    sae = fitted((4, 4))
    for call, message in (
        (lambda: feature_map(PCA(), GREY), r"sae=PCA\(\) is no StackedAutoEncoder"),
        (
            lambda: error_map(StackedAutoEncoderClassifier(), GREY),
            r"sae=StackedAutoEncoderClassifier\(\) does not reconstruct samples",
        ),
        (lambda: feature_map(sae, GREY, mode="full"), "mode='full' is unknown; choose from same"),
        (lambda: feature_map(sae, GREY, stride=0), "stride=0 is not one number of pixels"),
        (lambda: feature_map(sae, GREY, chunks=(2, 2, 2)), r"chunks=\(2, 2, 2\) is not"),
        (lambda: feature_map(sae, GREY, preprocess=3), "preprocess=3 has no method transform"),
        (lambda: feature_map(sae, GREY, patch_shape=(5, 5)), "does not make patches of 16"),
        (lambda: reconstruct_image(sae, GREY, stride=5), r"stride=\(5, 5\) leaves pixels out"),
        (lambda: feature_map(sae, GREY[0]), r"image.shape=\(31,\)"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()


def test_missing_pixels_are_named_when_a_block_is_computed():
    image = np.stack([GREY, GREY])
    image[1, 20, 7] = np.nan
    features = feature_map(fitted((4, 4)), image, chunks=8)
    features[0].compute()
    with pytest.raises(DataError, match=r"NaN or infinity, first at pixel \(1, 20, 7\)"):
        features.compute()


def test_missing_pixels_are_filled_where_the_model_can():
    y, x = np.mgrid[:40, :50]
    truth = 0.5 + 0.4 * np.sin(x / 3) * np.cos(y / 4)
    image = truth.copy()
    image[5:8, 10:14] = image[30, :20] = np.nan
    patches = extract_patches(image, (8, 8), 1400, min_valid=0.5, rng=0)
    sae = StackedAutoEncoder(
        8, missing="mask", sparsity_weight=0.0, alpha=0.0, max_iter=150, tol=0, random_state=0
    ).fit(patches)
    source = da.from_array(image, chunks=16)
    filled = reconstruct_image(sae, source).values
    assert np.isfinite(filled).all()
    gone = np.isnan(image)
    assert (
        np.abs(filled - truth)[gone].mean() < 0.3 * np.abs(np.nanmean(image) - truth)[gone].mean()
    )
    cut, positions = every_patch(image, (8, 8), "same", (1, 1))
    for found, expected in (
        (feature_map(sae, source), sae.transform(cut)),
        (error_map(sae, source), sae.reconstruction_error(cut)),
    ):
        expected = expected.reshape(*positions, *expected.shape[1:])
        np.testing.assert_allclose(found.values, expected, atol=1e-5, rtol=1e-4)
    normalized = ContrastNormalizer(missing="mask").fit(patches)
    features = feature_map(sae, source, preprocess=normalized)
    expected = sae.transform(normalized.transform(cut)).reshape(features.shape)
    np.testing.assert_allclose(features.values, expected, atol=1e-5)
    image[0, 0] = np.inf
    with pytest.raises(DataError, match=r"image contains infinity, first at pixel \(0, 0\)"):
        feature_map(sae, image).compute()


def test_maps_are_lazy_and_go_to_zarr_block_by_block():
    read = []

    def remember(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    image = da.from_array(GREY, chunks=8).map_blocks(remember, meta=np.empty((0, 0)))
    features = feature_map(fitted((4, 4)), image, chunks=8)
    assert not read
    features[:4, :4].compute()
    assert set(read) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    features.to_zarr("map.zarr", consolidated=False)
    again = xr.open_zarr("map.zarr", consolidated=False)["features"]
    assert (again == features.compute()).all()
    assert zarr.open_array("map.zarr/features").chunks == (8, 8, 3)


@pytest.mark.parametrize("container", ["ndarray", "dask", "zarr"])
def test_the_same_map_on_a_cluster(cluster, container, tmp_path):
    source = contained(GREY, None, container, (8, 8))
    if container == "zarr":
        stored = zarr.create_array(tmp_path / "image.zarr", data=GREY, chunks=(8, 8))
        source = str(tmp_path / "image.zarr")
        assert stored.shape == GREY.shape
    with dask.config.set(scheduler="threads"):
        expected = feature_map(fitted((4, 4)), GREY, chunks=8).values
    with cluster.as_current():
        assert (feature_map(fitted((4, 4)), source, chunks=8).values == expected).all()


def test_chunks_that_neighbours_need_are_read_once():
    class Counting(zarr.storage.WrapperStore):
        async def get(self, key, prototype, byte_range=None):
            if key.startswith("c/"):
                counts[key] = counts.get(key, 0) + 1
            return await self._store.get(key, prototype, byte_range)

    counts, inner = {}, zarr.storage.MemoryStore()
    zarr.create_array(inner, data=GREY, chunks=(8, 8))
    image = open_image(zarr.open_array(Counting(inner), mode="r"))
    features = feature_map(fitted((4, 4)), image, chunks=8)
    with dask.config.set(scheduler="threads"):
        features.compute()
    assert len(counts) == 3 * 4
    assert set(counts.values()) == {1}
