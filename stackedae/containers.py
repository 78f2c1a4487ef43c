"""ndarray, Dask array, DataArray, zarr array: rows from whatever comes in, the same going out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import DTypeLike

from stackedae.blas import one_blas_thread
from stackedae.cluster import literal, run_here, task
from stackedae.errors import DataError
from stackedae.layout import Array
from stackedae.memory import rows_per_shard, shard_rows
from stackedae.moments import first_bad_row
from stackedae.shards import Shards
from stackedae.storage import StoredRows, read_lazily, reader_behind

Container = Any
"""An ndarray (or what becomes one), Dask array, xarray.DataArray or zarr.Array."""

RowFunction = Callable[[Array], Array]
"""Takes rows (n, n_features), gives (n, …)."""


def is_lazy_or_labelled(X: Container) -> bool:
    """Whether X is a container of Dask, xarray or Zarr, and not for NumPy to convert."""
    return isinstance(X, (da.Array, xr.DataArray, zarr.Array))


def as_array(X: Container) -> Array | da.Array:
    """Return the ndarray or Dask array in a container, checked to be samples of real numbers.

    Raises
    ------
    DataError
        If X has fewer than two dimensions, no samples, unknown chunk sizes, or entries that are
        not real numbers.
    """
    if isinstance(X, xr.DataArray):
        X = X.data
    if isinstance(X, zarr.Array):
        X = read_lazily(X)
    elif not isinstance(X, da.Array):
        X = np.asarray(X)
    if X.dtype.kind not in "buif":
        raise DataError(f"X has dtype {X.dtype}, not of real numbers; pass X.astype('float32').")
    if X.ndim < 2:
        raise DataError(
            f"X has shape {X.shape}: expected 2D array or more, samples first. Reshape your data: "
            "X.reshape(-1, 1) if it has a single feature, X.reshape(1, -1) if it is one sample."
        )
    if any(math.isnan(size) for size in X.shape):
        raise DataError(
            f"X has unknown chunk sizes {X.chunks}; call X.compute_chunk_sizes() first."
        )
    if 0 in X.shape:
        raise DataError(
            f"Found array with {X.shape[0]} sample(s) and {math.prod(X.shape[1:])} feature(s) "
            f"(shape={X.shape}) while a minimum of 1 is required; pass more data."
        )
    array: Array | da.Array = X
    return array


def n_columns(X: Container) -> int:
    """Return the entries of one sample."""
    return math.prod(X.shape[1:])


def cut_into_shards(X: Container, dtype: DTypeLike | None = None) -> Shards:
    """Cut the samples of a container into shards of rows, whose dtype sets the arithmetic.

    Parameters
    ----------
    X : array-like of shape (n_samples, …)
        Trailing dimensions are flattened, row-major.
    dtype : dtype or None
        Precision of the arithmetic; that of X if None. Entries are converted only if they would be
        worked with in another precision, so that bytes of an image stay bytes.

    Returns
    -------
    Shards
        Nothing is read or computed yet.
    """
    array = as_array(X)
    stored = array.dtype
    if dtype is not None and np.result_type(stored, np.float32) != dtype:
        stored = np.dtype(dtype)
    d = n_columns(array)
    chunks = array.chunks[0] if isinstance(array, da.Array) else (len(array),)
    rows = shard_rows(chunks, rows_per_shard(len(array), d * stored.itemsize))
    blocks = _row_blocks(array, rows, stored)
    return Shards(blocks, rows, d, stored, whole=not isinstance(blocks[0], StoredRows))


def bytes_of_a_read(X: Container) -> int:
    """Return the bytes that one read of X takes from where it is stored: 0 if that is memory."""
    array = as_array(X)
    return int(array.nbytes) if isinstance(array, da.Array) else 0


def bytes_of_a_chunk(X: Container) -> int:
    """Return the bytes of the largest chunk of X: 0 if it is in memory."""
    array = as_array(X)
    return math.prod(array.chunksize) * array.dtype.itemsize if isinstance(array, da.Array) else 0


def refuse_bad_rows(
    X: Container, shard_rows: Sequence[int], first_bad: Sequence[int], *, missing: bool = False
) -> None:
    """Raise a `DataError` that names the first row of X with NaN or infinity, if there is one.

    Parameters
    ----------
    X : container of shape (n_samples, …)
        What the shards were cut from.
    shard_rows : sequence of int
        Rows of the shards.
    first_bad : sequence of int
        `first_bad_row` of each shard.
    missing : bool
        Whether NaN stands for entries that are missing, and is no harm.
    """
    for row, start in zip(first_bad, np.cumsum((0, *shard_rows[:-1])), strict=True):
        if row >= 0:
            raise _bad_row_error(_place_of(X, int(start) + row), missing)


def _place_of(X: Container, row: int) -> str:
    """Say where a row lies: "row 7 (chunk 1, its row 3)" in chunked data, else "row 7"."""
    array = as_array(X)
    if not isinstance(array, da.Array):
        return f"row {row}"
    borders = np.cumsum((0, *array.chunks[0]))
    chunk = int(np.searchsorted(borders, row, side="right")) - 1
    return f"row {row} (chunk {chunk}, its row {row - borders[chunk]})"


def _bad_row_error(where: str, missing: bool) -> DataError:
    if missing:
        return DataError(
            f"X contains infinity, first in {where}; drop such samples, or put NaN for entries "
            "that are missing."
        )
    return DataError(f"X contains NaN or infinity, first in {where}; drop or fill such samples.")


def map_samples(
    function: RowFunction,
    X: Container,
    *,
    sample_dims: Mapping[str, int] | None,
    dtype: DTypeLike,
    name: str,
    missing: bool = False,
) -> Container:
    """Apply a function of rows to every sample: same container, same chunks, lazy if X is.

    Parameters
    ----------
    function : callable
        Takes (n, n_features), gives (n, …) with as many entries each as `sample_dims` say.
    X : container of shape (n_samples, …)
        Samples; a zarr.Array gives a Dask array.
    sample_dims : mapping of str to int, or None
        Dimensions of one result, names and sizes; those of a sample of X if None. The names are for
        a DataArray, which keeps the coordinates along dimensions that remain.
    dtype : dtype
        Of the result.
    name : str
        What dashboards call the tasks.
    missing : bool
        Whether NaN stands for entries that are missing, and is for the function to deal with.

    Raises
    ------
    DataError
        If X has infinity, or NaN unless entries may be missing (for lazy X, when it is computed).
    """
    array = as_array(X)
    sample_shape = array.shape[1:] if sample_dims is None else tuple(sample_dims.values())
    result: Any
    if isinstance(array, da.Array):
        result = _map_blocks(function, array, sample_shape, np.dtype(dtype), name, missing)
    else:
        result = _map_here(function, array, sample_shape, np.dtype(dtype), missing)
    if not isinstance(X, xr.DataArray):
        return result
    if sample_dims is None:
        return X.copy(data=result)
    along_samples = {
        key: coord for key, coord in X.coords.items() if set(coord.dims) <= {X.dims[0]}
    }
    labelled = xr.DataArray(result, coords=along_samples, dims=(X.dims[0], *sample_dims))
    return labelled.rename(None)  # it would bear the key of the Dask array


def _map_here(
    function: RowFunction, array: Array, sample_shape: tuple[int, ...], dtype: Any, missing: bool
) -> Array:
    out = np.empty((len(array), *sample_shape), dtype)
    row_bytes = math.prod(array.shape[1:]) * array.itemsize
    rows = shard_rows((len(array),), rows_per_shard(len(array), row_bytes))

    on_block = partial(_on_block, function=function, sample_shape=sample_shape, missing=missing)

    def compute(start: int, stop: int) -> None:
        out[start:stop] = on_block(array[start:stop], "", start)

    run_here(compute, pairwise(np.cumsum((0, *rows)).tolist()))
    return out


def _map_blocks(
    function: RowFunction,
    array: da.Array,
    sample_shape: tuple[int, ...],
    dtype: Any,
    name: str,
    missing: bool,
) -> da.Array:
    whole = array.rechunk(dict.fromkeys(range(1, array.ndim), -1))
    ndim = 1 + len(sample_shape)
    mapped: da.Array = da.map_blocks(
        _on_block_in_task,
        whole,
        function=literal(f"{name}-function", function),  # with its parameters: sent once
        sample_shape=sample_shape,
        missing=missing,
        token=name,
        dtype=dtype,
        chunks=(whole.chunks[0], *((size,) for size in sample_shape)),
        drop_axis=list(range(1, array.ndim)),
        new_axis=list(range(1, ndim)) or None,
        meta=np.empty((0,) * ndim, dtype),
    )
    return mapped


def _on_block(
    block: Array,
    where: str,
    first_row: int = 0,
    *,
    function: RowFunction,
    sample_shape: tuple[int, ...],
    missing: bool,
) -> Array:
    rows = block.reshape(len(block), -1)
    bad = first_bad_row(rows, missing=missing)
    if bad >= 0:
        raise _bad_row_error(f"row {first_row + bad}{where}", missing)
    return function(rows).reshape(len(block), *sample_shape)


def _on_block_in_task(
    block: Array,
    *,
    function: RowFunction,
    block_info: Any = None,
    **settings: Any,
) -> Array:
    chunk = block_info[0]["chunk-location"][0]
    with one_blas_thread():
        return _on_block(block, f" of chunk {chunk}", function=function, **settings)


def _row_blocks(array: Array | da.Array, rows: tuple[int, ...], dtype: np.dtype[Any]) -> list[Any]:
    borders = list(pairwise(np.cumsum((0, *rows)).tolist()))
    if not isinstance(array, da.Array):
        parts = [literal("stackedae-rows", array[start:stop]) for start, stop in borders]
    else:
        reader = reader_behind(array)
        if reader is not None:
            reader.refuse_incomplete()
            if max(array.chunks[0]) <= max(rows):  # else several shards would decode the same chunk
                return [StoredRows(reader, start, stop, dtype) for start, stop in borders]
        whole = array.rechunk((rows, *((size,) for size in array.shape[1:])))
        parts = list(whole.to_delayed().ravel())
    return [task("stackedae-load", _as_rows, part, dtype) for part in parts]


def _as_rows(block: Array, dtype: np.dtype[Any]) -> Array:
    return np.ascontiguousarray(block.reshape(len(block), -1), dtype)
