"""Patches of images, in memory, lazily, or in a chunked Zarr store."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from dask.base import is_dask_collection
from numpy.typing import DTypeLike

import stackedae._version as version
from stackedae.cutting import KIND, PatchPlan
from stackedae.errors import ArgumentError
from stackedae.images import CHANNELS, Dims, Images, as_sizes, images_in, is_size, without_missing
from stackedae.memory import rows_per_chunk
from stackedae.sampling import VARIANCE, Sampling, choose_positions
from stackedae.sources import open_images
from stackedae.storage import open_samples
from stackedae.stores import StoreLike, refuse_existing
from stackedae.windows import PatchGrid


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
        - a Dataset, whose variables become channels, in alphabetical order;
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
    channels = sources[0].channel_names
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
            **({CHANNELS: list(channels)} if channels else {}),
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
        sources[-1] = each = each.with_channels(sources[0].channel_names, name)
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
