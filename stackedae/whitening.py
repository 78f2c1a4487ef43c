"""Whitening of samples, by their covariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import psutil
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OneToOneFeatureMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted

from stackedae.arrays import Scratch
from stackedae.blas import one_blas_thread
from stackedae.cluster import memory_of_workers, task
from stackedae.containers import (
    Container,
    as_array,
    cut_into_shards,
    map_samples,
    refuse_bad_rows,
)
from stackedae.errors import ArgumentError, DataError, MemoryPlanError
from stackedae.layout import Array, Layout, Vector
from stackedae.memory import MIB, TASK_SHARE, row_blocks
from stackedae.moments import first_bad_row
from stackedae.samples import check_samples, named_dims
from stackedae.shards import RowSource, Shards, each_alone


class _Whitener(TransformerMixin, BaseEstimator):
    """What both kinds of whitening share: the covariance, and which directions are kept."""

    def __init__(self, n_components: int | float | None = None, *, epsilon: float = 0.01) -> None:
        self.n_components = n_components
        self.epsilon = epsilon

    def fit(self, X: Container, y: Any = None) -> Self:
        """Compute mean and covariance in one pass over the data, and what whitens them.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples, two at least; trailing dimensions are one sample.
        y : None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        ArgumentError
            If a parameter cannot be worked with; among them ``epsilon=0`` where a component that is
            kept has no variance to divide by.
        DataError
            If X has NaN or infinity, squares that overflow, or a single sample.
        MemoryPlanError
            If samples have so many entries that their covariance does not fit in memory.
        """
        self._check_parameters()
        X = check_samples(self, X, reset=True)
        self._refuse_too_many_components()
        self.sample_shape_ = tuple(X.shape[1:])
        self.mean_, covariance = mean_and_covariance(X)
        variance, components = principal_components(covariance)
        ratio = variance / (variance.sum() or 1.0)
        n = self.n_components_ = _n_kept(self.n_components, ratio)
        self.components_ = components[:n]
        self.explained_variance_ = variance[:n]
        self.explained_variance_ratio_ = ratio[:n]
        self._refuse_to_divide_by_zero(variance)
        self.whitening_ = self._matrix(1 / self._scale)
        return self

    @property
    def _scale(self) -> Vector:
        """The standard deviations that components are divided by."""
        return np.sqrt(self.explained_variance_ + self.epsilon)

    def _matrix(self, factors: Vector) -> Vector:
        """Return what multiplies each component of a centred sample by a factor."""
        raise NotImplementedError

    def _row_function(self) -> Callable[[Array], Array]:
        """Return what `transform` does to rows, as a function of an ndarray of these alone."""
        return partial(_whiten, self.mean_, self.whitening_)

    def _map(
        self,
        function: Callable[[Vector, Array, Array], Array],
        matrix: Vector,
        X: Container,
        sample_dims: Mapping[str, int] | None,
    ) -> Container:
        return map_samples(
            partial(function, self.mean_, matrix),
            X,
            sample_dims=sample_dims,
            dtype=np.result_type(as_array(X).dtype, np.float32),
            name=f"stackedae-{function.__name__.strip('_')}",
        )

    def _check_parameters(self) -> None:
        n: Any = self.n_components
        whole = isinstance(n, _INTEGERS) and n >= 1
        share = isinstance(n, _FLOATS) and 0 < n < 1
        if n is not None and not whole and not share:
            raise ArgumentError(
                "n_components",
                n,
                "is neither a number of components nor a share of the variance",
                "pass an int of 1 or more, a float between 0 and 1, or None for all",
            )
        epsilon: Any = self.epsilon
        if not isinstance(epsilon, _INTEGERS + _FLOATS) or not 0 <= epsilon < np.inf:
            raise ArgumentError(
                "epsilon", epsilon, "is no variance", "pass 0 or more, in squared units of the data"
            )

    def _refuse_too_many_components(self) -> None:
        n, d = self.n_components, self.n_features_in_
        if n is not None and n > d:
            raise ArgumentError(
                "n_components", n, f"is more than the {d} features", f"pass {d} at most, or None"
            )

    def _refuse_to_divide_by_zero(self, variance: Vector) -> None:
        rank = int(np.count_nonzero(variance > 10 * len(variance) * _ROUNDING * variance[0]))
        if self.epsilon == 0 and self.n_components_ > rank:
            raise ArgumentError(
                "epsilon",
                self.epsilon,
                f"divides by the standard deviations of {self.n_components_} components, of which "
                f"{rank} are not zero up to rounding",
                "pass more than 0" + (f", or n_components={rank}" if rank else ""),
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class PCAWhitener(ClassNamePrefixFeaturesOutMixin, _Whitener):
    r"""Turn samples into their principal components, each scaled to about unit variance.

    .. math::

        x \mapsto (\Lambda + \epsilon)^{-1/2} \, U^T (x - \mu)

    where μ is the mean of all samples, the columns of U are the eigenvectors of their covariance
    (divisor n − 1), the largest eigenvalues first, and Λ has these eigenvalues λ. Components come
    out uncorrelated and with variance λ / (λ + ε): 1 where there is signal, and less where λ is
    small against ε and dividing by its root would amplify noise.

    Parameters
    ----------
    n_components : int, float or None
        How many components are kept: a number, or the fewest that have more than this share of the
        variance (a float between 0 and 1), or None for all.
    epsilon : float
        ε, in squared units of the data: the variance of what is noise. The default suits data of a
        range of about 1; for pixels from 0 to 255 the same is 650.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Mean of the samples, μ.
    components_ : ndarray of shape (n_components, n_features)
        Eigenvectors of unit length, as rows; the largest entry of each (the first of equal ones) is
        positive.
    explained_variance_ : ndarray of shape (n_components,)
        Eigenvalues λ, the largest first.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        Their shares of the sum of all eigenvalues.
    n_components_ : int
        Components kept.
    whitening_ : ndarray of shape (n_components, n_features)
        The matrix that multiplies x − μ.
    sample_shape_ : tuple of int
        Shape of one sample, as `fit` saw it.
    n_features_in_ : int
        Entries of one sample, n_features.
    feature_names_in_ : ndarray of str
        Names of the columns, if `fit` saw any.

    See Also
    --------
    ZCAWhitener : The same, turned back into the axes of the data: whitened patches are patches.
    sklearn.decomposition.PCA : Has ``whiten=True``, without ε, for data in memory.

    Notes
    -----
    Sums are in float64, of deviations from a point amid the data: nothing cancels, however far the
    data lie from zero (Chan et al.). `fit` takes as many operations as a product of X with itself,
    n_features² numbers of memory for every task, and in the end n_features³ operations of the
    client.

    References
    ----------
    Hyvärinen, A., Hurri, J., Hoyer, P. O., "Natural Image Statistics", Springer, 2009, chapter 5.
    Chan, T. F., Golub, G. H., LeVeque, R. J., "Algorithms for computing the sample variance:
    analysis and recommendations", The American Statistician 37, 1983.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import PCAWhitener
    >>> X = np.random.default_rng(0).normal(size=(1000, 3)) @ np.diag([1.0, 10.0, 0.1])
    >>> whitener = PCAWhitener(n_components=2, epsilon=0).fit(X)
    >>> np.abs(np.cov(whitener.transform(X).T)).round(6)
    array([[1., 0.],
           [0., 1.]])
    """

    def transform(self, X: Container) -> Container:
        """Whiten samples.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples, n_components)
            Same container and chunks, lazy if X is (a zarr.Array gives a Dask array); float64 if X
            is float64 or of wide integers, else float32. A DataArray keeps the coordinates of its
            samples and has the second dimension "component".

        Raises
        ------
        DataError
            If X has another number of features than the samples of `fit`, or NaN or infinity (for
            lazy X, when it is computed).
        """
        check_is_fitted(self)
        X = check_samples(self, X, reset=False)
        return self._map(_whiten, self.whitening_, X, {"component": self.n_components_})

    def inverse_transform(self, X: Container) -> Container:
        r"""Return the samples that components stand for.

        Exactly, up to rounding, if all components were kept; else their projections on those.

        Parameters
        ----------
        X : container of shape (n_samples, n_components)
            What `transform` returns.

        Returns
        -------
        container of shape (n_samples, \*sample_shape\_)
            Same container and chunks, lazy if X is. The trailing dimensions of a DataArray are
            named as by `StackedAutoEncoder.inverse_transform`.

        Raises
        ------
        DataError
            If X has another shape, or NaN or infinity (for lazy X, when it is computed).
        """
        check_is_fitted(self)
        shape = tuple(as_array(X).shape)
        if shape[1:] != (self.n_components_,):
            raise DataError(
                f"X has shape {shape}, and there are {self.n_components_} components; pass shape "
                f"(n_samples, {self.n_components_}), as transform returns it."
            )
        dims = named_dims(self.sample_shape_)
        return self._map(_unwhiten, self.components_.T * self._scale, X, dims)

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _matrix(self, factors: Vector) -> Vector:
        return factors[:, None] * self.components_


class ZCAWhitener(OneToOneFeatureMixin, _Whitener):
    r"""Remove the correlations between the entries of samples, changing them as little as possible.

    .. math::

        x \mapsto U (\Lambda + \epsilon)^{-1/2} \, U^T (x - \mu)

    where μ is the mean of all samples, the columns of U are the eigenvectors of their covariance
    (divisor n − 1) and Λ has its eigenvalues λ. Of all ways to whiten, this one ("zero-phase")
    leaves whitened samples closest to what they were: patches remain patches, with their edges
    where they were. The covariance of the result has the eigenvalues λ / (λ + ε): it is the
    identity but for directions in which λ is small against ε, and dividing by its root would
    amplify noise.

    Parameters
    ----------
    n_components : int, float or None
        How many directions are kept: a number, or the fewest that have more than this share of the
        variance (a float between 0 and 1), or None for all. What lies in the others is dropped, as
        a low-pass filter does to natural images; the result has the shape of X all the same.
    epsilon : float
        ε, in squared units of the data: the variance of what is noise. The default suits data of a
        range of about 1; for pixels from 0 to 255 the same is 650.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Mean of the samples, μ.
    components_ : ndarray of shape (n_components, n_features)
        Eigenvectors of unit length, as rows; the largest entry of each (the first of equal ones) is
        positive.
    explained_variance_ : ndarray of shape (n_components,)
        Eigenvalues λ, the largest first.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        Their shares of the sum of all eigenvalues.
    n_components_ : int
        Directions kept.
    whitening_ : ndarray of shape (n_features, n_features)
        The matrix that multiplies x − μ; its rows are filters with a centre and a surround.
    sample_shape_ : tuple of int
        Shape of one sample, as `fit` saw it.
    n_features_in_ : int
        Entries of one sample, n_features.
    feature_names_in_ : ndarray of str
        Names of the columns, if `fit` saw any.

    See Also
    --------
    PCAWhitener : Whitened components instead; may have fewer entries.
    whiten_image : Whitens whole images, before patches are cut.

    Notes
    -----
    As for `PCAWhitener`. Where eigenvalues are equal, eigenvectors are a matter of rounding; what
    this transformer does is not.

    References
    ----------
    Bell, A. J., Sejnowski, T. J., "The 'independent components' of natural scenes are edge
    filters", Vision Research 37, 1997.
    Krizhevsky, A., "Learning multiple layers of features from tiny images", University of Toronto,
    2009, appendix A.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import ZCAWhitener
    >>> rng = np.random.default_rng(0)
    >>> patches = rng.random((1000, 4, 4)) + rng.random((1000, 1, 1))
    >>> whitened = ZCAWhitener(epsilon=0).fit_transform(patches)
    >>> whitened.shape, bool(np.allclose(np.cov(whitened.reshape(1000, 16).T), np.eye(16)))
    ((1000, 4, 4), True)
    """

    def transform(self, X: Container) -> Container:
        """Whiten samples.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of the shape of X
            Same container and chunks, lazy if X is (a zarr.Array gives a Dask array); float64 if X
            is float64 or of wide integers, else float32.

        Raises
        ------
        DataError
            If X has another number of features than the samples of `fit`, or NaN or infinity (for
            lazy X, when it is computed).
        """
        check_is_fitted(self)
        X = check_samples(self, X, reset=False)
        return self._map(_whiten, self.whitening_, X, None)

    def inverse_transform(self, X: Container) -> Container:
        """Return samples as they were before `transform`.

        Exactly, up to rounding, if all directions were kept; else without what lay in the others.

        Parameters
        ----------
        X : container of shape (n_samples, …)
            What `transform` returns.

        Returns
        -------
        container of the shape of X
            Same container and chunks, lazy if X is.

        Raises
        ------
        DataError
            If X has another number of features than the samples of `fit`, or NaN or infinity (for
            lazy X, when it is computed).
        """
        check_is_fitted(self)
        X = check_samples(self, X, reset=False)
        return self._map(_unwhiten, self._matrix(self._scale), X, None)

    def _matrix(self, factors: Vector) -> Vector:
        matrix: Vector = (self.components_.T * factors) @ self.components_
        return matrix


def mean_and_covariance(X: Container) -> tuple[Vector, Vector]:
    r"""Return the mean of samples and their covariance with divisor n − 1, from one read of X.

    Sums are in float64, of deviations from a point c, which is the mean of the first shard:

    .. math::

        (n - 1) \, C = \sum (x - c)(x - c)^T - n \, (\mu - c)(\mu - c)^T

    What that subtraction can cancel depends on :math:`(\mu - c)^2 / \sigma^2`, for which the rows
    of that shard, being part of the data, leave little room: at most the number of shards.

    Parameters
    ----------
    X : container of shape (n_samples, …)
        Samples; trailing dimensions are flattened.

    Returns
    -------
    mean : ndarray of shape (n_features,), float64
    covariance : ndarray of shape (n_features, n_features), float64

    Raises
    ------
    DataError
        If X has NaN or infinity, squares that overflow, or a single sample.
    MemoryPlanError
        If the covariance does not fit in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.whitening import mean_and_covariance
    >>> mean, covariance = mean_and_covariance(np.array([[1e9, 0], [1e9 + 2, 4]]))
    >>> covariance
    array([[2., 4.],
           [4., 8.]])
    """
    X = as_array(X)  # once: a stored array is opened for it
    shards = _with_first_loaded(cut_into_shards(X))
    n = shards.n_rows
    if n < 2:
        raise DataError("X has 1 sample (n_samples = 1), of which there is no covariance; pass 2.")
    _refuse_too_wide(shards)
    # A task, not a value: known to the others before they begin, in the same round trip.
    center = task("stackedae-center", _center, shards.blocks[0])
    sums = shards.sum(each_alone(_scatter_sums), center, name="stackedae-covariance")
    if not np.isfinite(sums).all():
        refuse_bad_rows(X, shards.rows, shards.gather(first_bad_row, name="stackedae-check"))
        raise DataError("X has entries whose squares overflow; scale it to about [0, 1].")
    total = _layout(shards.n_features).unpack(sums)
    off_center = total["deviations"] / n
    scatter = total["scatter"] - n * np.outer(off_center, off_center)
    return total["centers"] / n + off_center, scatter / (n - 1)


def principal_components(covariance: Vector) -> tuple[Vector, Vector]:
    """Return the eigenvalues of a covariance, the largest first, and eigenvectors as rows.

    Signs are such that the largest entry of each is positive, the first one of several that are as
    large up to rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.whitening import principal_components
    >>> variance, components = principal_components(np.array([[1.0, 0.0], [0.0, 4.0]]))
    >>> variance.tolist(), components.tolist()
    ([4.0, 1.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    with one_blas_thread():  # the bits depend on how many there are
        values, vectors = np.linalg.eigh(covariance)
    components = np.ascontiguousarray(vectors.T[::-1])
    size = np.abs(components)
    leading = np.argmax(size > (1 - 1e-6) * size.max(axis=1, keepdims=True), axis=1)
    components *= np.sign(components[np.arange(len(components)), leading])[:, None]
    return np.maximum(values[::-1], 0.0), components + 0.0  # no −0


_INTEGERS, _FLOATS = (int, np.integer), (float, np.floating)

_ROUNDING = float(np.finfo(np.float64).eps)

_SCRATCH = Scratch()

_COPIES_HERE = 8
"""Matrices of the size of the covariance that its eigenvectors take to compute."""


def _n_kept(wanted: int | float | None, ratio: Vector) -> int:
    """Return how many components are wanted, given their shares of the variance."""
    if wanted is None:
        return len(ratio)
    if isinstance(wanted, _INTEGERS):
        return int(wanted)
    more_than = int(np.searchsorted(np.cumsum(ratio), wanted, side="right"))
    return min(more_than + 1, len(ratio))


def _with_first_loaded(shards: Shards) -> Shards:
    """Have the first shard come as a whole, for two tasks to use what is read once."""
    first = task("stackedae-load", _whole, shards.blocks[0])
    return replace(shards, blocks=[first, *shards.blocks[1:]])


def _whole(block: Array | RowSource) -> Array:
    return np.concatenate(list(block.portions())) if isinstance(block, RowSource) else block


def _center(rows: Array) -> Vector:
    with np.errstate(over="ignore", invalid="ignore"):
        center: Vector = rows.mean(axis=0, dtype=np.float64)
    return center


def _layout(n_features: int) -> Layout:
    """Return how sums lie: of the centre, of deviations from it, and of their products."""
    return Layout.of(
        centers=(n_features,), deviations=(n_features,), scatter=(n_features, n_features)
    )


def _scatter_sums(center: Vector, rows: Array, out: Vector | None) -> Vector:
    """Return the sums of `_layout`; NaN, infinity and overflow show in them."""
    n_rows, d = rows.shape
    layout = _layout(d)
    total = layout.zeros() if out is None else out
    sums = layout.unpack(total)
    with np.errstate(over="ignore", invalid="ignore"):
        for part in row_blocks(n_rows, d):
            block = _SCRATCH.empty("deviations", (part.stop - part.start, d), "float64")
            np.subtract(rows[part], center, out=block)
            sums["deviations"] += block.sum(axis=0)
            sums["scatter"] += block.T @ block
    sums["centers"] += n_rows * center
    return total


def _whiten(mean: Vector, matrix: Array, rows: Array) -> Array:
    """Return (rows − mean) times the transpose of a matrix, in the precision of the rows."""
    matrix = matrix.astype(np.result_type(rows.dtype, np.float32), copy=False)
    out = np.empty((len(rows), len(matrix)), matrix.dtype)
    for part in row_blocks(*rows.shape):
        shape = (part.stop - part.start, rows.shape[1])
        block = _SCRATCH.empty("centred", shape, str(matrix.dtype))
        # In float64 and rounded afterwards: far from zero, the digits of the mean count.
        np.subtract(rows[part], mean, out=block, casting="same_kind")
        np.matmul(block, matrix.T, out=out[part])
    return out


def _unwhiten(mean: Vector, matrix: Array, rows: Array) -> Array:
    """Return rows times the transpose of a matrix, plus the mean."""
    matrix = matrix.astype(np.result_type(rows.dtype, np.float32), copy=False)
    out = np.empty((len(rows), len(matrix)), matrix.dtype)
    for part in row_blocks(len(rows), max(matrix.shape)):
        product = rows[part].astype(matrix.dtype, copy=False) @ matrix.T
        np.add(product, mean, out=out[part], casting="same_kind")
    return out


def _refuse_too_wide(shards: Shards) -> None:
    d = shards.n_features
    matrix = 8 * d * d / MIB
    of_task = (3 + shards.shards_per_task.bit_length()) * matrix
    memory, here = memory_of_workers(), psutil.virtual_memory().available / MIB
    there = TASK_SHARE * memory.per_thread / MIB
    if of_task > there or _COPIES_HERE * matrix > here:
        raise MemoryPlanError(
            f"The covariance of {d} features takes {matrix:.0f} MiB, {of_task:.0f} for a task and "
            f"{_COPIES_HERE * matrix:.0f} for its eigenvectors on the client; {memory.where} has "
            f"{there:.0f} MiB for each of its threads, and the client {here:.0f}; cut smaller "
            "patches, or whiten whole images with whiten_image."
        )
