"""What rows are like: their range, mean and covariance, from sums that chunks contribute."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.arrays import filled
from stackedae.layout import Array, Vector
from stackedae.memory import row_blocks

MAX_FULL_COVARIANCE = 2048
"""Columns up to which covariances are computed, and not variances only: 32 MB of float64."""

ROUNDING = 1e-12
"""Deviations in units of the mean below which rows do not vary: sums of many round about so."""


@dataclass(frozen=True)
class Moments:
    """The first two moments of rows.

    Parameters
    ----------
    mean : ndarray of shape (n_features,)
        Mean row.
    covariance : ndarray of shape (n_features, n_features) or (n_features,)
        Covariance with divisor n_rows (of weighted rows: the sum of their weights); its diagonal
        alone above `MAX_FULL_COVARIANCE` columns.
    """

    mean: Vector
    covariance: Vector

    @property
    def standard_deviation(self) -> float:
        """Root of the mean variance of the columns."""
        return float(np.sqrt(self.variances.mean()))

    @property
    def variances(self) -> Vector:
        """Variance of every column, (n_features,)."""
        return np.diag(self.covariance) if self.covariance.ndim == 2 else self.covariance

    @classmethod
    def from_sums(cls, mean: Vector, scatter: Vector, n_rows: float) -> Moments:
        """Make moments from the mean and the sum of `scatter_sums` around it.

        `n_rows` is the sum of the weights, if rows have any. Where all that varies is the rounding
        of the mean, the covariance is zero, which others know how to deal with.
        """
        d = len(mean)
        covariance = scatter / n_rows
        variance = float((covariance if scatter.size == d else covariance[:: d + 1]).sum())
        if variance <= ROUNDING**2 * float(mean @ mean):
            covariance = np.zeros_like(covariance)
        return cls(mean, covariance if scatter.size == d else covariance.reshape(d, d))


def scatter_sums(
    center: Vector,
    X: Array,
    out: Vector | None = None,
    *,
    fill: Sequence[float] = (),
    weight: NDArray[Any] | None = None,
) -> Vector:
    r"""Return :math:`\sum w (x - c)(x - c)^T` over the rows of X, flattened and in float64.

    Only the diagonal is returned above `MAX_FULL_COVARIANCE` columns. Additive over rows. With the
    mean as `center` nothing cancels, however far the rows lie from zero. Products of blocks of rows
    are in the precision of X, at least float32.

    Parameters
    ----------
    center : ndarray of shape (n_features,)
        The point c.
    X : ndarray of shape (n_rows, n_features)
        Rows.
    out : ndarray or None
        Sums over rows that came before: added to, and returned.
    fill : sequence of float
        What stands in for entries that are missing, one per feature; empty: none is.
    weight : ndarray of shape (n_rows,), or None
        w of each row; all are 1 if None.

    Returns
    -------
    ndarray of shape (n_features²,) or (n_features,), float64
    """
    d = X.shape[1]
    full = d <= MAX_FULL_COVARIANCE
    shape = (d, d) if full else (d,)
    total = np.zeros(shape) if out is None else out.reshape(shape)
    dtype = np.result_type(X.dtype, np.float32)
    for rows in row_blocks(len(X), X.shape[1]):
        block = (filled(X[rows], fill) - center).astype(dtype)
        if weight is not None:
            block *= np.sqrt(weight[rows])[:, None].astype(dtype)  # so the product is symmetric
        total += block.T @ block if full else np.einsum("ij,ij->j", block, block)
    return total.ravel()


def column_sums(
    X: Array,
    out: Vector | None = None,
    *,
    fill: Sequence[float] = (),
    weight: NDArray[Any] | None = None,
) -> Vector:
    """Return the (weighted) sum of every column of X, (n_features,) in float64.

    Parameters are those of `scatter_sums`.
    """
    total = np.zeros(X.shape[1]) if out is None else out
    for rows in row_blocks(len(X), X.shape[1]):
        total += _sum_of(filled(X[rows], fill), _part(weight, rows))
    return total


def survey_sums(
    X: Array,
    out: Vector | None = None,
    *,
    missing: bool = False,
    weight: NDArray[Any] | None = None,
) -> Vector:
    """Return what is to be known of rows before they are used.

    That is the number of entries outside [0, 1], the number of blocks with NaN or infinity, and a
    CRC-32 of the bytes, which goes on from that in `out`. If entries may be `missing`, NaN is no
    harm; then there are also the number and the sum of the entries that are present, by column,
    both with the weights of the rows.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        Rows.
    out : ndarray or None
        Sums over rows that came before: added to, and returned.
    missing : bool
        Whether NaN stands for entries that are missing.
    weight : ndarray of shape (n_rows,), or None
        Weight of each row; all are 1 if None.

    Returns
    -------
    ndarray of shape (3,) or (3 + 2·n_features,), float64
        Sums over shards, whose rows may come in any portions, are the same.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.moments import survey_sums
    >>> survey_sums(np.array([[0.0, 1.0], [0.5, 1.5]])).astype(int)
    array([        1,         0, 756087756])
    """
    total = np.zeros(3 + (2 * X.shape[1] if missing else 0)) if out is None else out
    total[2] = zlib.crc32(np.ascontiguousarray(X).data, int(total[2]))
    for rows in row_blocks(len(X), X.shape[1]):
        block = X[rows]
        total[0] += np.count_nonzero((block < 0) | (block > 1))
        bad = first_bad_row(block, missing=missing) >= 0
        total[1] += bad
        if missing and not bad:
            n_present, present = total[3:].reshape(2, -1)
            is_missing, of_each = np.isnan(block), _part(weight, rows)
            n_present += _sum_of(~is_missing, of_each)
            present += _sum_of(np.where(is_missing, block.dtype.type(0), block), of_each)
    return total


def _part(weight: NDArray[Any] | None, rows: slice) -> Vector | None:
    return None if weight is None else weight[rows].astype(np.float64)


def _sum_of(block: NDArray[Any], weight: Vector | None) -> Vector:
    """Return the (weighted) sum of rows."""
    total: Vector = block.sum(axis=0, dtype=np.float64) if weight is None else weight @ block
    return total


def checksum_of_rows(X: Array) -> int:
    """Return a CRC-32 of the bytes of X.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.moments import checksum_of_rows
    >>> checksum_of_rows(np.array([[0.0, 1.0], [0.5, 1.5]]))
    756087756
    """
    return zlib.crc32(np.ascontiguousarray(X).data)


def first_bad_row(X: Array, *, missing: bool = False) -> int:
    """Return the index of the first row of X with infinity, or NaN unless `missing`; else −1.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.moments import first_bad_row
    >>> first_bad_row(np.array([[0.0, 1.0], [np.nan, 0.0]]))
    1
    >>> first_bad_row(np.array([[0.0, 1.0], [np.nan, 0.0]]), missing=True)
    -1
    """
    if X.dtype.kind != "f":
        return -1
    with np.errstate(over="ignore", invalid="ignore"):
        # One number says that all is well; where it overflows, all are looked at.
        if np.isfinite(X.sum(dtype=np.result_type(X.dtype, np.float32))):
            return -1
    bad = (np.isinf(X) if missing else ~np.isfinite(X)).any(axis=1)
    return int(np.argmax(bad)) if bad.any() else -1
