"""Calls that are written down first, so that those which need the same rows are made in one read.

`Recorder` is the runner that writes them down, `Together` makes tasks of what several of them have,
and `in_one_read` is what such a task does.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any
from weakref import WeakValueDictionary

from dask.delayed import Delayed

from stackedae.blas import one_blas_thread
from stackedae.cluster import OnCluster, Place, Runner
from stackedae.shards import Draw, RowSource, Shards, portions_of_each

Span = tuple[int, int]
"""The first of some shards, and the first that is not among them any more."""


class Source:
    """Rows that several use.

    Parameters
    ----------
    shards : Shards
        The rows, not held.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards, self.lock = shards, threading.RLock()
        self.held: WeakValueDictionary[Any, Shards] = WeakValueDictionary()

    def keep(self, held: Shards, draw: Draw | None) -> Shards:
        """Return all rows or a sample, which are held now, as one object for all who hold them.

        So what moves to another worker moves once.
        """
        with self.lock:
            return self.held.setdefault((draw, held.here), held)


class Block:
    """Stands for the rows of a shard of a source, which were not read yet."""


@dataclass(frozen=True, eq=False)
class Sent:
    """A value for calls."""

    value: Any


@dataclass(frozen=True, eq=False)
class Call:
    """A call to be made, of what others return.

    Parameters
    ----------
    name, function, arguments, place
        As for `Runner.calls`.
    depth : int
        How many reads come before it.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    place: Place
    depth: int


@dataclass(frozen=True, eq=False)
class Read(Call):
    """A call that takes rows; `arguments` are those that `work` does not have.

    Parameters
    ----------
    work : Work
        What it has in common with others.
    source : Source
        Of the rows.
    span : Span
        Shards that it takes.
    by : Recorder
        Who wrote it down, and is told how many reads count as its own.
    """

    work: Work = field(kw_only=True)
    source: Source = field(kw_only=True)
    span: Span = field(kw_only=True)
    by: Recorder = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Work:
    """What calls have in common that take some of the rows each.

    Parameters
    ----------
    function : callable
        ``function(*sent, *others, rows)``.
    sent : tuple
        Its first arguments.
    sources : list of tuple
        What makes rows of those that are read, one of another: callables, and all their arguments
        but the last.
    alone : bool
        Whether the rows are those of one shard, and not a list.
    """

    function: Callable[..., Any]
    sent: tuple[Any, ...]
    sources: list[tuple[Any, ...]]
    alone: bool

    def do(self, others: Sequence[Any], blocks: Sequence[Any]) -> Any:
        """Make a call."""
        for make, *arguments in self.sources:
            blocks = [make(*arguments, block) for block in blocks]
        return self.function(*self.sent, *others, blocks[0] if self.alone else blocks)


class Recorder:
    """A runner that writes down what is to be done with the rows of a source.

    Parameters
    ----------
    source : Source
        The rows.
    ask : callable
        Has calls computed, and returns what `Runner.persist` would.
    """

    def __init__(self, source: Source, ask: Callable[[Sequence[Any]], tuple[Any, ...]]) -> None:
        self.source, self.ask, self.run = source, ask, OnCluster()
        self.paid_rows = 0

    @property
    def threads(self) -> Mapping[Place, int]:
        """See `Runner`."""
        return self.run.threads

    def send(self, name: str, value: Any) -> Sent:
        """See `Runner`."""
        return Sent(value)

    def hand_out(
        self, name: str, value: Any, places: Sequence[Place], among: Iterable[Place]
    ) -> list[Sent]:
        """See `Runner`."""
        return [self.send(name, value)] * len(places)

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Call:
        """See `Runner`."""
        (call,) = self.calls(name, function, [arguments])
        return call

    def calls(
        self,
        name: str,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        places: Sequence[Place] | None = None,
        shards: Iterable[Span] | None = None,
    ) -> list[Call]:
        """See `Runner`; what is about shards takes their rows, as the last argument."""
        every = list(arguments)
        wishes = [None] * len(every) if places is None else places
        if shards is None:
            return [
                Call(name, function, each, place, _depth(each))
                for each, place in zip(every, wishes, strict=True)
            ]
        *leading, rows = every[0]
        sent = tuple(each.value for each in leading if isinstance(each, Sent))
        work = Work(function, sent, _sources(rows), alone=not isinstance(rows, list))
        return [
            Read(
                name,
                function,
                each[len(sent) : -1],
                place,
                _depth(each),
                work=work,
                source=self.source,
                span=span,
                by=self,
            )
            for each, place, span in zip(every, wishes, shards, strict=True)
        ]

    def compute(self, *values: Any) -> tuple[Any, ...]:
        """See `Runner`."""
        return self.run.compute(*self.persist(*values))

    def persist(self, *values: Any) -> tuple[Any, ...]:
        """See `Runner`."""
        return self.ask(values) if isinstance(values[0], Call) else values

    def share_out(self, sizes: Sequence[int]) -> list[Place]:
        """See `Runner`."""
        return self.run.share_out(sizes)

    def take_paid(self) -> float:
        """Return how many reads of all rows were counted as ours since we asked the last time."""
        rows, self.paid_rows = self.paid_rows, 0
        return rows / self.source.shards.n_rows


def _sources(rows: Any) -> list[tuple[Any, ...]]:
    """Return what makes rows of those that are read, which is the same for every shard."""
    block, sources = rows[0] if isinstance(rows, list) else rows, list[tuple[Any, ...]]()
    while isinstance(block, Call):
        *arguments, below = block.arguments
        sources.insert(0, (block.function, *map(_plain, arguments)))
        block = below
    return sources


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Sent) else value


def _depth(arguments: Any) -> int:
    return max((call.depth + isinstance(call, Read) for call in _calls_in(arguments)), default=0)


def _calls_in(value: Any) -> Iterator[Call]:
    if isinstance(value, Call):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _calls_in(each)


class Together:
    """Tasks of calls that were written down: of the same rows in one, of like calls only one.

    Parameters
    ----------
    run : Runner
        Makes tasks.
    targets : sequence of Call
        What will be computed, as `tasks`.
    """

    def __init__(self, run: Runner, targets: Sequence[Call]) -> None:
        self.run, self.made, self.alike = run, dict[Call, Any](), dict[Any, Any]()
        self.reads: dict[tuple[Source, int], list[Read]] = {}
        self._look_for_reads(targets, set())
        self.tasks = [self._task_of(target) for target in targets]

    def count_reads(self) -> None:
        """Have every read of rows counted by the first who needs it."""
        for (source, _), reads in self.reads.items():
            spans = (slice(*group[0].span) for group in _by_span(reads))
            reads[0].by.paid_rows += sum(sum(source.shards.rows[span]) for span in spans)

    def _look_for_reads(self, value: Any, seen: set[Call]) -> None:
        for call in _calls_in(value):
            if call not in seen:
                seen.add(call)
                self._look_for_reads(call.arguments, seen)
                if isinstance(call, Read):
                    self.reads.setdefault((call.source, call.depth), []).append(call)

    def _task_of(self, value: Any) -> Any:
        """Return a value with tasks for the calls in it."""
        if isinstance(value, (list, tuple)):
            return [self._task_of(each) for each in value]
        if not isinstance(value, Call):
            return _plain(value)
        if value not in self.made:
            if isinstance(value, Read):
                self._read(self.reads[value.source, value.depth])
            else:
                self._call(value)
        return self.made[value]

    def _call(self, call: Call) -> None:
        arguments = self._task_of(call.arguments)
        likeness = _likeness(call, call.function, arguments)
        if likeness not in self.alike:
            self.alike[likeness] = self._task(call.name, call.function, arguments, call.place)
        self.made[call] = self.alike[likeness]

    def _read(self, reads: Sequence[Read]) -> None:
        works = list(dict.fromkeys(read.work for read in reads))
        sent = self.run.send("stackedae-works", works)
        for group in _by_span(reads):
            alike: dict[Any, list[Read]] = {}
            for read in group:
                alike.setdefault(self._likeness_of(read), []).append(read)
            first, (start, stop) = group[0], group[0].span
            calls = [
                (
                    works.index(read.work),
                    range(read.span[0] - start, read.span[1] - start),
                    self._task_of(read.arguments),
                )
                for read, *_ in alike.values()
            ]
            arguments = [(sent, calls, first.source.shards.blocks[start:stop])]
            wish = [first.place if len(alike) == 1 else None]
            (made,) = self.run.calls(first.name, in_one_read, arguments, wish, [first.span])
            for number, same in enumerate(alike.values()):
                get = operator.itemgetter(number)
                part = self._task("stackedae-part-of", get, [made], same[0].place)
                self.made |= dict.fromkeys(same, part)

    def _likeness_of(self, read: Read) -> Any:
        if read.work.sent or read.work.sources:
            return read
        return _likeness(read, read.work.function, [read.span, *self._task_of(read.arguments)])

    def _task(
        self, name: str, function: Callable[..., Any], arguments: Sequence[Any], place: Place
    ) -> Any:
        (task,) = self.run.calls(name, function, [tuple(arguments)], [place])
        return task


def _likeness(call: Call, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Return what is equal for calls of which one will do; the call, where that cannot be told."""
    whole: Any = function
    if isinstance(function, partial):
        whole = (function.func, *function.args, *function.keywords.items())
    likeness = whole, _frozen(arguments)
    try:
        hash(likeness)
    except TypeError:
        return call
    return likeness


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value.key if isinstance(value, Delayed) else value


def _by_span(reads: Sequence[Read]) -> list[list[Read]]:
    """Return reads in groups, each of which has, at first, one of all shards that the others take.

    Most come of halving, so that one lies in the other or has nothing to do with it; what only
    overlaps is read twice.
    """
    groups: list[list[Read]] = []
    for read in sorted(reads, key=lambda read: (read.span[0], -read.span[1])):
        if groups and read.span[1] <= groups[-1][0].span[1]:
            groups[-1].append(read)
        else:
            groups.append([read])
    return groups


def in_one_read(
    works: Sequence[Work], calls: Sequence[tuple[int, range, Sequence[Any]]], blocks: Sequence[Any]
) -> list[Any]:
    """Make calls over some of the rows each, which are read once, portion by portion.

    Parameters
    ----------
    works : sequence of Work
        What can be called.
    calls : sequence of (int, range, sequence)
        Which of them; numbers of the blocks that it takes, through all of which it has to go; and
        arguments beside those that the work has.
    blocks : sequence of array or RowSource
        The rows of each shard.
    """
    if len(calls) == 1:
        ((n, _, others),) = calls
        return [works[n].do(others, blocks)]
    listeners: list[_Listener] = []
    try:
        for n, span, others in calls:
            listeners.append(_Listener(partial(works[n].do, others), span))
        for listener in listeners:
            listener.wait()
        for number, portions in enumerate(portions_of_each(blocks)):
            listening = [each for each in listeners if number in each.span]
            for rows in portions:
                for listener in listening:
                    listener.hear(rows)
            for listener in listening:
                listener.hear(_END)
        return [listener.result for listener in listeners]
    finally:
        for listener in listeners:
            listener.dismiss()


class _Listener:
    """A call in a thread of its own that waits for portions of rows, and works while we wait.

    In a thread, because calls go through rows in loops of their own, and kernels work in memory of
    their thread. They take turns, as there is one core for each task.

    Parameters
    ----------
    call : callable
        Takes a list of row sources.
    span : range
        Numbers of the blocks that these are to be.
    """

    def __init__(self, call: Callable[[Sequence[RowSource]], Any], span: range) -> None:
        self.call, self.span = call, span
        self.heard, self.waits = SimpleQueue[Any](), SimpleQueue[BaseException | None]()
        self.thread = threading.Thread(target=self._run, name="stackedae-listener", daemon=True)
        self.thread.start()

    def hear(self, rows: Any) -> None:
        """Take a portion, or `_END` for that of a block; return when it was worked on."""
        self.heard.put(rows)
        self.wait()

    def wait(self) -> None:
        """Return when it wants rows, or has ended."""
        error = self.waits.get()
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            with one_blas_thread():
                self.result = self.call([_Heard(self)] * len(self.span))
        except BaseException as error:
            self.waits.put(error)
        else:
            self.waits.put(None)

    def portions(self) -> Iterator[Any]:
        """Yield the portions of the next block."""
        while True:
            self.waits.put(None)
            rows = self.heard.get()
            if rows is _END:
                return
            if isinstance(rows, EOFError):
                raise rows
            yield rows

    def dismiss(self) -> None:
        """End the thread, which may be in the middle of its work."""
        self.heard.put(EOFError("no more rows come"))
        self.thread.join()


_END = object()


class _Heard(RowSource):
    """The rows of the next block that a listener hears."""

    def __init__(self, listener: _Listener) -> None:
        self.listener = listener

    def portions(self) -> Iterator[Any]:
        """See `RowSource`."""
        return self.listener.portions()
