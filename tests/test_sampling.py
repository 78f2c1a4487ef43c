import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from stackedae import extract_patches
from stackedae.errors import ArgumentError

RNG = np.random.default_rng(0)
IMAGE = RNG.random((60, 80))


def places(patches, *dims):
    dims = dims or ("y", "x")
    return list(zip(*(patches[f"{dim}0"].values.tolist() for dim in dims), strict=True))


def stored(pixels, chunks):
    array = zarr.create_array({}, shape=pixels.shape, chunks=chunks, dtype=pixels.dtype)
    array[:] = pixels
    return array


@pytest.mark.parametrize("how", [{}, {"weights": "variance"}, {"min_valid": 0.6}, {"stride": 2}])
def test_neither_chunks_nor_workers_matter(cluster, how):
    image = IMAGE.copy()
    image[:30, :40] = np.nan
    how = {"min_valid": 0.5, **how} if "stride" not in how else how
    with dask.config.set(scheduler="threads"):
        expected = extract_patches(image, (6, 5), 300, rng=0, **how)
    for source in (da.from_array(image, chunks=(17, 80)), da.from_array(image, chunks=(7, 9))):
        with cluster.as_current():
            found = extract_patches(source, (6, 5), 300, rng=0, **how).compute()
        xr.testing.assert_identical(found, expected)
    found = extract_patches(stored(image, (13, 11)), (6, 5), 300, rng=0, store="a.zarr", **how)
    xr.testing.assert_identical(found.compute(), expected)


def test_weights_are_proportions():
    weights = np.zeros((60, 80))
    weights[10:30, 10:30], weights[40:50, 40:60] = 1, 3
    patches = extract_patches(IMAGE, (1, 1), 200, weights=weights, rng=0)
    chosen = places(patches)
    assert len(set(chosen)) == 200
    assert all(weights[place] > 0 for place in chosen)
    counts = [
        sum(
            weights[y, x] == 1
            for y, x in places(extract_patches(IMAGE, (1, 1), 10, weights=weights, rng=seed))
        )
        for seed in range(200)
    ]
    # 400 places of weight 1 and 200 of weight 3: 10 draws take about 4 of the first.
    assert abs(np.mean(counts) - 4) < 0.3
    prefix = [weights[place] for place in chosen[:100]]
    assert 15 < sum(value == 1 for value in prefix) < 85  # in random order


def test_the_weight_of_a_patch_is_the_mean_of_its_pixels():
    weights = np.zeros((60, 80))
    weights[30, 40] = 1
    patches = extract_patches(IMAGE, (4, 3), weights=weights, rng=0)
    assert sorted(places(patches)) == [(y, x) for y in range(27, 31) for x in range(38, 41)]
    with pytest.raises(ArgumentError, match="n_patches=13 is more than the 12 positions"):
        extract_patches(IMAGE, (4, 3), 13, weights=weights, rng=0)
    with pytest.raises(ArgumentError, match="leaves no position for a patch"):
        extract_patches(IMAGE, (4, 3), weights=0 * weights, rng=0)


def test_variance_leaves_out_what_is_empty():
    image = np.full((60, 80), 7.0)
    image[20:30, 50:60] = RNG.random((10, 10))
    patches = extract_patches(image, (4, 4), 100, weights="variance", rng=0)
    assert all(16 < y < 30 and 46 < x < 60 for y, x in places(patches))
    cut = np.lib.stride_tricks.sliding_window_view(image, (4, 4))
    drawn = np.zeros(cut.shape[:2])
    for seed in range(60):
        for place in places(extract_patches(image, (4, 4), 10, weights="variance", rng=seed)):
            drawn[place] += 1
    variance = cut.var(axis=(2, 3))
    assert np.corrcoef(drawn.ravel(), variance.ravel())[0, 1] > 0.8


def test_missing_pixels():
    image = IMAGE.copy()
    image[:30] = np.nan
    whole = extract_patches(image, (4, 4), min_valid=1.0, rng=0)
    assert min(y for y, _ in places(whole)) == 30
    assert np.isfinite(whole.values).all()
    half = extract_patches(image, (4, 4), min_valid=0.5, rng=0)
    assert sorted({y for y, _ in places(half)})[0] == 28
    assert np.isnan(half.values).any()
    any_at_all = extract_patches(image, (4, 4), rng=0)
    assert len(any_at_all) == 57 * 77


@pytest.mark.parametrize("lazy", [False, True])
def test_masks_and_values_for_no_data(lazy):
    mask = np.ones((60, 80), bool)
    mask[:, 40:] = False
    source = da.from_array(IMAGE, chunks=(16, 16)) if lazy else IMAGE
    inside = extract_patches(source, (4, 4), mask=mask, rng=0)
    assert max(x for _, x in places(inside)) == 36
    across = extract_patches(source, (4, 4), mask=mask, min_valid=0.25, rng=0).compute()
    right = across.isel(patch=int(np.argmax(across.x0.values)))
    assert int(right.x0) == 39
    assert np.isnan(right.values[:, 1:]).all()
    assert np.isfinite(right.values[:, 0]).all()
    image = np.round(10 * IMAGE).astype("i2")
    source = da.from_array(image, chunks=(16, 16)) if lazy else image
    without = extract_patches(source, (2, 2), nodata=3, rng=0)
    assert 3 not in without.values
    assert without.attrs["nodata"] == 3
    assert extract_patches(source, (2, 2), nodata=3, dtype="i2", rng=0).dtype == np.int16
    with pytest.raises(ArgumentError, match="dtype='int16' has no NaN for missing pixels"):
        extract_patches(source, (2, 2), nodata=3, dtype="i2", min_valid=0.5)


def test_masks_of_stacks_and_lists():
    stack = np.stack([IMAGE, IMAGE + 1])
    masks = np.zeros((2, 60, 80), bool)
    masks[0, :10, :10] = masks[1, 50:, 70:] = True
    for images, mask in ((stack, masks), (list(stack), list(masks))):
        found = extract_patches(images, (4, 4), mask=mask, rng=0)
        assert len(found) == 2 * 49
        assert (found.y0.values[found.image.values == 0] <= 6).all()
        assert (found.y0.values[found.image.values == 1] >= 50).all()
    found = extract_patches(stack, (4, 4), mask=masks[0], rng=0)
    assert len(found) == 2 * 49
    assert found.y0.max() == 6
    with pytest.raises(ArgumentError, match="mask='3 images' does not go with 2 images"):
        extract_patches(list(stack), (4, 4), mask=[masks[0]] * 3)
    with pytest.raises(ArgumentError, match=r"mask.shape=\(60, 79\) is not that of the images"):
        extract_patches(stack, (4, 4), mask=masks[0, :, 1:])


def test_a_mask_may_have_its_own_order_and_chunks():
    image = xr.DataArray(da.from_array(IMAGE, chunks=9), dims=("lat", "lon"))
    mask = xr.DataArray(da.from_array((IMAGE > 0.5).T, chunks=7), dims=("lon", "lat"))
    found = extract_patches(image, (1, 1), dims=("lat", "lon"), mask=mask, rng=0)
    assert sorted(places(found, "lat", "lon")) == list(zip(*np.nonzero(IMAGE > 0.5), strict=True))


@pytest.mark.parametrize("how", [{}, {"weights": "variance"}, {"stride": 1}, {"min_valid": 0.1}])
def test_at_most_so_many_from_an_image(how):
    images = [RNG.random((8 + 20 * i, 30)) for i in range(4)]
    patches = extract_patches(images, (8, 8), 70, max_per_image=20, rng=0, **how)
    counts = np.bincount(patches.image.values)
    assert counts.sum() == 70
    assert counts.max() <= 20
    with pytest.raises(ArgumentError, match="n_patches=81 is more than the 80 positions"):
        extract_patches(images, (8, 8), 81, max_per_image=20, rng=0, **how)
    every = extract_patches(images, (8, 8), max_per_image=20, rng=0, **{**how, "stride": 1})
    assert np.bincount(every.image.values).tolist() == [20] * 4


def test_many_small_images_are_weighed_together(monkeypatch):
    images = RNG.random((500, 12, 13))
    images[::2] = 0.5
    found = []
    for room in (2**20, 1000, 60):
        monkeypatch.setattr("stackedae.sampling._TILE_POSITIONS", room)
        found.append(extract_patches(images, (4, 4), 400, weights="variance", rng=0))
        assert (found[-1].image.values % 2 == 1).all()
        for patch in found[-1][:20]:
            y0, x0 = int(patch.y0), int(patch.x0)
            expected = images[int(patch.image), y0 : y0 + 4, x0 : x0 + 4].astype(np.float32)
            assert (patch.values == expected).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_valid": 1.5}, "min_valid=1.5 is no share; pass 0 to 1"),
        ({"max_per_image": 0}, "max_per_image=0 allows no patch"),
        ({"dims": ("lat", "lon")}, r"dims=\('lat', 'lon'\) names no axis"),
        ({"dims": (0, 0)}, r"dims=\(0, 0\) names an axis twice"),
        ({"channel_dim": 5}, "channel_dim=5 names no axis"),
    ],
)
def test_what_is_asked_wrongly_is_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        extract_patches(IMAGE, (4, 4), 10, **options)
