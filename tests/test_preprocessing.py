import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from sklearn.utils.estimator_checks import parametrize_with_checks

from stackedae import ContrastNormalizer
from stackedae.errors import ArgumentError, DataError


@parametrize_with_checks([ContrastNormalizer(), ContrastNormalizer(missing="mask")])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).gamma(2.0, size=(500, 4, 5))


def classic(patches):
    centred = patches - patches.mean(axis=(1, 2), keepdims=True)
    bound = 3 * centred.std()
    return (np.clip(centred, -bound, bound) / bound + 1) * 0.4 + 0.1


def test_it_is_the_classic_normalisation(patches):
    normalizer = ContrastNormalizer()
    out = normalizer.fit_transform(patches)
    assert out == pytest.approx(classic(patches), rel=1e-12)
    assert normalizer.std_ == pytest.approx((patches - patches.mean((1, 2), keepdims=True)).std())


def test_every_container_comes_back_as_it_came(patches):
    expected = classic(patches)
    lazy = da.from_array(patches, chunks=(77, 3, 2))
    out = ContrastNormalizer().fit_transform(lazy)
    assert isinstance(out, da.Array)
    assert out.chunks[0] == lazy.chunks[0]
    assert out.compute() == pytest.approx(expected, rel=1e-12)

    labelled = xr.DataArray(lazy, dims=("patch", "y", "x"), coords={"y0": ("patch", range(500))})
    out = ContrastNormalizer().fit_transform(labelled)
    assert out.dims == labelled.dims
    assert (out.y0 == labelled.y0).all()
    assert out.values == pytest.approx(expected, rel=1e-12)

    stored = zarr.create_array({}, data=patches, chunks=(100, 4, 5))
    assert ContrastNormalizer().fit_transform(stored).compute() == pytest.approx(expected)


def test_flat_patches_become_the_middle():
    out = ContrastNormalizer().fit_transform(np.full((3, 4), 7.0))
    assert out == pytest.approx(np.full((3, 4), 0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_std": 0}, "n_std=0 clips everything away"),
        ({"feature_range": (1, 0)}, r"feature_range=\(1, 0\) is empty"),
        ({"missing": "drop"}, "missing='drop' is unknown; choose from raise, mask"),
    ],
)
def test_parameters_are_checked(patches, settings, message):
    with pytest.raises(ArgumentError, match=message):
        ContrastNormalizer(**settings).fit(patches)


def test_bad_rows_are_named(patches):
    bad = patches.copy()
    bad[123, 1, 1] = np.nan
    lazy = da.from_array(bad, chunks=(50, -1, -1))
    with pytest.raises(DataError, match=r"first in row 123 \(chunk 2, its row 23\)"):
        ContrastNormalizer().fit(lazy)
    fitted = ContrastNormalizer().fit(patches)
    with pytest.raises(DataError, match="first in row 23 of chunk 2"):
        fitted.transform(lazy).compute()


@pytest.fixture(scope="module")
def gaps(patches):
    gaps = np.where(np.random.default_rng(1).random(patches.shape) < 0.2, np.nan, patches)
    gaps[3], gaps[5] = np.nan, patches[5]
    return gaps


def test_gaps_stay_and_have_no_part_in_means(gaps):
    normalizer = ContrastNormalizer(missing="mask")
    out = normalizer.fit_transform(gaps)
    # Nothing is known of the fourth patch, of which NumPy would warn.
    some = np.arange(len(gaps)) != 3
    centred = gaps[some] - np.nanmean(gaps[some], axis=(1, 2), keepdims=True)
    assert normalizer.std_ == pytest.approx(np.nanstd(centred), rel=1e-12)
    bound = 3 * np.nanstd(centred)
    expected = (np.clip(centred, -bound, bound) / bound + 1) * 0.4 + 0.1
    assert out[some] == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert np.isnan(out[3]).all()
    lazy = ContrastNormalizer(missing="mask").fit_transform(da.from_array(gaps, chunks=(77, 3, 2)))
    assert lazy.compute() == pytest.approx(out, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_patches_without_gaps_keep_their_bits(patches, dtype):
    X = (10 * patches).astype(dtype)
    plain, masking = ContrastNormalizer(), ContrastNormalizer(missing="mask")
    assert masking.fit_transform(X).tobytes() == plain.fit_transform(X).tobytes()
    assert masking.std_ == plain.std_
    if dtype != np.uint8:
        X[::2, 1, 1] = np.nan
        assert masking.transform(X)[1::2].tobytes() == plain.transform(X[1::2]).tobytes()


def test_infinity_is_refused_though_gaps_are_not(gaps):
    bad = gaps.copy()
    bad[123, 1, 1] = np.inf
    lazy = da.from_array(bad, chunks=(50, -1, -1))
    where = r"X contains infinity, first in row 123 \(chunk 2, its row 23\); drop such samples"
    with pytest.raises(DataError, match=where):
        ContrastNormalizer(missing="mask").fit(lazy)
    fitted = ContrastNormalizer(missing="mask").fit(gaps)
    with pytest.raises(DataError, match="infinity, first in row 23 of chunk 2"):
        fitted.transform(lazy).compute()


def test_patches_of_nothing_but_gaps_stay_so():
    out = ContrastNormalizer(missing="mask").fit_transform(np.full((3, 4), np.nan))
    assert np.isnan(out).all()
