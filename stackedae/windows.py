"""Geometry: where the patches of images lie, how to cut them out, and sums over each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.layout import Array
from stackedae.memory import MAX_BLOCK_ROWS

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class PatchGrid:
    """All positions of a patch in a list of images, numbered from 0 without gaps.

    Numbers run along the last axis first, and from image to image last.

    Parameters
    ----------
    image_shapes : tuple of tuple of int
        Pixels of each image along its axes in space, (height, width) or (depth, height, width).
    patch_shape : tuple of int
        Pixels of a patch along these.
    stride : tuple of int
        Steps between neighbouring positions.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.windows import PatchGrid
    >>> grid = PatchGrid(((4, 5), (3, 3)), patch_shape=(3, 3), stride=(1, 1))
    >>> grid.n_positions
    7
    >>> image, corners = grid.locate(np.array([0, 4, 6]))
    >>> image.tolist(), corners.tolist()
    ([0, 0, 1], [[0, 0], [1, 1], [0, 0]])
    """

    image_shapes: tuple[tuple[int, ...], ...]
    patch_shape: tuple[int, ...]
    stride: tuple[int, ...]

    @cached_property
    def per_axis(self) -> Integers:
        """Positions along each axis, one row an image; 0 where the patch does not fit."""
        shapes = np.array(self.image_shapes, np.int64).reshape(-1, len(self.patch_shape))
        room = shapes - self.patch_shape
        return np.where(room >= 0, room // self.stride + 1, 0)

    @cached_property
    def first(self) -> Integers:
        """Number of the first position of each image, and the number of all positions."""
        return np.concatenate([[0], np.cumsum(self.per_axis.prod(axis=1))])

    @property
    def n_positions(self) -> int:
        """Positions in all images."""
        return int(self.first[-1])

    def image_of(self, numbers: Integers) -> Integers:
        """Return the image of each numbered position."""
        return np.searchsorted(self.first, numbers, side="right") - 1

    def locate(self, numbers: Integers) -> tuple[Integers, Integers]:
        """Return the image of each numbered position, and its first pixel along every axis."""
        image = self.image_of(numbers)
        rest, corners = numbers - self.first[image], np.empty((len(numbers), len(self.stride)), int)
        for axis in reversed(range(len(self.stride))):
            rest, index = np.divmod(rest, self.per_axis[image, axis])
            corners[:, axis] = index * self.stride[axis]
        return image, corners


def cut_windows(region: Array, corners: Integers, window: tuple[int, ...]) -> NDArray[Any]:
    r"""Cut windows out of a region of an image.

    Parameters
    ----------
    region : ndarray of shape (\*sizes,) or (\*sizes, channels)
        Pixels.
    corners : ndarray of int, of shape (n_windows, n_axes)
        First pixel of each window, within the region.
    window : tuple of int
        Pixels of a window along each of the axes.

    Returns
    -------
    ndarray of shape (n_windows, \*window) or (n_windows, \*window, channels)
        A copy, in the dtype of the region.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.windows import cut_windows
    >>> cut_windows(np.arange(20).reshape(4, 5), np.array([[0, 1], [2, 3]]), (1, 2)).tolist()
    [[[1, 2]], [[13, 14]]]
    """
    n_axes = len(window)
    views = np.lib.stride_tricks.sliding_window_view(region, window, axis=tuple(range(n_axes)))
    windows = views[tuple(corners.T)]  # (window, [channel,] *axes)
    return windows if region.ndim == n_axes else np.moveaxis(windows, 1, -1)


def window_means(values: Array, window: tuple[int, ...], stride: tuple[int, ...]) -> Array:
    r"""Return the mean of the values in every window, in float64.

    Parameters
    ----------
    values : ndarray
        Numbers; windows lie along its last axes.
    window, stride : tuple of int
        Pixels of a window, and steps between windows, along each of these.

    Returns
    -------
    ndarray of shape (…, \*positions)

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.windows import window_means
    >>> window_means(np.arange(5.0), (2,), (2,))
    array([0.5, 2.5])
    """
    sums = np.asarray(values, np.float64)
    first = sums.ndim - len(window)
    for axis, (size, step) in enumerate(zip(window, stride, strict=True), start=first):
        along = np.cumsum(np.moveaxis(sums, axis, -1), axis=-1)
        along = np.concatenate((np.zeros((*along.shape[:-1], 1)), along), axis=-1)
        upper = along[..., size::step]
        sums = np.moveaxis(upper - along[..., ::step][..., : upper.shape[-1]], -1, axis)
    return sums / math.prod(window)


def window_variances(
    values: Array, present: Array, window: tuple[int, ...], stride: tuple[int, ...]
) -> Array:
    r"""Return the variance of the values in every window, of those that are present.

    Parameters
    ----------
    values : ndarray
        Numbers; windows lie along its last axes.
    present : ndarray of bool, of the shape of `values`
        Which of them count.
    window, stride : tuple of int
        Pixels of a window, and steps between windows, along each of these.

    Returns
    -------
    ndarray of shape (…, \*positions), float64
        0 where nothing is present, and where it is less than rounding can tell.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.windows import window_variances
    >>> values = np.array([1.0, 3.0, 7.0, np.nan])
    >>> window_variances(values, np.isfinite(values), (2,), (1,))
    array([1., 4., 0.])
    """
    # Around a value among them, little cancels.
    centre = values[present].mean(dtype=np.float64) if present.any() else 0.0
    centred = np.where(present, values - centre, 0.0)
    share = window_means(present, window, stride)
    share = np.where(share > 0, share, 1.0)
    mean = window_means(centred, window, stride) / share
    variances = window_means(centred**2, window, stride) / share - mean**2
    # What rounding leaves of flat windows is none.
    return np.where(variances > _ROUNDING * np.mean(centred**2), variances, 0.0)


_ROUNDING = 1e-10
"""Of sums along a few thousand pixels, generously, relative to what is summed up."""


def windows_as_rows(
    region: Array, window: tuple[int, ...], stride: tuple[int, ...], positions: tuple[int, ...]
) -> Iterator[tuple[tuple[slice, ...], Array]]:
    r"""Yield the windows at all positions as rows: some of them at a time, never all.

    They are in one memory, which is used again, and laid out column by column: so pixels are copied
    in stretches, and products take the rows as they are.

    Parameters
    ----------
    region : ndarray of shape (\*sizes,) or (\*sizes, channels)
        Pixels.
    window, stride, positions : tuple of int
        Pixels of a window, steps between windows, and how many there are, along each axis.

    Yields
    ------
    box : tuple of slice
        Which positions.
    rows : ndarray of shape (n_windows, n_features)
        Their windows, flattened.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.windows import windows_as_rows
    >>> for box, rows in windows_as_rows(np.arange(6).reshape(2, 3), (2, 2), (1, 1), (1, 2)):
    ...     print(box, rows.tolist())
    (slice(0, 1, None), slice(0, 2, None)) [[0, 1, 3, 4], [1, 2, 4, 5]]
    """
    n_axes = len(window)
    axes = tuple(range(n_axes))
    views = np.lib.stride_tricks.sliding_window_view(region, window, axis=axes)
    along = zip(positions, stride, strict=True)
    views = views[tuple(slice(0, (n - 1) * step + 1, step) for n, step in along)]
    # First the place in the window, which makes a column, then the positions.
    columns = views.transpose(*range(region.ndim, views.ndim), *range(n_axes, region.ndim), *axes)
    n_features = math.prod(columns.shape[:-n_axes])
    memory = np.empty(n_features * min(MAX_BLOCK_ROWS, math.prod(positions)), region.dtype)
    for box in _boxes(positions, MAX_BLOCK_ROWS):
        at: Any = (..., *box)
        some = columns[at]
        n_windows = math.prod(some.shape[-n_axes:])
        rows = memory[: n_features * n_windows]
        rows.reshape(some.shape)[...] = some  # in one call, for threads to do side by side
        yield box, rows.reshape(n_features, n_windows).T


def add_windows(
    total: Array,
    rows: Array,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    box: tuple[slice, ...],
) -> None:
    r"""Add windows, as `windows_as_rows` yields them, to the pixels that they cover.

    Parameters
    ----------
    total : ndarray of shape (\*sizes,) or (\*sizes, channels)
        Sums so far, which are changed.
    rows : ndarray of shape (n_windows, n_features)
        Windows, flattened.
    window, stride : tuple of int
        Pixels of a window, and steps between windows, along each axis.
    box : tuple of slice
        Their positions.
    """
    n_axes = len(window)
    sizes = tuple(each.stop - each.start for each in box)
    folded = rows.reshape(*sizes, *window, *total.shape[n_axes:])
    for offset in product(*map(range, window)):
        at: Any = (slice(None),) * n_axes + offset
        total[_pixels(offset, stride, box)] += folded[at]


def windows_per_pixel(window: int, stride: int, positions: int) -> Integers:
    """Return how many windows cover each pixel along one axis.

    Examples
    --------
    >>> from stackedae.windows import windows_per_pixel
    >>> windows_per_pixel(3, 2, 3)
    array([1, 1, 2, 1, 2, 1, 1])
    """
    counts = np.zeros((positions - 1) * stride + window, np.int64)
    for position in range(positions):
        counts[position * stride : position * stride + window] += 1
    return counts


def _pixels(offset: tuple[int, ...], stride: tuple[int, ...], box: tuple[slice, ...]) -> Any:
    """Return the pixels at an offset in every window of a box of positions."""
    along = zip(offset, stride, box, strict=True)
    return tuple(slice(o + s * b.start, o + s * (b.stop - 1) + 1, s) for o, s, b in along)


def _boxes(positions: tuple[int, ...], most: int) -> Iterator[tuple[slice, ...]]:
    """Cut positions into boxes of so many at most, as long as can be along the last axes."""
    steps = []
    for n in reversed(positions):
        steps.append(max(1, min(n, most)))
        most //= steps[-1]
    steps.reverse()
    for corner in product(*(range(0, n, step) for n, step in zip(positions, steps, strict=True))):
        at = zip(corner, steps, positions, strict=True)
        yield tuple(slice(start, min(start + step, n)) for start, step, n in at)
