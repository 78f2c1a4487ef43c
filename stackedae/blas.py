"""One BLAS thread per task, whichever BLAS there is and however its threads are counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy  # noqa: F401 (its BLAS is found only once it is loaded)
import threadpoolctl


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread while inside: tasks are what runs side by side.

    MKL and BLAS on OpenMP count threads for each thread that calls; every task sets its own.
    OpenBLAS on pthreads has one number for the whole process, and tasks of a threaded scheduler
    enter and leave in any order: the first to enter sets it, the last to leave restores it.
    """
    own = _POOLS.own.limit(limits=1, user_api="blas")
    _POOLS.enter()
    try:
        yield
    finally:
        _POOLS.leave()
        own.restore_original_limits()


@dataclass
class _Pools:
    """The thread pools of BLAS in this process; found once, for looking takes milliseconds."""

    own: Any
    shared: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: int = 0
    limiter: Any = None

    def enter(self) -> None:
        with self.lock:
            if self.inside == 0:
                _take_control()
                self.limiter = self.shared.limit(limits=1, user_api="blas")
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                _take_control()
                self.limiter.restore_original_limits()
                _take_control()


def _find_pools() -> _Pools:
    every = threadpoolctl.ThreadpoolController()
    per_thread = {"internal_api": "mkl", "threading_layer": "openmp"}
    return _Pools(own=every.select(**per_thread), shared=every.select(threading_layer="pthreads"))


def _take_control() -> None:
    """Let this thread set the number that is shared by all.

    threadpoolctl 3.8 leaves that to the first thread that ever did, and silently ignores others;
    here the first task to enter and the last to leave may run in different threads.
    """
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


_POOLS = _find_pools()
