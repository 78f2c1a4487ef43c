"""Zarr stores: written so that damage shows, opened only when whole, read with chunks named."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import dask.array as da
import numpy as np
import xarray as xr
import zarr
import zarr.buffer.cpu
from numpy.typing import DTypeLike
from zarr.abc.store import Store
from zarr.storage import LocalStore

from stackedae.arrays import POOL
from stackedae.errors import (
    DamagedChunkError,
    StoreError,
    StoreExistsError,
)
from stackedae.layout import Array
from stackedae.malloc import keeping_freed_memory
from stackedae.memory import MAX_BLOCK_ROWS, MAX_SHARDS, rows_per_chunk, rows_per_portion_read
from stackedae.shards import RowSource, Shards

FORMAT = 1
"""Version of what this library writes; a store of a later one is refused."""

MARKER = "stackedae"
"""Attribute of a root group that says what the store is, and that it is complete."""

# Reading should not wait for decompression: lz4 takes half the time of zstd, for
# about the same size of whitened patches. crc32c comes last, so that it covers
# what is stored.
_COMPRESSORS: tuple[dict[str, Any], ...] = (
    {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}},
    {"name": "crc32c"},
)

StoreLike = str | Path | Store
"""A path, a URL, or a Zarr store object."""

if TYPE_CHECKING:
    ZarrArray = zarr.Array[Any]  # generic since zarr 3.1.2 only


@contextmanager
def new_store(store: StoreLike, kind: str, *, overwrite: bool) -> Iterator[zarr.Group]:
    """Yield a group to fill, which becomes a store of this kind when the block ends without error.

    A store on a local path is written under a hidden name beside it and renamed when complete, so
    that an interrupted write leaves nothing under the path, and what is overwritten stays until
    then. Any other store is written in place, and marked when complete.

    Raises
    ------
    StoreExistsError
        If something is there already, and is not to be (or must not be) overwritten.
    """
    refuse_existing(store, overwrite=overwrite)
    path = _local_path(store)
    if path is None:
        group = zarr.open_group(store, mode="w" if overwrite else "w-", zarr_format=3)
        yield group
        _mark(group, kind)
        return
    path = path.resolve()  # behind a link, what it points to is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        group = zarr.open_group(unfinished, mode="w", zarr_format=3)
        yield group
        _mark(group, kind)
        _move_into_place(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def open_store(store: StoreLike, kind: str) -> zarr.Group:
    """Open a complete store of this kind for reading.

    Raises
    ------
    StoreError
        If it is missing, not of this kind, of a later format, or incomplete.
    """
    shown = _shown(store)
    try:
        group = zarr.open_group(store, mode="r")
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not _exists(store):
            raise StoreError(f"{shown}: there is no {kind} store; check the path.") from error
        raise StoreError(f"{shown}: not a {kind} store ({error}); pass one.") from error
    marker = group.attrs.asdict().get(MARKER)
    if not isinstance(marker, Mapping) or marker.get("kind") != kind:
        other = marker.get("kind") if isinstance(marker, Mapping) else "foreign Zarr"
        raise StoreError(f"{shown}: this is a {other} store, not a {kind} store; pass one.")
    if not marker.get("complete"):
        raise StoreError(f"{shown}: its writing was interrupted; write it again.")
    written = marker.get("format")
    if not isinstance(written, int) or written > FORMAT:
        raise StoreError(
            f"{shown}: has format {written}, and this version of stackedae reads formats up to "
            f"{FORMAT}; install a later version."
        )
    return group


def kind_of(store: StoreLike) -> str:
    """Say what a store that this library wrote holds; raises `StoreError` for any other."""
    try:
        marker = zarr.open_group(store, mode="r").attrs.asdict().get(MARKER)
    except Exception as error:
        raise StoreError(f"{_shown(store)}: no Zarr group to be read ({error}).") from error
    if not isinstance(marker, Mapping):
        raise StoreError(f"{_shown(store)}: stackedae did not write this.")
    return str(marker.get("kind"))


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
    fewer chunks than there should be are missing ones. Zarr would read these as the fill value,
    whoever reads: it is NaN where there is one, which nobody takes for a pixel.
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
        attributes=dict(attrs or {}),
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
        raise StoreError(f"{_shown(group.store)}: the array {name!r} is missing; write it again.")
    n_missing = array.nchunks - array.nchunks_initialized
    if n_missing:
        raise DamagedChunkError(
            f"{_shown(group.store)}: {n_missing} of {array.nchunks} chunks of {name!r} are missing"
            f"{_first_missing(array)}; restore them or write the store again."
        )
    return array


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
    names = attrs.pop("coordinates").split()
    coords = {name: (dims[0], read_array(group, name)) for name in names}
    return xr.DataArray(read_lazily(array), dims=dims, coords=coords, attrs=attrs, name=kind)


def read_array(group: zarr.Group, name: str) -> Array:
    """Read a small array that this library wrote; raises as `get_array`, or if it is damaged."""
    array = get_array(group, name)
    return _Reader(array)[tuple(slice(0, size) for size in array.shape)]


def read_lazily(array: ZarrArray) -> da.Array:
    """Return a Dask array with one block per stored chunk (per shard, if there are any).

    Of more than `MAX_SHARDS` chunks, several make a block: what is done to them takes as many
    tasks.

    Its keys are fresh at every call: Dask would answer known keys with what an array that was since
    overwritten held before.
    """
    reader = _Reader(array)
    chunk_rows, *rest = array.shards or array.chunks
    together = -(-array.shape[0] // (chunk_rows * MAX_SHARDS))
    lazy: da.Array = da.from_array(
        reader,
        chunks=(chunk_rows * max(1, together), *rest),
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
    d, blocks = shards.n_features, []
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
        blocks.append(StoredRows(_Reader(array), 0, n_rows, shards.dtype))
    readers = [block.reader for block in blocks]
    shards.gather(_write_rows, readers, name="stackedae-spill")
    return replace(shards, blocks=blocks)


def _write_rows(reader: _Reader, rows: Array) -> None:
    reader.array[:] = rows


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
    """A Zarr array whose errors name the chunk."""

    def __init__(self, array: ZarrArray) -> None:
        self.array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, selection: tuple[slice, ...]) -> Array:
        with self._naming_chunks(selection):
            return np.asarray(self.array[selection])

    def rows(self, start: int, stop: int) -> Array:
        """Return rows, in memory that is used again when they are gone."""
        selection = (slice(start, stop), *(slice(0, size) for size in self.shape[1:]))
        rows: Any = POOL.empty((stop - start, *self.shape[1:]), self.dtype)
        with self._naming_chunks(selection):
            out = zarr.buffer.cpu.NDBuffer.from_ndarray_like(rows)
            self.array.get_basic_selection(selection, out=out)
        return np.asarray(rows)

    @contextmanager
    def _naming_chunks(self, selection: tuple[slice, ...]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            damaged = _first_damaged(self.array, selection)
            if damaged is None:
                raise
            raise DamagedChunkError(
                f"{_shown(self.array.store)}: chunk {damaged} cannot be read ({error}); "
                "restore it or write the store again."
            ) from error


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
    root = _local_path(array.store)
    if root is None:
        return ""
    stored = array.shards or array.chunks
    grid = (range(-(-length // size)) for length, size in zip(array.shape, stored, strict=True))
    keys = (_chunk_key(array, chunk) for chunk in product(*grid))
    return next((f", the first is {key}" for key in keys if not (root / key).exists()), "")


def _chunk_key(array: ZarrArray, chunk: tuple[int, ...]) -> str:
    return f"{array.path}/{array.metadata.encode_chunk_key(chunk)}".lstrip("/")


def _local_path(store: Any) -> Path | None:
    if isinstance(store, LocalStore):
        return Path(store.root)
    if isinstance(store, Path) or (isinstance(store, str) and "://" not in store):
        return Path(store)
    return None


def _shown(store: Any) -> str:
    path = _local_path(store)
    return str(store if path is None else path)


def _exists(store: Any) -> bool:
    path = _local_path(store)
    return _holds_zarr(store) if path is None else path.exists()


def _holds_zarr(store: Any) -> bool:
    """Say whether there is anything of Zarr's; a store that cannot be asked is not an empty one."""
    try:
        zarr.open(store, mode="r")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except Exception as error:
        raise StoreError(
            f"{_shown(store)}: what is there cannot be read ({error}); pass another path."
        ) from error
    return True


def refuse_existing(store: StoreLike, *, overwrite: bool) -> None:
    """Raise a `StoreExistsError` if something is there that is not to be (or must not be) replaced.

    What is no Zarr store is never replaced: a slip of the pen must not delete a folder.
    """
    if not _exists(store):
        return
    if not overwrite:
        raise StoreExistsError(
            f"{_shown(store)} exists already; pass overwrite=True to replace it, or another path."
        )
    if not _holds_zarr(store):
        raise StoreExistsError(
            f"{_shown(store)} exists and is no Zarr store, so it is not overwritten; "
            "pass another path."
        )


def _mark(group: zarr.Group, kind: str) -> None:
    group.attrs[MARKER] = {"kind": kind, "format": FORMAT, "complete": True}


def _move_into_place(unfinished: Path, path: Path) -> None:
    if not path.exists():
        unfinished.rename(path)
        return
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    path.rename(old)
    unfinished.rename(path)
    shutil.rmtree(old)
