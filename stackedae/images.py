"""Images from whatever holds them: arrays, Dask arrays, DataArrays, files."""

from __future__ import annotations

import glob
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import compute
from numpy.typing import NDArray

from stackedae.errors import ArgumentError, ImageError

MAX_CHANNELS = 4
"""A last axis no longer than this holds the channels of one image (grey+alpha, RGB, RGBA)."""

_CHANNEL_DIMS = frozenset({"channel", "channels", "c", "band", "rgb"})
_KEEP_DECODED_BYTES = 256 * 2**20

Region = tuple[slice, slice]


class Image(ABC):
    """One image of shape (height, width) or (height, width, channels)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lazy = False

    def borders(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return where stored tiles start along y and x; patches of one tile are read together."""
        return (0,), (0,)

    @abstractmethod
    def read(self, regions: Sequence[Region]) -> Sequence[NDArray[Any]]:
        """Return the pixels of the regions."""


class ArrayImage(Image):
    """An image in memory."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype

    def read(self, regions: Sequence[Region]) -> Sequence[NDArray[Any]]:
        """Return views."""
        return [self.pixels[region] for region in regions]


class DaskImage(Image):
    """An image that Dask reads chunk by chunk."""

    lazy = True

    def __init__(self, pixels: da.Array) -> None:
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype

    def borders(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return where the chunks start."""
        starts = [np.cumsum((0, *sizes[:-1])).tolist() for sizes in self.pixels.chunks[:2]]
        return starts[0], starts[1]

    def read(self, regions: Sequence[Region]) -> Sequence[NDArray[Any]]:
        """Compute the regions together on the active scheduler."""
        return list(compute(*(self.pixels[region] for region in regions)))


class FileImage(Image):
    """An image file, decoded by scikit-image."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.keep = False
        self.shape, self.dtype = self._decoded.shape, self._decoded.dtype

    @cached_property
    def _decoded(self) -> NDArray[Any]:
        from skimage.io import imread  # slow to import, and arrays do without

        try:
            pixels = np.asarray(imread(self.path))
        except Exception as error:
            raise ImageError(
                f"images: {self.path} cannot be read as an image ({_one_line(error)}); "
                "remove it from the list or convert it."
            ) from error
        if pixels.ndim not in (2, 3):
            raise ImageError(
                f"images: {self.path} has shape {pixels.shape}, not (height, width[, channels]); "
                "pass its planes as arrays."
            )
        return pixels

    def forget(self) -> None:
        """Drop the decoded pixels; they are decoded again when next read."""
        self.__dict__.pop("_decoded", None)

    def read(self, regions: Sequence[Region]) -> Sequence[NDArray[Any]]:
        """Decode the file unless its pixels are kept."""
        pixels = self._decoded
        if not self.keep:
            self.forget()
        return [pixels[region] for region in regions]


def open_images(images: Any, *, with_channels: bool) -> list[Image]:
    """Return the images in whatever a user passes.

    Parameters
    ----------
    images : array, sequence of arrays, path, glob, or sequence of paths
        See `extract_patches`.
    with_channels : bool
        Whether a patch was asked for with a channel axis: then the last axis holds channels
        however long it is.

    Raises
    ------
    ArgumentError
        If there is none, or one has too few or too many dimensions, no real numbers as pixels, or
        another number of channels than the first.
    ImageError
        If a file is not found or cannot be read.
    """
    opened = list(_open(images, with_channels))
    if not opened:
        raise ArgumentError("images", images, "holds no image", "pass at least one")
    first = opened[0]
    for index, image in enumerate(opened):
        if image.dtype.kind not in "buif":
            raise ArgumentError(
                f"images[{index}].dtype", str(image.dtype), "is not of real numbers", "convert it"
            )
        if image.shape[2:] != first.shape[2:]:
            raise ArgumentError(
                f"images[{index}].shape",
                image.shape,
                f"does not have the channels of the first image, {first.shape}",
                "convert all to grey or all to the same channels",
            )
    return opened


def _open(images: Any, with_channels: bool) -> Iterable[Image]:
    if isinstance(images, (str, Path)):
        return _open_files([images])
    if isinstance(images, xr.DataArray):
        named = any(_names_channels(dim) for dim in images.dims)
        return _open_array(_canonical(images).data, with_channels or named)
    if isinstance(images, (np.ndarray, da.Array)):
        return _open_array(images, with_channels)
    if not isinstance(images, Iterable):
        raise ArgumentError("images", images, "is no image", "pass arrays or paths")
    items = list(images)
    if items and all(isinstance(item, (str, Path)) for item in items):
        return _open_files(items)
    return [_open_one(index, item) for index, item in enumerate(items)]


def _open_one(index: int, item: Any) -> Image:
    pixels = _canonical(item).data if isinstance(item, xr.DataArray) else item
    pixels = pixels if isinstance(pixels, da.Array) else np.asarray(pixels)
    if pixels.ndim not in (2, 3):
        raise ArgumentError(
            f"images[{index}].shape",
            pixels.shape,
            "is no image",
            "pass (height, width) or (height, width, channels)",
        )
    return _image(pixels)


def _open_array(pixels: Any, with_channels: bool) -> list[Image]:
    n_image_dims = 2
    if pixels.ndim == 4 or (
        pixels.ndim == 3 and (with_channels or pixels.shape[-1] <= MAX_CHANNELS)
    ):
        n_image_dims = 3
    if pixels.ndim == n_image_dims:
        return [_image(pixels)]
    if pixels.ndim == n_image_dims + 1:
        return [_image(plane) for plane in pixels]
    raise ArgumentError(
        "images.shape",
        pixels.shape,
        "is neither an image nor a stack of images",
        "pass (height, width), (height, width, channels), (image, height, width) or "
        "(image, height, width, channels)",
    )


def _image(pixels: Any) -> Image:
    return DaskImage(pixels) if isinstance(pixels, da.Array) else ArrayImage(pixels)


def _canonical(image: xr.DataArray) -> xr.DataArray:
    """Put named dimensions in the order (…, y, x, channel)."""
    spatial = [dim for dim in ("y", "x") if dim in image.dims]
    channels = [dim for dim in image.dims if _names_channels(dim)]
    return image.transpose(..., *spatial, *channels) if len(spatial) == 2 else image


def _names_channels(dim: Hashable) -> bool:
    return str(dim).lower() in _CHANNEL_DIMS


def _open_files(paths: Sequence[str | Path]) -> list[Image]:
    images: list[Image] = []
    decoded_bytes = 0
    for path in _expand(paths):
        image = FileImage(path)
        decoded_bytes += int(np.prod(image.shape)) * image.dtype.itemsize
        # Few or small files are decoded once; of more, only the shapes are kept.
        image.keep = decoded_bytes <= _KEEP_DECODED_BYTES
        if not image.keep:
            image.forget()
        images.append(image)
    return images


def _expand(paths: Sequence[str | Path]) -> list[str]:
    found: list[str] = []
    for path in map(str, paths):
        matches = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True))
        if not matches:
            raise ImageError(f"images={path!r} matches no file; check the path or the pattern.")
        found += matches
    return found


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
