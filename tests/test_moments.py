import math
from functools import partial

import numpy as np
import pytest

from stackedae.moments import (
    MAX_FULL_COVARIANCE,
    Moments,
    column_sums,
    first_bad_row,
    scatter_sums,
    survey_sums,
)


@pytest.mark.parametrize(
    ("dtype", "rel"), [(np.float64, 1e-12), (np.float32, 1e-4), (np.uint8, 1e-4)]
)
def test_covariance_is_numpys(dtype, rel):
    X = np.random.default_rng(0).integers(0, 200, (3000, 7)).astype(dtype)
    mean = X.mean(axis=0, dtype=np.float64)
    sums = scatter_sums(mean, X[:1000]) + scatter_sums(mean, X[1000:])
    moments = Moments.from_sums(mean, sums, len(X))
    assert moments.covariance == pytest.approx(np.cov(X.T, bias=True), rel=rel, abs=rel * 1e4)
    assert moments.standard_deviation == pytest.approx(np.sqrt(X.var(axis=0).mean()), rel=1e-3)


def test_rows_far_from_zero_lose_nothing():
    X = 1e9 + np.random.default_rng(0).normal(size=(500, 3))
    mean = X.mean(axis=0)
    covariance = Moments.from_sums(mean, scatter_sums(mean, X), len(X)).covariance
    assert covariance == pytest.approx(np.cov((X - 1e9).T, bias=True), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("d", [3, MAX_FULL_COVARIANCE + 1])
def test_rows_that_are_all_the_same_do_not_vary(d):
    X = np.full((1001, d), 0.7)
    mean = column_sums(X) / len(X)
    assert (mean != 0.7).any()  # rounded, so that rows seem to deviate from it
    moments = Moments.from_sums(mean, scatter_sums(mean, X), len(X))
    assert moments.standard_deviation == 0
    assert not moments.covariance.any()
    X[0] += 1e-9
    mean = column_sums(X) / len(X)
    assert Moments.from_sums(mean, scatter_sums(mean, X), len(X)).standard_deviation > 0


def test_many_columns_give_variances_only():
    X = np.random.default_rng(0).normal(size=(20, MAX_FULL_COVARIANCE + 1))
    moments = Moments.from_sums(X.mean(axis=0), scatter_sums(X.mean(axis=0), X), len(X))
    assert moments.covariance == pytest.approx(X.var(axis=0))


def test_survey_counts_what_lies_outside():
    X = np.array([[0.0, 1.0], [1.1, -0.1], [0.5, 0.5]])
    assert survey_sums(X)[:2].tolist() == [2, 0]
    assert survey_sums(X[1:], survey_sums(X[:1])).tolist() == survey_sums(X).tolist()
    assert column_sums(X[1:], column_sums(X[:1])) == pytest.approx([1.6, 1.4])
    many = np.random.default_rng(0).normal(size=(3000, 4))
    outside = ((many < 0) | (many > 1)).sum()
    assert survey_sums(many)[:2].tolist() == [outside, 0]
    assert column_sums(many) == pytest.approx(many.sum(axis=0))
    many[2000, 1] = np.nan
    assert survey_sums(many)[1] == 1


def with_gaps(X, share=0.2):
    return np.where(np.random.default_rng(3).random(X.shape) < share, X.dtype.type(np.nan), X)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_survey_sums_up_what_is_present(dtype):
    X = with_gaps(np.random.default_rng(0).normal(size=(9000, 64)).astype(dtype))
    X[:, 5], X[7] = np.nan, np.nan
    total = survey_sums(X, missing=True)
    n_outside, n_bad, _ = total[:3]
    n_present, present = total[3:].reshape(2, 64)
    assert n_outside == ((X < 0) | (X > 1)).sum()
    assert n_bad == 0
    assert n_present.tolist() == (~np.isnan(X)).sum(axis=0).tolist()
    exact = [math.fsum(column[~np.isnan(column)]) for column in X.T.astype(float)]
    assert present == pytest.approx(exact, rel=1e-12, abs=1e-10)
    assert survey_sums(X[4096:], survey_sums(X[:4096], missing=True), missing=True).tobytes() == (
        total.tobytes()
    )
    X[8000, 1] = -np.inf
    assert survey_sums(X, missing=True)[1] == 1


def test_survey_of_rows_without_gaps_sums_up_columns():
    X = np.random.default_rng(0).integers(0, 255, (3000, 7)).astype(np.uint8)
    total = survey_sums(X, missing=True)
    assert total[:3].tolist() == survey_sums(X).tolist()
    assert total[3:].tolist() == [3000] * 7 + X.sum(axis=0).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_are_those_of_the_filled_rows(dtype):
    rng = np.random.default_rng(0)
    X, fill = with_gaps(rng.random((3000, 7)).astype(dtype)), tuple(map(float, range(7)))
    filled = np.where(np.isnan(X), np.array(fill, dtype), X)
    assert column_sums(X, fill=fill).tobytes() == column_sums(filled).tobytes()
    center = filled.mean(axis=0)
    scatter = scatter_sums(center, X, fill=fill)
    assert scatter.tobytes() == scatter_sums(center, filled).tobytes()


@pytest.mark.parametrize("n_features", [7, MAX_FULL_COVARIANCE + 1])
@pytest.mark.parametrize(
    ("dtype", "rel"), [(np.uint8, 1e-5), (np.float32, 1e-5), (np.float64, 1e-12)]
)
def test_a_weight_is_so_many_rows(n_features, dtype, rel):
    rng = np.random.default_rng(0)
    X = (9 * rng.random((1500, n_features))).astype(dtype)
    X = with_gaps(X) if X.dtype.kind == "f" else X
    fill, times = tuple(rng.random(n_features)), rng.integers(0, 4, len(X))
    repeated, shares = np.repeat(X, times, axis=0), times.astype(np.float64)
    center = column_sums(repeated, fill=fill) / len(repeated)
    for weight in (times, shares):
        assert column_sums(X, fill=fill, weight=weight) / times.sum() == pytest.approx(center)
        scatter = scatter_sums(center, X, fill=fill, weight=weight)
        expected = scatter_sums(center, repeated, fill=fill)
        assert scatter == pytest.approx(expected, rel=rel, abs=rel * np.abs(expected).max())
        if n_features == 7:
            assert (scatter.reshape(7, 7) == scatter.reshape(7, 7).T).all()
        survey = survey_sums(X, missing=True, weight=weight)
        assert survey[:3].tolist() == survey_sums(X, missing=True)[:3].tolist()
        assert survey[3:] == pytest.approx(survey_sums(repeated, missing=True)[3:], rel=1e-12)


def test_weighted_sums_of_chunks_add_up():
    rng = np.random.default_rng(0)
    X, weight = with_gaps(rng.random((1500, 7))), rng.random(1500)
    fill, parts = (0.5,) * 7, (slice(1024), slice(1024, None))
    for sums in (
        partial(column_sums, fill=fill),
        partial(scatter_sums, np.arange(7.0), fill=fill),
        partial(survey_sums, missing=True),
    ):
        out = None
        for rows in parts:
            out = sums(X[rows], out, weight=weight[rows])
        assert out == pytest.approx(sums(X, weight=weight), rel=1e-13)


def test_moments_of_weighted_rows_are_numpys():
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(500, 3)), rng.random(500)
    mean = column_sums(X, weight=weight) / weight.sum()
    assert mean == pytest.approx(np.average(X, axis=0, weights=weight))
    moments = Moments.from_sums(mean, scatter_sums(mean, X, weight=weight), weight.sum())
    assert moments.covariance == pytest.approx(np.cov(X.T, aweights=weight, ddof=0))
    assert moments.variances == pytest.approx(np.diag(moments.covariance))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 2])
def test_first_bad_row(bad, row):
    X = np.zeros((4, 3), np.float32)
    assert first_bad_row(X) == -1
    X[row, 1] = X[3, 2] = bad
    assert first_bad_row(X) == row
    X[0, 0] = np.nan
    assert first_bad_row(X, missing=True) == (-1 if np.isnan(bad) else row)


def test_large_numbers_are_not_infinite():
    assert first_bad_row(np.full((4, 3), 1.7e308)) == -1
    assert first_bad_row(np.zeros((2, 2), np.uint8)) == -1
