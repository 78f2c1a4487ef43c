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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 2])
def test_first_bad_row(bad, row):
    X = np.zeros((4, 3), np.float32)
    assert first_bad_row(X) == -1
    X[row, 1] = X[3, 2] = bad
    assert first_bad_row(X) == row


def test_large_numbers_are_not_infinite():
    assert first_bad_row(np.full((4, 3), 1.7e308)) == -1
    assert first_bad_row(np.zeros((2, 2), np.uint8)) == -1
