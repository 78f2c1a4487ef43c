"""Where in an image which feature is active."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import xarray as xr
from sklearn.pipeline import Pipeline

from stackedae.errors import ArgumentError
from stackedae.features import feature_map
from stackedae.layout import Array
from stackedae.plotting.axes import axes_or_new, divided
from stackedae.samples import FittedStack

_LONGEST_SIDE = 512
"""Pixels along each side of a map that are drawn; of larger ones, every second, third, …"""


class FeatureMapDisplay:
    """Maps of features over an image, side by side, on the coordinates of the image.

    All maps share one scale of colours, which is brighter for higher values to readers without
    colour vision too. Of maps with more than 512 pixels along a side, every second, third, … is
    drawn; only these are kept. Lazy maps are computed for the features that are shown.

    Parameters
    ----------
    maps : xarray.DataArray of shape (height, width, n_features)
        As `feature_map` returns them: with two dimensions in space, and "feature". Coordinates, if
        there are any, are those of the middles of pixels, and evenly spaced.
    features : sequence of int or None
        Which features to show, by their position; all if None.

    Attributes
    ----------
    axes_ : list of matplotlib.axes.Axes
        Axes of the maps.
    figure_ : matplotlib.figure.Figure
        Figure that contains them.
    images_ : list of matplotlib.image.AxesImage
        The maps.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from stackedae import FeatureMapDisplay
    >>> values = np.random.default_rng(0).random((20, 30, 6))
    >>> maps = xr.DataArray(values, dims=("y", "x", "feature"), coords={"x": np.arange(100, 130)})
    >>> display = FeatureMapDisplay(maps, features=(0, 3)).plot()
    >>> len(display.axes_), display.images_[0].get_extent()
    (2, [99.5, 129.5, 19.5, -0.5])
    """

    axes_: list[Any]
    figure_: Any
    images_: list[Any]

    def __init__(self, maps: xr.DataArray, *, features: Sequence[int] | None = None) -> None:
        dims = getattr(maps, "dims", ())
        if len(dims) != 3 or "feature" not in dims:
            raise ArgumentError(
                "maps",
                dims,
                "are not the dimensions of maps",
                'pass a DataArray of two dimensions in space and "feature"; of several images, one',
            )
        self.dims = tuple(dim for dim in dims if dim != "feature")
        n_features = maps.sizes["feature"]
        chosen = range(n_features) if features is None else features
        if not len(chosen) or not all(0 <= feature < n_features for feature in chosen):
            raise ArgumentError(
                "features", features, f"are none of the {n_features} features", "pass some of them"
            )
        self.features = list(chosen)
        labels = maps["feature"].values if "feature" in maps.coords else range(n_features)
        self.labels = [f"feature {labels[i]}" for i in self.features]
        named = maps.transpose(..., "feature").assign_coords({dim: maps[dim] for dim in self.dims})
        steps = {dim: slice(None, None, -(-maps.sizes[dim] // _LONGEST_SIDE)) for dim in self.dims}
        self.maps = named.isel({**steps, "feature": self.features}).compute()

    @classmethod
    def from_estimator(
        cls,
        estimator: FittedStack | Pipeline,
        image: Any,
        *,
        features: Sequence[int] | None = None,
        ax: Any = None,
        **how: Any,
    ) -> Self:
        """Show what a fitted estimator finds in an image.

        Parameters
        ----------
        estimator : StackedAutoEncoder or Pipeline
            Fitted.
        image : array-like, path, URL, or Zarr object
            One image; whatever `feature_map` takes.
        features : sequence of int or None
            Which features to show; all if None.
        ax : matplotlib.axes.Axes or None
            What to divide among the maps; a new figure if None.
        **how : object
            Passed on to `feature_map`, such as `preprocess`, `stride` and `layers`.

        Returns
        -------
        FeatureMapDisplay
        """
        return cls(feature_map(estimator, image, **how), features=features).plot(ax=ax)

    @property
    def description(self) -> str:
        """The picture in words."""
        values = self.maps.values
        return (
            f"{len(self.features)} maps of {values.shape[0]} × {values.shape[1]} pixels; values "
            f"from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}."
        )

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the maps.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None
            What to divide among the maps; a new figure if None.

        Returns
        -------
        FeatureMapDisplay
            Itself.
        """
        n = len(self.labels)
        columns = math.ceil(math.sqrt(n))
        rows = math.ceil(n / columns)
        height, width = self.maps.shape[:2]
        size = 1.5 + 2.2 * columns, 0.6 + 2.2 * rows * height / width
        ax = axes_or_new(ax, (min(10.0, size[0]), min(10.0, size[1])))
        every = divided(ax, rows, columns)
        self.axes_, others = every[:n], every[n:]
        for axes in others:
            axes.remove()
        self.images_ = self._draw_maps()
        for number, axes in enumerate(self.axes_):
            self._label(axes, left=number % columns == 0, below=number + columns >= n)
        self.figure_ = ax.figure
        self.figure_.colorbar(self.images_[0], ax=self.axes_, label="activation", shrink=0.8)
        return self

    def _draw_maps(self) -> list[Any]:
        values = self.maps.values
        scale = {"cmap": "viridis", "vmin": np.nanmin(values), "vmax": np.nanmax(values)}
        down, across = (_ends(self.maps[dim].values) for dim in self.dims)
        extent = (*across, *reversed(down))
        images = []
        for number, (axes, label) in enumerate(zip(self.axes_, self.labels, strict=True)):
            axes.set_title(label, fontsize="small")
            images.append(axes.imshow(values[..., number], extent=extent, **scale))
        return images

    def _label(self, axes: Any, *, left: bool, below: bool) -> None:
        down, across = (_with_units(self.maps[dim]) for dim in self.dims)
        axes.set(xlabel=across if below else "", ylabel=down if left else "")
        axes.tick_params(labelsize="small", labelleft=left, labelbottom=below)


def _with_units(coord: xr.DataArray) -> str:
    units = coord.attrs.get("units")
    return str(coord.name) if units is None else f"{coord.name} ({units})"


def _ends(middles: Array) -> tuple[float, float]:
    """Return the outer borders of the first and the last of some pixels."""
    step = (middles[-1] - middles[0]) / (len(middles) - 1) if len(middles) > 1 else 1.0
    return float(middles[0] - step / 2), float(middles[-1] + step / 2)
