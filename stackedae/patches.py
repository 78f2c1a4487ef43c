"""Patches of images, in memory, lazily, or in a chunked Zarr store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray

import stackedae._version as version
from stackedae.cluster import task
from stackedae.errors import ArgumentError
from stackedae.images import Image, Region, open_images
from stackedae.malloc import return_freed_memory
from stackedae.memory import rows_per_chunk, rows_per_portion
from stackedae.storage import new_samples, open_samples
from stackedae.stores import StoreLike, refuse_existing
from stackedae.windows import Integers, PatchGrid, cut_windows

KIND = "patches"
_DIMS = ("patch", "y", "x", "channel")
_COORDINATES = ("image", "y0", "x0")
_READ_TOGETHER = 16


def extract_patches(
    images: Any,
    patch_shape: tuple[int, ...],
    n_patches: int | None = None,
    *,
    stride: int | tuple[int, int] | None = None,
    store: StoreLike | None = None,
    chunks: int | None = None,
    dtype: DTypeLike | None = "float32",
    rng: Any = None,
    overwrite: bool = False,
) -> xr.DataArray:
    """Cut patches out of images, in random order.

    Parameters
    ----------
    images : array-like, or path
        One of

        - an array (ndarray, Dask array or DataArray): one image (height, width) or (height, width,
          channels), or a stack (image, height, width[, channels]). The last of three axes holds
          channels if it is no longer than 4, or if `patch_shape` has three entries. A DataArray
          may have its dimensions in any order if they are named "y", "x" and "channel";
        - a sequence of images, which may differ in size;
        - the path of an image file, a glob pattern such as ``"photos/**/*.png"``, or a sequence of
          these, read by scikit-image.
    patch_shape : (int, int) or (int, int, int)
        Height and width of a patch, in pixels; the channels may be said too.
    n_patches : int or None
        How many; None takes every position of the grid once.
    stride : int, (int, int) or None
        Take positions from a regular grid with this step, in pixels. If None, `n_patches` positions
        are drawn independently and uniformly from all there are (some may come twice); or, if
        `n_patches` is None too, every position is taken.
    store : path, URL, Zarr store or None
        Where to write; if None, patches stay in memory, or lazy if the images are Dask arrays.
    chunks : int or None
        Patches per chunk; about 8 MiB worth of them if None.
    dtype : dtype or None
        Of the patches; that of the images if None. Values are converted, not scaled.
    rng : int, numpy.random.Generator or None
        Source of positions and order.
    overwrite : bool
        Whether to replace a store that exists. It is replaced when the new one is complete.

    Returns
    -------
    xarray.DataArray of shape (n_patches, height, width[, channels])
        With dimensions (patch, y, x[, channel]) and, along "patch", the coordinates `image`
        (number of the image), `y0` and `x0` (top and left pixel). In random order across images,
        so that any first part is a random sample.

    Raises
    ------
    ArgumentError
        If a patch does not fit any image, or an argument cannot be worked with.
    ImageError
        If a file is not found or cannot be read.
    StoreExistsError
        If `store` exists and `overwrite` is not set.

    Notes
    -----
    With `store`, at most 128 MiB of patches (or one chunk, if larger) are held at a time, beside
    the images that are in memory already; files are decoded, and chunks of Dask images read, about
    once for every such portion. 32 bytes a patch are held for the positions.

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
    """
    if store is not None:
        refuse_existing(store, overwrite=overwrite)  # now, not after decoding every file
    plan = plan_patches(
        images, patch_shape, n_patches, stride=stride, chunks=chunks, dtype=dtype, rng=rng
    )
    if store is not None:
        plan.write(store, overwrite=overwrite)
        return open_patches(store)
    return plan.lazy() if any(image.lazy for image in plan.images) else plan.in_memory()


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
    """Which patches to cut from which images, before any pixel is read.

    Parameters
    ----------
    images : sequence of Image
        Sources.
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

    images: Sequence[Image]
    grid: PatchGrid
    numbers: Integers
    chunk_rows: int
    dtype: np.dtype[Any]
    provenance: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all patches together."""
        return len(self.numbers), *self.grid.patch_shape, *self.images[0].shape[2:]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions."""
        return _DIMS[: len(self.shape)]

    @cached_property
    def coordinates(self) -> dict[str, Integers]:
        """Image, top and left pixel of every patch."""
        return dict(zip(_COORDINATES, self.grid.locate(self.numbers), strict=True))

    def in_memory(self) -> xr.DataArray:
        """Cut all patches now."""
        return self._wrap(self._cut(slice(0, len(self.numbers))))

    def lazy(self) -> xr.DataArray:
        """Return patches that are cut chunk by chunk when computed."""
        chunks = []
        for rows in self._slices(self.chunk_rows):
            reads = list(self._reads(rows))
            regions = [
                image.pixels[region] if image.lazy else image.read([region])[0]
                for image, region, _ in reads
            ]
            places = [place for *_, place in reads]
            shape = (rows.stop - rows.start, *self.shape[1:])
            block = task("stackedae-cut", _fill, shape, self.dtype, regions, places)
            chunks.append(da.from_delayed(block, shape, self.dtype))
        return self._wrap(da.concatenate(chunks))

    def write(
        self,
        store: StoreLike,
        *,
        overwrite: bool = False,
        on_written: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Write the patches and their coordinates; `on_written` hears of every portion's rows."""
        with new_samples(
            store,
            KIND,
            shape=self.shape,
            chunk_rows=self.chunk_rows,
            dtype=self.dtype,
            dims=self.dims,
            coords=self.coordinates,
            attrs=self.provenance,
            overwrite=overwrite,
        ) as array:
            row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
            for rows in self._slices(rows_per_portion(row_bytes, self.chunk_rows)):
                array[rows] = self._cut(rows)
                on_written(rows.stop - rows.start)
        return_freed_memory()

    def _wrap(self, patches: Any) -> xr.DataArray:
        coords = {name: ("patch", values) for name, values in self.coordinates.items()}
        return xr.DataArray(
            patches, dims=self.dims, coords=coords, attrs=self.provenance, name="patches"
        )

    def _slices(self, size: int) -> Iterator[slice]:
        for start in range(0, len(self.numbers), size):
            yield slice(start, min(start + size, len(self.numbers)))

    def _cut(self, rows: slice) -> NDArray[Any]:
        """Cut these patches, reading every stored tile that holds any of them once."""
        out = np.empty((rows.stop - rows.start, *self.shape[1:]), self.dtype)
        reads = list(self._reads(rows))
        for batch in _batches(reads):
            image = batch[0][0]
            regions = image.read([region for _, region, _ in batch])
            for pixels, (_, _, place) in zip(regions, batch, strict=True):
                _place(out, pixels, place)
        return out

    def _reads(self, rows: slice) -> Iterator[_Read]:
        """Yield, image by image, the regions to read and which patches lie in each."""
        image, y0, x0 = (values[rows] for values in self.coordinates.values())
        order = np.argsort(image, kind="stable")
        bounds = np.searchsorted(image[order], np.arange(len(self.images) + 1))
        for index, source in enumerate(self.images):
            members = order[bounds[index] : bounds[index + 1]]
            yield from self._tiles(source, members, y0[members], x0[members])

    def _tiles(
        self, image: Image, members: Integers, y0: Integers, x0: Integers
    ) -> Iterator[_Read]:
        y_borders, x_borders = (np.asarray(borders) for borders in image.borders())
        ty = np.searchsorted(y_borders, y0, side="right") - 1
        tx = np.searchsorted(x_borders, x0, side="right") - 1
        tile = ty * len(x_borders) + tx
        order = np.argsort(tile, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(tile[order])) + 1):
            if len(group):
                ys, xs = y0[group], x0[group]
                height, width = self.grid.patch_shape
                top, left = int(ys.min()), int(xs.min())
                region = slice(top, int(ys.max()) + height), slice(left, int(xs.max()) + width)
                place = (members[group], ys - top, xs - left, self.grid.patch_shape)
                yield image, region, place


_Place = tuple[Integers, Integers, Integers, tuple[int, int]]
_Read = tuple[Any, Region, _Place]


def _batches(reads: Sequence[_Read]) -> Iterator[Sequence[_Read]]:
    """Group reads of one image, so that Dask reads a few of its chunks side by side."""
    start = 0
    for stop in range(1, len(reads) + 1):
        if (
            stop == len(reads)
            or stop - start == _READ_TOGETHER
            or reads[stop][0] is not reads[start][0]
        ):
            yield reads[start:stop]
            start = stop


def _place(out: NDArray[Any], pixels: NDArray[Any], place: _Place) -> None:
    rows, y0, x0, patch_shape = place
    out[rows] = cut_windows(pixels, y0, x0, patch_shape)


def _fill(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    regions: Sequence[NDArray[Any]],
    places: Sequence[_Place],
) -> NDArray[Any]:
    out = np.empty(shape, dtype)
    for pixels, place in zip(regions, places, strict=True):
        _place(out, pixels, place)
    return out


def plan_patches(
    images: Any,
    patch_shape: tuple[int, ...],
    n_patches: int | None = None,
    *,
    stride: int | tuple[int, int] | None = None,
    chunks: int | None = None,
    dtype: DTypeLike | None = "float32",
    rng: Any = None,
) -> PatchPlan:
    """Check what `extract_patches` was asked for, and choose the positions."""
    height_width, channels = _checked_patch_shape(patch_shape)
    sources = open_images(images, with_channels=channels is not None)
    found = sources[0].shape[2] if len(sources[0].shape) == 3 else 1
    if channels is not None and channels != found:
        raise ArgumentError(
            "patch_shape",
            tuple(patch_shape),
            f"asks for {channels} channels and the images have {found}",
            f"pass {(*height_width, found)} or {height_width}",
        )
    steps = _pair("stride", 1 if stride is None else stride)
    shapes = tuple((image.shape[0], image.shape[1]) for image in sources)
    grid = PatchGrid(shapes, height_width, steps)
    if grid.n_positions == 0:
        raise ArgumentError(
            "patch_shape",
            tuple(patch_shape),
            f"is larger than every image (the largest is {max(shapes)})",
            "pass smaller patches or larger images",
        )
    numbers = _choose(grid, n_patches, stride is not None, np.random.default_rng(rng))
    patch_dtype = np.result_type(*(image.dtype for image in sources)) if dtype is None else dtype
    row_bytes = int(np.prod((*height_width, found))) * np.dtype(patch_dtype).itemsize
    if chunks is not None and chunks < 1:
        raise ArgumentError("chunks", chunks, "is no number of patches", "pass 1 or more, or None")
    return PatchPlan(
        images=sources,
        grid=grid,
        numbers=numbers,
        chunk_rows=rows_per_chunk(row_bytes) if chunks is None else chunks,
        dtype=np.dtype(patch_dtype),
        provenance={
            "created_by": f"stackedae {version.__version__}",
            "n_images": len(sources),
            "patch_shape": list(height_width),
            "stride": "random positions"
            if stride is None and n_patches is not None
            else list(steps),
            "seed": int(rng) if isinstance(rng, (int, np.integer)) else "not given as a number",
        },
    )


def _choose(
    grid: PatchGrid, n_patches: int | None, regular: bool, rng: np.random.Generator
) -> Integers:
    if n_patches is None:
        return rng.permutation(grid.n_positions)
    if n_patches < 1:
        raise ArgumentError("n_patches", n_patches, "asks for no patch", "pass 1 or more, or None")
    if not regular:
        return rng.integers(grid.n_positions, size=n_patches)
    if n_patches > grid.n_positions:
        raise ArgumentError(
            "n_patches",
            n_patches,
            f"is more than the {grid.n_positions} positions of the grid",
            "pass a smaller number or stride, or stride=None to draw positions at random",
        )
    return rng.choice(grid.n_positions, n_patches, replace=False)


def _checked_patch_shape(patch_shape: Any) -> tuple[tuple[int, int], int | None]:
    sizes = tuple(patch_shape) if np.iterable(patch_shape) else ()
    if len(sizes) not in (2, 3) or any(not _is_size(size) for size in sizes):
        raise ArgumentError(
            "patch_shape",
            patch_shape,
            "is not two sizes in pixels (and the channels, if you like)",
            "pass for example (8, 8)",
        )
    return (int(sizes[0]), int(sizes[1])), (int(sizes[2]) if len(sizes) == 3 else None)


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = tuple(value) if np.iterable(value) else (value, value)
    if len(pair) != 2 or any(not _is_size(size) for size in pair):
        raise ArgumentError(
            name, value, "is not one or two steps in pixels", "pass 1 or more, or a pair of these"
        )
    return int(pair[0]), int(pair[1])


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)
