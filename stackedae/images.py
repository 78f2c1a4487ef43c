"""Images in arrays: which axes are of space, where chunks lie, and how to read a box of pixels."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stackedae.cluster import task
from stackedae.errors import ArgumentError
from stackedae.pixels import Box, KeptChunks, StoredPixels
from stackedae.storage import reader_behind

MAX_CHANNELS = 4
"""A last axis no longer than this holds the channels of one image (grey+alpha, RGB, RGBA)."""

CHANNEL, CHANNELS = "channel", "channels"
"""What the axis of channels of patches is called, and the attribute with their names."""

SPACE = ("z", "y", "x")
"""What axes are called where they have no names."""

_CHANNEL_DIMS = frozenset({"channel", "channels", "c", "band", "bands", "rgb", "variable"})

Dims = Sequence[Hashable] | None


@dataclass(frozen=True)
class Images:
    """Images of one shape in one array, in the order (…, y, x, channel) whatever that of the array.

    Parameters
    ----------
    array : DataArray
        One image, or a stack of them.
    leading, space : tuple of int
        Its axes along which images follow each other, and those of space.
    channel : int or None
        That of the channels.
    """

    array: xr.DataArray
    leading: tuple[int, ...]
    space: tuple[int, ...]
    channel: int | None

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of the array in our order."""
        return (*self.leading, *self.space, *(() if self.channel is None else (self.channel,)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Images along each leading axis, pixels along those of space, and channels."""
        return tuple(self.array.shape[axis] for axis in self.order)

    @property
    def n_leading(self) -> int:
        """Axes along which images follow each other."""
        return len(self.leading)

    @property
    def space_shape(self) -> tuple[int, ...]:
        """Pixels of an image along each axis of space."""
        return tuple(self.array.shape[axis] for axis in self.space)

    @property
    def n_images(self) -> int:
        """Images in the array."""
        return math.prod(self.shape[: self.n_leading])

    @property
    def channels(self) -> tuple[int, ...]:
        """The number of channels, if there is an axis of them."""
        return () if self.channel is None else (self.array.shape[self.channel],)

    @property
    def channel_names(self) -> tuple[str, ...] | None:
        """The names of the channels, if they have any."""
        if self.channel is None or self.array.dims[self.channel] not in self.array.coords:
            return None
        return tuple(map(str, self.array[self.array.dims[self.channel]].values))

    def with_channels(self, names: Sequence[str] | None, argument: str) -> Images:
        """Return the same images with channels in this order, if both have names.

        Raises
        ------
        ArgumentError
            If they have other channels.
        """
        found = self.channel_names
        if names is None or found is None or tuple(names) == found or self.channel is None:
            return self
        if sorted(names) != sorted(found):
            raise ArgumentError(
                f"{argument}.{self.array.dims[self.channel]}",
                found,
                f"are not the channels {tuple(names)} of the first image, or of the patches",
                "rename or select them, or drop their names",
            )
        order = {self.array.dims[self.channel]: [found.index(name) for name in names]}
        return replace(self, array=self.array.isel(order))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return np.dtype(self.array.dtype)

    @property
    def here(self) -> bool:
        """Whether the pixels are in the memory of this process."""
        return not isinstance(self.array.data, da.Array)

    @property
    def named(self) -> bool:
        """Whether the dimensions have names of their own."""
        return not _is_nameless(self.array)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes of space."""
        if not self.named:
            return SPACE[-len(self.space) :]
        return tuple(str(self.array.dims[axis]) for axis in self.space)

    @property
    def all_dims(self) -> tuple[str, ...]:
        """Names of all axes of the array."""
        names = list(map(str, self.array.dims))
        if not self.named:
            for number, axis in enumerate(self.leading):
                names[axis] = "image" if self.n_leading == 1 else f"image_{number}"
            for axis, dim in zip(self.space, self.dims, strict=True):
                names[axis] = dim
        return tuple(names)

    @cached_property
    def borders(self) -> tuple[NDArray[np.int64], ...]:
        """Where chunks start along the leading axes and those of space, and where all ends."""
        data, axes = self.array.data, (*self.leading, *self.space)
        chunks = [(n,) for n in self.array.shape] if self.here else data.chunks
        return tuple(np.cumsum((0, *chunks[axis])) for axis in axes)

    def part(self, box: Box) -> Any:
        """Return the pixels of a box, for a task: an ndarray, or what `pixels_of` or Dask reads."""
        index = [slice(None)] * self.array.ndim
        for axis, pixels in zip((*self.leading, *self.space), box, strict=True):
            index[axis] = pixels
        data = self.array.data
        if self.here:
            return data[tuple(index)].transpose(self.order)
        reader = reader_behind(data)
        if reader is None:
            return task("stackedae-region", np.transpose, data[tuple(index)], self.order)
        filled = [slice(*each.indices(n)[:2]) for each, n in zip(index, data.shape, strict=True)]
        return StoredPixels(reader, tuple(filled), self.order)

    def kept(self) -> KeptChunks | None:
        """Return what reads boxes that have chunks in common, if the pixels are stored."""
        data = self.array.data
        reader = None if self.here else reader_behind(data)
        if reader is None:
            return None
        borders = tuple(np.cumsum((0, *sizes)) for sizes in data.chunks)
        return KeptChunks(reader, borders, (*self.leading, *self.space), self.order)


def images_in(
    array: xr.DataArray,
    sizes: Sequence[int],
    *,
    dims: Dims = None,
    channel_dim: Hashable | None = None,
    with_channels: bool | None = None,
    name: str = "images",
) -> Images:
    """Tell apart the axes of an array, for patches of these sizes.

    Parameters
    ----------
    array : DataArray
        One image or a stack of images, of two or three dimensions in space.
    sizes : sequence of int
        Of a patch, along the axes of space and perhaps of the channels.
    dims : sequence of str or int, or None
        The axes of space, by name or number, in the order of `sizes`.
    channel_dim : str, int or None
        The axis of the channels.
    with_channels : bool or None
        Whether the last of `sizes` is of channels; None if that is to be found out.
    name : str
        The argument, in errors.

    Raises
    ------
    ArgumentError
        If there are too few or too many axes, unknown ones, or pixels that are no real numbers.
    """
    if array.dtype.kind not in "buif":
        raise ArgumentError(
            f"{name}.dtype", str(array.dtype), "is not of real numbers", "convert it"
        )
    if 0 in array.shape:
        raise ArgumentError(f"{name}.shape", array.shape, "is empty", "pass some pixels")
    channel = _channel_axis(array, sizes, dims, channel_dim, with_channels)
    others = [axis for axis in range(array.ndim) if axis != channel]
    if dims is not None:
        space = [_axis(array, dim, "dims", dims) for dim in dims]
    else:
        space = _space_axes(array, sizes, others, channel, with_channels)
    if len(set(space)) != len(space) or not set(space) <= set(others):
        raise ArgumentError("dims", dims, "names an axis twice, or that of channels", "name others")
    if len(space) not in (2, 3) or len(sizes) - len(space) not in (0, 1):
        raise ArgumentError(
            f"{name}.shape",
            array.shape,
            f"(dimensions {tuple(array.dims)}) is neither an image nor a stack of images for "
            f"patches of {len(sizes)} sizes",
            "pass (height, width), (height, width, channels), (image, height, width) or "
            "(image, height, width, channels), or say dims= and channel_dim=",
        )
    leading = tuple(axis for axis in others if axis not in space)
    return Images(array, leading, tuple(space), channel)


def _channel_axis(
    array: xr.DataArray,
    sizes: Sequence[int],
    dims: Dims,
    channel_dim: Hashable | None,
    with_channels: bool | None,
) -> int | None:
    if channel_dim is not None:
        return _axis(array, channel_dim, "channel_dim", channel_dim)
    space = [] if dims is None else [_axis(array, dim, "dims", dims) for dim in dims]
    if not _is_nameless(array):
        named = (i for i, dim in enumerate(array.dims) if str(dim).lower() in _CHANNEL_DIMS)
        found = next((axis for axis in named if axis not in space), None)
        if found is not None or not with_channels:
            return found
    last = array.ndim - 1
    if array.ndim < 3 or last in space or (with_channels is False and array.ndim == len(sizes)):
        return None
    if with_channels:
        return last
    said = len(sizes) >= 3 and array.shape[-1] == sizes[-1]
    colours = array.shape[-1] <= MAX_CHANNELS
    return last if colours or said or (len(sizes) == 2 and array.ndim == 4) else None


def _space_axes(
    array: xr.DataArray,
    sizes: Sequence[int],
    others: list[int],
    channel: int | None,
    with_channels: bool | None,
) -> list[int]:
    named = {str(dim).lower(): axis for axis, dim in enumerate(array.dims) if axis in others}
    if with_channels is None:
        fits = channel is not None and len(sizes) > 2 and array.shape[channel] == sizes[-1]
        with_channels = len(sizes) > len(others) or (fits and "z" not in named)
    n_space = len(sizes) - bool(with_channels)
    names = SPACE[-n_space:]
    if 2 <= n_space <= 3 and all(name in named for name in names):
        return [named[name] for name in names]
    return others[-n_space:] if 0 < n_space <= len(others) else []


def _axis(array: xr.DataArray, dim: Hashable, argument: str, value: Any) -> int:
    if isinstance(dim, (int, np.integer)) and not isinstance(dim, bool):
        if -array.ndim <= dim < array.ndim:
            return int(dim) % array.ndim
    elif dim in array.dims:
        return array.dims.index(dim)
    raise ArgumentError(
        argument,
        value,
        f"names no axis of an image with dimensions {tuple(array.dims)}",
        "pass names or numbers of these",
    )


def _is_nameless(array: xr.DataArray) -> bool:
    """Whether xarray made up the names."""
    return array.dims == tuple(f"dim_{axis}" for axis in range(array.ndim))


def as_sizes(name: str, value: Any, n_space: int) -> tuple[int, ...]:
    """Return one number for each axis of space, given one for all or one for each.

    Raises
    ------
    ArgumentError
        If they are not that.
    """
    sizes = tuple(value) if np.iterable(value) else (value,) * n_space
    if len(sizes) != n_space or not all(map(is_size, sizes)):
        raise ArgumentError(
            name,
            value,
            f"is not one number of pixels, or one for each of {n_space} dimensions",
            "pass 1 or more, or so many of these",
        )
    return tuple(map(int, sizes))


def is_size(value: Any) -> bool:
    """Say whether a value is a whole number from 1."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


def without_missing(
    image: Images, mask: Images | None = None, nodata: float | None = None
) -> Images:
    """Return images with NaN for pixels that are masked out or have the value for no data.

    Parameters
    ----------
    image : Images
        Images.
    mask : Images or None
        True (or not 0) for pixels that are there: of the same images, or one for all of them.
    nodata : float or None
        A value that stands for none.
    """
    array = image.array
    if nodata is not None:
        array = array.where(array != nodata)
    if mask is not None:
        # By position: coordinates, which xarray would go by, need not be the same.
        axes = (*image.leading, *image.space)[-len(mask.order) :]
        there = mask.array.data.transpose(mask.order) != 0
        array = array.where(xr.DataArray(there, dims=[array.dims[axis] for axis in axes]))
    array = array.transpose(*image.array.dims)
    return Images(array, image.leading, image.space, image.channel)
