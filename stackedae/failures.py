"""What Dask says of a cluster in trouble, in words that name the shards and the cure."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from distributed.client import AllExit, FutureCancelledError, FuturesCancelledError
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError

from stackedae.errors import ClusterError


@contextmanager
def explaining_failures() -> Iterator[None]:
    """Turn errors of Dask that tell of lost workers, data or schedulers into a `ClusterError`."""
    try:
        yield
    except KilledWorker as error:
        died = error.allowed_failures + 1
        raise ClusterError(
            f"{_work(error.task)}: {died} {'worker' if died == 1 else 'workers'} died over it, the "
            f"last of them {error.last_worker.address}. If that was for lack of memory (their logs "
            "say), start workers with more of it or fewer threads, or write smaller chunks; if "
            "machines come and go, raise distributed.scheduler.allowed-failures"
        ) from error
    except (NoWorkerError, NoValidWorkerError) as error:
        raise ClusterError(
            f"{_work(error.task)}: no worker came within {error.timeout:g} s "
            "(distributed.scheduler.no-workers-timeout); start workers"
        ) from error
    except (FutureCancelledError, FuturesCancelledError) as error:
        keys, reason = _cancelled(error)
        if reason.startswith("scheduler"):
            raise ClusterError(
                f"{_work(keys)}: the connection to the scheduler was lost ({reason}); connect a "
                "new client to it, or start another cluster"
            ) from error
        raise ClusterError(
            f"{_work(keys)}: it was cancelled, or data it needs are gone with a worker ({reason}); "
            "pass data that can be read or computed again, not what was scattered to workers"
        ) from error
    except (CommClosedError, CancelledError) as error:
        raise ClusterError(
            f"the connection to the scheduler was lost ({error!r}); connect a new client to it, or "
            "start another cluster"
        ) from error


@contextmanager
def quiet_when_interrupted() -> Iterator[None]:
    """Keep from the log what Dask raises inside for tasks and connections that are given up."""

    def is_news(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        # Dask 2026.8, if what it is to cancel has not even begun.
        too_early = isinstance(error, NameError) and error.name == "future"
        return not (isinstance(error, (AllExit, CommClosedError)) or too_early)

    names = ("asyncio", "tornado.application", "distributed.batched")
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        gc.collect()  # which is when it would be logged
        for logger in loggers:
            logger.removeFilter(is_news)


def _cancelled(error: FutureCancelledError | FuturesCancelledError) -> tuple[object, str]:
    first = error if isinstance(error, FutureCancelledError) else error.error_groups[0].errors[0]
    return first.key, str(first.reason)


def _work(key: object) -> str:
    """Say what a task does, from its key: the name, and the shards if it is about some.

    Examples
    --------
    >>> from stackedae.failures import _work
    >>> _work("stackedae-cost-gradient-4-7-" + 32 * "0")
    'stackedae-cost-gradient of shards 4 to 7'
    """
    found = _KEY.fullmatch(str(key))
    if found is None:
        return str(key)
    name, first, last = found.groups()
    if first is None:
        return str(name)
    return f"{name} of shard {first}" if first == last else f"{name} of shards {first} to {last}"


_KEY = re.compile(r"(.+?)(?:-(\d+)-(\d+))?-[0-9a-f]{32}")
