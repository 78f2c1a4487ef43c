"""One BLAS thread per task, whichever BLAS there is and however its threads are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy  # noqa: F401 (its BLAS is found only once it is loaded)
import threadpoolctl

from stackedae.contexts import SharedContext


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread while inside: tasks are what runs side by side.

    MKL and BLAS on OpenMP count threads for each thread that calls; every task sets its own.
    OpenBLAS on pthreads has one number for the whole process, and tasks of a threaded scheduler
    enter and leave in any order: the first to enter sets it, the last to leave restores it.
    """
    own = _OF_THREAD.limit(limits=1, user_api="blas")
    try:
        with _LIMITED:
            yield
    finally:
        own.restore_original_limits()


@contextmanager
def _limited() -> Iterator[None]:
    _take_control()
    limiter = _OF_PROCESS.limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        _take_control()
        limiter.restore_original_limits()
        _take_control()


def _take_control() -> None:
    """Let this thread set the number that is shared by all.

    threadpoolctl 3.8 leaves that to the first thread that ever did, and silently ignores others;
    here the first task to enter and the last to leave may run in different threads.
    """
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


_EVERY = threadpoolctl.ThreadpoolController()  # once: looking for libraries takes milliseconds
_OF_THREAD = _EVERY.select(internal_api="mkl", threading_layer="openmp")
_OF_PROCESS = _EVERY.select(threading_layer="pthreads")
_LIMITED = SharedContext(_limited)


def blas_versions() -> list[str]:
    """Return which BLAS there are, and for which processor each has kernels: bits depend on it."""
    return sorted(
        " ".join(str(each.get(key)) for key in ("internal_api", "version", "architecture"))
        for each in _EVERY.info()
        if each["user_api"] == "blas"
    )
