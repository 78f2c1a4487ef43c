"""Patches of images, in memory, lazily, or in a chunked Zarr store."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import is_dask_collection
from numpy.typing import DTypeLike, NDArray

import stackedae._version as version
from stackedae.cluster import OnCluster, run_here, scratch_folder, task
from stackedae.errors import ArgumentError
from stackedae.images import (
    CHANNEL,
    Box,
    Dims,
    Images,
    as_sizes,
    images_in,
    is_size,
    pixels_of,
    without_missing,
)
from stackedae.malloc import keeping_freed_memory, return_freed_memory
from stackedae.memory import MIB, rows_per_chunk, rows_per_portion
from stackedae.sampling import VARIANCE, Sampling, choose_positions
from stackedae.scatter import scattered
from stackedae.sources import open_images
from stackedae.storage import new_samples, open_samples
from stackedae.stores import StoreLike, refuse_existing
from stackedae.windows import Integers, PatchGrid, cut_windows

KIND = "patches"

_JOB_BYTES = 64 * MIB
"""Of chunks that a task reads."""

_CUT_BYTES = 16 * MIB
"""Of patches that a task cuts, unless its chunks are larger still."""

_BATCH_BYTES = 64 * MIB
"""Of patches that come back together."""

_JOBS_PER_THREAD = 2


def extract_patches(
    images: Any,
    patch_shape: tuple[int, ...],
    n_patches: int | None = None,
    *,
    stride: int | tuple[int, ...] | None = None,
    weights: Any = None,
    mask: Any = None,
    nodata: float | None = None,
    min_valid: float | None = None,
    max_per_image: int | None = None,
    dims: Sequence[Hashable] | None = None,
    channel_dim: Hashable | None = None,
    level: int = 0,
    store: StoreLike | None = None,
    chunks: int | None = None,
    dtype: DTypeLike | None = "float32",
    rng: Any = None,
    overwrite: bool = False,
) -> xr.DataArray:
    """Cut patches out of images, in random order.

    Parameters
    ----------
    images : array-like, path, URL, or Zarr object
        One of

        - an array (ndarray, Dask array or DataArray): one image (height, width) or (height, width,
          channels), or a stack (image, height, width[, channels]); or volumes, (depth, height,
          width) in place of (height, width), for patches of three sizes. A DataArray may have its
          dimensions in any order if they are named "z", "y", "x" and "channel" (or "c", "band"), or
          as `dims` and `channel_dim` say; along any others, such as "time", images follow each
          other. Without names, the last axis holds channels if it is no longer than 4, or as long
          as the last of three or four patch sizes;
        - a Dataset, whose variables become channels;
        - what `open_image` opens: Zarr arrays, groups, stores and URLs, OME-Zarr, TIFF files (of
          both only the chunks and tiles that are needed are read) and other image files;
        - a glob pattern such as ``"photos/**/*.png"``;
        - a sequence of these, which may differ in size.
    patch_shape : (int, int) or (int, int, int), and the channels if you like
        Height and width of a patch, or depth, height and width, in pixels.
    n_patches : int or None
        How many; None takes every position of the grid once.
    stride : int, tuple of int or None
        Take positions from a regular grid with this step, in pixels. If None, `n_patches` positions
        are drawn independently and uniformly from all there are (some may come twice); or, if
        `n_patches` is None too, every position is taken.
    weights : "variance", array-like or None
        Draw patches, each position at most once, in proportion to

        - "variance": the variance of the pixels of the patch, summed over channels, so that empty
          background does not fill the sample;
        - images of one channel (arrays, or paths) with the weight of each pixel, not negative (a
          mask, say): the mean weight in the patch. One for each of `images`, or one for all.
    mask : array-like or None
        True (or not 0) for pixels that are there; the others become NaN. As for `weights`.
    nodata : float or None
        A value of pixels that stands for none; it becomes NaN.
    min_valid : float or None
        Share of the pixels of a patch that must be there (not NaN or infinite, in any channel),
        from 0 to 1. If None, all of them with `mask` or `nodata`, and otherwise nothing is asked.
        Then as well, each position is taken once at most.
    max_per_image : int or None
        Patches of one image, at most.
    dims : sequence of str or int, or None
        The dimensions in space, by name or number, in the order of `patch_shape`, such as
        ``("lat", "lon")``. If None, those named "z", "y" and "x", else the last that are not
        channels.
    channel_dim : str, int or None
        The dimension of channels.
    level : int
        Of a pyramid (OME-Zarr, TIFF): 0 has the most pixels.
    store : path, URL, Zarr store or None
        Where to write. If None, patches stay in memory; or they are lazy if the images are (Dask
        arrays, or DataArrays of these), and then every chunk of patches reads all the chunks of
        images that it has a part of, whenever it is computed.
    chunks : int or None
        Patches per chunk; about 8 MiB worth of them if None.
    dtype : dtype or None
        Of the patches; that of the images if None. Values are converted, not scaled.
    rng : int, numpy.random.Generator or None
        Source of positions and order. They depend on the seed and the images alone: neither on
        chunks nor on the Dask scheduler.
    overwrite : bool
        Whether to replace a store that exists. It is replaced when the new one is complete.

    Returns
    -------
    xarray.DataArray of shape (n_patches, [depth,] height, width[, channels])
        With dimensions (patch, y, x[, channel]), or as those of the images in space are named, and
        along "patch" the coordinates `image` (number of the image), and `y0` and `x0` (the first
        pixel of the patch, for each dimension in space). In random order across images, so that any
        first part is a random sample.

    Raises
    ------
    ArgumentError
        If a patch does not fit any image, there are not so many positions, or an argument cannot be
        worked with.
    ImageError
        If a file or store is not found or cannot be read.
    StoreExistsError
        If `store` exists and `overwrite` is not set.

    Notes
    -----
    Chunks of lazy images are read where the active Dask scheduler says, each once, however many
    patches they give: a patch that lies in several chunks is put together from its parts. Only
    `weights="variance"` and `min_valid` look at pixels beforehand. With `store`, patches are sorted
    on their way: at most 128 MiB of them are in this process at a time, and all of them once in
    files in a temporary folder if they are more (``stackedae.scratch`` or ``temporary-directory``
    in `dask.config`). 40 bytes a patch are held for the positions.

    References
    ----------
    Efraimidis, P., Spirakis, P., "Weighted random sampling with a reservoir", Information
    Processing Letters 97, 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import extract_patches
    >>> image = np.arange(20.0).reshape(4, 5)
    >>> patches = extract_patches(image, (2, 2), n_patches=3, rng=0)
    >>> patches.dims, patches.shape
    (('patch', 'y', 'x'), (3, 2, 2))
    >>> y0, x0 = int(patches.y0[0]), int(patches.x0[0])
    >>> bool((patches[0] == image[y0 : y0 + 2, x0 : x0 + 2]).all())
    True

    Where the picture is empty, there is nothing to learn:

    >>> image = np.pad(image, ((0, 40), (0, 40)))
    >>> patches = extract_patches(image, (2, 2), n_patches=9, weights="variance", rng=0)
    >>> int(patches.y0.max()), int(patches.x0.max())
    (3, 4)
    """
    if store is not None:
        refuse_existing(store, overwrite=overwrite)  # now, not after decoding every file
    plan = plan_patches(
        images,
        patch_shape,
        n_patches,
        stride=stride,
        weights=weights,
        mask=mask,
        nodata=nodata,
        min_valid=min_valid,
        max_per_image=max_per_image,
        dims=dims,
        channel_dim=channel_dim,
        level=level,
        chunks=chunks,
        dtype=dtype,
        rng=rng,
    )
    if store is not None:
        plan.write(store, overwrite=overwrite)
        return open_patches(store)
    items = images if isinstance(images, (list, tuple)) else [images]
    return plan.lazy() if any(map(is_dask_collection, items)) else plan.in_memory()


def open_patches(store: StoreLike) -> xr.DataArray:
    """Open a store of patches lazily.

    Parameters
    ----------
    store : path, URL or Zarr store
        What `extract_patches` wrote.

    Returns
    -------
    xarray.DataArray
        As `extract_patches` returned it, backed by a Dask array with one block per chunk.

    Raises
    ------
    StoreError
        If it is missing, incomplete, or not a store of patches.
    DamagedChunkError
        If chunks are missing; while reading, if one does not pass its checksum.
    """
    return open_samples(store, KIND)


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


def plan_patches(
    images: Any,
    patch_shape: tuple[int, ...],
    n_patches: int | None = None,
    *,
    stride: int | tuple[int, ...] | None = None,
    weights: Any = None,
    mask: Any = None,
    nodata: float | None = None,
    min_valid: float | None = None,
    max_per_image: int | None = None,
    dims: Dims = None,
    channel_dim: Hashable | None = None,
    level: int = 0,
    chunks: int | None = None,
    dtype: DTypeLike | None = "float32",
    rng: Any = None,
) -> PatchPlan:
    """Check what `extract_patches` was asked for, and choose the positions."""
    sizes = _checked_sizes(patch_shape)
    sources = _open_sources(images, sizes, dims, channel_dim, level)
    n_space = len(sources[0].space)
    grid = _grid(sources, sizes, stride)
    if mask is not None or nodata is not None:
        min_valid = 1.0 if min_valid is None else min_valid
        masks = _beside("mask", mask, sources)
        sources = [
            without_missing(source, each, nodata)
            for source, each in zip(sources, masks, strict=True)
        ]
    _check_numbers(n_patches, min_valid, max_per_image, chunks)
    patch_dtype = np.dtype(
        np.result_type(*(each.dtype for each in sources)) if dtype is None else dtype
    )
    if patch_dtype.kind in "bui" and min_valid is not None and min_valid < 1:
        raise ArgumentError(
            "dtype",
            str(patch_dtype),
            "has no NaN for missing pixels",
            "pass float32 or min_valid=1",
        )
    named = weights is None or (isinstance(weights, str) and weights == VARIANCE)
    weighing = weights if named else _beside("weights", weights, sources)
    sampling = Sampling(n_patches, stride is not None, min_valid, weighing, max_per_image)
    numbers = choose_positions(sampling, sources, grid, np.random.default_rng(rng))
    row_bytes = math.prod((*sizes[:n_space], *sources[0].channels)) * patch_dtype.itemsize
    return PatchPlan(
        sources=sources,
        grid=grid,
        numbers=numbers,
        chunk_rows=rows_per_chunk(row_bytes) if chunks is None else chunks,
        dtype=patch_dtype,
        provenance={
            "created_by": f"stackedae {version.__version__}",
            "n_images": len(grid.image_shapes),
            "patch_shape": list(grid.patch_shape),
            "stride": "random positions"
            if stride is None and n_patches is not None
            else list(grid.stride),
            **_conditions(weights, mask, nodata, min_valid, max_per_image),
            **_names_of_channels(sources[0]),
            "seed": int(rng) if isinstance(rng, (int, np.integer)) else "not given as a number",
        },
    )


def _open_sources(
    images: Any, sizes: tuple[int, ...], dims: Dims, channel_dim: Hashable | None, level: int
) -> list[Images]:
    """Open images, and see that patches of one of them are like those of any other."""
    opened = open_images(images, level=level)
    single = len(opened) == 1 and not isinstance(images, (list, tuple))
    sources = []
    for index, array in enumerate(opened):
        name = "images" if single else f"images[{index}]"
        each = images_in(array, sizes, dims=dims, channel_dim=channel_dim, name=name)
        sources.append(each)
        if (each.channels, len(each.space)) != (sources[0].channels, len(sources[0].space)):
            raise ArgumentError(
                f"{name}.shape",
                array.shape,
                f"does not have the channels of the first image, {opened[0].shape}",
                "convert all to grey or all to the same channels",
            )
    found = sources[0].channels or (1,)
    n_space = len(sources[0].space)
    if sizes[n_space:] not in ((), found):
        raise ArgumentError(
            "patch_shape",
            sizes,
            f"asks for {sizes[-1]} channels and the images have {found[0]}",
            f"pass {(*sizes[:n_space], *found)} or {sizes[:n_space]}",
        )
    return sources


def _grid(sources: Sequence[Images], sizes: tuple[int, ...], stride: Any) -> PatchGrid:
    n_space = len(sources[0].space)
    steps = as_sizes("stride", 1 if stride is None else stride, n_space)
    shapes = tuple(each.space_shape for each in sources for _ in range(each.n_images))
    grid = PatchGrid(shapes, sizes[:n_space], steps)
    if grid.n_positions == 0:
        raise ArgumentError(
            "patch_shape",
            sizes,
            f"is larger than every image (the largest is {max(shapes, default='none')})",
            "pass smaller patches or larger images",
        )
    return grid


def _beside(name: str, given: Any, sources: Sequence[Images]) -> Sequence[Images | None]:
    """Return the images of one channel that go with each source: one for all, or one for each."""
    if given is None:
        return [None] * len(sources)
    opened = open_images(given, name=name)
    if len(opened) not in (1, len(sources)):
        raise ArgumentError(
            name,
            f"{len(opened)} images",
            f"does not go with {len(sources)} images",
            "pass one each",
        )
    beside = []
    for source, array in zip(sources, opened * (len(sources) // len(opened)), strict=True):
        named = source.named and set(source.dims) <= set(map(str, array.dims))
        dims = source.dims if named else None
        each = images_in(array, source.space_shape, dims=dims, with_channels=False, name=name)
        shape = source.shape[: source.n_leading + len(source.space)]
        if each.shape not in (shape, source.space_shape):
            raise ArgumentError(
                f"{name}.shape", each.shape, f"is not that of the images, {shape}", "cut it to fit"
            )
        beside.append(each)
    return beside


def _conditions(
    weights: Any, mask: Any, nodata: Any, min_valid: float | None, max_per_image: int | None
) -> dict[str, Any]:
    """Return what else positions depend on, in words of JSON."""
    said = {
        "weights": weights if isinstance(weights, str) or weights is None else "given",
        "mask": None if mask is None else "given",
        "nodata": None if nodata is None else float(nodata),
        "min_valid": min_valid,
        "max_per_image": max_per_image,
    }
    return {name: value for name, value in said.items() if value is not None}


def _names_of_channels(images: Images) -> dict[str, Any]:
    if images.channel is None:
        return {}
    dim = images.array.dims[images.channel]
    labels = images.array.coords.get(dim)
    return {} if labels is None else {"channels": [str(label) for label in labels.values]}


def _check_numbers(n_patches: Any, min_valid: Any, max_per_image: Any, chunks: Any) -> None:
    for name, value, what in (
        ("n_patches", n_patches, "asks for no patch"),
        ("max_per_image", max_per_image, "allows no patch"),
        ("chunks", chunks, "is no number of patches"),
    ):
        if value is not None and not is_size(value):
            raise ArgumentError(name, value, what, "pass 1 or more, or None")
    if min_valid is not None and not 0 <= min_valid <= 1:
        raise ArgumentError("min_valid", min_valid, "is no share", "pass 0 to 1, or None")


def _checked_sizes(patch_shape: Any) -> tuple[int, ...]:
    sizes = tuple(patch_shape) if np.iterable(patch_shape) else ()
    if len(sizes) not in (2, 3, 4) or any(not is_size(size) for size in sizes):
        raise ArgumentError(
            "patch_shape",
            patch_shape,
            "is not two or three sizes in pixels (and the channels, if you like)",
            "pass for example (8, 8)",
        )
    return tuple(map(int, sizes))
