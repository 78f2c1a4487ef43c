"""Freed memory stays while it is soon needed again, and goes back when it is not."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from stackedae.contexts import SharedContext
from stackedae.memory import MIB

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What glibc's malloc.h calls M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""

_KEPT_BYTES, _LARGEST_KEPT, _SMALLEST_MAPPED = 32 * MIB, 32 * MIB, MIB // 8
"""At the end of a heap: two chunks and more, stored and decoded; of one array; glibc's own."""


def return_freed_memory() -> None:
    """Give all free pages back to the system, after work that took much more than is left of it.

    glibc keeps what lies between arrays that are still there: seen, 250 MiB of 580.
    """
    if _C is not None:
        _C.malloc_trim(0)


@contextmanager
def _kept() -> Iterator[None]:
    before = _trimmed_to()
    if before is None:
        yield
        return
    _set(_MMAP_THRESHOLD, _LARGEST_KEPT)
    _set(_TRIM_THRESHOLD, _KEPT_BYTES)
    try:
        yield
    finally:
        _set(_TRIM_THRESHOLD, before)
        _set(_MMAP_THRESHOLD, _SMALLEST_MAPPED)


def _trimmed_to() -> int | None:
    """Return the threshold that this process was started with, if it is ours to change."""
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return None
    value = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
    return int(value) if value.isdecimal() else None


def _set(option: int, value: int) -> None:
    if _C is not None:
        _C.mallopt(option, value)


def _find_glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


_C = _find_glibc()

keeping_freed_memory = SharedContext(_kept)
"""Let the C library keep what is freed while anybody is inside, up to some 32 MiB in each heap.

Dask starts workers with ``MALLOC_TRIM_THRESHOLD_=65536``, so that memory goes back to the system as
soon as it is free. Zarr allocates every chunk twice, as stored and as decoded: each time the system
clears pages for it one by one, which takes longer than decoding does.

Nothing is done where that variable is not set (glibc then adapts by itself), where
``MALLOC_MMAP_THRESHOLD_`` is set too (somebody chose), or where there is no glibc.
"""
