"""What units respond to: their filters, or the samples that activate them most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from stackedae.containers import Container
from stackedae.errors import ArgumentError
from stackedae.layout import Array
from stackedae.plotting.axes import axes_or_new, show_picture
from stackedae.plotting.best_samples import best_samples
from stackedae.plotting.fitted import layer_of
from stackedae.plotting.pictures import (
    ChannelAxis,
    as_pictures,
    channel_axis_of,
    coloured,
    described_shape,
    grouped,
    joined,
    names_of_axes,
    shape_of_samples,
    side_by_side,
    stretched,
    stretched_around_zero,
)
from stackedae.samples import FittedStack

_KINDS = ("weights", "patches")


class FilterDisplay:
    r"""What the units of a layer respond to, side by side.

    Units come in the order of their numbers, row by row. Two kinds of pictures can be shown:

    - ``kind="weights"``: filters. Each is stretched by itself, so that zero is mid-grey and its
      largest weight is black or white. Those of the first layer are the rows of its W1. Those of a
      higher one are sums of the filters below, weighted by its own:
      :math:`F_l = W_1^{(l)} F_{l-1}`, a linear view that leaves the activation functions out.
    - ``kind="patches"``: for each unit, the samples that activate it most, the best one first; all
      on the same scale. This tells of any layer what it really responds to.

    Three channels are shown as colours. Of any other number, each channel is shown in grey, beside
    the others; so are the slices of three-dimensional samples (z, y, x).

    Parameters
    ----------
    filters : ndarray of shape (n_units, \*sample_shape) or (n_units, n_best, \*sample_shape)
        One picture per unit, or some samples for each; samples are (height, width), (height, width,
        channels), (depth, height, width) or (depth, height, width, channels).
    kind : {"weights", "patches"}
        What they are.
    channel_axis : int, None or "auto"
        The axis of a sample that holds channels; None if there is none. "auto" takes the last of
        three or more if it is no longer than 4.
    label : str
        What the units are called.

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
    filter_montage : A picture as an array, without matplotlib.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import FilterDisplay, StackedAutoEncoder
    >>> X = np.random.default_rng(0).random((100, 8, 8))
    >>> sae = StackedAutoEncoder((9, 4), max_iter=3, tol=0, random_state=0).fit(X)
    >>> FilterDisplay.from_estimator(sae).filters.shape
    (9, 8, 8)
    >>> FilterDisplay.from_estimator(sae, layer=1, kind="patches", X=X, n_best=6).filters.shape
    (4, 6, 8, 8)
    """

    ax_: Any
    figure_: Any
    im_: Any

    def __init__(
        self,
        filters: Array,
        *,
        kind: Literal["weights", "patches"] = "weights",
        channel_axis: ChannelAxis = "auto",
        label: str = "units",
    ) -> None:
        if kind not in _KINDS:
            raise ArgumentError("kind", kind, "is unknown", f"choose from {', '.join(_KINDS)}")
        self.filters, self.kind, self.label = filters, kind, label
        shape = filters.shape[1 if kind == "weights" else 2 :]
        self.channel_axis = channel_axis_of(shape, channel_axis)

    @classmethod
    def from_estimator(
        cls,
        estimator: FittedStack,
        *,
        layer: int = 0,
        kind: Literal["weights", "patches"] = "weights",
        X: Container | None = None,
        n_best: int = 9,
        units: Sequence[int] | None = None,
        patch_shape: tuple[int, ...] | None = None,
        channel_axis: ChannelAxis = "auto",
        ax: Any = None,
    ) -> Self:
        """Show what the units of a layer respond to.

        Parameters
        ----------
        estimator : StackedAutoEncoder
            Fitted.
        layer : int
            Which layer; 0 is the one next to the data.
        kind : {"weights", "patches"}
            Filters, or the samples of X that activate the units most.
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …), or None
            Where to look for samples; needed for "patches" only. It is read once, where it is, and
            no more of it is held than the samples that are the best so far.
        n_best : int
            How many samples for each unit.
        units : sequence of int or None
            Which units; all if None.
        patch_shape : tuple of int or None
            Shape of a sample; needed if `fit` saw flat samples whose length is not a square.
        channel_axis : int, None or "auto"
            The axis of a sample that holds channels; None if there is none. "auto" goes by the
            names of dimensions, if `fit` saw any ("channel" or "band", say); else the last of three
            or more holds channels if it is no longer than 4.
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        FilterDisplay
        """
        made = cls.computed(
            estimator,
            layer=layer,
            kind=kind,
            X=X,
            n_best=n_best,
            units=units,
            patch_shape=patch_shape,
            channel_axis=channel_axis,
        )
        return made.plot(ax=ax)

    @classmethod
    def computed(
        cls,
        estimator: FittedStack,
        *,
        layer: int = 0,
        kind: Literal["weights", "patches"] = "weights",
        X: Container | None = None,
        n_best: int = 9,
        units: Sequence[int] | None = None,
        patch_shape: tuple[int, ...] | None = None,
        channel_axis: ChannelAxis = "auto",
    ) -> Self:
        """Return what `from_estimator` would draw, without drawing it; matplotlib is not needed.

        Parameters
        ----------
        estimator, layer, kind, X, n_best, units, patch_shape, channel_axis
            As for `from_estimator`.

        Returns
        -------
        FilterDisplay
        """
        of = layer_of(estimator, layer)
        chosen = _chosen(units, of.cost.n_hidden)
        shape = shape_of_samples(estimator, patch_shape)
        names = names_of_axes(estimator, shape)
        if kind == "patches":
            if X is None:
                raise ArgumentError("X", X, "has no patches to show", "pass samples like fit's")
            filters = best_samples(estimator, X, layer, n_best, chosen).reshape(
                len(chosen), -1, *shape
            )
        else:
            filters = filters_of(estimator, shape, layer=layer)[chosen]
        return cls(
            filters,
            kind=kind,
            channel_axis=channel_axis_of(shape, channel_axis, names),
            label="units" if len(estimator.layers_) == 1 else f"units of layer {layer}",
        )

    @property
    def description(self) -> str:
        """The picture in words."""
        shape = described_shape(self._pictures(self.filters[:1]))
        n = len(self.filters)
        if self.kind == "patches":
            return f"For {n} {self.label}, the {self.filters.shape[1]} best samples, {shape}."
        low, high = self.filters.min(), self.filters.max()
        return f"Filters of {n} {self.label}, {shape}; weights from {low:.3g} to {high:.3g}."

    def montage(self, *, zoom: int = 1) -> NDArray[np.uint8]:
        """Return the picture as an array.

        Parameters
        ----------
        zoom : int
            Pixels along each side of a weight.

        Returns
        -------
        ndarray of shape (rows, columns) or (rows, columns, 3), uint8
        """
        pictures = self._pictures(self.filters)
        if self.kind == "weights":
            gap = 1 if pictures.shape[1] == 1 else 4
            return side_by_side(joined(stretched_around_zero(pictures)), gap=gap, zoom=zoom)
        tiles = joined(coloured(stretched(pictures)))
        groups = np.stack([grouped(best) for best in np.split(tiles, len(self.filters))])
        return side_by_side(groups, gap=4, zoom=zoom)

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
        picture = self.montage()
        height, width = picture.shape[:2]
        longest = 5.0 if max(height, width) < 1.5 * min(height, width) else 8.0
        size = (longest * width / max(height, width), longest * height / max(height, width))
        ax = axes_or_new(ax, size)
        self.im_ = show_picture(ax, picture)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _pictures(self, filters: Array) -> Array:
        samples = filters if self.kind == "weights" else filters.reshape(-1, *filters.shape[2:])
        return as_pictures(samples, self.channel_axis)


def filters_of(
    estimator: FittedStack, patch_shape: tuple[int, ...] | None = None, *, layer: int = 0
) -> NDArray[Any]:
    """Return the filters of a layer as images.

    Parameters
    ----------
    estimator : StackedAutoEncoder
        Fitted.
    patch_shape : tuple of int or None
        Shape of a sample; if None, as `fit` saw it, or a square for flat samples.
    layer : int
        Which layer; the filters of a higher one are sums of those below, weighted by its W1.

    Returns
    -------
    ndarray of shape (n_filters, height, width) or (n_filters, height, width, channels)
        Or with more dimensions, if samples have them.

    Raises
    ------
    ArgumentError
        If samples are not images of that shape, or there is no such layer.
    """
    filters = layer_of(estimator, layer).W1
    shape = shape_of_samples(estimator, patch_shape)
    for below in reversed(estimator.layers_[:layer]):
        filters = filters @ below.W1
    return filters.reshape(-1, *shape)


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
    columns = math.ceil(math.sqrt(len(filters)))
    return side_by_side(stretched_around_zero(filters), columns=columns, zoom=zoom)


def _chosen(units: Sequence[int] | None, n_units: int) -> NDArray[np.integer]:
    chosen: NDArray[Any] = np.arange(n_units) if units is None else np.asarray(units)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not _within(chosen, n_units):
        raise ArgumentError(
            "units", units, f"are none of the {n_units} units", f"pass some of 0 to {n_units - 1}"
        )
    return chosen


def _within(chosen: NDArray[Any], n: int) -> bool:
    return bool(chosen.size and chosen.min() >= 0 and chosen.max() < n)
