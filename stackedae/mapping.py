"""Maps over images, block by block: where blocks lie, and what is done to the patches in each."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from stackedae._version import __version__
from stackedae.arrays import POOL
from stackedae.blas import one_blas_thread
from stackedae.cluster import literal
from stackedae.errors import ArgumentError, DataError
from stackedae.images import CHANNEL, Images
from stackedae.layout import Array
from stackedae.malloc import keeping_freed_memory
from stackedae.memory import MIB
from stackedae.pixels import Box, KeptChunks, pixels_of
from stackedae.windows import add_windows, windows_as_rows, windows_per_pixel

MODES = ("same", "valid")

_BLOCK_BYTES = 32 * MIB
"""Of a block of a map, about: a task holds it, what it is computed from, and what is written."""


@dataclass(frozen=True)
class Rows:
    """What is done to patches as rows, one function after the other.

    Parameters
    ----------
    steps : tuple of callable
        Each takes rows (n, n_features) and gives (n, …).
    may_miss : bool
        Whether they can do with NaN.
    """

    steps: tuple[Callable[[Array], Array], ...]
    may_miss: bool

    def __call__(self, rows: Array) -> Array:
        """Apply all."""
        for step in self.steps:
            rows = step(rows)
        return rows


@dataclass(frozen=True)
class Span:
    """Positions along one axis of a block, and the pixels under their patches.

    Parameters
    ----------
    pixels : slice
        Those that are in the image.
    pad : (int, int)
        Those that are not, on either side: the image is mirrored there.
    positions : int
        How many.
    crop : (int, int)
        Where, among all pixels under the patches, those lie that are asked for.
    wanted : int
        How many are asked for; some of them may be under no patch.
    """

    pixels: slice
    pad: tuple[int, int]
    positions: int
    crop: tuple[int, int] = (0, 0)
    wanted: int = 0


@dataclass(frozen=True)
class Block:
    """A part of a map, for a task.

    Parameters
    ----------
    image : tuple of slice
        Which image, along leading axes.
    spans : tuple of Span
        Its extent along the axes of space.
    window, stride : tuple of int
        Of patches.
    """

    image: Box
    spans: tuple[Span, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def box(self) -> Box:
        """The pixels to read."""
        return (*self.image, *(span.pixels for span in self.spans))

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions along each axis."""
        return tuple(span.positions for span in self.spans)

    def region(self, pixels: Array, *, may_miss: bool) -> Array:
        """Return the pixels under all patches, mirrored where these go beyond the image."""
        region = pixels.reshape(pixels.shape[len(self.image) :])
        self._refuse_bad_pixels(region, may_miss=may_miss)
        pad = [span.pad for span in self.spans]
        if not any(map(any, pad)):
            return region
        return np.pad(region, pad + [(0, 0)] * (region.ndim - len(pad)), mode="symmetric")

    def _refuse_bad_pixels(self, region: Array, *, may_miss: bool) -> None:
        if region.dtype.kind != "f" or np.isfinite(region.sum(dtype=np.float64)):
            return
        bad = np.isinf(region) if may_miss else ~np.isfinite(region)
        if not bad.any():
            return
        first = np.unravel_index(int(np.argmax(bad)), bad.shape)
        place = [each.start for each in self.image]
        place += [int(i) + each.pixels.start for i, each in zip(first, self.spans, strict=False)]
        what, cure = "NaN or infinity", 'fill them, or fit with missing="mask" if they are NaN'
        if may_miss:
            what, cure = "infinity", "put NaN in its place"
        raise DataError(f"image contains {what}, first at pixel {tuple(place)}; {cure}.")


@dataclass(frozen=True)
class MapPlan:
    """A map over images, before any pixel is read.

    Parameters
    ----------
    images : Images
        What to map.
    window, stride : tuple of int
        Of patches.
    mode : {"same", "valid"}
        Which positions.
    blocks : tuple of int
        Size of a block along each axis of space.
    dtype : dtype
        Of the map.
    """

    images: Images
    window: tuple[int, ...]
    stride: tuple[int, ...]
    mode: str
    blocks: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def before(self) -> tuple[int, ...]:
        """Pixels of the first patch that lie before the image."""
        return tuple(size // 2 if self.mode == "same" else 0 for size in self.window)

    @property
    def n_positions(self) -> tuple[int, ...]:
        """Positions along each axis."""
        room = self.images.space_shape
        if self.mode == "valid":
            room = tuple(n - size + 1 for n, size in zip(room, self.window, strict=True))
        return tuple(-(-n // step) for n, step in zip(room, self.stride, strict=True))

    def map(self, function: Rows, name: str, **last: int) -> xr.DataArray:
        """Return what a function of rows makes of the patch at every position.

        Parameters
        ----------
        function : Rows
            Gives one number for each row, or as many as `last` says.
        name : str
            What dashboards call the tasks.
        **last : int
            Name and size of the last dimension, if there is one.
        """
        middles = tuple(
            np.arange(n) * step + (0 if self.mode == "same" else size // 2)
            for n, step, size in zip(self.n_positions, self.stride, self.window, strict=True)
        )
        return self._lazy(partial(_map_block, function), self._span, name, middles, last)

    def fold(self, function: Rows, name: str) -> xr.DataArray:
        """Return the image that patches make on average, once a function of rows has changed them.

        Raises
        ------
        ArgumentError
            If patches leave pixels out.
        """
        if any(step > size for step, size in zip(self.stride, self.window, strict=True)):
            raise ArgumentError(
                "stride", self.stride, "leaves pixels out", f"pass at most {self.window}"
            )
        last = {CHANNEL: self.images.channels[0]} if self.images.channels else {}
        pixels = tuple(map(np.arange, self.images.space_shape))
        return self._lazy(partial(_fold_block, function), self._covering, name, pixels, last)

    def _span(self, axis: int, start: int, stop: int) -> Span:
        """Return the extent of these positions."""
        step, size, n = self.stride[axis], self.window[axis], self.images.space_shape[axis]
        first = start * step - self.before[axis]
        last = (stop - 1) * step - self.before[axis] + size
        pixels = slice(max(first, 0), min(last, n))
        return Span(pixels, (max(-first, 0), max(last - n, 0)), stop - start)

    def _covering(self, axis: int, start: int, stop: int) -> Span:
        """Return the extent of all positions whose patches have some of these pixels."""
        step, size, before = self.stride[axis], self.window[axis], self.before[axis]
        last = min(self.n_positions[axis], -(-(stop + before) // step))
        first = min(max(0, -(-(start + before - size + 1) // step)), last - 1)
        span = self._span(axis, first, last)
        begin = first * step - before
        end = begin + (last - first - 1) * step + size
        crop = min(start, end) - begin, min(stop, end) - begin
        return Span(span.pixels, span.pad, span.positions, crop, stop - start)

    def _blocks(
        self, sizes: Sequence[int], span: Callable[[int, int, int], Span]
    ) -> Iterator[Block]:
        """Yield blocks, image by image."""
        every = [
            [span(axis, start, min(start + size, n)) for start in range(0, n, size)]
            for axis, (n, size) in enumerate(zip(sizes, self.blocks, strict=True))
        ]
        for image in product(*map(range, self.images.shape[: self.images.n_leading])):
            which = tuple(slice(i, i + 1) for i in image)
            for spans in product(*every):
                yield Block(which, spans, self.window, self.stride)

    def _lazy(
        self,
        function: Callable[[Block, Any], Array],
        span: Callable[[int, int, int], Span],
        name: str,
        labels: tuple[NDArray[np.int64], ...],
        last: Mapping[str, int],
    ) -> xr.DataArray:
        """Make a DataArray of blocks that tasks compute; labels are the pixels along each axis."""
        images, key = self.images, f"{name}-{uuid.uuid4().hex}"
        sizes = tuple(map(len, labels))
        of_space = (
            tuple(min(size, n - start) for start in range(0, n, size))
            for n, size in zip(sizes, self.blocks, strict=True)
        )
        one_by_one = ((1,) * n for n in images.shape[: images.n_leading])
        chunks = (*one_by_one, *of_space, *((n,) for n in last.values()))
        needed: list[Any] = [literal(f"{name}-function", function)]
        kept = images.kept()
        if kept is not None:
            needed.append(literal(f"{name}-image", kept))
        graph: dict[Any, Any] = {}
        places = product(*(range(len(each)) for each in chunks))
        for place, block in zip(places, self._blocks(sizes, span), strict=True):
            part = needed[1].key if kept is not None else images.part(block.box)
            if not isinstance(part, (np.ndarray, str)):
                needed.append(part)
                part = part.key
            graph[(key, *place)] = (_in_task, needed[0].key, block, part)
        layers = HighLevelGraph.from_collections(key, graph, dependencies=needed)
        meta = np.empty((0,) * len(chunks), self.dtype)
        return self._labelled(da.Array(layers, key, chunks, meta=meta), labels, last)

    def _labelled(
        self, array: da.Array, labels: tuple[NDArray[np.int64], ...], last: Mapping[str, int]
    ) -> xr.DataArray:
        """Give a map the names and coordinates of the image."""
        images, image = self.images, self.images.array
        names = images.all_dims
        dims = (*(names[axis] for axis in images.leading), *images.dims, *last)
        pixels = dict(zip((image.dims[axis] for axis in images.space), labels, strict=True))
        there = image.coords.to_dataset()
        there = there.isel({dim: at for dim, at in pixels.items() if dim in there.dims})
        coords: dict[Any, Any] = dict(zip(images.dims, labels, strict=True))
        coords |= {key: each for key, each in there.coords.items() if set(each.dims) <= set(dims)}
        if images.channel is not None and CHANNEL in last:
            of_channels = image.dims[images.channel]
            if of_channels in image.coords:
                coords[CHANNEL] = (CHANNEL, image[of_channels].values)
        attrs = {
            "created_by": f"stackedae {__version__}",
            "patch_shape": list(self.window),
            "stride": list(self.stride),
            "mode": self.mode,
        }
        return xr.DataArray(array, dims=dims, coords=coords, attrs=attrs)


def default_blocks(images: Images, spacing: Sequence[int], n_bytes: int) -> tuple[int, ...]:
    """Return how many positions a block has along each axis: whole chunks of images, if these fit.

    Parameters
    ----------
    images : Images
        What is mapped.
    spacing : sequence of int
        Pixels between positions.
    n_bytes : int
        Of what a position has in the map.
    """
    side = max(1, int(max(1, _BLOCK_BYTES // n_bytes) ** (1 / len(spacing))))
    blocks = []
    for border, step in zip(images.borders[images.n_leading :], spacing, strict=True):
        chunk, wanted = int(border[1] - border[0]), side * step
        if len(border) > 2 and chunk % step == 0 and chunk <= 2 * wanted:
            wanted = chunk * max(1, wanted // chunk)
        blocks.append(max(1, wanted // step))
    return tuple(blocks)


def _in_task(function: Callable[[Block, Any], Array], block: Block, part: Any) -> Array:
    with one_blas_thread(), keeping_freed_memory:
        pixels = part.read(block.box) if isinstance(part, KeptChunks) else pixels_of(part)
        return function(block, pixels)


def _map_block(function: Rows, block: Block, pixels: Array) -> Array:
    """Apply a function of rows to the patch at every position."""
    region = block.region(pixels, may_miss=function.may_miss)
    out: Any = None
    for box, rows in windows_as_rows(region, block.window, block.stride, block.positions):
        values = function(rows)
        if out is None:
            out = POOL.empty((*block.positions, *values.shape[1:]), values.dtype)
        out[box] = values.reshape(out[box].shape)
    mapped: Array = out.reshape((1,) * len(block.image) + out.shape)
    return mapped


def _fold_block(function: Rows, block: Block, pixels: Array) -> Array:
    """Average the patches at all positions, once a function of rows has changed them."""
    region = block.region(pixels, may_miss=function.may_miss)
    n_axes, dtype = len(block.spans), np.dtype(np.float32)
    total = np.zeros(region.shape)
    for box, rows in windows_as_rows(region, block.window, block.stride, block.positions):
        values = function(rows)
        dtype = values.dtype
        add_windows(total, values, block.window, block.stride, box)
    crop = tuple(slice(*span.crop) for span in block.spans)
    mean = total[crop]
    for axis, along in enumerate(zip(block.window, block.stride, block.positions, strict=True)):
        counts = windows_per_pixel(*along)[crop[axis]]
        mean /= counts.reshape(-1, *(1,) * (mean.ndim - 1 - axis))
    missing = [(0, w.wanted - n) for w, n in zip(block.spans, mean.shape, strict=False)]
    missing += [(0, 0)] * (mean.ndim - n_axes)
    mean = np.pad(mean.astype(dtype), missing, constant_values=np.nan)
    return mean.reshape((1,) * len(block.image) + mean.shape)
