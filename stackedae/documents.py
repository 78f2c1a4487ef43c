"""Small Zarr stores that are read whole: a JSON document with arrays beside it; data, never code.

What is read may come from anybody. Nothing is opened but regular files within the folder; nothing
is allocated that the file does not fill; nothing is decoded but plain numbers, and they must have
the checksum that the document says.
"""

from __future__ import annotations

import json
import math
import os
import stat
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import zarr
from fsspec.archive import AbstractArchiveFileSystem  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, StorePath, WrapperStore, ZipStore

from stackedae.errors import DamagedChunkError, StackedAEError, StoreError
from stackedae.stores import (
    MARKER,
    StoreLike,
    file_system,
    local_path,
    new_store,
    open_store,
    shown,
)

MOST_JSON_BYTES = 4 * 2**20
"""Of all metadata of a store: parsed, JSON takes up to 24 times as much memory."""

MOST_FILES = 10_000
"""In one store."""

_DTYPES = ("float64", "float32")

_CODECS = ("bytes",)
"""Numbers as they are: what is stored is as long as what is read."""

T = TypeVar("T")


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
    checksums : dict of str to int
        Of the bytes of those that were written.
    """

    store: str
    values: dict[str, Any]
    arrays: dict[str, np.ndarray[Any, Any]]
    checksums: dict[str, int]

    def take(
        self,
        name: str,
        shape: tuple[int | None, ...],
        *,
        dtype: str | None = "float64",
        finite: bool = True,
    ) -> np.ndarray[Any, Any]:
        """Return an array, which must have this shape and dtype (None: any), and forget it.

        Raises
        ------
        StoreError
            If it is not there, has another shape or dtype, holds NaN or infinity but should be
            `finite`, or is not the one that was written under this name.
        """
        array = self.arrays.pop(name, None)
        if array is None:
            raise StoreError(f"{self.store}: the array {name!r} is missing.")
        if len(array.shape) != len(shape) or any(
            wanted not in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
        ):
            raise StoreError(f"{self.store}: {name!r} has shape {array.shape}, not {shape}.")
        if dtype not in (None, array.dtype):
            raise StoreError(f"{self.store}: {name!r} is of {array.dtype}, not {dtype}.")
        if finite and not np.isfinite(array).all():
            raise StoreError(f"{self.store}: {name!r} holds NaN or infinity.")
        if _checksum_of(array) != self.checksums.get(name):
            raise DamagedChunkError(
                f"{self.store}: {name!r} is not what was written there; restore the store."
            )
        return array

    def refuse_others(self) -> None:
        """Raise a `StoreError` if there are arrays that nobody took."""
        if self.arrays:
            raise StoreError(f"{self.store}: there should be no array {min(self.arrays)!r}.")


def made_of(what: Callable[..., T], values: Mapping[str, Any], **others: Any) -> T:
    """Return a dataclass made of what JSON says of its fields (see `plain`), and of others."""
    kinds = get_type_hints(what)
    return what(**{name: plain(kinds[name], value) for name, value in values.items()}, **others)


def plain(kind: Any, value: Any) -> Any:
    """Return what JSON says; raise a `ValueError` if it is of another kind.

    Floats must be finite, and integers must be counts. A kind may be a tuple of one of these, a
    dataclass of them, or a choice of several.
    """
    if get_origin(kind) is UnionType:
        return _of_one_kind(get_args(kind), value)
    if get_origin(kind) is tuple and type(value) is list:
        return tuple(plain(get_args(kind)[0], each) for each in value)
    if is_dataclass(kind) and type(value) is dict:
        return made_of(kind, value)  # type: ignore[arg-type]
    if kind is float and type(value) is int:
        value = float(value)
    if (
        type(value) is not kind
        or (kind is float and not math.isfinite(value))
        or (kind is int and not 0 <= value < 2**63)
    ):
        raise ValueError(f"{value!r:.60} should be {getattr(kind, '__name__', kind)}")
    return value


def _of_one_kind(kinds: Sequence[Any], value: Any) -> Any:
    """Return a value of the first kind that it is of; the last one says what is wrong."""
    if value is None and NoneType in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not NoneType)
    for kind in others:
        with suppress(ValueError):
            return plain(kind, value)
    return plain(last, value)


def write_document(
    store: StoreLike,
    kind: str,
    values: Mapping[str, Any],
    arrays: Mapping[str, tuple[np.ndarray[Any, Any], tuple[str, ...]]],
    *,
    overwrite: bool,
) -> None:
    """Write a store of JSON values, under the attribute `kind`, and named arrays with dimensions.

    On a local path it is on the disk before it appears. Where it is marked as complete, there are
    checksums of the values and of every array.
    """
    text = json.dumps(values)
    if len(text) > MOST_JSON_BYTES // 2:  # nobody could read it
        raise StoreError(f"{shown(store)}: {len(text)} bytes of JSON are too many for a {kind}.")
    document = json.loads(text)
    marks = {
        "crc32": _checksum(document),
        "arrays": {name: _checksum_of(array) for name, (array, _) in arrays.items()},
    }
    with new_store(store, kind, overwrite=overwrite, durable=True, **marks) as root:
        root.attrs[kind] = document
        for name, (array, dims) in arrays.items():
            created = root.create_array(
                name,
                shape=array.shape,
                chunks=tuple(max(1, size) for size in array.shape),
                dtype=array.dtype,
                compressors=None,
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
    with refusing_nonsense(name, kind):
        root: Any = open_store(guarded(store, kind), kind)
        attributes = root.attrs.asdict()
        values = attributes[kind]
        marks = attributes[MARKER]
        if not isinstance(values, dict) or marks.get("crc32") != _checksum(values):
            raise StoreError(f"{name}: the values do not pass their checksum; restore the store.")
        checksums = dict(marks["arrays"])
        arrays = {path: _read(array, name) for path, array in _arrays_in(root)}
    return Document(name, values, arrays, checksums)


@contextmanager
def refusing_nonsense(name: str, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong with what somebody wrote into a `StoreError` about it."""
    try:
        yield
    except StoreError:
        raise
    except (Exception, MemoryError) as error:
        reason = str(error) if isinstance(error, StackedAEError) else repr(error)
        reason = reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + "…"
        raise StoreError(f"{name}: the {kind} is not as it was written: {reason}.") from error


_LONGEST_REASON = 200


def _arrays_in(group: zarr.Group, within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield paths and arrays; `Group.members` would go on in the background after an error."""
    for name in names_in(group):
        member = group[name]
        if isinstance(member, zarr.Array):
            yield f"{within}{name}", member
        else:
            yield from _arrays_in(member, f"{within}{name}/")


def names_in(group: zarr.Group) -> list[str]:
    """Return the names of groups and arrays in a group of a `guarded` store."""

    async def names() -> list[str]:
        return sorted([name async for name in group.store.list_dir(group.path)])

    return sync(names())


def _read(array: Any, store: str) -> np.ndarray[Any, Any]:
    """Return the values of an array, once it is sure that they are plain, and all there."""
    if array.chunks != tuple(max(1, size) for size in array.shape):
        raise StoreError(f"{store}: {array.path!r} does not have one chunk of its own shape.")
    if 0 in array.shape:
        return np.empty(array.shape, array.dtype)
    chunk = f"{array.path}/{array.metadata.encode_chunk_key((0,) * array.ndim)}"
    n_bytes = math.prod(array.shape) * array.dtype.itemsize
    try:
        stored = sync(array.store_path.store.getsize(chunk))
    except FileNotFoundError as error:
        raise DamagedChunkError(f"{store}: chunk {chunk} is missing; restore it.") from error
    if stored != n_bytes:
        raise DamagedChunkError(
            f"{store}: chunk {chunk} has {stored} bytes, not {n_bytes}; restore it."
        )
    return np.asarray(array[...])


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _checksum_of(array: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)


def guarded(store: StoreLike, kind: str) -> StoreLike:
    """Return a store as one of which nothing is read that should not be."""
    path = local_path(store)
    if path is not None:
        _refuse_irregular(path, kind)
        return _Guarded(LocalStore(path, read_only=True))
    if isinstance(store, str):
        store = FsspecStore.from_url(store, read_only=True)
    inner, within = (store.store, store.path) if isinstance(store, StorePath) else (store, "")
    assert isinstance(inner, Store)
    files = file_system(inner)
    if isinstance(inner, ZipStore) or isinstance(files, AbstractArchiveFileSystem):
        raise StoreError(f"{shown(store)}: is an archive; unpack it, and pass the folder.")
    if isinstance(inner, FsspecStore) and isinstance(files, LocalFileSystem):
        return guarded(Path(inner.path, within), kind)
    return StorePath(_Guarded(inner), within)


class _Guarded(WrapperStore[Store]):
    """A store of which nothing gets to Zarr but groups and arrays of plain numbers."""

    left = MOST_JSON_BYTES

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what is stored."""
        if not key.endswith("zarr.json"):
            return await self._store.get(key, prototype, byte_range)
        where = f"{self._store}/{key}"
        value = await self._store.get(key, prototype, RangeByteRequest(0, self.left + 1))
        if value is None:
            return None
        self.left -= len(value)
        if self.left < 0:
            raise StoreError(f"{where}: metadata are more than {MOST_JSON_BYTES} bytes")
        with refusing_nonsense(where, "metadata"):
            metadata = json.loads(value.to_bytes())
            if metadata["node_type"] == "array":
                _refuse_codes(where, metadata["data_type"], metadata["codecs"])
        if metadata.pop("consolidated_metadata", None):  # copies, which may differ
            return prototype.buffer.from_bytes(json.dumps(metadata).encode())
        return value

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List groups and arrays; Zarr would warn of anything else."""
        async for name in self._store.list_dir(prefix):
            if await self._store.exists(f"{prefix}/{name}/zarr.json".lstrip("/")):
                yield name


def _refuse_codes(where: str, dtype: Any, codecs: Any) -> None:
    """Refuse an array unless it is of plain numbers."""
    names = tuple(codec["name"] for codec in codecs)
    if dtype not in _DTYPES or names != _CODECS:
        raise StoreError(
            f"{where}: is not of plain numbers, but {dtype!r:.60} through {names!r:.200}"
        )


def _refuse_irregular(path: Path, kind: str) -> None:
    """Refuse a folder with anything in it but folders and files, and one with too many of them."""
    if path.is_file():
        raise StoreError(f"{path}: is a file, not a {kind} store, which is a folder; pass one.")
    n_files = 0
    for folder, folders, files in os.walk(path):
        n_files += len(folders) + len(files)
        if n_files > MOST_FILES:
            raise StoreError(f"{path}: holds more than {MOST_FILES} files; this is no {kind}.")
        for entry in (*folders, *files):
            try:
                mode = os.lstat(os.path.join(folder, entry)).st_mode
            except FileNotFoundError:  # a checkpoint that is written meanwhile
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise StoreError(
                    f"{os.path.join(folder, entry)}: is a link or a device, and is not opened; "
                    "copy the files themselves."
                )
