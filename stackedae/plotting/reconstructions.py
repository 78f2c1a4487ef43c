"""Samples, and what comes back."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stackedae.containers import Container
from stackedae.layout import Array
from stackedae.plotting.axes import axes_or_new, show_picture
from stackedae.plotting.fitted import first_samples
from stackedae.plotting.pictures import (
    ChannelAxis,
    as_pictures,
    channel_axis_of,
    coloured,
    described_shape,
    grouped,
    names_of_axes,
    shape_of_samples,
    side_by_side,
    stretched,
)
from stackedae.samples import Reconstructing


class ReconstructionDisplay:
    r"""Samples above their reconstructions, with the error of each.

    A sample and its reconstruction have the same scale, from the lowest to the highest value of
    both. Three channels are shown as colours; of any other number, each is shown in grey, beside
    the others, as are the slices of three-dimensional samples. Missing values are sky blue.

    Parameters
    ----------
    samples, reconstructions : ndarray of shape (n_samples, \*sample_shape)
        Samples are (height, width), (height, width, channels), (depth, height, width) or (depth,
        height, width, channels).
    errors : ndarray of shape (n_samples,)
        Error of each sample.
    channel_axis : int, None or "auto"
        As for `FilterDisplay`.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes that were drawn on.
    figure_ : matplotlib.figure.Figure
        Figure that contains them.
    im_ : matplotlib.image.AxesImage
        The picture.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import ReconstructionDisplay, StackedAutoEncoder
    >>> X = np.random.default_rng(0).random((100, 8, 8))
    >>> sae = StackedAutoEncoder(9, max_iter=3, tol=0, random_state=0).fit(X)
    >>> ReconstructionDisplay.from_estimator(sae, X, n_samples=5).errors.shape
    (5,)
    """

    ax_: Any
    figure_: Any
    im_: Any

    def __init__(
        self,
        samples: Array,
        reconstructions: Array,
        errors: Array,
        *,
        channel_axis: ChannelAxis = "auto",
    ) -> None:
        self.samples, self.reconstructions, self.errors = samples, reconstructions, errors
        self.channel_axis = channel_axis_of(samples.shape[1:], channel_axis)

    @classmethod
    def from_estimator(
        cls,
        estimator: Reconstructing,
        X: Container,
        *,
        n_samples: int = 8,
        patch_shape: tuple[int, ...] | None = None,
        channel_axis: ChannelAxis = "auto",
        ax: Any = None,
    ) -> Self:
        """Show the first samples of X.

        Parameters
        ----------
        estimator : StackedAutoEncoder
            Fitted.
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.
        n_samples : int
            How many to show; no others are read.
        patch_shape : tuple of int or None
            Shape of a sample; needed if `fit` saw flat samples whose length is not a square.
        channel_axis : int, None or "auto"
            As for `FilterDisplay.from_estimator`.
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        ReconstructionDisplay
        """
        made = cls.computed(
            estimator,
            X,
            n_samples=n_samples,
            patch_shape=patch_shape,
            channel_axis=channel_axis,
        )
        return made.plot(ax=ax)

    @classmethod
    def computed(
        cls,
        estimator: Reconstructing,
        X: Container,
        *,
        n_samples: int = 8,
        patch_shape: tuple[int, ...] | None = None,
        channel_axis: ChannelAxis = "auto",
    ) -> Self:
        """Return what `from_estimator` would draw, without drawing it.

        Parameters
        ----------
        estimator, X, n_samples, patch_shape, channel_axis
            As for `from_estimator`.

        Returns
        -------
        ReconstructionDisplay
        """
        samples = first_samples(estimator, X, n_samples)
        shape = shape_of_samples(estimator, patch_shape)
        axis = channel_axis_of(shape, channel_axis, names_of_axes(estimator, shape))
        return cls(
            samples.reshape(-1, *shape),
            np.asarray(estimator.reconstruct(samples)).reshape(-1, *shape),
            np.asarray(estimator.reconstruction_error(samples)),
            channel_axis=axis,
        )

    @property
    def description(self) -> str:
        """The picture in words."""
        shape = described_shape(as_pictures(self.samples, self.channel_axis))
        low, high = np.nanmin(self.errors), np.nanmax(self.errors)
        return (
            f"{len(self.samples)} samples above their reconstructions, {shape}; their errors lie "
            f"between {low:.3g} and {high:.3g}."
        )

    def montage(self) -> NDArray[np.uint8]:
        """Return the picture as an array.

        Returns
        -------
        ndarray of shape (rows, columns) or (rows, columns, 3), uint8
        """
        tiles = self._tiles()
        return side_by_side(tiles, columns=len(self.samples), gap=2 * _gap(tiles))

    def plot(self, *, ax: Any = None) -> Self:
        """Draw two rows of pictures.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        ReconstructionDisplay
            Itself.
        """
        n = len(self.samples)
        ax = axes_or_new(ax, (max(4.0, 0.8 * n + 1), 2.6))
        self.im_ = show_picture(ax, self.montage())
        tiles = self._tiles()
        gap, (height, width) = _gap(tiles), tiles.shape[1:3]
        middles = gap + (width - 1) / 2 + (width + gap) * np.arange(n)
        ax.set_xticks(middles, [f"{error:.2g}" for error in self.errors])
        rows = gap + (height - 1) / 2 + (height + gap) * np.arange(2)
        ax.set_yticks(rows, ["samples", "recon-\nstructions"])
        ax.set_xlabel("error  ½‖r − x‖²")
        ax.tick_params(length=0)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _tiles(self) -> Array:
        """Return all samples, then all reconstructions: (2·n_samples, height, width[, 3])."""
        both = np.stack([self.samples, self.reconstructions], axis=1)
        scaled = [stretched(as_pictures(pair, self.channel_axis)) for pair in both]
        if len({pair.ndim for pair in scaled}) > 1:  # some have missing values, and so colours
            scaled = list(map(coloured, scaled))
        samples, reconstructions = np.stack(scaled).swapaxes(0, 1)
        return np.stack([grouped(slices) for slices in (*samples, *reconstructions)])


def _gap(tiles: Array) -> int:
    width: int = tiles.shape[2]
    return max(2, round(0.12 * width))
