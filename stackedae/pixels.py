"""Pixels of stored images, read where they are needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT
from numpy.typing import NDArray

from stackedae.memory import MIB

Box = tuple[slice, ...]
"""A range of pixels along each axis, but for that of channels."""

_MOST_KEPT_BYTES = 512 * MIB


@dataclass(frozen=True)
class StoredPixels:
    """Pixels that whoever needs them reads."""

    reader: Any
    index: tuple[slice, ...]
    order: tuple[int, ...]

    def read(self) -> NDArray[Any]:
        """Read them."""
        pixels: NDArray[Any] = self.reader[self.index].transpose(self.order)
        return pixels


class KeptChunks:
    """Images in a stored array whose boxes are read chunk by chunk, those read last being kept.

    Neighbouring boxes of a map need the same chunks. What is kept goes with this object, and does
    not travel with it.

    Parameters
    ----------
    reader : object
        Reads boxes of the array.
    borders : tuple of ndarray of int
        Where its chunks start along each of its axes, and where all ends.
    axes : tuple of int
        Its axes along which a box has a range.
    order : tuple of int
        Its axes in the order in which they are wanted.
    """

    def __init__(
        self,
        reader: Any,
        borders: tuple[NDArray[np.int64], ...],
        axes: tuple[int, ...],
        order: tuple[int, ...],
    ) -> None:
        self.reader, self.borders, self.axes, self.order = reader, borders, axes, order
        self.most_bytes = min(_MOST_KEPT_BYTES, MEMORY_LIMIT // CPU_COUNT // 8)
        self.kept: OrderedDict[tuple[int, ...], Future[NDArray[Any]]] = OrderedDict()
        self.kept_bytes = 0
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptChunks, (self.reader, self.borders, self.axes, self.order)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the pixels of a box."""
        index = [slice(0, int(border[-1])) for border in self.borders]
        for axis, pixels in zip(self.axes, box, strict=True):
            index[axis] = pixels
        out = np.empty([each.stop - each.start for each in index], self.reader.dtype)
        spans = [
            range(
                int(np.searchsorted(border, each.start, side="right")) - 1,
                int(np.searchsorted(border, each.stop, side="left")),
            )
            for border, each in zip(self.borders, index, strict=True)
        ]
        for place in product(*spans):
            inner, outer = [], []
            for number, border, each in zip(place, self.borders, index, strict=True):
                start, stop = int(border[number]), int(border[number + 1])
                low, high = max(start, each.start), min(stop, each.stop)
                inner.append(slice(low - start, high - start))
                outer.append(slice(low - each.start, high - each.start))
            out[tuple(outer)] = self._chunk(place)[tuple(inner)]
        return out.transpose(self.order)

    def _chunk(self, place: tuple[int, ...]) -> NDArray[Any]:
        """Return a chunk; who comes while it is read waits for it."""
        with self.lock:
            coming = self.kept.get(place)
            if coming is not None:
                self.kept.move_to_end(place)
            else:
                mine = self.kept[place] = Future[NDArray[Any]]()
        if coming is not None:
            return coming.result()
        try:
            ranges = zip(place, self.borders, strict=True)
            chunk: NDArray[Any] = self.reader[
                tuple(slice(int(b[i]), int(b[i + 1])) for i, b in ranges)
            ]
        except BaseException as error:
            with self.lock:
                self.kept.pop(place, None)
            mine.set_exception(error)
            raise
        mine.set_result(chunk)
        with self.lock:
            self.kept_bytes += chunk.nbytes
            self._forget()
        return chunk

    def _forget(self) -> None:
        """Drop what was not used for the longest time."""
        for place, chunk in list(self.kept.items()):
            if self.kept_bytes <= self.most_bytes:
                break
            if chunk.done():
                del self.kept[place]
                self.kept_bytes -= chunk.result().nbytes


def pixels_of(part: NDArray[Any] | StoredPixels) -> NDArray[Any]:
    """Return pixels, reading them if they are stored."""
    return part.read() if isinstance(part, StoredPixels) else part
