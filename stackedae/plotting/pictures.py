"""Samples and weights as pictures: which axes are space and which is colour, laid out side by side.

A *picture* here is an array (slices, height, width) or (slices, height, width, 3): a flat image has
one slice, a volume as many as it is deep.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from skimage.util import montage

from stackedae.errors import ArgumentError
from stackedae.layout import Array
from stackedae.samples import FittedStack

ChannelAxis = int | Literal["auto"] | None

_CHANNEL_NAMES = {
    *("channel", "channels", "c", "ch", "band", "bands"),
    *("color", "colour", "rgb", "wavelength"),
}
_MOST_CHANNELS = 4
"""Without names, a last axis no longer than this holds channels, as in `extract_patches`."""

_MISSING = np.array([86, 180, 233]) / 255
"""Sky blue, which no grey is taken for."""

_FRAME = np.array([240, 190, 110]) / 255
"""Pale orange, between samples that are white at their edges."""


def shape_of_samples(
    estimator: FittedStack, patch_shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the shape of samples as pictures; a square for flat ones.

    Raises
    ------
    ArgumentError
        If samples are not pictures of that shape.
    """
    shape = estimator.sample_shape_ if patch_shape is None else tuple(patch_shape)
    if len(shape) == 1:
        side = math.isqrt(shape[0])
        shape = (side, side)
    n_features = estimator.n_features_in_
    if len(shape) not in (2, 3, 4) or math.prod(shape) != n_features:
        raise ArgumentError(
            "patch_shape",
            patch_shape,
            f"does not make images of {n_features} features",
            "pass (height, width) or (height, width, channels) with that product",
        )
    return shape


def channel_axis_of(
    shape: tuple[int, ...], channel_axis: ChannelAxis, names: tuple[str, ...] | None = None
) -> int | None:
    """Return the axis of a sample that holds channels, from what is known of its axes.

    Parameters
    ----------
    shape : tuple of int
        Shape of a sample.
    channel_axis : int, None or "auto"
        What the user says; "auto": nothing.
    names : tuple of str or None
        Names of the axes; xarray's "dim_0" and so on are none.

    Returns
    -------
    int or None

    Examples
    --------
    >>> from stackedae.plotting.pictures import channel_axis_of
    >>> channel_axis_of((8, 8, 3), "auto"), channel_axis_of((8, 8, 8), "auto")
    (2, None)
    >>> channel_axis_of((8, 8, 3), "auto", ("z", "y", "x"))
    >>> channel_axis_of((12, 8, 8), "auto", ("band", "y", "x"))
    0
    """
    if channel_axis is None or len(shape) < 3:
        return None
    if channel_axis != "auto":
        if not -len(shape) <= channel_axis < len(shape):
            raise ArgumentError(
                "channel_axis", channel_axis, f"is no axis of samples of shape {shape}", "pass -1"
            )
        return channel_axis % len(shape)
    if names is not None and not any(name.startswith("dim_") for name in names):
        named = [axis for axis, name in enumerate(names) if name.lower() in _CHANNEL_NAMES]
        return named[-1] if named else None
    return len(shape) - 1 if shape[-1] <= _MOST_CHANNELS else None


def names_of_axes(estimator: FittedStack, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """Return the names of the axes of a sample, if `fit` saw any."""
    names = getattr(estimator, "sample_dims_", None)
    if names is None or shape != tuple(estimator.sample_shape_):
        return None
    return tuple(map(str, names))


def as_pictures(samples: Array, channel_axis: int | None) -> Array:
    """Return samples (n, …) as pictures, (n, slices, height, width) or with 3 channels at the end.

    Of any other number of channels, each is a slice.
    """
    n, ndim = len(samples), samples.ndim - 1
    if ndim - (channel_axis is not None) not in (2, 3):
        raise ArgumentError(
            "channel_axis",
            channel_axis,
            f"makes no pictures of samples of shape {samples.shape[1:]}",
            "pass samples of shape ([depth,] height, width[, channels])",
        )
    if channel_axis is None:
        return samples.reshape(n, -1, *samples.shape[-2:])
    if samples.shape[channel_axis + 1] == 3:
        colours = np.moveaxis(samples, channel_axis + 1, -1)
        return colours.reshape(n, -1, *colours.shape[-3:])
    slices = np.moveaxis(samples, channel_axis + 1, 1)
    return slices.reshape(n, -1, *slices.shape[-2:])


def stretched_around_zero(pictures: Array) -> Array:
    """Map each to [0, 1] so that zero is mid-grey and its largest entry black or white."""
    largest = np.abs(pictures).max(axis=tuple(range(1, pictures.ndim)), keepdims=True)
    scaled: Array = 0.5 + 0.5 * pictures / np.where(largest > 0, largest, 1)
    return scaled


def stretched(pictures: Array) -> Array:
    """Map all, together, from their range to [0, 1]; where entries are missing, colour them."""
    missing = np.isnan(pictures)
    present = pictures[~missing]
    low, high = (present.min(), present.max()) if present.size else (0.0, 0.0)
    scaled: Array = (pictures - low) / (high - low or 1.0)
    if not missing.any():
        return scaled
    if pictures.ndim == 4:
        missing = missing[..., None]
    return np.where(missing, _MISSING, coloured(scaled))


def joined(pictures: Array, *, axis: Literal["x", "y"] = "x") -> Array:
    """Join the slices of each picture along an axis: (n, height, width[, 3]).

    There is white between grey ones, the colour of frames between coloured ones.
    """
    along = {"y": 1, "x": 2}[axis]
    gap = np.ones_like(np.take(pictures[:, 0], [0], axis=along))
    if pictures.ndim == 5:
        gap[...] = _FRAME
    parts = [gap, *(part for i in range(pictures.shape[1]) for part in (pictures[:, i], gap))]
    return np.concatenate(parts[1:-1], axis=along)


def grouped(tiles: Array) -> Array:
    """Lay tiles (n, height, width[, 3]) out in about a square: (height, width[, 3])."""
    columns = squarest(*tiles.shape[:3])
    blank = np.ones((-len(tiles) % columns, *tiles.shape[1:]))
    grid = np.concatenate([tiles, blank]).reshape(-1, columns, *tiles.shape[1:])
    return np.asarray(joined(joined(grid)[None], axis="y")[0])


def squarest(n: int, height: int, width: int) -> int:
    """Return in how many columns so many tiles are about a square."""
    return min(n, math.ceil(math.sqrt(n * height / width)))


def coloured(pictures: Array) -> Array:
    """Return pictures with colours; grey ones stay grey."""
    return pictures if pictures.ndim == 5 else np.stack([pictures] * 3, axis=-1)


def side_by_side(
    tiles: Array, *, columns: int | None = None, gap: int = 1, zoom: int = 1
) -> NDArray[np.uint8]:
    """Lay tiles (n, height, width[, 3]) in [0, 1] out in a grid on white.

    Parameters
    ----------
    tiles : ndarray
        What to lay out.
    columns : int or None
        Tiles in a row; if None, as many as make the whole about a square.
    gap : int
        Entries between tiles, before they are magnified.
    zoom : int
        Pixels along each side of an entry.
    """
    n, height, width = tiles.shape[:3]
    if columns is None:
        columns = squarest(n, height, width)
    large = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    in_colour = tiles.ndim == 4
    picture = montage(
        large,
        fill=[1.0] * 3 if in_colour else 1.0,
        padding_width=max(1, gap * zoom // 2),
        grid_shape=(math.ceil(n / columns), columns),
        channel_axis=-1 if in_colour else None,
    )
    return np.asarray(np.round(255 * picture), dtype=np.uint8)


def described_shape(pictures: Any) -> str:
    """Say what pictures are like, in words."""
    _, slices, height, width = pictures.shape[:4]
    colour = "colour" if pictures.ndim == 5 else "grey"
    deep = f", {slices} slices each" if slices > 1 else ""
    return f"{height} × {width} pixels in {colour}{deep}"
