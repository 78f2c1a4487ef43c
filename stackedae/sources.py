"""Images from whatever holds them, as DataArrays that are read when they are needed."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import StorePath, WrapperStore

from stackedae.cluster import task
from stackedae.errors import ArgumentError, ImageError
from stackedae.storage import read_in_blocks
from stackedae.stores import MARKER, shown

_KEEP_DECODED_BYTES = 256 * 2**20
_MOST_BLOCKS = 100_000
_TIFF = (".tif", ".tiff", ".svs", ".ndpi", ".lsm", ".stk", ".qptiff", ".scn", ".btf")
_TIFF_AXES = {"s": "channel", "q": "image", "i": "image", "r": "image"}
_SMALL_TIFF_BYTES = 16 * 2**20
_OPEN_TIFFS = 128


def open_image(source: Any, *, level: int = 0) -> xr.DataArray:
    r"""Open an image, or a stack of images, without reading its pixels.

    Parameters
    ----------
    source : array, path, URL, or Zarr object
        One of

        - the path or URL of a Zarr store, a zarr.Group or a Zarr store object: OME-Zarr (0.4 and
          0.5, as far as 0.1 has the same keys), a dataset as xarray writes it, or a single array;
        - a zarr.Array;
        - the path of a TIFF file, of which only the tiles that are needed are read, or of any other
          image file that scikit-image can read;
        - a DataArray, or a Dataset, whose variables with the most dimensions become channels, in
          alphabetical order;
        - an ndarray or a Dask array.
    level : int
        Of a pyramid (OME-Zarr, TIFF): 0 is the one with the most pixels.

    Returns
    -------
    xarray.DataArray
        With the names of the dimensions that the source has, else "dim_0", "dim_1", …. Of OME-Zarr,
        with coordinates along the axes that have a scale (:math:`scale \cdot i + translation` for
        pixel i, in the units that their attribute "units" names) and with the names of channels.

    Raises
    ------
    ArgumentError
        If there is no such level, or the source is no image.
    ImageError
        If a file or store is not found or cannot be read.

    See Also
    --------
    extract_patches, feature_map : Both take whatever this does.

    References
    ----------
    Moore, J. et al., "OME-Zarr: a cloud-optimized bioimaging file format with international
    community support", Histochemistry and Cell Biology 160, 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import open_image
    >>> open_image(np.zeros((4, 5))).sizes
    Frozen({'dim_0': 4, 'dim_1': 5})
    """
    return _open(source, level, "source")


def open_images(images: Any, *, level: int = 0, name: str = "images") -> list[xr.DataArray]:
    """Open an image, a stack of images, or a sequence of these, each as `open_image` does.

    Parameters
    ----------
    images : whatever `open_image` takes, a glob pattern, or a sequence of these
        Images.
    level : int
        Of pyramids.
    name : str
        The argument, in errors.
    """
    if isinstance(images, (str, Path)):
        return _open_paths([images], level, name)
    if _is_one(images):
        return [_open(images, level, name)]
    if not isinstance(images, Iterable):
        raise ArgumentError(name, images, "is no image", "pass arrays or paths")
    items = list(images)
    if not items:
        raise ArgumentError(name, images, "holds no image", "pass at least one")
    if all(isinstance(item, (str, Path)) for item in items):
        return _open_paths(items, level, name)
    return [_open(item, level, f"{name}[{index}]") for index, item in enumerate(items)]


def _is_one(images: Any) -> bool:
    kinds = (np.ndarray, da.Array, xr.DataArray, xr.Dataset, zarr.Array, zarr.Group)
    return isinstance(images, (*kinds, Store, StorePath))


def _open(source: Any, level: Any, name: str) -> xr.DataArray:
    if isinstance(level, bool) or not isinstance(level, (int, np.integer)) or level < 0:
        raise ArgumentError("level", level, "is no level of a pyramid", "pass 0 or more")
    level = int(level)
    if isinstance(source, xr.DataArray):
        return source
    if isinstance(source, xr.Dataset):
        return _stacked(source, name)
    if isinstance(source, zarr.Array):
        return _stored(source)
    if isinstance(source, zarr.Group):
        return _open_group(source, level)
    if isinstance(source, (Store, StorePath)):
        return _open_zarr(source, level)
    if isinstance(source, (str, Path)):
        (found,) = _open_paths([source], level, name)
        return found
    return xr.DataArray(source if isinstance(source, da.Array) else np.asarray(source))


def _stacked(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """Return the variables of a dataset as channels; those without an image's dimensions are not.

    A grid mapping, say, has no dimensions at all.
    """
    most = max((variable.ndim for variable in dataset.data_vars.values()), default=0)
    # Sorted, for stores have no order: a dataset should be the same image before and after.
    chosen = sorted((k for k, each in dataset.data_vars.items() if each.ndim == most), key=str)
    if most < 2:
        raise ArgumentError(
            name, list(dataset.data_vars), "are variables of no image", "pass a DataArray"
        )
    if len(chosen) == 1:
        return dataset[chosen[0]]
    return dataset[chosen].to_dataarray("channel")


def _stored(array: Any, names: Sequence[str] | None = None) -> xr.DataArray:
    """Return a Zarr array, read chunk by chunk."""
    block = list(array.chunks)
    while math.prod(-(-n // size) for n, size in zip(array.shape, block, strict=True)) > (
        _MOST_BLOCKS
    ):
        block = [min(2 * size, n) for n, size in zip(array.shape, block, strict=True)]
    if names is None:
        metadata: Any = array.metadata
        of_xarray: Any = array.attrs.get("_ARRAY_DIMENSIONS")  # in format 2
        names = getattr(metadata, "dimension_names", of_xarray)
    dims = tuple(map(str, names)) if names and None not in names else None
    attrs = {key: value for key, value in array.attrs.items() if key != MARKER}
    attrs.pop("_ARRAY_DIMENSIONS", None)
    return xr.DataArray(read_in_blocks(array, tuple(block)), dims=dims, attrs=attrs)


def _open_zarr(store: Any, level: int) -> xr.DataArray:
    try:
        opened = zarr.open(store, mode="r")
    except Exception as error:
        raise ImageError(
            f"{shown(store)} cannot be read as a Zarr store ({_one_line(error)}); check the path."
        ) from error
    return _stored(opened) if isinstance(opened, zarr.Array) else _open_group(opened, level)


def _open_group(group: zarr.Group, level: int) -> xr.DataArray:
    attrs = group.attrs.asdict()
    ome = attrs.get("ome", attrs)
    try:
        if isinstance(ome, Mapping) and ome.get("multiscales"):
            return _open_multiscale(group, ome, level)
        arrays = dict(group.arrays())
        if len(arrays) == 1 and "multiscales" not in attrs:
            (array,) = arrays.values()
            return _stored(array)
        if arrays:
            dataset = xr.open_zarr(group.store, group=group.path or None, consolidated=False)
            return _stacked(dataset, shown(group.store))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ImageError(
            f"{shown(group.store)}: no image can be made of this Zarr group "
            f"({_one_line(error)}); pass one of its arrays: zarr.open(…)[name]."
        ) from error
    inside = ", ".join(name for name, _ in group.groups()) or "nothing"
    raise ImageError(
        f"{shown(group.store)}: this Zarr group holds no image itself, but {inside}; pass what is "
        "inside."
    )


def _open_multiscale(group: zarr.Group, ome: Mapping[str, Any], level: int) -> xr.DataArray:
    """Open a level of an OME-Zarr image, with the coordinates that its scale gives."""
    described = ome["multiscales"][0]
    levels = described["datasets"]
    if level >= len(levels):
        raise ArgumentError(
            "level", level, f"is not among the {len(levels)} of this image", "pass a smaller one"
        )
    array = cast(Any, group[levels[level]["path"]])
    # Before 0.4, axes were names only, or none at all.
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in described["axes"]]
    image = _stored(array, [axis["name"] for axis in axes])
    image.name = described.get("name") or None
    transformations = (
        *levels[level].get("coordinateTransformations", ()),
        *described.get("coordinateTransformations", ()),
    )
    scale, translation = _combined(transformations, len(axes))
    for number, axis in enumerate(axes):
        if not transformations or axis.get("type") == "channel":
            continue
        positions = scale[number] * np.arange(array.shape[number]) + translation[number]
        units = {"units": axis["unit"]} if "unit" in axis else {}
        image = image.assign_coords({axis["name"]: (axis["name"], positions, units)})
    labels = [channel.get("label") for channel in ome.get("omero", {}).get("channels", ())]
    named = [axis["name"] for axis in axes if axis.get("type") == "channel"]
    if named and None not in labels and len(labels) == image.sizes[named[0]]:
        image = image.assign_coords({named[0]: labels})
    return image


def _combined(
    transformations: Iterable[Mapping[str, Any]], n_axes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what scales and translations, one after the other, come to."""
    scale, translation = np.ones(n_axes), np.zeros(n_axes)
    for each in transformations:
        if each["type"] == "scale":
            scale, translation = scale * each["scale"], translation * each["scale"]
        elif each["type"] == "translation":
            translation = translation + each["translation"]
    return scale, translation


def _open_paths(paths: Sequence[str | Path], level: int, name: str) -> list[xr.DataArray]:
    images: list[xr.DataArray] = []
    decoded_bytes = 0
    for path in _expand(paths, name):
        if _is_zarr(path):
            image = _open_zarr(path, level)
        elif path.lower().endswith(_TIFF):
            image = _open_tiff(path, level)
        else:
            image = _decoded(path)
        if not isinstance(image.data, da.Array):
            decoded_bytes += image.nbytes
            # Few or small files are decoded once; of more, only the shapes are kept.
            if decoded_bytes > _KEEP_DECODED_BYTES:
                image = _decoded_later(path, level, image)
        images.append(image)
    return images


def _expand(paths: Sequence[str | Path], name: str) -> list[str]:
    found: list[str] = []
    for path in map(str, paths):
        matches = [path]
        if "://" not in path and not Path(path).exists():
            matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise ImageError(f"{name}={path!r} matches no file; check the path or the pattern.")
        found += matches
    return found


def _is_zarr(path: str) -> bool:
    return "://" in path or path.lower().endswith((".zarr", ".zarr.zip")) or Path(path).is_dir()


def _decoded(path: str) -> xr.DataArray:
    pixels = _decode(path)
    if pixels.ndim not in (2, 3):
        raise ImageError(
            f"images: {path} has shape {pixels.shape}, not (height, width[, channels]); "
            "pass its planes as arrays."
        )
    dims = ("y", "x", "channel")[: pixels.ndim]
    if pixels.ndim == 3 and pixels.shape[-1] > 4:
        dims = ("image", "y", "x")  # frames
    return xr.DataArray(pixels, dims=dims)


def _decoded_later(path: str, level: int, image: xr.DataArray) -> xr.DataArray:
    """Return an image whose file is decoded again when it is read."""
    later = task("stackedae-decode", _decode, path, level)
    return image.copy(data=da.from_delayed(later, image.shape, image.dtype))


def _decode(path: str, level: int = 0) -> NDArray[Any]:
    # Slow to import, and arrays do without.
    import tifffile
    from skimage.io import imread

    try:
        if path.lower().endswith(_TIFF):
            return np.asarray(tifffile.imread(path, level=level))
        return np.asarray(imread(path))
    except Exception as error:
        raise _unreadable(path, error) from error


def _open_tiff(path: str, level: int) -> xr.DataArray:
    """Open a TIFF file by its tiles, or decode it if it is small, for few can be open at a time."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            n_levels, axes = len(series.levels), series.axes
            small = series.nbytes <= _SMALL_TIFF_BYTES
        if level >= n_levels:
            raise ArgumentError("level", level, f"is not among the {n_levels} of {path}", "pass 0")
        names = _tiff_names(axes)
        if small:
            return xr.DataArray(_decode(path, level), dims=names)
        return _stored(zarr.open_array(_TiffStore(path, level), mode="r"), names)
    except (ArgumentError, ImageError):
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _tiff_names(axes: str) -> list[str]:
    names = [_TIFF_AXES.get(axis, axis) for axis in axes.lower()]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]


@lru_cache(maxsize=_OPEN_TIFFS)
def _opened_tiff(path: str, level: int) -> Store:
    import tifffile

    store: Store = tifffile.imread(path, aszarr=True, level=level)
    return store


class _TiffStore(WrapperStore[Store]):
    """A TIFF file as a Zarr store, which goes to workers as its path.

    Not more than some are open at a time.
    """

    def __init__(self, path: str, level: int) -> None:
        self.path, self.level = path, level

    @property
    def _store(self) -> Store:  # type: ignore[override]  # opened when needed
        return _opened_tiff(self.path, self.level)

    def __reduce__(self) -> tuple[Any, ...]:
        return _TiffStore, (self.path, self.level)

    def __str__(self) -> str:
        return self.path


def _unreadable(path: str, error: Exception) -> ImageError:
    return ImageError(
        f"images: {path} cannot be read as an image ({_one_line(error)}); "
        "remove it from the list or convert it."
    )


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
