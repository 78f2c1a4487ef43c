"""Fits side by side that read the same rows: what one of them reads, all of them are given.

Each fit runs in a thread of its own, as it would alone. What it asks of rows that others use too is
written down at first; once every fit waits for something, all of that is computed together.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from numpy.typing import DTypeLike

from stackedae.clock import Clock
from stackedae.cluster import OnCluster, Place, Runner
from stackedae.deferred import Block, Call, Recorder, Source, Together
from stackedae.layout import Array, Vector
from stackedae.shards import Begin, Draw, Plan, Shards

T = TypeVar("T")


def share_reads(works: Sequence[Callable[[], T]]) -> list[T]:
    """Call functions side by side, which read the same rows together; return what they return.

    An error in one of them ends all, and is raised when they have ended; so does Ctrl-C. The others
    end when they next read what all use, or ask `go_on`.

    Parameters
    ----------
    works : sequence of callable
        Called without arguments, each in a thread of its own. Shards that they pass to `shared` are
        taken for the same if their descriptions are.

    Examples
    --------
    >>> from stackedae.sharing import n_sharing, share_reads
    >>> share_reads([n_sharing, lambda: "two"])
    [2, 'two']
    """
    meeting, results = _Meeting(len(works)), dict[int, T]()

    def take_part(number: int, work: Callable[[], T]) -> None:
        _PART.set(_Part(meeting, number))
        try:
            results[number] = work()
        except _EndedError:
            pass
        except BaseException as error:
            meeting.end(error)
        finally:
            meeting.finish(number)

    threads = [
        threading.Thread(
            target=copy_context().run,
            args=(take_part, number, work),
            name=f"stackedae-fit-{number}",
            daemon=True,  # so that nobody who presses Ctrl-C twice has to wait for it
        )
        for number, work in enumerate(works)
    ]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except BaseException as error:  # Ctrl-C, or there are too many
        meeting.end(error)
        for number in range(len(started), len(threads)):
            meeting.finish(number)
    meeting.serve()
    for thread in started:
        thread.join()
    meeting.sources.clear()  # connections made meanwhile keep the context, and so the meeting
    meeting.raise_error()
    return [results[number] for number in range(len(works))]


def shared(shards: Shards, *, label: str = "") -> Shards:
    """Return rows as those have them who share reads; as they are if we share none.

    Parameters
    ----------
    shards : Shards
        The rows.
    label : str
        What tells them from others, beside their description.
    """
    part = _PART.get()
    if part is None:
        return shards
    source = part.meeting.source_of(shards, label)
    return _shared(source.shards, [Block() for _ in shards.rows], Recorder(source, part.ask))


def unshared(shards: Shards) -> Shards:
    """Return rows that others use too as those have them who share no reads.

    Parameters
    ----------
    shards : Shards
        What `shared` returned.
    """
    if isinstance(shards, SharedShards) and shards.is_shared:
        return shards.recorder.source.shards
    return shards


def n_sharing() -> int:
    """Return how many share reads, and memory; 1 if we share none."""
    part = _PART.get()
    return 1 if part is None else part.meeting.n


def leave() -> None:
    """Say that we need no more of the rows that others use too, so that nobody waits for us."""
    part = _PART.get()
    if part is not None:
        part.meeting.leave(part.number)


def go_on() -> None:
    """Return, or raise what ends us if another who shares reads has ended in an error."""
    part = _PART.get()
    if part is not None:
        part.meeting.refuse_if_ended()


def reads_paid(shards: Shards, reads: int) -> float:
    """Return how many reads of all rows count as ours: all, or of shared ones, what fell to us.

    Parameters
    ----------
    shards : Shards
        What was read.
    reads : int
        How often, since we asked the last time.
    """
    return payer_of(shards)(reads)


def payer_of(shards: Shards) -> Callable[[int], float]:
    """Return what `reads_paid` does for these shards, which it does not keep."""
    if isinstance(shards, SharedShards) and shards.is_shared:
        recorder = shards.recorder
        return lambda reads: recorder.take_paid()
    return lambda reads: reads


@dataclass(frozen=True)
class SharedShards(Shards):
    """Shards that others use too, whose rows are read for all.

    What is mapped of them is shared as well. What is held or drawn is there, once for all who ask
    for the same, and as other shards.

    Parameters
    ----------
    recorder : Recorder
        Takes down what is to be done with rows.
    """

    recorder: Recorder = field(kw_only=True)

    @property
    def is_shared(self) -> bool:
        """Whether rows were not read yet."""
        return isinstance(self.blocks[0], (Block, Call))

    @property
    def _runner(self) -> Runner:
        return self.recorder if self.is_shared else super()._runner

    def map(
        self,
        function: Callable[..., Array],
        *arguments: Any,
        n_features: int,
        dtype: DTypeLike,
        name: str,
    ) -> Shards:
        """See `Shards.map`."""
        mapped = super().map(function, *arguments, n_features=n_features, dtype=dtype, name=name)
        return _shared(mapped, mapped.blocks, self.recorder) if self.is_shared else mapped

    def hold(self, *, here: bool = False) -> Shards:
        """See `Shards.hold`."""
        return self._kept(super().hold(here=here))

    def sum_and_draw(
        self,
        begin: Begin,
        *arguments: Any,
        draw: Draw,
        here: bool,
        name: str,
        clock: Clock | None = None,
    ) -> tuple[Vector, Shards]:
        """See `Shards.sum_and_draw`."""
        sums, sample = super().sum_and_draw(
            begin, *arguments, draw=draw, here=here, name=name, clock=clock
        )
        return sums, self._kept(sample, draw)

    def draw(self, draw: Draw, *, here: bool = False) -> Shards:
        """See `Shards.draw`."""
        return self._kept(super().draw(draw, here=here), draw)

    def lend_columns(self, others: Shards) -> Shards:
        """See `Shards.lend_columns`; what is beside rows is there, though they are not."""
        if self.is_shared:
            return self.recorder.source.shards.lend_columns(others)
        return super().lend_columns(others)

    def _kept(self, held: Shards, draw: Draw | None = None) -> Shards:
        return self.recorder.source.keep(held, draw) if self._is_source else held

    @property
    def _is_source(self) -> bool:
        """Whether rows are as they were read, and so the same for all."""
        return isinstance(self.blocks[0], Block)

    def _sums_and_draws(
        self, begin: Begin, arguments: tuple[Any, ...], draw: Draw, name: str, plan: Plan
    ) -> tuple[list[Any], list[Any]]:
        if not self._is_source:
            return super()._sums_and_draws(begin, arguments, draw, name, plan)
        # One by one, so that who draws the same is given the same.
        return self._sums(begin, arguments, name, plan), self._draws(draw, plan)

    def _follow(self, places: list[Place], threads: Mapping[Place, int]) -> None:
        with self.recorder.source.lock:  # else all would move what they hold together
            super()._follow(places, threads)


def _shared(shards: Shards, blocks: list[Any], recorder: Recorder) -> SharedShards:
    return SharedShards(
        blocks,
        shards.rows,
        shards.n_features,
        shards.dtype,
        whole=shards.whole,
        aside=shards.aside,
        recorder=recorder,
    )


@dataclass(frozen=True)
class _Part:
    """Who takes part in a meeting."""

    meeting: _Meeting
    number: int

    def ask(self, targets: Sequence[Call]) -> tuple[Any, ...]:
        return self.meeting.ask(self.number, targets)


_PART: ContextVar[_Part | None] = ContextVar("stackedae-part", default=None)


class _Meeting:
    """Where fits ask for what needs rows, and wait for each other.

    Parameters
    ----------
    n : int
        How many take part.
    """

    def __init__(self, n: int) -> None:
        self.n, self.changed = n, threading.Condition()
        self.running, self.present = set(range(n)), set(range(n))
        self.requests: dict[int, _Request] = {}
        self.sources: dict[str, Source] = {}
        self.ended = False
        self.error: BaseException | None = None
        self.untold: Exception | None = None

    def source_of(self, shards: Shards, label: str) -> Source:
        """Return the rows that shards are: those of who came first with the same."""
        with self.changed:
            return self.sources.setdefault(f"{label}: {shards.description}", Source(shards))

    def ask(self, number: int, targets: Sequence[Call]) -> tuple[Any, ...]:
        """Have calls computed, and return their results, to be kept where they are."""
        request = _Request(targets)
        with self.changed:
            self.refuse_if_ended()
            self.present.add(number)  # who left may have come back
            self.requests[number] = request
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.ended or request.results is not None)
            if request.results is None:
                self.refuse_if_ended()
        assert request.results is not None
        return request.results

    def leave(self, number: int) -> None:
        """Let the others go on without one."""
        with self.changed:
            self.present.discard(number)
            self.changed.notify_all()

    def finish(self, number: int) -> None:
        """Take note that one has ended."""
        with self.changed:
            self.running.discard(number)
            self.leave(number)

    def end(self, error: BaseException) -> None:
        """End all, because of an error in one; the first is the one that will be raised."""
        with self.changed:
            if self.error is None:
                self.error = error
            self._send_away()

    def refuse_if_ended(self) -> None:
        """Raise what ends those who take part: the error, once, if it is of a common read."""
        if self.ended:
            with self.changed:
                error, self.untold = self.untold, None
            raise error or _EndedError

    def serve(self) -> None:
        """Do what is asked for, until all have ended.

        Here, not in one of their threads, so that Ctrl-C interrupts it.
        """
        while True:
            try:
                if not self._serve_once():
                    return
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # else it keeps results on the cluster
                with self.changed:
                    self.untold = error
                    self._send_away()
            except BaseException as interrupt:
                traceback.clear_frames(interrupt.__traceback__)
                self.end(interrupt)

    def raise_error(self) -> None:
        """Raise the error in which all ended, if they did."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # it refers to us, by its frames

    def _serve_once(self) -> bool:
        with self.changed:
            self.changed.wait_for(lambda: not self.running or self._all_ask)
            requests, self.requests = self.requests, {}
        if not requests:
            return False
        results = iter(_persist([call for n in sorted(requests) for call in requests[n].targets]))
        with self.changed:
            for number in sorted(requests):
                request = requests[number]
                request.results = tuple(next(results) for _ in request.targets)
            self.changed.notify_all()
        return True

    @property
    def _all_ask(self) -> bool:
        """Whether everybody waits who may ask for something."""
        return bool(self.requests) and self.requests.keys() == self.present

    def _send_away(self) -> None:
        self.ended = True
        self.requests.clear()
        self.changed.notify_all()


@dataclass
class _Request:
    """What one asks for, and is given."""

    targets: Sequence[Call]
    results: tuple[Any, ...] | None = None


class _EndedError(Exception):
    """Ends a fit because another has ended in an error."""


def _persist(targets: Sequence[Call]) -> tuple[Any, ...]:
    """Compute calls, with each read of rows made once, and counted for the first who needs it."""
    run = OnCluster()
    together = Together(run, targets)
    together.count_reads()
    results = run.persist(*together.tasks)
    run.wait(results)
    return results
