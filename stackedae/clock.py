"""Where the time goes: seconds of reading, computing and adding up, which travel with the sums."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from stackedae.layout import Vector


@dataclass(frozen=True)
class Seconds:
    """Seconds by what was done in them.

    Parameters
    ----------
    read : float
        Waiting for rows from where they are stored.
    compute : float
        In kernels.
    reduce : float
        Adding up sums of tasks.
    wait : float
        Without anything to do.

    Examples
    --------
    >>> from stackedae.clock import Seconds
    >>> Seconds(read=1.0, compute=2.0) + Seconds(compute=0.5)
    Seconds(read=1.0, compute=2.5, reduce=0.0, wait=0.0)
    """

    read: float = 0.0
    compute: float = 0.0
    reduce: float = 0.0
    wait: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.read + self.compute + self.reduce + self.wait

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(
            self.read + other.read,
            self.compute + other.compute,
            self.reduce + other.reduce,
            self.wait + other.wait,
        )

    def __sub__(self, other: Seconds) -> Seconds:
        return self + other.times(-1.0)

    def times(self, factor: float) -> Seconds:
        """Return so many times as many."""
        each = self.read, self.compute, self.reduce, self.wait
        return Seconds(*(factor * seconds for seconds in each))

    def of_each_thread(self, wall: float, n_threads: int, *, fed: bool) -> Seconds:
        """Return what threads spent on average of some time, given what tasks spent together.

        Parameters
        ----------
        wall : float
            Seconds that all took.
        n_threads : int
            Threads that tasks ran on.
        fed : bool
            Whether rows came from other tasks, which made or read them in what is left.

        Examples
        --------
        Two threads computed for 1.5 s together, and all took a second:

        >>> from stackedae.clock import Seconds
        >>> Seconds(compute=1.5).of_each_thread(1.0, 2, fed=False)
        Seconds(read=0.0, compute=0.75, reduce=0.0, wait=0.25)
        """
        left = max(0.0, wall * n_threads - self.total)
        return (self + (Seconds(read=left) if fed else Seconds(wait=left))).times(1 / n_threads)


NO_TIME = Seconds()


@dataclass(frozen=True)
class Timed:
    """Sums over rows, and what making them took."""

    sums: Vector
    seconds: Seconds


class Clock(Protocol):
    """Who is told what evaluations took."""

    def took(self, seconds: Seconds, /) -> None:
        """Take note of them; they are a mean over threads."""


@contextmanager
def reading() -> Iterator[None]:
    """Count what is done inside as reading, for this thread."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _READ.seconds += time.perf_counter() - began


class Stopwatch:
    """Tells what passed since it was made, in this thread: seconds of reading, and all others."""

    def __init__(self) -> None:
        self.began, self.read = time.perf_counter(), _READ.seconds

    @property
    def wall(self) -> float:
        """Seconds that passed."""
        return time.perf_counter() - self.began

    @property
    def seconds(self) -> Seconds:
        """Seconds that passed; what was not reading was computing."""
        read = _READ.seconds - self.read
        return Seconds(read=read, compute=self.wall - read)


class _Read(threading.local):
    seconds = 0.0


_READ = _Read()
