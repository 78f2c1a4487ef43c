"""Zarr stores: written so that damage shows, opened only when whole, read with chunks named."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import dask.array as da
import dask.config
import numpy as np
import xarray as xr
import zarr
import zarr.buffer.cpu
from dask.utils import parse_timedelta
from numpy.typing import DTypeLike
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath, WrapperStore

from stackedae.arrays import POOL
from stackedae.clock import reading
from stackedae.errors import DamagedChunkError, StoreError
from stackedae.layout import Array
from stackedae.malloc import keeping_freed_memory
from stackedae.memory import MAX_BLOCK_ROWS, MAX_SHARDS, rows_per_chunk, rows_per_portion_read
from stackedae.shards import RowSource, Shards
from stackedae.stores import (
    MARKER,
    StoreLike,
    list_anew,
    local_path,
    new_store,
    open_store,
    shown,
)

T = TypeVar("T")

_LOGGER = logging.getLogger("stackedae")

# Reading should not wait for decompression: lz4 takes half the time of zstd, for
# about the same size of whitened patches. crc32c comes last, so that it covers
# what is stored.
_COMPRESSORS: tuple[dict[str, Any], ...] = (
    {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}},
    {"name": "crc32c"},
)

if TYPE_CHECKING:
    ZarrArray = zarr.Array[Any]  # generic since zarr 3.1.2 only


def create_array(
    group: zarr.Group,
    name: str,
    *,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: DTypeLike,
    dims: tuple[str, ...],
    attrs: Mapping[str, Any] | None = None,
) -> ZarrArray:
    """Create an array whose damage shows.

    Every chunk has a checksum, and is stored even if all its values are the fill value, so that
    fewer chunks than there should be are missing ones; the array is marked so that our reader
    knows. Others would read them as the fill value: it is NaN where there is one, which nobody
    takes for a pixel.
    """
    value_type = np.dtype(dtype)
    return group.create_array(
        name,
        shape=shape,
        chunks=tuple(max(1, size) for size in chunks),
        dtype=value_type,
        compressors=_COMPRESSORS,
        fill_value=np.nan if value_type.kind == "f" else 0,
        dimension_names=dims,
        attributes={**(attrs or {}), MARKER: {"every_chunk_is_stored": True}},
        config={"write_empty_chunks": True},
    )


def get_array(group: zarr.Group, name: str) -> Any:
    """Return an array that this library wrote, all of whose chunks are there.

    Raises
    ------
    StoreError
        If there is no such array.
    DamagedChunkError
        If chunks are missing: Zarr would read them as zeros.
    """
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{shown(group.store)}: the array {name!r} is missing; write it again.")
    refuse_incomplete(array)
    return array


def refuse_incomplete(array: ZarrArray) -> None:
    """Raise a `DamagedChunkError` if chunks are missing that were written; reads none of them."""
    list_anew(array.store)
    n_missing = array.nchunks - array.nchunks_initialized
    if n_missing:
        raise DamagedChunkError(
            f"{shown(array.store)}: {n_missing} of {array.nchunks} chunks of {array.basename!r} "
            f"are missing{_first_missing(array)}; restore them or write the store again."
        )


@contextmanager
def new_samples(
    store: StoreLike,
    kind: str,
    *,
    shape: tuple[int, ...],
    chunk_rows: int,
    dtype: DTypeLike,
    dims: tuple[str, ...],
    coords: Mapping[str, np.ndarray[Any, Any]],
    attrs: Mapping[str, Any],
    overwrite: bool,
) -> Iterator[ZarrArray]:
    """Yield an array of samples to fill; it bears the name of the kind, with `coords` along it.

    xarray opens such a store as a Dataset. See `new_store` for when it appears.
    """
    with new_store(store, kind, overwrite=overwrite) as group:
        for name, values in coords.items():
            coordinate = create_array(
                group,
                name,
                shape=values.shape,
                chunks=(min(2**20, len(values)),),
                dtype=values.dtype,
                dims=dims[:1],
            )
            coordinate[:] = values
        yield create_array(
            group,
            kind,
            shape=shape,
            chunks=(min(chunk_rows, shape[0]), *shape[1:]),
            dtype=dtype,
            dims=dims,
            # How xarray knows coordinates from data.
            attrs={**attrs, "coordinates": " ".join(coords)},
        )


def open_samples(store: StoreLike, kind: str) -> xr.DataArray:
    """Open what was written through `new_samples`, lazily."""
    group: Any = open_store(store, kind)
    array = get_array(group, kind)
    dims = array.metadata.dimension_names
    attrs = array.attrs.asdict()
    attrs.pop(MARKER, None)
    names = attrs.pop("coordinates").split()
    coords = {name: (dims[0], read_array(group, name)) for name in names}
    return xr.DataArray(read_lazily(array), dims=dims, coords=coords, attrs=attrs, name=kind)


def read_array(group: zarr.Group, name: str) -> Array:
    """Read a small array that this library wrote; raises as `get_array`, or if it is damaged."""
    array = get_array(group, name)
    return _Reader(array)[tuple(slice(0, size) for size in array.shape)]


def read_lazily(array: ZarrArray) -> da.Array:
    """Return a Dask array with one block per stored chunk of rows (per shard, if there are any).

    Of more than `MAX_SHARDS` chunks, several make a block: what is done to them takes as many
    tasks.
    """
    chunk_rows, *rest = array.shards or array.chunks
    together = -(-array.shape[0] // (chunk_rows * MAX_SHARDS))
    return read_in_blocks(array, (chunk_rows * max(1, together), *rest))


def read_in_blocks(array: ZarrArray, block: tuple[int, ...]) -> da.Array:
    """Return a Dask array with blocks of this shape.

    Its keys are fresh at every call: Dask would answer known keys with what an array that was since
    overwritten held before.
    """
    reader = _Reader(array)
    lazy: da.Array = da.from_array(
        reader,
        chunks=block,
        name=f"stackedae-read-{uuid.uuid4().hex}",
        asarray=True,
        fancy=False,
        meta=np.empty((0,) * array.ndim, array.dtype),
    )
    _READERS[lazy.name] = reader
    return lazy


def reader_behind(array: da.Array) -> _Reader | None:
    """Return what reads a Dask array that is nothing but a stored array, in this process."""
    return _READERS.get(array.name)


def spill(shards: Shards, folder: str) -> Shards:
    """Write shards to a scratch store, and return them as what reads them from there."""
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    d, arrays = shards.n_features, []
    for number, n_rows in enumerate(shards.rows):
        chunk_rows = min(n_rows, rows_per_chunk(d * shards.dtype.itemsize))
        array = create_array(
            group,
            str(number),
            shape=(n_rows, d),
            chunks=(chunk_rows, d),
            dtype=shards.dtype,
            dims=("row", "feature"),
        )
        arrays.append(array)
    shards.gather(_write_rows, arrays, name="stackedae-spill")
    blocks = [StoredRows(_Reader(array), 0, array.shape[0], shards.dtype) for array in arrays]
    return shards.lend_columns(replace(shards, blocks=blocks, whole=False, aside=()))


def _write_rows(array: ZarrArray, rows: Array) -> None:
    array[:] = rows


class StoredRows(RowSource):
    """Rows of a stored array, read a portion at a time, the next while one is worked on.

    Parameters
    ----------
    reader : _Reader
        Reads the array; trailing dimensions are flattened.
    start, stop : int
        The rows.
    dtype : dtype
        What entries are converted to.
    """

    def __init__(self, reader: _Reader, start: int, stop: int, dtype: DTypeLike) -> None:
        self.reader, self.start, self.stop, self.dtype = reader, start, stop, np.dtype(dtype)

    def portions(self) -> Iterator[Array]:
        """Yield the rows in order: whole chunks as far as possible, whole blocks always."""
        step = _rows_to_read(self.reader.array)
        # At multiples of the step, so that no chunk is decoded twice.
        inner = range(self.start - self.start % step + step, self.stop, step)
        spans = list(pairwise((self.start, *inner, self.stop)))
        ahead = ThreadPoolExecutor(1, thread_name_prefix="stackedae-read")
        return self._reading(ahead, ahead.submit(self._read, *spans[0]), spans[1:])

    def _reading(
        self, ahead: ThreadPoolExecutor, coming: Future[Array], spans: list[tuple[int, int]]
    ) -> Iterator[Array]:
        waiting: Array = np.empty((0, 0))
        with ahead, keeping_freed_memory:
            for following in (*spans, None):
                with reading():
                    rows = coming.result()
                if following is not None:
                    coming = ahead.submit(self._read, *following)
                if len(waiting):
                    rows = np.concatenate((waiting, rows))
                whole = len(rows) - (len(rows) % MAX_BLOCK_ROWS if following else 0)
                waiting = rows[whole:]
                if whole:
                    yield rows[:whole]

    def _read(self, start: int, stop: int) -> Array:
        rows = self.reader.rows(start, stop)
        return np.ascontiguousarray(rows.reshape(len(rows), -1), dtype=self.dtype)


def _rows_to_read(array: ZarrArray) -> int:
    """Return rows to read at a time: whole chunks, as many as make a request large."""
    chunk_rows = (array.shards or array.chunks)[0]
    row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
    return chunk_rows * max(1, rows_per_portion_read(row_bytes) // chunk_rows)


class _Reader:
    """A Zarr array whose errors name the chunk, and pass if they can.

    An array that is marked as whole is read as such: a chunk that is missing is an error. Reading
    is tried again after errors that another attempt may not meet, as `dask.config` says where the
    reader is made: ``stackedae.read.retries`` times (3), after waiting ``stackedae.read.wait``
    (1 s), and twice as long each time.
    """

    def __init__(self, array: ZarrArray) -> None:
        self.marked = MARKER in array.attrs
        if self.marked:
            array = zarr.open_array(StorePath(_Whole(array.store), array.path), mode="r")
        self.array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        wait = parse_timedelta(dask.config.get("stackedae.read.wait", "1s"))
        retries = int(dask.config.get("stackedae.read.retries", 3))
        self.waits = tuple(wait * 2**retry for retry in range(retries))

    def __getitem__(self, selection: tuple[slice, ...]) -> Array:
        return self._trying(selection, lambda: np.asarray(self.array[selection]))

    def rows(self, start: int, stop: int) -> Array:
        """Return rows, in memory that is used again when they are gone."""
        selection = (slice(start, stop), *(slice(0, size) for size in self.shape[1:]))
        rows: Any = POOL.empty((stop - start, *self.shape[1:]), self.dtype)
        out = zarr.buffer.cpu.NDBuffer.from_ndarray_like(rows)
        self._trying(selection, lambda: self.array.get_basic_selection(selection, out=out))
        return np.asarray(rows)

    def refuse_incomplete(self) -> None:
        """Raise a `DamagedChunkError` if chunks are missing, where that can be told."""
        if self.marked:
            refuse_incomplete(self.array)

    def _trying(self, selection: tuple[slice, ...], read: Callable[[], T]) -> T:
        for attempt, wait in enumerate((*self.waits, None), start=1):
            try:
                return read()
            except DamagedChunkError:
                raise
            except Exception as error:
                if wait is None or not _may_pass(error):
                    raise self._named(error, selection, attempt) from error
                _LOGGER.warning(
                    "%s: reading failed (%s), and is tried again in %g s",
                    shown(self.array.store),
                    error,
                    wait,
                )
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _named(self, error: Exception, selection: tuple[slice, ...], attempts: int) -> Exception:
        """Return an error that names the store and the chunk."""
        chunk = _first_damaged(self.array, selection)
        if chunk is None:
            return error
        where = f"{shown(self.array.store)}: chunk {chunk} cannot be read"
        if _may_pass(error):
            return StoreError(
                f"{where}, in {attempts} attempts ({error}); check the store, or set "
                "stackedae.read.retries and stackedae.read.wait higher in dask.config."
            )
        return DamagedChunkError(f"{where} ({error}); restore it or write the store again.")


class _Whole(WrapperStore[Store]):
    """A store all of whose chunks are there: Zarr would read one that is missing as fill values."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what is stored."""
        value = await self._store.get(key, prototype, byte_range)
        if value is None and key.rpartition("/")[2].isdecimal():
            raise DamagedChunkError(
                f"{shown(self)}: chunk {key} is missing; restore it or write the store again."
            )
        return value


def _may_pass(error: Exception) -> bool:
    """Say whether another attempt may not meet an error.

    Checksums and codecs raise ValueError and RuntimeError. Whatever else a store raises (each has
    errors of its own) may come from the way to it.
    """
    return not isinstance(error, (ValueError, RuntimeError, TypeError, LookupError, *_OF_PATHS))


_OF_PATHS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

_READERS: WeakValueDictionary[str, _Reader] = WeakValueDictionary()
"""By the name of the Dask array that they read: whatever is done to it gives it another name."""


def _first_damaged(array: ZarrArray, selection: tuple[slice, ...]) -> str | None:
    """Return the key of the first chunk in the selection that cannot be read on its own."""
    stored = array.shards or array.chunks
    ranges = [
        range(part.indices(length)[0] // size, -(-part.indices(length)[1] // size))
        for part, length, size in zip(selection, array.shape, stored, strict=True)
    ]
    for chunk in product(*ranges):
        corners = zip(chunk, stored, strict=True)
        try:
            array[tuple(slice(i * size, (i + 1) * size) for i, size in corners)]
        except Exception:
            return _chunk_key(array, chunk)
    return None


def _first_missing(array: ZarrArray) -> str:
    """Return which chunk is missing first, where that can be looked up in a folder."""
    root = local_path(array.store)
    if root is None:
        return ""
    stored = array.shards or array.chunks
    grid = (range(-(-length // size)) for length, size in zip(array.shape, stored, strict=True))
    keys = (_chunk_key(array, chunk) for chunk in product(*grid))
    return next((f", the first is {key}" for key in keys if not (root / key).exists()), "")


def _chunk_key(array: ZarrArray, chunk: tuple[int, ...]) -> str:
    return f"{array.path}/{array.metadata.encode_chunk_key(chunk)}".lstrip("/")
