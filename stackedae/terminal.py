"""What a person, or the log of a job, sees of work that takes long, and what signals do to it."""

from __future__ import annotations

import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
from sklearn.exceptions import ConvergenceWarning

from stackedae.progress import Record

SECONDS_PER_LINE = 60.0
"""Between two lines on progress, where there is no terminal to draw a bar on."""

TRY_AGAIN = 75
"""Exit code of what a signal ended and the same command goes on with: EX_TEMPFAIL of sysexits.h."""


@contextmanager
def bar(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error, where there is a terminal."""
    title = f"{label:<8}"
    with click.progressbar(length=length, label=title, file=sys.stderr, width=30) as shown:
        yield shown.update
        shown.update(length)  # a fit that converged early is done all the same


@contextmanager
def following(
    max_iter: int, n_parts: int, also: Callable[[Record], None] | None = None
) -> Iterator[Callable[[Record], None]]:
    """Return a callback for `fit` that shows how far it is: a bar, or a line a minute in a log.

    Parameters
    ----------
    max_iter : int
        Iterations of a part.
    n_parts : int
        What is trained one after the other.
    also : callable or None
        Called with every record, too.
    """

    def both(shown: Callable[[Record], None], record: Record) -> None:
        shown(record)
        if also is not None:
            also(record)

    if not sys.stderr.isatty():
        yield partial(both, Lines())
        return
    with bar("fit", max_iter * n_parts) as advance:
        yield partial(both, moving(advance, max_iter))


def moving(advance: Callable[[int], None], max_iter: int) -> Callable[[Record], None]:
    """Return a callback for `fit` that moves a bar to where training stands, however it got there.

    A fit may go on from a checkpoint, and a layer may end early.
    """
    reached = 0

    def callback(record: Record) -> None:
        nonlocal reached
        position = max_iter * record["layer"] + min(record["iteration"], max_iter)
        advance(position - reached)
        reached = position

    return callback


class Lines:
    """A callback for `fit` that writes a line on standard error, now and then.

    Parameters
    ----------
    every : float or None
        Seconds between two; None: `SECONDS_PER_LINE`.
    """

    def __init__(self, every: float | None = None) -> None:
        self.every = SECONDS_PER_LINE if every is None else every
        self.next, self.n_iter, self.seconds = time.monotonic(), 0, 0.0

    def __call__(self, record: Record) -> None:
        """Take note of an iteration, and tell if it is time."""
        self.n_iter += 1
        self.seconds += record["seconds"]
        if time.monotonic() >= self.next:
            say(
                f"layer {record['layer']}  {record['phase']}  iteration {record['iteration']}  "
                f"{record['n_rows']:,} rows  cost {record['cost']:.6g}  "
                f"{self.seconds / self.n_iter:.2g} s each"
            )
            self.next = time.monotonic() + self.every
            self.n_iter, self.seconds = 0, 0.0


def say(message: str) -> None:
    """Write a line on standard error; with the time, where there is no terminal."""
    when = "" if sys.stderr.isatty() else time.strftime("%Y-%m-%d %H:%M:%S  ")
    click.echo(f"{when}{message}", err=True)


@contextmanager
def telling_warnings() -> Iterator[None]:
    """Say in a line what warnings say, when they do."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"Warning: {message}")
        yield


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a batch system sends before it kills."""


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does; once, so that what is begun then comes to its end."""

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
