"""Small Zarr stores that are read whole: a JSON document with arrays beside it; data, never code.

What is read may come from anybody. Nothing is opened but regular files within the folder; nothing
is allocated that the file does not fill; nothing is decoded but plain numbers with a checksum.
"""

from __future__ import annotations

import json
import math
import os
import stat
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, StorePath, WrapperStore, ZipStore

from stackedae.errors import DamagedChunkError, StackedAEError, StoreError
from stackedae.stores import MARKER, StoreLike, local_path, new_store, open_store, shown

MOST_JSON_BYTES = 2 * 2**20
"""Of one file of metadata: parsed, JSON takes up to 24 times as much memory."""

MOST_FILES = 10_000
"""In one store."""

_DTYPES = ("float64", "float32", "int64")

_CODECS = ("bytes", "crc32c")
"""Numbers as they are, and a checksum: what is stored is as long as what is read."""


@dataclass(frozen=True)
class Document:
    """What a store holds.

    Parameters
    ----------
    store : str
        Its name, for messages.
    values : dict
        What JSON can say.
    arrays : dict of str to ndarray
        By the path within the store.
    """

    store: str
    values: dict[str, Any]
    arrays: dict[str, np.ndarray[Any, Any]]

    def take(
        self, name: str, shape: tuple[int | None, ...], *, finite: bool = True
    ) -> np.ndarray[Any, Any]:
        """Return an array, which must have this shape (None: any length), and forget it.

        Raises
        ------
        StoreError
            If it is not there, has another shape, or holds NaN or infinity but should be `finite`.
        """
        array = self.arrays.pop(name, None)
        if array is None:
            raise StoreError(f"{self.store}: the array {name!r} is missing.")
        if len(array.shape) != len(shape) or any(
            wanted not in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
        ):
            raise StoreError(f"{self.store}: {name!r} has shape {array.shape}, not {shape}.")
        if finite and not np.isfinite(array).all():
            raise StoreError(f"{self.store}: {name!r} holds NaN or infinity.")
        return array

    def refuse_others(self) -> None:
        """Raise a `StoreError` if there are arrays that nobody took."""
        if self.arrays:
            raise StoreError(f"{self.store}: there should be no array {min(self.arrays)!r}.")


def write_document(
    store: StoreLike,
    kind: str,
    values: Mapping[str, Any],
    arrays: Mapping[str, tuple[np.ndarray[Any, Any], tuple[str, ...]]],
    *,
    overwrite: bool,
) -> None:
    """Write a store of JSON values, under the attribute `kind`, and named arrays with dimensions.

    On a local path it is on the disk before it appears. Every array has a checksum, and so have
    the values.
    """
    document = json.loads(json.dumps(values))
    marks = {"crc32": _checksum(document)}
    with new_store(store, kind, overwrite=overwrite, durable=True, **marks) as root:
        root.attrs[kind] = document
        for name, (array, dims) in arrays.items():
            created = root.create_array(
                name,
                shape=array.shape,
                chunks=tuple(max(1, size) for size in array.shape),
                dtype=array.dtype,
                compressors=({"name": "crc32c"},),
                fill_value=0,
                dimension_names=dims,
                config={"write_empty_chunks": True},
            )
            created[...] = array


def read_document(store: StoreLike, kind: str) -> Document:
    """Read a store that `write_document` wrote.

    Raises
    ------
    StoreError
        If it is missing, incomplete, damaged, of another kind or a later version, or in any other
        way not what is written.
    """
    name = shown(store)
    root: Any = open_store(_guarded(store), kind)
    with refusing_nonsense(name, kind), warnings.catch_warnings():
        warnings.simplefilter("error")  # Zarr passes over what it does not know, and warns
        attributes = root.attrs.asdict()
        values = attributes[kind]
        if not isinstance(values, dict) or attributes[MARKER].get("crc32") != _checksum(values):
            raise StoreError(f"{name}: the values do not pass their checksum; restore the store.")
        arrays = {path: _read(array, name) for path, array in _arrays_in(root)}
    return Document(name, values, arrays)


@contextmanager
def refusing_nonsense(name: str, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong with what somebody wrote into a `StoreError` about it."""
    try:
        yield
    except StoreError:
        raise
    except (Exception, MemoryError) as error:
        reason = str(error) if isinstance(error, StackedAEError) else repr(error)
        raise StoreError(f"{name}: the {kind} is not as it was written: {reason}.") from error


def _arrays_in(root: zarr.Group) -> Iterator[tuple[str, Any]]:
    for path, member in root.members(max_depth=None):
        if isinstance(member, zarr.Array):
            yield path, member


def _read(array: Any, store: str) -> np.ndarray[Any, Any]:
    """Return the values of an array, once it is sure that they are plain, and all there."""
    where = f"{store}: {array.path!r}"
    metadata = array.metadata.to_dict()
    codecs = tuple(codec["name"] for codec in metadata["codecs"])
    if codecs != _CODECS or str(array.dtype) not in _DTYPES:
        raise StoreError(
            f"{where} is not of plain numbers with a checksum, but {array.dtype} through "
            f"{', '.join(codecs)}."
        )
    if array.shards or array.chunks != tuple(max(1, size) for size in array.shape):
        raise StoreError(f"{where} does not have one chunk of its own shape.")
    n_bytes = math.prod(array.shape) * array.dtype.itemsize
    if n_bytes > array.nbytes_stored():
        raise StoreError(f"{where} is said to have {n_bytes} bytes, and the file has fewer.")
    if 0 in array.shape:
        return np.empty(array.shape, array.dtype)
    chunk = f"{array.path}/{array.metadata.encode_chunk_key((0,) * array.ndim)}"
    if array.nchunks_initialized != 1:
        raise DamagedChunkError(f"{store}: chunk {chunk} is missing; restore it.")
    try:
        return np.asarray(array[...])
    except (ValueError, RuntimeError) as error:
        raise DamagedChunkError(
            f"{store}: chunk {chunk} cannot be read ({error}); restore it."
        ) from error


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _guarded(store: StoreLike) -> StoreLike:
    """Return a store as one of which nothing is read that should not be."""
    path = local_path(store)
    if path is not None:
        _refuse_irregular(path)
        return _Guarded(LocalStore(path, read_only=True))
    if isinstance(store, str):
        return _Guarded(FsspecStore.from_url(store, read_only=True))
    inner, within = (store.store, store.path) if isinstance(store, StorePath) else (store, "")
    assert isinstance(inner, Store)
    if isinstance(inner, ZipStore):
        raise StoreError(f"{shown(store)}: is an archive; unpack it, and pass the folder.")
    return StorePath(_Guarded(inner), within)


class _Guarded(WrapperStore[Store]):
    """A store of whose metadata not more is read than a sane one has."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what is stored."""
        if not key.endswith("zarr.json"):
            return await self._store.get(key, prototype, byte_range)
        limit = RangeByteRequest(0, MOST_JSON_BYTES + 1)
        value = await self._store.get(key, prototype, limit)
        if value is not None and len(value) > MOST_JSON_BYTES:
            raise StoreError(f"{key} has more than {MOST_JSON_BYTES} bytes")
        return value


def _refuse_irregular(path: Path) -> None:
    """Refuse a folder with anything in it but folders and files, and one with too many of them."""
    if path.is_file():
        raise StoreError(f"{path}: is a file, and a store is a folder; pass one.")
    n_files = 0
    for folder, folders, files in os.walk(path):
        n_files += len(folders) + len(files)
        if n_files > MOST_FILES:
            raise StoreError(f"{path}: holds more than {MOST_FILES} files; this is no model.")
        for entry in (*folders, *files):
            mode = os.lstat(os.path.join(folder, entry)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise StoreError(
                    f"{os.path.join(folder, entry)}: is a link or a device, and is not opened; "
                    "copy the files themselves."
                )
