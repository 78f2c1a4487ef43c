"""Whole Zarr stores: where they are, how they appear when complete, how they are told apart."""

from __future__ import annotations

import ctypes
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, StorePath, WrapperStore

from stackedae.errors import StoreError, StoreExistsError

FORMAT = 1
"""Version of what this library writes; a store of a later one is refused."""

MARKER = "stackedae"
"""Attribute of a root group that says what the store is, and that it is complete."""

StoreLike = str | Path | Store | StorePath
"""A path, a URL, or a Zarr store object."""


@contextmanager
def new_store(
    store: StoreLike, kind: str, *, overwrite: bool, durable: bool = False, **marks: Any
) -> Iterator[zarr.Group]:
    """Yield a group to fill, which becomes a store of this kind when the block ends without error.

    A store on a local path is written under a hidden name beside it and renamed when complete, so
    that an interrupted write leaves nothing under the path, and what is overwritten stays until
    then (both in one step, where the system can exchange folders). Any other store is written in
    place, and marked when complete.

    Parameters
    ----------
    store : path, URL or Zarr store
        Where to write.
    kind : str
        What it will be.
    overwrite : bool
        Whether a store that is there is replaced.
    durable : bool
        Whether a local store is on the disk, not only with the system, before it appears.
    **marks : object
        What else is said where the store is marked as complete.

    Raises
    ------
    StoreExistsError
        If something is there already, and is not to be (or must not be) overwritten.
    """
    refuse_existing(store, overwrite=overwrite)
    path = local_path(store)
    if path is None:
        group = zarr.open_group(store, mode="w" if overwrite else "w-", zarr_format=3)
        yield group
        _mark(group, kind, marks)
        return
    path = path.resolve()  # behind a link, what it points to is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
    try:
        group = zarr.open_group(unfinished, mode="w", zarr_format=3)
        yield group
        _mark(group, kind, marks)
        if durable:
            for folder, _, names in os.walk(unfinished):
                for name in (*names, "."):
                    _flush(Path(folder, name))
        _move_into_place(unfinished, path)
        if durable:
            _flush(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


UNFINISHED = ".partial"
"""How the hidden name of a local store ends while it is written."""


def open_store(store: StoreLike, kind: str) -> zarr.Group:
    """Open a complete store of this kind for reading.

    Raises
    ------
    StoreError
        If it is missing, not of this kind, of a later format, or incomplete.
    """
    name = shown(store)
    try:
        group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not exists(store):
            raise StoreError(f"{name}: there is no {kind} store; check the path.") from error
        raise StoreError(f"{name}: not a {kind} store ({error}); pass one.") from error
    marker = group.attrs.asdict().get(MARKER)
    if not isinstance(marker, Mapping) or marker.get("kind") != kind:
        other = marker.get("kind") if isinstance(marker, Mapping) else "foreign Zarr"
        raise StoreError(f"{name}: this is a {other} store, not a {kind} store; pass one.")
    if not marker.get("complete"):
        raise StoreError(f"{name}: its writing was interrupted; write it again.")
    written = marker.get("format")
    if not isinstance(written, int) or written > FORMAT:
        raise StoreError(
            f"{name}: has format {written}, and this version of stackedae reads formats up to "
            f"{FORMAT}; install a later version."
        )
    list_anew(group.store)
    return group


def kind_of(store: StoreLike) -> str:
    """Say what a store that this library wrote holds; raises `StoreError` for any other."""
    path = local_path(store)
    if path is not None and not (path / "zarr.json").is_file():
        raise StoreError(f"{path}: no Zarr group to be read; check the path.")
    try:
        marker = zarr.open_group(store, mode="r").attrs.asdict().get(MARKER)
    except Exception as error:
        raise StoreError(f"{shown(store)}: no Zarr group to be read ({error}).") from error
    if not isinstance(marker, Mapping):
        raise StoreError(f"{shown(store)}: stackedae did not write this.")
    return str(marker.get("kind"))


def inside(store: StoreLike, name: str) -> StoreLike:
    """Return a store of this name within another."""
    path = local_path(store)
    if path is not None:
        return path / name
    if isinstance(store, str):
        return f"{store.rstrip('/')}/{name}"
    assert not isinstance(store, Path)
    return store / name if isinstance(store, StorePath) else StorePath(store, name)


def local_path(store: Any) -> Path | None:
    """Return the folder that a store is; None if it is anything else."""
    if isinstance(store, StorePath):
        root = local_path(store.store)
        return None if root is None else root / store.path
    if isinstance(store, WrapperStore):
        return local_path(store._store)
    if isinstance(store, LocalStore):
        return Path(store.root)
    if isinstance(store, Path) or (isinstance(store, str) and "://" not in store):
        return Path(store)
    return None


def shown(store: Any) -> str:
    """Return how a store is called in messages."""
    path = local_path(store)
    return str(store if path is None else path)


def exists(store: StoreLike) -> bool:
    """Say whether anything is there."""
    path = local_path(store)
    return _holds_zarr(store) if path is None else path.exists()


def list_anew(store: Store) -> None:
    """Forget lists of files that fsspec keeps, which do not have what was written since."""
    while isinstance(store, WrapperStore):
        store = store._store
    files = file_system(store)
    if files is not None:
        files.invalidate_cache()


def file_system(store: Store) -> Any:
    """Return the file system of fsspec behind a store; None if it is none of fsspec's."""
    files = getattr(store, "fs", None)
    return getattr(files, "sync_fs", files)


def refuse_existing(store: StoreLike, *, overwrite: bool) -> None:
    """Raise a `StoreExistsError` if something is there that is not to be (or must not be) replaced.

    What is no Zarr store is never replaced: a slip of the pen must not delete a folder.
    """
    if not exists(store):
        return
    if not overwrite:
        raise StoreExistsError(
            f"{shown(store)} exists already; pass overwrite=True to replace it, or another path."
        )
    if not _holds_zarr(store):
        raise StoreExistsError(
            f"{shown(store)} exists and is no Zarr store, so it is not overwritten; "
            "pass another path."
        )


def refuse_existing_file(path: str | Path, *, overwrite: bool) -> None:
    """Raise a `StoreExistsError` if a file is there that is not to be replaced."""
    if os.path.exists(path) and not overwrite:
        raise StoreExistsError(
            f"{path} exists already; pass overwrite=True to replace it, or another path."
        )


def write_file(path: str | Path, content: bytes, *, overwrite: bool) -> None:
    """Write a file, which appears when it is complete; folders are made.

    Raises
    ------
    StoreExistsError
        If it exists and is not to be overwritten.
    """
    path = Path(path)
    refuse_existing_file(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _holds_zarr(store: Any) -> bool:
    """Say whether there is anything of Zarr's; a store that cannot be asked is not an empty one."""
    try:
        list_anew(zarr.open(store, mode="r").store)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except Exception as error:
        raise StoreError(
            f"{shown(store)}: what is there cannot be read ({error}); pass another path."
        ) from error
    return True


def _mark(group: zarr.Group, kind: str, marks: Mapping[str, Any]) -> None:
    group.attrs[MARKER] = {"kind": kind, "format": FORMAT, "complete": True, **marks}


def _move_into_place(unfinished: Path, path: Path) -> None:
    """Rename; what was there is then under the name of what was unfinished, or gone."""
    if not path.exists():
        unfinished.rename(path)
        return
    if _exchange(unfinished, path):
        return
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    path.rename(old)
    unfinished.rename(path)
    shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, if the system can, so that there is always one."""
    rename = getattr(_LIBC, "renameat2", None)  # Linux has it
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    done: int = rename(here, os.fsencode(one), here, os.fsencode(other), exchange)
    return done == 0


_LIBC = ctypes.CDLL(None) if os.name == "posix" else None


def _flush(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
