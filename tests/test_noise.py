from itertools import combinations

import array_api_strict
import numpy as np
import pytest
from scipy import stats

from stackedae.arrays import to_numpy
from stackedae.errors import ArgumentError
from stackedae.moments import Moments, scatter_sums
from stackedae.noise import Corruption

NOISES = pytest.mark.parametrize(
    "noise", [Corruption("masking", 0.3, seed=5), Corruption("gaussian", 0.3, seed=5)], ids=str
)


def test_masking_sets_its_share_to_zero():
    x = np.full((2000, 50), 0.7)
    masked = Corruption("masking", 0.3).apply(x, np.arange(2000))
    assert set(masked.ravel().tolist()) == {0.0, 0.7}
    for hidden in (masked == 0, masked[:, 7] == 0):
        assert abs(hidden.mean() - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / hidden.size)
    per_row = (masked == 0).sum(axis=1)
    expected = 2000 * stats.binom.pmf(np.arange(51), 50, 0.3)
    often = expected > 20
    seen = np.bincount(per_row, minlength=51)[often]
    assert (np.abs(seen - expected[often]) < 4.5 * np.sqrt(expected[often])).all()


def test_gaussian_noise_is_normal():
    x = np.random.default_rng(0).random((2000, 50))
    noise = (Corruption("gaussian", 2.0).apply(x, np.arange(2000)) - x) / 2.0
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    assert stats.kstest(noise[3], "norm").pvalue > 0.01
    assert stats.kstest(noise[:, 7], "norm").pvalue > 0.01
    assert np.abs(noise).max() < 7


def standardised(noise, shape=(700, 60)):
    changed = noise.apply(np.ones(shape), np.arange(shape[0])) - 1
    return (changed - changed.mean()) / changed.std()


@NOISES
def test_rows_columns_seeds_and_phases_have_noise_of_their_own(noise):
    z = standardised(noise)
    others = [
        standardised(Corruption(noise.kind, noise.amount, seed, phase))
        for seed, phase in ((0, 0), (0, 1), (1, 0), (1, 1), (2**62, 0))
    ]
    pairs = [*combinations([z, *others], 2), (z[1:], z[:-1]), (z[:, 1:], z[:, :-1])]
    for one, other in pairs:
        assert abs((one * other).mean()) < 4.5 / np.sqrt(one.size)
        assert abs((one**2 * other**2).mean() - 1) < 4.5 * (one**4).mean() / np.sqrt(one.size)


@NOISES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_depends_on_nothing_but_the_row_and_the_column(noise, dtype):
    x = np.random.default_rng(0).random((240, 37)).astype(dtype)
    row, before = np.random.default_rng(1).integers(0, 2**40, 240), x.copy()
    whole = noise.apply(x, row)
    assert whole.dtype == dtype
    assert x.tobytes() == before.tobytes()
    assert noise.apply(x, row).tobytes() == whole.tobytes()
    stacked = noise.apply(x.reshape(4, 60, 37), row.reshape(4, 60))
    assert stacked.tobytes() == whole.tobytes()
    out = np.empty_like(x)
    assert noise.apply(x, row, out) is out
    assert out.tobytes() == whole.tobytes()
    order = np.random.default_rng(2).permutation(240)
    assert noise.apply(x[order], row[order]).tobytes() == whole[order].tobytes()
    for size in (1, 3, 64):
        blocks = [noise.apply(x[i : i + size], row[i : i + size]) for i in range(0, 240, size)]
        assert np.concatenate(blocks).tobytes() == whole.tobytes()
    narrow = noise.apply(np.ascontiguousarray(x[:, :5]), row)
    assert narrow.tobytes() == whole[:, :5].tobytes()


@NOISES
def test_noise_is_the_same_in_either_precision(noise):
    x = np.random.default_rng(0).random((200, 30)).astype(np.float32)
    row = np.arange(200)
    wide = noise.apply(x.astype(np.float64), row)
    assert noise.apply(x, row) == pytest.approx(wide, abs=1e-6)


@NOISES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_array_libraries_make_the_same_noise(noise, dtype):
    x = np.random.default_rng(0).random((3, 40, 37)).astype(dtype)
    row = np.arange(120).reshape(3, 40)
    there = array_api_strict.asarray(x, device=array_api_strict.Device("device1"))
    noisy = noise.apply(there, row)
    assert noisy.device == there.device
    assert to_numpy(noisy).tobytes() == noise.apply(x, row).tobytes()


def moments_of(X):
    return Moments.from_sums(X.mean(axis=0), scatter_sums(X.mean(axis=0), X), len(X))


@NOISES
@pytest.mark.parametrize("full", [True, False], ids=["covariance", "variances only"])
def test_moments_are_those_of_rows_with_noise(noise, full):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50_000, 4)) @ rng.normal(size=(4, 4)) + [0.0, 1.0, -2.0, 3.0]
    clean, noisy = moments_of(X), moments_of(noise.apply(X, np.arange(len(X))))
    if not full:
        clean, noisy = (Moments(each.mean, each.variances) for each in (clean, noisy))
    expected = noise.moments(clean)
    assert expected.mean == pytest.approx(noisy.mean, abs=0.05)
    assert expected.covariance == pytest.approx(noisy.covariance, abs=0.15)
    changed = np.abs(expected.covariance - clean.covariance)
    assert changed[..., 3].max() > 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("salt", 0.5), "corruption='salt' is unknown; choose from masking, gaussian"),
        (("masking", 1.0), r"corruption=1\.0 is no amount of masking noise; pass a share"),
        (("masking", 0.0), r"corruption=0\.0 is no amount"),
        (("gaussian", 0.0), "is no amount of gaussian noise; pass a standard deviation above 0"),
        (("gaussian", np.inf), "corruption=inf is no amount"),
        (("gaussian", np.nan), "corruption=nan is no amount"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ArgumentError, match=message):
        Corruption(*settings)
