"""Patches cut out of images: chunk by chunk, each read once, to be put in their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stackedae.cluster import OnCluster, run_here, scratch_folder, task
from stackedae.images import CHANNEL, Images
from stackedae.malloc import keeping_freed_memory, return_freed_memory
from stackedae.memory import MIB, rows_per_portion
from stackedae.pixels import Box, pixels_of
from stackedae.scatter import scattered
from stackedae.storage import new_samples
from stackedae.stores import StoreLike
from stackedae.windows import Integers, PatchGrid, cut_windows

KIND = "patches"

_JOB_BYTES = 64 * MIB
"""Of chunks that a task reads."""

_CUT_BYTES = 16 * MIB
"""Of patches that a task cuts, unless its chunks are larger still."""

_BATCH_BYTES = 64 * MIB
"""Of patches that come back together."""

_JOBS_PER_THREAD = 2


@dataclass(frozen=True)
class PatchPlan:
    """Which patches to cut from which images, before any pixel is cut.

    Parameters
    ----------
    sources : sequence of Images
        Where they come from.
    grid : PatchGrid
        Possible positions.
    numbers : ndarray of int
        Position of each patch, in the order in which patches come.
    chunk_rows : int
        Patches per chunk.
    dtype : dtype
        Of the patches.
    provenance : dict
        What was asked for.
    """

    sources: Sequence[Images]
    grid: PatchGrid
    numbers: Integers
    chunk_rows: int
    dtype: np.dtype[Any]
    provenance: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all patches together."""
        return len(self.numbers), *self.grid.patch_shape, *self.sources[0].channels

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions."""
        channel = (CHANNEL,) if self.sources[0].channels else ()
        return "patch", *self.sources[0].dims, *channel

    @cached_property
    def located(self) -> tuple[Integers, Integers]:
        """Image, and first pixel along each axis, of every patch."""
        return self.grid.locate(self.numbers)

    @property
    def coordinates(self) -> dict[str, Integers]:
        """Image and first pixels of every patch, by name."""
        image, corners = self.located
        named = zip(self.sources[0].dims, corners.T, strict=True)
        return {"image": image, **{f"{dim}0": first for dim, first in named}}

    def in_memory(self) -> xr.DataArray:
        """Cut all patches now."""
        out = np.zeros(self.shape, self.dtype)
        for numbers, patches in self._cut():
            out[numbers] += patches
        return self._wrap(out)

    def lazy(self) -> xr.DataArray:
        """Return patches that are cut chunk by chunk when computed."""
        chunks = []
        for rows in self._slices(self.chunk_rows):
            pieces = list(self._pieces(np.arange(rows.start, rows.stop)))
            shape = (rows.stop - rows.start, *self.shape[1:])
            block = task("stackedae-fill", _fill, shape, self.dtype, rows.start, *_sent(pieces))
            chunks.append(da.from_delayed(block, shape, self.dtype))
        return self._wrap(da.concatenate(chunks))

    def write(
        self,
        store: StoreLike,
        *,
        overwrite: bool = False,
        on_cut: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Write the patches and their coordinates; `on_cut` hears of patches as they are cut."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with (
            scattered(self.shape[1:], self.dtype, scratch_folder()) as rows,
            new_samples(
                store,
                KIND,
                shape=self.shape,
                chunk_rows=self.chunk_rows,
                dtype=self.dtype,
                dims=self.dims,
                coords=self.coordinates,
                attrs=self.provenance,
                overwrite=overwrite,
            ) as array,
        ):
            for numbers, patches in self._cut():
                rows.add(numbers, patches)
                on_cut(len(numbers))
            for part in self._slices(rows_per_portion(row_bytes, self.chunk_rows)):
                array[part] = rows.rows(part.start, part.stop)
        return_freed_memory()

    def _wrap(self, patches: Any) -> xr.DataArray:
        coords = {name: ("patch", values) for name, values in self.coordinates.items()}
        return xr.DataArray(
            patches, dims=self.dims, coords=coords, attrs=self.provenance, name="patches"
        )

    def _slices(self, size: int) -> Iterator[slice]:
        for start in range(0, len(self.numbers), size):
            yield slice(start, min(start + size, len(self.numbers)))

    def _cut(self) -> Iterator[tuple[Integers, NDArray[Any]]]:
        """Yield patches and their numbers, in any order; those across chunks in parts that add up.

        Every chunk is read once, while those that were read before are taken care of.
        """
        batches = _batches(_jobs(self._pieces(np.arange(len(self.numbers)))))
        with ThreadPoolExecutor(1, thread_name_prefix="stackedae-cut") as ahead:
            coming: Future[Any] | None = None
            for jobs in chain(batches, [None]):
                done, coming = coming, None
                if jobs is not None:
                    # A client is the current one of a context, which threads do not share.
                    coming = ahead.submit(copy_context().run, self._cut_jobs, jobs)
                for of_job in () if done is None else done.result():
                    yield from of_job

    def _cut_jobs(self, jobs: Sequence[Sequence[_Piece]]) -> Sequence[Any]:
        """Return the patches of each piece of each job, and their numbers."""
        calls = [(self.dtype, *_sent(job)) for job in jobs]
        if all(piece.images.here for job in jobs for piece in job):
            return run_here(_cut_pieces, calls)
        return OnCluster().compute(*(task("stackedae-cut", _cut_pieces, *each) for each in calls))

    def _pieces(self, members: Integers) -> Iterator[_Piece]:
        """Yield what to read for these patches, source by source and chunk by chunk."""
        image, corners = (values[members] for values in self.located)
        firsts = np.cumsum([0, *(images.n_images for images in self.sources)])
        source = np.searchsorted(firsts, image, side="right") - 1
        order = np.argsort(source, kind="stable")
        bounds = np.searchsorted(source[order], np.arange(len(self.sources) + 1))
        for number, images in enumerate(self.sources):
            of_these = order[bounds[number] : bounds[number + 1]]
            if not len(of_these):
                continue
            leading = np.unravel_index(
                image[of_these] - firsts[number], images.shape[: images.n_leading] or (1,)
            )[: images.n_leading]
            at = np.column_stack((*leading, corners[of_these]))
            yield from self._pieces_of(images, members[of_these], at)

    def _pieces_of(self, images: Images, members: Integers, at: Integers) -> Iterator[_Piece]:
        window = np.array((1,) * images.n_leading + self.grid.patch_shape)
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        for chunk, inside in _by_chunk(images.borders, at, window):
            low, high = np.array([[each.start, each.stop] for each in chunk]).T
            n_bytes = math.prod(map(int, high - low)) * images.dtype.itemsize
            n_bytes *= math.prod(images.channels)
            # A chunk is read again only where its patches are too many to be held.
            most = (_CUT_BYTES if images.here else max(_BATCH_BYTES, 4 * n_bytes)) // row_bytes
            for start in range(0, len(inside), max(1, most)):
                these = inside[start : start + max(1, most)]
                first, last = at[these].min(axis=0), at[these].max(axis=0) + window
                begin, end = np.maximum(first, low), np.minimum(last, high)
                yield _Piece(
                    images,
                    box=tuple(map(slice, begin.tolist(), end.tolist())),
                    place=_Place(
                        numbers=members[these],
                        corners=at[these] - first,
                        window=tuple(window.tolist()),
                        shape=tuple((last - first).tolist()),
                        offset=tuple((begin - first).tolist()),
                        n_leading=images.n_leading,
                    ),
                    bytes_to_read=0 if images.here else n_bytes,
                    bytes_to_cut=len(these) * row_bytes,
                )


@dataclass(frozen=True)
class _Place:
    """Windows in a region of pixels that may lie partly outside of what is read.

    Parameters
    ----------
    numbers : ndarray of int
        Numbers of the patches that they are.
    corners : ndarray of int, of shape (n_windows, n_axes)
        First pixel of each in the region.
    window : tuple of int
        Pixels of a window along each axis, 1 along leading axes.
    shape : tuple of int
        Of the region.
    offset : tuple of int
        Where in it what is read begins.
    n_leading : int
        Axes along which images follow each other, and windows have one pixel.
    """

    numbers: Integers
    corners: Integers
    window: tuple[int, ...]
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    n_leading: int

    def cut(self, pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the windows; 0 where nothing was read."""
        n_axes = len(self.window)
        if pixels.shape[:n_axes] != self.shape:
            region = np.zeros((*self.shape, *pixels.shape[n_axes:]), pixels.dtype)
            extent = zip(self.offset, pixels.shape, strict=False)
            region[tuple(slice(start, start + size) for start, size in extent)] = pixels
            pixels = region
        windows = cut_windows(pixels, self.corners, self.window)
        leading = tuple(range(1, 1 + self.n_leading))
        return windows.squeeze(axis=leading).astype(dtype, copy=False)


@dataclass(frozen=True)
class _Piece:
    """A box of pixels to read, and the windows in it."""

    images: Images
    box: Box
    place: _Place
    bytes_to_read: int
    bytes_to_cut: int


def _by_chunk(
    borders: Sequence[Integers], at: Integers, window: Integers
) -> Iterator[tuple[Box, Integers]]:
    """Yield every chunk that windows lie in, and which windows they are."""
    first = [np.searchsorted(b, a, side="right") - 1 for b, a in zip(borders, at.T, strict=True)]
    end = (at + window - 1).T
    last = [np.searchsorted(b, e, side="right") - 1 for b, e in zip(borders, end, strict=True)]
    grid = tuple(len(border) - 1 for border in borders)
    chunks, members = [], []
    # A window lies in its first chunk, and perhaps in some that follow along each axis.
    spans = [range(int((b - a).max()) + 1) for a, b in zip(first, last, strict=True)]
    for step in product(*spans):
        index = [a + s for a, s in zip(first, step, strict=True)]
        inside = np.logical_and.reduce([i <= b for i, b in zip(index, last, strict=True)])
        members.append(np.flatnonzero(inside))
        chunks.append(np.ravel_multi_index([i[inside] for i in index], grid))
    chunk, member = np.concatenate(chunks), np.concatenate(members)
    order = np.argsort(chunk, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(chunk[order])) + 1):
        corner = np.unravel_index(chunk[group[0]], grid)
        box = (slice(int(b[i]), int(b[i + 1])) for b, i in zip(borders, corner, strict=True))
        yield tuple(box), member[group]


def _jobs(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Group pieces, so that a task has enough to do."""
    job, to_read, to_cut = list[_Piece](), 0, 0
    for piece in pieces:
        to_read, to_cut = to_read + piece.bytes_to_read, to_cut + piece.bytes_to_cut
        if job and (to_read > _JOB_BYTES or to_cut > _CUT_BYTES):
            yield job
            job, to_read, to_cut = [], piece.bytes_to_read, piece.bytes_to_cut
        job.append(piece)
    yield job


def _batches(jobs: Iterator[list[_Piece]]) -> Iterator[list[list[_Piece]]]:
    """Group jobs that are done side by side, and whose patches come together."""
    most = _JOBS_PER_THREAD * sum(OnCluster().threads.values())
    batch, to_cut = list[list[_Piece]](), 0
    for job in jobs:
        n_bytes = sum(piece.bytes_to_cut for piece in job)
        if batch and (len(batch) == most or to_cut + n_bytes > _BATCH_BYTES):
            yield batch
            batch, to_cut = [], 0
        batch.append(job)
        to_cut += n_bytes
    yield batch


def _sent(pieces: Sequence[_Piece]) -> tuple[list[Any], list[_Place]]:
    """Return what a task takes: pixels, or what reads them, and the windows in them."""
    return [piece.images.part(piece.box) for piece in pieces], [piece.place for piece in pieces]


def _cut_pieces(
    dtype: np.dtype[Any], parts: Sequence[Any], places: Sequence[_Place]
) -> list[tuple[Integers, NDArray[Any]]]:
    with keeping_freed_memory:
        both = zip(parts, places, strict=True)
        return [(place.numbers, place.cut(pixels_of(part), dtype)) for part, place in both]


def _fill(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    start: int,
    parts: Sequence[Any],
    places: Sequence[_Place],
) -> NDArray[Any]:
    out = np.zeros(shape, dtype)
    for part, place in zip(parts, places, strict=True):
        out[place.numbers - start] += place.cut(pixels_of(part), dtype)
    return out
