"""The workers: tasks for them, on whatever Dask scheduler is active, or in this process.

A `distributed.Client` is used if there is one, else threads.
"""

from __future__ import annotations

import math
import tempfile
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakSet

import dask.base
import dask.config
import dask.core
import distributed
import distributed.system
import numpy as np
import psutil
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.system import CPU_COUNT
from dask.utils import ensure_dict, parse_bytes

from stackedae.blas import one_blas_thread
from stackedae.contexts import SharedContext
from stackedae.failures import explaining_failures
from stackedae.memory import n_relays, travels_in_tasks

T = TypeVar("T")


Place = str | None
"""Address of a worker; None: anywhere."""


class Runner(Protocol):
    """Where calls are made: in this process at once, or as tasks of the active scheduler."""

    @property
    def threads(self) -> Mapping[Place, int]:
        """Calls that are made at a time, in each place."""

    def send(self, name: str, value: Any) -> Any:
        """Bring a value to where calls are made, once."""

    def hand_out(
        self, name: str, value: Any, places: Sequence[Place], among: Iterable[Place]
    ) -> list[Any]:
        """Bring a value to calls in these places, among all that there are; return each call's."""

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Make a call, or a task of it."""

    def calls(
        self,
        name: str,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        places: Sequence[Place] | None = None,
        shards: Iterable[tuple[int, int]] | None = None,
    ) -> list[Any]:
        """Make many calls, side by side; each in a place, and about some shards, if there are any.

        Shards are given as the first, and the first that is not among them any more.
        """

    def compute(self, *values: Any) -> tuple[Any, ...]:
        """Return the results of calls."""

    def persist(self, *values: Any) -> tuple[Any, ...]:
        """Start to compute the results of calls, to be kept where they are."""

    def share_out(self, sizes: Sequence[int]) -> list[Place]:
        """Return places for things of such sizes: neighbours together, by the strength of each."""


class Here:
    """Runs calls at once, in this process, on as many threads as Dask would."""

    @property
    def threads(self) -> Mapping[Place, int]:
        """Threads of this process."""
        return {None: n_threads()}

    def send(self, name: str, value: T) -> T:
        """Return the value."""
        return value

    def hand_out(
        self, name: str, value: T, places: Sequence[Place], among: Iterable[Place]
    ) -> list[T]:
        """Return the value, for each call."""
        return [value] * len(places)

    def call(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """Make a call."""
        return function(*arguments)

    def calls(
        self,
        name: str,
        function: Callable[..., T],
        arguments: Iterable[tuple[Any, ...]],
        places: Sequence[Place] | None = None,
        shards: Iterable[tuple[int, int]] | None = None,
    ) -> list[T]:
        """Make many calls, on threads."""
        return run_here(function, arguments)

    def compute(self, *values: Any) -> tuple[Any, ...]:
        """Return the values."""
        return values

    persist = compute

    def share_out(self, sizes: Sequence[int]) -> list[Place]:
        """Return no places: all is here."""
        return [None] * len(sizes)


class OnCluster:
    """Makes tasks of calls, and computes them on the active Dask scheduler."""

    @property
    def threads(self) -> Mapping[Place, int]:
        """Threads of every worker; an adaptive cluster may have none yet."""
        client = active_client()
        return Here().threads if client is None else _threads_of(client)

    def send(self, name: str, value: Any) -> Delayed:
        """Return the value as a task."""
        return literal(name, value)

    def hand_out(
        self, name: str, value: Any, places: Sequence[Place], among: Iterable[Place]
    ) -> list[Any]:
        """Return the value for each call: as it is if that is small in all, else as a task.

        Whoever is to do a task is told of all workers that have what it takes. So that these are
        never thousands, one worker of every group has a value of its own for the others to ask for.
        """
        if isinstance(value, np.ndarray) and travels_in_tasks(value.nbytes, len(places)):
            return [value] * len(places)
        workers, first = list(among), literal(name, value)
        n_groups = n_relays(len(workers), placed=None not in places)
        if n_groups == 1:
            return [first] * len(places)
        heads = [workers[number * len(workers) // n_groups] for number in range(n_groups)]
        relays = self.calls("stackedae-hand-on", _same, [(first,)] * n_groups, heads)
        group = {worker: at * n_groups // len(workers) for at, worker in enumerate(workers)}
        return [
            relays[group.get(place, call * n_groups // len(places))]
            for call, place in enumerate(places)
        ]

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Delayed:
        """Return a call as a task."""
        return task(name, function, *arguments)

    def calls(
        self,
        name: str,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        places: Sequence[Place] | None = None,
        shards: Iterable[tuple[int, int]] | None = None,
    ) -> list[Delayed]:
        """Return calls as tasks.

        Places are wishes: what a worker that is gone should have done, any other does. Shards go
        into the keys, after the name by which dashboards group tasks, for errors to tell.
        """
        every = list(arguments)
        labels = [""] * len(every) if shards is None else [f"-{a}-{b - 1}" for a, b in shards]
        wishes = [None] * len(every) if places is None else places
        tasks = []
        for each, label, place in zip(every, labels, wishes, strict=True):
            wish = {} if place is None else {"workers": [place], "allow_other_workers": True}
            with dask.base.annotate(**wish):
                tasks.append(task(name + label, function, *each))
        return tasks

    def compute(self, *tasks: Any) -> tuple[Any, ...]:
        """Compute tasks."""
        with _large_graphs(), explaining_failures():
            return tuple(dask.base.compute(*in_one_layer(tasks)))

    def persist(self, *tasks: Any) -> tuple[Any, ...]:
        """Compute tasks; their results stay with the workers."""
        with _large_graphs(), explaining_failures():
            return tuple(dask.base.persist(*in_one_layer(tasks)))

    def wait(self, tasks: Sequence[Any]) -> None:
        """Wait until what is persisted is there, or cannot be."""
        if active_client() is not None:
            with explaining_failures():
                distributed.wait(tasks)

    def share_out(self, sizes: Sequence[int]) -> list[Place]:
        """Return a worker for each thing: runs of them, as many threads so many things.

        Left to itself the scheduler moves rows about whenever a worker seems to be less busy.
        """
        client = active_client()
        if client is not None and client not in _MADE_WISHES:
            client.register_plugin(_WishesEnd())
            _MADE_WISHES.add(client)
        return share_out(sizes, self.threads)


class _WishesEnd(distributed.SchedulerPlugin):
    """Drops the wish of a task for a worker when there is no worker at all.

    Dask 2026.8 would not run it on workers that come later: it waits for one of those wished for,
    though others are allowed, and they may never come back.
    """

    name = "stackedae-wishes-end"
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        """Remember the scheduler."""
        self.scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        """Look at tasks for which there is no worker."""
        if finish == "no-worker":
            task = self.scheduler.tasks[key]
            if task.loose_restrictions:
                task.worker_restrictions = set()


_MADE_WISHES = WeakSet[distributed.Client]()
"""Whose schedulers have the plugin."""


def share_out(sizes: Sequence[int], threads: Mapping[Place, int]) -> list[Place]:
    """Return a place for each of some things: runs of them, by the threads of the places.

    Examples
    --------
    Six things, of which the last are larger, for two workers of which the second is stronger:

    >>> from stackedae.cluster import share_out
    >>> share_out([1, 1, 1, 1, 2, 2], {"one": 1, "two": 3})
    ['one', 'one', 'two', 'two', 'two', 'two']
    """
    if not threads:
        return [None] * len(sizes)
    borders = cut_in_proportion(sizes, list(threads.values()))
    return [
        place
        for place, (start, stop) in zip(threads, pairwise(borders), strict=True)
        for _ in range(start, stop)
    ]


def follow(
    places: Sequence[Place], sizes: Sequence[int], threads: Mapping[Place, int]
) -> list[Place]:
    """Return the places of things once workers have come or gone.

    Who comes takes over from who is gone, so that all else stays where it is. If more come, and
    the busiest would have notably less to do, everything is shared out anew.

    Parameters
    ----------
    places : sequence of str or None
        Where things were.
    sizes : sequence of int
        How large they are.
    threads : mapping of str or None to int
        Threads of the places that there are now.

    Examples
    --------
    >>> from stackedae.cluster import follow
    >>> follow(["a", "a", "b", "b"], [1, 1, 1, 1], {"b": 1, "c": 1})
    ['c', 'c', 'b', 'b']
    >>> follow(["a", "a", "b", "b"], [1, 1, 1, 1], {"a": 1, "b": 1, "c": 2})
    ['a', 'b', 'c', 'c']
    """
    before = list(dict.fromkeys(places))
    new = [place for place in threads if place not in before]
    if not new:
        return list(places)
    heirs = dict(zip((place for place in before if place not in threads), new, strict=False))
    taken_over = [heirs.get(place, place) for place in places]
    more = new[len(heirs) :]
    if more:
        order = [place for place in dict.fromkeys(taken_over) if place in threads] + more
        anew = share_out(sizes, {place: threads[place] for place in order})
        now = _largest_share(taken_over, sizes, threads)
        if _largest_share(anew, sizes, threads) < (1 - NOTABLE_SHARE) * now:
            return anew
    return taken_over


NOTABLE_SHARE = 1 / 8
"""Of what the busiest has to do, for which it is worth while to move half of the rows."""


def _largest_share(
    places: Sequence[Place], sizes: Sequence[int], threads: Mapping[Place, int]
) -> float:
    """Return the size of the things of a thread, one at least, in the place where it is largest."""
    shares = dict[Place, float]()
    for place, size in zip(places, sizes, strict=True):
        shares[place] = shares.get(place, 0.0) + size / threads.get(place, 1)
    return max(*sizes, *shares.values())


def cut_in_proportion(sizes: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Return where to cut things of such sizes into runs whose sums are as these weights."""
    middles = [end - size / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]
    per_weight = sum(sizes) / sum(weights)
    borders = [weight * per_weight for weight in accumulate(weights)]
    return [0, *(bisect_left(middles, border) for border in borders[:-1]), len(sizes)]


def run_here(function: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
    """Return ``function(*each)`` of each of the arguments, computed by threads of this process."""
    every = list(arguments)
    if len(every) == 1 or n_threads() == 1:
        return [_single_threaded(function, *each) for each in every]
    run = partial(_single_threaded, function)
    return list(_pool(n_threads()).map(lambda each: run(*each), every))


@dataclass(frozen=True)
class Memory:
    """What memory there is for tasks.

    Parameters
    ----------
    n_threads : int
        Of all workers together.
    per_thread : float
        Bytes that there are for each, on the worker that has the fewest.
    where : str
        Which that is.
    """

    n_threads: int
    per_thread: float
    where: str

    @property
    def capacity(self) -> float:
        """Bytes for rows that are shared out among the workers as their threads are.

        ``dask.config.set({"stackedae.memory": "10GB"})`` says so instead.
        """
        told = dask.config.get("stackedae.memory", None)
        return self.n_threads * self.per_thread if told is None else float(parse_bytes(told))


def memory_of_workers() -> Memory:
    """Return what memory the workers of the active scheduler have now; wait for a first one."""
    client = active_client()
    if client is None:
        n_bytes = min(psutil.virtual_memory().available, distributed.system.MEMORY_LIMIT)
        return Memory(n_threads(), n_bytes / n_threads(), "this process")
    with explaining_failures():
        client.wait_for_workers(1)
        workers = client.run_on_scheduler(_limits)
    address, threads, limit = min(workers, key=lambda worker: worker[2] / worker[1])
    return Memory(sum(worker[1] for worker in workers), limit / threads, address)


def describe_scheduler() -> dict[str, Any]:
    """Say what tasks would run on now, in words of JSON."""
    client = active_client()
    if client is None:
        return {"kind": "threads", "threads": n_threads()}
    threads = _threads_of(client)
    scheduler: Any = client.scheduler
    return {
        "kind": "distributed",
        # That by which we reach it: one that it gives itself may be good on its own host only.
        "address": scheduler.address,
        "workers": len(threads),
        "threads": sum(threads.values()),
    }


def active_client() -> distributed.Client | None:
    """Return the client that `dask.compute` would use, if it would use one."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if isinstance(client, distributed.Client) else None


def _threads_of(client: distributed.Client) -> dict[Place, int]:
    """Return the threads of every worker."""
    with explaining_failures():
        return dict(client.nthreads())


def n_threads() -> int:
    """Return the threads that Dask's threaded scheduler would use in this process."""
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def scratch_folder() -> str:
    """Return where this process may put files for a while."""
    for key in ("stackedae.scratch", "temporary-directory"):
        told = dask.config.get(key, None)
        if told is not None:
            return str(told)
    return tempfile.gettempdir()


@cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_workers, thread_name_prefix="stackedae")


def _limits(dask_scheduler: Any) -> list[tuple[str, int, float]]:
    # A worker without a limit is not one without memory.
    return [
        (address, worker.nthreads, worker.memory_limit or math.inf)
        for address, worker in dask_scheduler.workers.items()
    ]


def _single_threaded(function: Callable[..., T], *arguments: Any) -> T:
    with one_blas_thread():
        return function(*arguments)


def task(name: str, function: Callable[..., Any], *arguments: Any) -> Delayed:
    """Return a call to be made on a worker, with one BLAS thread, under a readable name."""
    # A fresh key every time: Dask would answer a key it still knows with the
    # old result, or with the old error. The graph is made here, for
    # `dask.delayed` takes a millisecond for each call with a list of tasks.
    key, needed = f"{name}-{uuid.uuid4().hex}", list[Any]()
    call = (_single_threaded, function, *(_keys_in(each, needed) for each in arguments))
    graph = HighLevelGraph.from_collections(key, {key: call}, dependencies=needed)
    return Delayed(key, graph)


def _keys_in(argument: Any, needed: list[Any]) -> Any:
    """Return an argument with keys in place of tasks, which are gathered in `needed`."""
    found: list[Any] = []
    replaced = _replaced(argument, found)
    needed += found
    return replaced if found else dask.core.quote(argument)


def _replaced(argument: Any, found: list[Any]) -> Any:
    if dask.base.is_dask_collection(argument):
        found.append(argument if isinstance(argument, Delayed) else delayed(argument))
        return found[-1].key
    if isinstance(argument, (list, tuple)):
        return [_replaced(each, found) for each in argument]
    return argument


def _same(value: T) -> T:
    return value


def in_one_layer(tasks: Sequence[Delayed]) -> list[Delayed]:
    """Return the same tasks, with a graph that has one layer.

    Dask picks out what is needed layer by layer, and in each looks for all that is needed so far:
    of thousands of layers that takes seconds.
    """
    graph = HighLevelGraph.merge(*(each.dask for each in tasks))
    wishes = dict[str, dict[Any, Any]]()
    for layer in graph.layers.values():
        for kind, wish in (layer.annotations or {}).items():
            told = wishes.setdefault(kind, {})
            told |= {key: wish(key) if callable(wish) else wish for key in layer}
    one = MaterializedLayer(ensure_dict(graph), {kind: told.get for kind, told in wishes.items()})
    name = uuid.uuid4().hex
    merged = HighLevelGraph.from_collections(name, one)
    return [Delayed(each.key, merged, layer=name) for each in tasks]


def literal(name: str, value: Any) -> Delayed:
    """Return a value as a task of its own, which travels once to every worker."""
    # Lives in the graph, so with the scheduler: it outlives any worker, as
    # scattered data would not.
    key = f"{name}-{uuid.uuid4().hex}"
    return cast(Delayed, delayed(value, name=key, traverse=False))


@contextmanager
def _large_graphs() -> Iterator[None]:
    """See to it that graphs may be large: rows and parameters in them are on purpose.

    Dask would warn of those above 10 MB, and its client keep a thousand messages below 1 MB.
    """
    with _LARGE_GRAPHS:
        yield
    comm = getattr(active_client(), "scheduler_comm", None)
    if comm is not None:
        comm.recent_message_log.clear()


_LARGE_GRAPHS = SharedContext(
    partial(dask.config.set, {"distributed.admin.large-graph-warning-threshold": "1 TB"})
)
