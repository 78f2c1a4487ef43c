"""Transformers that prepare patches."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from stackedae.containers import Container, cut_into_shards, map_samples, refuse_bad_rows
from stackedae.contrast import centred_squares, normalise_contrast
from stackedae.errors import ArgumentError
from stackedae.layout import Array
from stackedae.moments import first_bad_row
from stackedae.samples import check_samples, masks


class ContrastNormalizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Remove the mean of every patch, clip at a few σ of all, and scale to a range.

    The classic preparation of natural image patches for an auto-encoder with logistic output:

    .. math::

        x \mapsto m + \frac{w}{2} \cdot
        \frac{\mathrm{clip}(x - \bar x, -c\sigma, c\sigma)}{c\sigma}

    where :math:`\bar x` is the mean of the patch, σ the standard deviation of all entries of all
    patches after that mean is removed, m the middle of the range and w its width.

    Parameters
    ----------
    n_std : float
        The standard deviations at which to clip, c.
    feature_range : (float, float)
        What −cσ and +cσ become.
    missing : {"raise", "mask"}
        What to do about entries that are NaN. "mask" leaves them as they are, and out of means and
        σ. Infinity is refused either way.

    Attributes
    ----------
    std_ : float
        The standard deviation σ (divisor: the number of entries that are present), exact over all
        chunks.
    n_features_in_ : int
        Entries of a patch.
    feature_names_in_ : ndarray of str
        Names of the columns, if `fit` saw any.

    See Also
    --------
    StackedAutoEncoder : What usually comes next.

    References
    ----------
    Ng, A., "Sparse autoencoder", CS294A lecture notes, Stanford, 2011; the exercise's
    ``normalizeData``.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import ContrastNormalizer
    >>> patches = np.random.default_rng(0).normal(size=(100, 8, 8))
    >>> normalized = ContrastNormalizer().fit_transform(patches)
    >>> normalized.shape, round(float(normalized.min()), 2), round(float(normalized.max()), 2)
    ((100, 8, 8), 0.1, 0.9)
    """

    def __init__(
        self,
        *,
        n_std: float = 3.0,
        feature_range: tuple[float, float] = (0.1, 0.9),
        missing: str = "raise",
    ) -> None:
        self.n_std = n_std
        self.feature_range = feature_range
        self.missing = missing

    def fit(self, X: Container, y: Any = None) -> Self:
        """Compute σ in one pass over the data.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Patches; trailing dimensions are one sample.
        y : None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        ArgumentError
            If a parameter cannot be worked with.
        DataError
            If X has infinity, or NaN that is not to be masked.
        """
        self._check_parameters()
        missing = masks(self.missing)
        X = check_samples(self, X, reset=True)
        shards = cut_into_shards(X)
        examined = shards.gather(partial(_examine, missing=missing), name="stackedae-contrast")
        first_bad, squares, n_present = zip(*examined, strict=True)
        refuse_bad_rows(X, shards.rows, first_bad, missing=missing)
        self.std_ = math.sqrt(math.fsum(squares) / max(1, sum(n_present)))
        return self

    def transform(self, X: Container) -> Container:
        """Normalise patches.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Patches.

        Returns
        -------
        container of the shape of X
            Same container and chunks, lazy if X is (a zarr.Array gives a Dask array); float64 if X
            is float64 or of wide integers, else float32.
        """
        check_is_fitted(self)
        X = check_samples(self, X, reset=False)
        return map_samples(
            self._row_function(),
            X,
            sample_dims=None,
            dtype=np.result_type(X.dtype, np.float32),
            name="stackedae-normalize",
            missing=masks(self.missing),
        )

    def _row_function(self) -> Callable[[Array], Array]:
        """Return what `transform` does to rows, as a function of an ndarray of these alone."""
        low, high = self.feature_range
        return partial(normalise_contrast, bound=self._bound(), low=low, high=high)

    def _bound(self) -> float:
        """Return cσ; patches that are all flat have none, and any bound maps them to the middle."""
        return self.n_std * self.std_ or 1.0

    def _check_parameters(self) -> None:
        if not 0 < self.n_std < np.inf:
            raise ArgumentError("n_std", self.n_std, "clips everything away", "pass 3, say")
        low, high = self.feature_range
        if not low < high:
            raise ArgumentError(
                "feature_range", self.feature_range, "is empty", "pass (low, high) with low < high"
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags


def _examine(rows: Array, *, missing: bool) -> tuple[int, float, int]:
    """Return the first bad row, or −1, and what `centred_squares` does; in one read."""
    bad = first_bad_row(rows, missing=missing)
    return bad, *((0.0, 0) if bad >= 0 else centred_squares(rows))
