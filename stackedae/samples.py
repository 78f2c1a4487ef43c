"""What every estimator asks of its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from stackedae.containers import Container, as_array, is_lazy_or_labelled, n_columns
from stackedae.errors import ArgumentError, DataError
from stackedae.images import CHANNEL, CHANNELS
from stackedae.layers import Layer
from stackedae.layout import Array
from stackedae.progress import Record
from stackedae.solvers import Status

MISSING = ("raise", "mask")
"""What can be done about entries that are missing: NaN."""


class FittedStack(Protocol):
    """A fitted estimator of layers: all of this library are."""

    @property
    def layers_(self) -> Sequence[Layer]:
        """Layers, from the data up."""

    @property
    def tuning_status_(self) -> Status | None:
        """How the training of all layers together ended, if there was one."""

    @property
    def history_(self) -> Sequence[Record]:
        """Records of all iterations."""

    @property
    def sample_shape_(self) -> tuple[int, ...]:
        """Shape of a sample, as fit saw it."""

    @property
    def sample_dims_(self) -> tuple[str, ...] | None:
        """Names of the dimensions of a sample, if fit saw any."""

    @property
    def channel_names_(self) -> tuple[str, ...] | None:
        """Names of the channels, if fit saw any."""

    @property
    def n_features_in_(self) -> int:
        """Entries of a sample."""


@runtime_checkable
class Reconstructing(FittedStack, Protocol):
    """One that leads back to the data: `StackedAutoEncoder`, or what has its methods."""

    def reconstruct(self, X: Container) -> Container:
        """Return samples after a pass up and down."""

    def reconstruction_error(self, X: Container) -> Container:
        """Return the error of every sample."""


def check_samples(estimator: BaseEstimator, X: Any, *, reset: bool) -> Container:
    """Check samples as scikit-learn would, but leave lazy and labelled containers as they are.

    Parameters
    ----------
    estimator : BaseEstimator
        Its `n_features_in_` (and `feature_names_in_`) are set if `reset`, else compared.
    X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
        Samples. Values are not looked at here: NaN and infinity are found where the rows are.
    reset : bool
        Whether this is `fit`.

    Returns
    -------
    container
        X; an ndarray if it was none of Dask, xarray and Zarr.

    Raises
    ------
    DataError
        If X does not have the number of features that the estimator was fitted with.
    ValueError
        As scikit-learn's checks do.
    """
    if not is_lazy_or_labelled(X):
        if getattr(X, "ndim", 2) <= 2:
            return validate_data(
                estimator, X, reset=reset, dtype="numeric", ensure_all_finite=False
            )
        X = np.asarray(X)
    as_array(X)
    n_features = n_columns(X)
    if reset:
        estimator.n_features_in_ = n_features
        estimator.__dict__.pop("feature_names_in_", None)
    elif n_features != estimator.n_features_in_:
        raise DataError(
            f"X has {n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input; pass samples like those of fit."
        )
    return X


def row_function(transformer: Any) -> Callable[[Array], Array]:
    """Return what a fitted transformer does to rows, for tasks.

    One of this library has a method `_row_function`, which spares them the checks and threads of
    `transform`.
    """
    own = getattr(transformer, "_row_function", None)
    function: Callable[[Array], Array] = transformer.transform if own is None else own()
    return function


def names_of_channels(X: Container) -> tuple[str, ...] | None:
    """Return the names of the channels of patches, if they have any: of a DataArray only."""
    if not isinstance(X, xr.DataArray) or X.dims[-1] != CHANNEL:
        return None
    labels = X.coords[CHANNEL].values if CHANNEL in X.coords else X.attrs.get(CHANNELS, ())
    return tuple(map(str, labels)) if len(labels) == X.shape[-1] else None


def named_dims(
    sample_shape: tuple[int, ...], dims: tuple[str, ...] | None = None
) -> dict[str, int]:
    """Return the dimensions of a sample by name: as `fit` saw them, or as users expect them.

    Examples
    --------
    >>> from stackedae.samples import named_dims
    >>> named_dims((8, 8)), named_dims((64,))
    ({'y': 8, 'x': 8}, {'feature': 64})
    """
    names = {1: ("feature",), 2: ("y", "x"), 3: ("y", "x", "channel")}
    numbered = tuple(f"dim_{i + 1}" for i in range(len(sample_shape)))
    return dict(zip(dims or names.get(len(sample_shape), numbered), sample_shape, strict=True))


def masks(missing: Any) -> bool:
    """Say whether a user who passed this wants missing entries left out, and not refused.

    Raises
    ------
    ArgumentError
        If it is none of `MISSING`.
    """
    if missing not in MISSING:
        raise ArgumentError("missing", missing, "is unknown", f"choose from {', '.join(MISSING)}")
    return bool(missing == "mask")
