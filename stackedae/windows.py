"""Geometry: where the patches of images lie, and how to cut them out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.layout import Array

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class PatchGrid:
    """All positions of a patch in a list of images, numbered from 0 without gaps.

    Numbers run along x first, then y, then from image to image.

    Parameters
    ----------
    image_shapes : tuple of (int, int)
        Height and width of each image.
    patch_shape : (int, int)
        Height and width of a patch.
    stride : (int, int)
        Steps between neighbouring positions, along y and x.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.windows import PatchGrid
    >>> grid = PatchGrid(((4, 5), (3, 3)), patch_shape=(3, 3), stride=(1, 1))
    >>> grid.n_positions
    7
    >>> [part.tolist() for part in grid.locate(np.array([0, 4, 6]))]
    [[0, 0, 1], [0, 1, 0], [0, 1, 0]]
    """

    image_shapes: tuple[tuple[int, int], ...]
    patch_shape: tuple[int, int]
    stride: tuple[int, int]

    @cached_property
    def _per_axis(self) -> Integers:
        """Positions along y and x, one row an image; 0 where the patch does not fit."""
        room = np.array(self.image_shapes, np.int64).reshape(-1, 2) - self.patch_shape
        return np.where(room >= 0, room // self.stride + 1, 0)

    @cached_property
    def _first(self) -> Integers:
        """Number of the first position of each image, and the number of all positions."""
        return np.concatenate([[0], np.cumsum(self._per_axis.prod(axis=1))])

    @property
    def n_positions(self) -> int:
        """Positions in all images."""
        return int(self._first[-1])

    def locate(self, numbers: Integers) -> tuple[Integers, Integers, Integers]:
        """Return the image, and the top and left pixel, of each numbered position."""
        image = np.searchsorted(self._first, numbers, side="right") - 1
        row, column = np.divmod(numbers - self._first[image], self._per_axis[image, 1])
        return image, row * self.stride[0], column * self.stride[1]


def cut_windows(
    region: Array, y0: Integers, x0: Integers, patch_shape: tuple[int, int]
) -> NDArray[Any]:
    """Cut patches out of a region of an image.

    Parameters
    ----------
    region : ndarray of shape (height, width) or (height, width, channels)
        Pixels.
    y0, x0 : ndarray of int
        Top and left pixel of each patch, within the region.
    patch_shape : (int, int)
        Height and width of a patch.

    Returns
    -------
    ndarray of shape (len(y0), height, width) or (len(y0), height, width, channels)
        A copy, in the dtype of the region.
    """
    views = np.lib.stride_tricks.sliding_window_view(region, patch_shape, axis=(0, 1))
    windows = views[y0, x0]  # (patch, [channel,] y, x)
    return np.moveaxis(windows, 1, -1) if region.ndim == 3 else windows
