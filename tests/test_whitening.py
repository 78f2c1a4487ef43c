import pickle

import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from stackedae import ContrastNormalizer, PCAWhitener, ZCAWhitener
from stackedae.errors import ArgumentError, DataError, MemoryPlanError
from stackedae.whitening import mean_and_covariance, principal_components

BOTH = [PCAWhitener, ZCAWhitener]


@parametrize_with_checks([PCAWhitener(), ZCAWhitener(), PCAWhitener(1), ZCAWhitener(0.9)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def patches():
    """Smooth ones: eigenvalues from 0.002 to 8."""
    rng = np.random.default_rng(0)
    rough = rng.normal(size=(700, 4, 5))
    return rough.cumsum(axis=1).cumsum(axis=2) / 4 + rng.normal(size=20).reshape(4, 5)


@pytest.fixture(scope="module")
def rows(patches):
    return patches.reshape(len(patches), -1)


def close(expected, rel=1e-10):
    return pytest.approx(expected, rel=rel, abs=rel * np.abs(expected).max())


def covariance(rows):
    return np.cov(np.asarray(rows).reshape(len(rows), -1).T)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int64, bool])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_mean_and_covariance_are_numpys(dtype, mean):
    X = np.random.default_rng(0).normal(size=(30_000, 6)) @ np.diag([1, 2, 3, 1, 1, 1])
    X = (X + (mean if np.dtype(dtype).itemsize > 1 else 100)).astype(dtype)
    exact = X.astype(np.float64)
    found = mean_and_covariance(da.from_array(X, chunks=(7000, 2)))
    assert found[0] == pytest.approx(exact.mean(axis=0), rel=1e-13)
    assert found[1] == pytest.approx(np.cov(exact.T), rel=1e-10, abs=1e-10)


def test_data_of_which_the_first_part_is_like_no_other():
    rng = np.random.default_rng(0)
    X = np.concatenate((rng.normal(size=(2000, 3)), 1e7 + rng.normal(size=(60_000, 3))))
    _, found = mean_and_covariance(da.from_array(X, chunks=2000))
    assert found == close(np.cov(X.T))


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 1),
    st.sampled_from([np.float32, np.float64]),
    st.floats(-1e6, 1e6),
    st.sampled_from([10, 100, 10_000]),
)
def test_neither_chunks_nor_shards_matter(sizes, dtype, mean, shard_bytes):
    X = (np.random.default_rng(0).normal(size=(sum(sizes), 3)) + mean).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stackedae.memory.MIN_SHARD_BYTES", shard_bytes)
        _, found = mean_and_covariance(da.from_array(X, chunks=(tuple(sizes), 3)))
    assert found == close(np.cov((X.astype(np.float64) - X[0]).T), rel=1e-9)


def test_it_is_scikit_learns_pca(rows):
    reference = PCA(whiten=True).fit(rows)
    whitener = PCAWhitener(epsilon=0).fit(rows)
    assert whitener.mean_ == close(reference.mean_)
    assert whitener.explained_variance_ == close(reference.explained_variance_)
    assert whitener.explained_variance_ratio_ == close(reference.explained_variance_ratio_)
    signs = np.sign((whitener.components_ * reference.components_).sum(axis=1))
    assert whitener.components_ == close(signs[:, None] * reference.components_, rel=1e-9)
    assert whitener.transform(rows) == close(signs * reference.transform(rows), rel=1e-9)


@pytest.mark.parametrize("wanted", [1, 7, 20, None, 0.5, 0.9, 0.99, 0.9999, np.float64(0.8)])
@pytest.mark.parametrize("kind", BOTH)
def test_components_are_chosen_as_by_scikit_learn(rows, kind, wanted):
    whitener = kind(wanted, epsilon=0).fit(rows)
    assert whitener.n_components_ == PCA(wanted, svd_solver="full").fit(rows).n_components_
    assert whitener.components_.shape == (whitener.n_components_, 20)
    assert len(whitener.explained_variance_) == whitener.n_components_
    assert whitener.explained_variance_ratio_.sum() <= 1 + 1e-12


@pytest.mark.parametrize("epsilon", [0, 0.01, 1.0])
def test_what_comes_out_is_white(patches, rows, epsilon):
    λ, U = np.linalg.eigh(np.cov(rows.T))
    shrunk = λ / (λ + epsilon)
    pca, zca = (kind(epsilon=epsilon).fit_transform(patches) for kind in BOTH)
    assert covariance(pca) == close(np.diag(shrunk[::-1]))
    assert covariance(zca) == close(U * shrunk @ U.T)
    root = U / np.sqrt(λ + epsilon) @ U.T
    assert zca.reshape(rows.shape) == close((rows - rows.mean(axis=0)) @ root)


def test_the_default_epsilon_keeps_noise_down():
    assert PCAWhitener().epsilon == ZCAWhitener().epsilon == 0.01


def test_zca_with_fewer_components_drops_the_others(patches, rows):
    _, U = np.linalg.eigh(np.cov(rows.T))
    whitened = ZCAWhitener(3, epsilon=0).fit_transform(patches)
    assert whitened.shape == patches.shape
    assert covariance(whitened) == close(U[:, -3:] @ U[:, -3:].T)


@pytest.mark.parametrize("kind", BOTH)
def test_the_inverse_is_exact(patches, rows, kind):
    for epsilon in (0, 0.01):
        whitener = kind(epsilon=epsilon).fit(patches)
        assert whitener.inverse_transform(whitener.transform(patches)) == close(patches)
    projected = PCA(4).fit(rows)
    projected = projected.inverse_transform(projected.transform(rows))
    whitener = kind(4).fit(patches)
    back = whitener.inverse_transform(whitener.transform(patches))
    assert back == close(projected.reshape(patches.shape))


@pytest.mark.parametrize("kind", BOTH)
def test_float32_far_from_zero_keeps_its_digits(patches, kind):
    X = (patches + 3e4).astype(np.float32)
    whitener = kind(epsilon=0).fit(X)
    expected = whitener.transform(X.astype(np.float64))
    whitened = whitener.transform(X)
    assert (whitened.dtype, expected.dtype) == (np.float32, np.float64)
    assert whitened == close(expected, rel=1e-5)
    back = whitener.inverse_transform(whitened)
    assert back.dtype == np.float32
    assert back == pytest.approx(X, rel=2e-7)


@pytest.mark.parametrize(("dtype", "out"), [(np.uint8, np.float32), (np.int32, np.float64)])
def test_integers(dtype, out):
    X = np.random.default_rng(0).integers(0, 256, (100, 3)).astype(dtype)
    for kind in BOTH:
        whitened = kind(epsilon=0).fit_transform(X)
        assert whitened.dtype == out
        assert covariance(whitened) == close(np.eye(3), rel=1e-5)


def test_every_container_comes_back_as_it_came(patches):
    pca, zca = (kind().fit(patches) for kind in BOTH)
    lazy = da.from_array(patches, chunks=(77, 3, 2))
    coords = {"y0": ("patch", range(700)), "y": range(4)}
    labelled = xr.DataArray(lazy, dims=("patch", "y", "x"), coords=coords, name="photos")
    stored = zarr.create_array({}, data=patches, chunks=(100, 4, 5))
    for whitener in (pca, zca):
        expected = whitener.transform(patches)
        for X, chunks in ((lazy, lazy.chunks[0]), (stored, (100,) * 7)):
            whitened = whitener.transform(X)
            assert isinstance(whitened, da.Array)
            assert whitened.chunks[0] == chunks
            assert whitened.compute() == close(expected)
        whitened = whitener.transform(labelled)
        assert isinstance(whitened.data, da.Array)
        assert (whitened.y0 == labelled.y0).all()
        assert whitened.values == close(expected)
        back = whitener.inverse_transform(whitened)
        assert isinstance(back.data, da.Array)
        assert back.dims == ("patch", "y", "x")
        assert (back.y0 == labelled.y0).all()
        assert back.values == close(patches)
    assert pca.transform(labelled).dims == ("patch", "component")
    assert zca.transform(labelled).dims == labelled.dims
    assert zca.transform(labelled).name == "photos"


@pytest.mark.parametrize("kind", BOTH)
def test_fit_reads_every_chunk_once(rows, kind):
    read = []

    def count(block, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return block

    lazy = da.from_array(rows, chunks=(70, -1)).map_blocks(count, dtype=rows.dtype, meta=rows[:0])
    whitener = kind().fit(lazy)
    assert sorted(read) == list(range(10))
    whitener.transform(lazy)
    assert len(read) == 10


class CountingStore(zarr.storage.MemoryStore):
    """Notes which chunks are read."""

    read: list

    async def get(self, key, *arguments, **settings):
        if "/c/" in f"/{key}":
            self.read.append(key)
        return await super().get(key, *arguments, **settings)


def test_fit_reads_every_stored_chunk_once(rows):
    store = CountingStore()
    store.read = []
    stored = zarr.create_array(store, data=rows, chunks=(70, 20))
    store.read.clear()
    found = PCAWhitener().fit(stored)
    assert len(store.read) == len(set(store.read)) == 10
    assert found.explained_variance_ == close(PCA().fit(rows).explained_variance_)


@pytest.mark.parametrize("kind", BOTH)
def test_the_same_bits_on_threads_and_workers(patches, tmp_path, cluster, kind):
    X = np.concatenate([patches] * 30).astype(np.float32)
    stored = zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(1000, 4, 5))
    lazy = da.from_array(stored, chunks=(1000, 4, 5))

    def bits(X):
        whitener = kind().fit(X)
        return whitener.whitening_.tobytes(), whitener.transform(X).compute().tobytes()

    expected = bits(stored)
    assert bits(lazy) == expected
    with cluster.as_current():
        assert bits(stored) == bits(lazy) == expected


def test_signs_do_not_depend_on_rounding():
    components = principal_components(np.array([[2.0, -1.0], [-1.0, 2.0]]))[1]
    for noise in (1e-12, -1e-12):
        disturbed = np.array([[2.0 + noise, -1.0], [-1.0, 2.0]])
        assert principal_components(disturbed)[1] == pytest.approx(components, abs=1e-9)
    assert (components[:, 0] > 0).all()


def test_names_of_what_comes_out(patches):
    assert PCAWhitener(2).fit(patches).get_feature_names_out().tolist() == [
        "pcawhitener0",
        "pcawhitener1",
    ]
    assert ZCAWhitener(2).fit(patches).get_feature_names_out(list("abcdefghijklmnopqrst"))[1] == "b"


@pytest.mark.parametrize("kind", BOTH)
def test_pipelines_clones_and_pickles(patches, kind):
    pipeline = make_pipeline(ContrastNormalizer(), kind(0.9, epsilon=0.001))
    whitened = pipeline.fit(patches).transform(patches)
    assert (clone(pipeline).fit_transform(patches) == whitened).all()
    assert (pickle.loads(pickle.dumps(pipeline)).transform(patches) == whitened).all()


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_components": 0}, "n_components=0 is neither a number of components nor a share"),
        ({"n_components": 1.0}, r"n_components=1\.0 is neither"),
        ({"n_components": "mle"}, "n_components='mle' is neither"),
        ({"n_components": 21}, "n_components=21 is more than the 20 features"),
        ({"epsilon": -1}, "epsilon=-1 is no variance"),
        ({"epsilon": np.nan}, "epsilon=nan is no variance"),
        ({"epsilon": "small"}, "epsilon='small' is no variance"),
    ],
)
def test_parameters_are_checked(patches, kind, settings, message):
    with pytest.raises(ArgumentError, match=message):
        kind(**settings).fit(patches)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_without_variance_need_epsilon(rows, kind, dtype):
    flat = (rows - rows.mean(axis=1, keepdims=True)).astype(np.float64).round(3).astype(dtype)
    flat[:, -1] = -flat[:, :-1].sum(axis=1, dtype=np.float64)
    flat[:, 3] = 7
    with pytest.raises(ArgumentError, match=r"epsilon=0 divides by .* 20 components, of which 1"):
        kind(epsilon=0).fit(flat)
    assert np.isfinite(kind(18, epsilon=0).fit_transform(flat)).all()
    assert np.isfinite(kind().fit_transform(flat)).all()


@pytest.mark.parametrize("kind", BOTH)
def test_data_without_any_variance(kind):
    flat = np.full((5, 3), 7.0)
    assert (kind().fit_transform(flat) == 0).all()
    assert kind(0.9).fit(flat).explained_variance_ratio_.tolist() == [0, 0, 0]
    with pytest.raises(ArgumentError, match=r"of which 0 are not zero up to rounding; pass more"):
        kind(epsilon=0).fit(flat)


@pytest.mark.parametrize("row", [3, 123])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_rows_are_named(patches, row, bad):
    wrong = patches.copy()
    wrong[row, 1, 1] = bad
    lazy = da.from_array(wrong, chunks=(50, -1, -1))
    where = rf"first in row {row} \(chunk {row // 50}, its row {row % 50}\)"
    with pytest.raises(DataError, match=where):
        PCAWhitener().fit(lazy)
    with pytest.raises(DataError, match=f"first in row {row};"):
        ZCAWhitener().fit(wrong)
    fitted = ZCAWhitener().fit(patches)
    with pytest.raises(DataError, match=f"first in row {row % 50} of chunk {row // 50}"):
        fitted.transform(lazy).compute()


def test_squares_that_overflow():
    X = np.random.default_rng(0).normal(size=(10, 2)) * 1e200
    with pytest.raises(DataError, match="squares overflow; scale it"):
        PCAWhitener().fit(X)


def test_a_single_sample_is_refused():
    with pytest.raises(DataError, match="n_samples = 1"):
        PCAWhitener().fit(np.ones((1, 4)))


def test_a_covariance_that_fits_nowhere_is_refused():
    wide = da.zeros((10, 1000, 1000), chunks=(1, -1, -1), dtype=np.float32)
    with pytest.raises(MemoryPlanError, match=r"covariance of 1000000 features takes 7629395 MiB"):
        PCAWhitener().fit(wide)


def test_shapes_must_be_those_of_fit(patches):
    pca, zca = (kind(3).fit(patches) for kind in BOTH)
    for whitener in (pca, zca):
        with pytest.raises(DataError, match="X has 3 features, but"):
            whitener.transform(patches[:, :1, :3])
    with pytest.raises(DataError, match=r"X has shape \(700, 2\), and there are 3 components"):
        pca.inverse_transform(np.zeros((700, 2)))
    with pytest.raises(DataError, match="X has 3 features, but"):
        zca.inverse_transform(patches[:, :1, :3])
