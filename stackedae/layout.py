"""Named, shaped segments of one flat vector.

Parameters and chunk sums are both laid out this way: a solver sees a vector, a tree sum is
``+``, and the mathematics sees ``W1`` and ``b1``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.errors import ArgumentError

Array = NDArray[np.floating[Any]]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Where each named array lies in one flat vector (row-major, in the order given).

    Parameters
    ----------
    shapes : tuple of (str, tuple of int)
        Name and shape of each segment, in order. `Layout.of` is the shorter way to write it.

    Examples
    --------
    >>> from stackedae.layout import Layout
    >>> layout = Layout.of(W=(2, 3), b=(2,))
    >>> layout.size
    8
    >>> import numpy as np
    >>> layout.unpack(np.arange(8.0))["b"]
    array([6., 7.])
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, **shapes: tuple[int, ...]) -> Layout:
        """Lay segments out in the order of the keywords.

        Parameters
        ----------
        **shapes : tuple of int
            Name and shape of each segment; a scalar has the shape ``()``.

        Returns
        -------
        Layout
        """
        return cls(tuple(shapes.items()))

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The stretch of the flat vector that each segment occupies."""
        slices, stop = {}, 0
        for name, shape in self.shapes:
            start, stop = stop, stop + math.prod(shape)
            slices[name] = slice(start, stop)
        return slices

    @cached_property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def zeros(self) -> Vector:
        """Return a flat vector of zeros.

        Returns
        -------
        ndarray of shape (size,), float64
        """
        return np.zeros(self.size)

    def unpack(self, vector: Array) -> dict[str, Array]:
        """Return the segments by name, as views.

        Parameters
        ----------
        vector : ndarray of shape (size,)
            What to look into.

        Returns
        -------
        dict of str to ndarray

        Raises
        ------
        ArgumentError
            If `vector` is not one-dimensional with `size` entries.
        """
        if vector.shape != (self.size,):
            names = ", ".join(f"{name} {shape}" for name, shape in self.shapes)
            raise ArgumentError(
                "vector.shape",
                vector.shape,
                f"does not hold the segments {names}",
                f"pass a vector of shape ({self.size},)",
            )
        return {name: vector[self.slices[name]].reshape(shape) for name, shape in self.shapes}

    def pack(self, segments: Mapping[str, Array]) -> Vector:
        """Return one flat vector.

        Parameters
        ----------
        segments : mapping of str to ndarray
            All of them, each in its shape.

        Returns
        -------
        ndarray of shape (size,), float64

        Raises
        ------
        ArgumentError
            If a segment is missing, unknown, or of another shape.
        """
        expected = dict(self.shapes)
        received = {name: np.shape(value) for name, value in segments.items()}
        if received != expected:
            raise ArgumentError(
                "segments", received, "does not match the layout", f"pass {expected}"
            )
        parts = [np.ravel(segments[name]) for name in expected]
        return np.concatenate(parts, dtype=np.float64, casting="unsafe")
