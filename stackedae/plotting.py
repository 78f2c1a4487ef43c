"""Displays of what was learned."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from skimage.util import montage
from sklearn.utils.validation import check_is_fitted

from stackedae.errors import ArgumentError
from stackedae.estimators import StackedAutoEncoder
from stackedae.layout import Array


class FilterDisplay:
    """Filters of the first layer, side by side.

    Parameters
    ----------
    filters : ndarray of shape (n_filters, height, width) or (n_filters, height, width, channels)
        One image per hidden unit.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes that were drawn on.
    figure_ : matplotlib.figure.Figure
        Figure that contains them.
    im_ : matplotlib.image.AxesImage
        The montage.

    See Also
    --------
    filter_montage : The picture as an array, without matplotlib.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder
    >>> from stackedae.plotting import FilterDisplay
    >>> X = np.random.default_rng(0).random((100, 8, 8))
    >>> sae = StackedAutoEncoder(9, max_iter=3, tol=0, random_state=0).fit(X)
    >>> FilterDisplay.from_estimator(sae).filters.shape
    (9, 8, 8)
    """

    ax_: Any
    figure_: Any
    im_: Any

    def __init__(self, filters: Array) -> None:
        self.filters = filters

    @classmethod
    def from_estimator(
        cls,
        estimator: StackedAutoEncoder,
        *,
        patch_shape: tuple[int, ...] | None = None,
        ax: Any = None,
    ) -> Self:
        """Show the filters of a fitted estimator.

        Parameters
        ----------
        estimator : StackedAutoEncoder
            Fitted.
        patch_shape : tuple of int or None
            Shape of a sample; needed if `fit` saw flat samples whose length is not a square.
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        FilterDisplay
        """
        return cls(filters_of(estimator, patch_shape)).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the montage.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        FilterDisplay
            Itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(5, 5), layout="constrained")
        self.im_ = ax.imshow(filter_montage(self.filters), cmap="gray", vmin=0, vmax=255)
        ax.set(xticks=[], yticks=[], frame_on=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def filters_of(
    estimator: StackedAutoEncoder, patch_shape: tuple[int, ...] | None = None
) -> NDArray[Any]:
    """Return the filters of the first layer as images.

    Parameters
    ----------
    estimator : StackedAutoEncoder
        Fitted.
    patch_shape : tuple of int or None
        Shape of a sample; if None, as `fit` saw it, or a square for flat samples.

    Returns
    -------
    ndarray of shape (n_filters, height, width) or (n_filters, height, width, channels)

    Raises
    ------
    ArgumentError
        If samples are not images of that shape.
    """
    check_is_fitted(estimator)
    shape = estimator.sample_shape_ if patch_shape is None else tuple(patch_shape)
    if len(shape) == 1:
        side = int(np.sqrt(shape[0]))
        shape = (side, side)
    n_features = estimator.n_features_in_
    if len(shape) not in (2, 3) or np.prod(shape) != n_features:
        raise ArgumentError(
            "patch_shape",
            patch_shape,
            f"does not make images of {n_features} features",
            "pass (height, width) or (height, width, channels) with that product",
        )
    return estimator.components_.reshape(-1, *shape)


def filter_montage(filters: Array, *, zoom: int = 1) -> NDArray[np.uint8]:
    """Lay filters out in a square, each stretched so that its largest weight is black or white.

    Zero is mid-grey. Three channels are shown as colours, of any other number the mean.

    Parameters
    ----------
    filters : ndarray of shape (n_filters, height, width) or (n_filters, height, width, channels)
        One image per hidden unit.
    zoom : int
        Pixels along each side of a weight.

    Returns
    -------
    ndarray of shape (rows, columns) or (rows, columns, 3), uint8

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.plotting import filter_montage
    >>> filter_montage(np.array([[[-1.0, 0.0], [0.5, 1.0]]]))[1:-1, 1:-1]
    array([[  0, 128],
           [191, 255]], dtype=uint8)
    """
    if filters.ndim == 4 and filters.shape[-1] != 3:
        filters = filters.mean(axis=-1)
    largest = np.abs(filters).max(axis=tuple(range(1, filters.ndim)), keepdims=True)
    grey = 0.5 + 0.5 * filters / np.where(largest > 0, largest, 1)
    scaled = grey.repeat(zoom, axis=1).repeat(zoom, axis=2)
    channel_axis = -1 if filters.ndim == 4 else None
    fill = [1.0] * 3 if channel_axis else 1.0
    padding = max(1, zoom // 2)
    picture = montage(scaled, fill=fill, padding_width=padding, channel_axis=channel_axis)
    return np.asarray(np.round(255 * picture), dtype=np.uint8)
