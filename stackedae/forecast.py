"""What an evaluation will take, before it is made: plain arithmetic on what machines can do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from stackedae.memory import (
    halvings,
    is_worth_two_stages,
    n_levels,
    n_relays,
    n_tasks,
    rows_per_shard,
    runs_on_client,
    travels_in_tasks,
)


@dataclass(frozen=True)
class Rates:
    """What machines and Dask can do.

    The defaults were measured on two cores of an AMD EPYC, those of Dask with
    ``benchmarks/scaling.py``; the network is one of 10 Gbit/s.

    Parameters
    ----------
    flops : float
        Floating-point operations of one thread in a second, in the kernels.
    reading : float
        Bytes of rows that one thread reads and decompresses in a second.
    bandwidth : float
        Bytes of one worker's network in a second.
    latency : float
        Seconds until a message between two workers arrives, however short it is.
    client_per_task : float
        Seconds of the client to make a task and to send it.
    scheduler_per_task : float
        Seconds of the scheduler to take in a task, to hand it out and to hear that it is done.
    scheduler_per_worker : float
        More seconds of the scheduler for a task, for each worker that there is: Python's garbage
        collector passes over what is known of all.
    worker_per_task : float
        Seconds of a worker's thread that a task takes beside its work.
    round_trip : float
        Seconds until a worker that is done, or a client that asks, hears of it from the scheduler.
    """

    flops: float = 50e9
    reading: float = 500e6
    bandwidth: float = 1e9
    latency: float = 1e-3
    client_per_task: float = 0.11e-3
    scheduler_per_task: float = 0.4e-3
    scheduler_per_worker: float = 0.1e-6
    worker_per_task: float = 2e-3
    round_trip: float = 4.5e-3


@dataclass(frozen=True)
class Forecast:
    """What an evaluation of a cost and its gradient will take.

    Parameters
    ----------
    n_shards : int
        Shards that the rows are cut into.
    n_branches : int
        Tasks that pass over rows, in each stage.
    n_sums : int
        Tasks that add up the sums of others, in each stage.
    n_tasks : int
        All tasks that Dask is given; 0 if the client works itself.
    depth : int
        Levels of tasks that add up.
    bytes_read : float
        From the store, decompressed.
    bytes_sent : float
        From one worker to others: parameters and sums.
    flops : float
        Floating-point operations.
    seconds : mapping of str to float
        Of each part: "read" and "compute" (the busiest thread), "messages" (parameters and sums),
        "scheduler" (it and the client, for every task) and "round trips".
    saved : float
        Seconds of the scheduler while threads work.
    """

    n_shards: int
    n_branches: int
    n_sums: int
    n_tasks: int
    depth: int
    bytes_read: float
    bytes_sent: float
    flops: float
    seconds: Mapping[str, float]
    saved: float

    @property
    def total(self) -> float:
        """Seconds of an evaluation."""
        return sum(self.seconds.values()) - self.saved

    @property
    def limit(self) -> str:
        """The part that takes most."""
        return max(self.seconds, key=self.seconds.__getitem__)


def forecast(
    n_rows: int,
    row_bytes: int,
    *,
    flops: float,
    n_parameters: int,
    n_sums: int,
    n_workers: int,
    threads_per_worker: int = 1,
    held: bool = False,
    n_first_sums: int = 0,
    n_shards: int | None = None,
    bytes_read: float | None = None,
    rates: Rates | None = None,
) -> Forecast:
    """Say what an evaluation on workers will take.

    Parameters
    ----------
    n_rows, row_bytes : int
        Rows, and bytes of one as stored.
    flops : float
        Floating-point operations over all rows.
    n_parameters : int
        Numbers that every worker is sent, in float32.
    n_sums : int
        Numbers that a task returns, in float64.
    n_workers, threads_per_worker : int
        Workers, and the tasks that each does at a time.
    held : bool
        Whether the workers have the rows in memory.
    n_first_sums : int
        Numbers that a task of the first of two stages returns; 0: there is one stage.
    n_shards : int or None
        Shards of the rows; None: as many as there are where chunks are small against shards, or
        divide evenly into them.
    bytes_read : float or None
        Read by a stage, if others than those of the rows.
    rates : Rates or None
        What machines can do; the defaults if None.

    Returns
    -------
    Forecast

    Examples
    --------
    A million patches of 8×8 in float32, 25 hidden units, eight workers:

    >>> from stackedae.forecast import forecast
    >>> told = forecast(
    ...     10**6, 256, flops=1.92e10, n_parameters=3289, n_sums=4942, n_workers=8, held=True
    ... )
    >>> told.n_shards, told.n_branches, told.n_sums, told.n_tasks, told.limit
    (32, 8, 3, 11, 'compute')
    """
    rates = Rates() if rates is None else rates
    n_bytes, slots = n_rows * row_bytes, n_workers * threads_per_worker
    if n_shards is None:
        n_shards = math.ceil(n_rows / rows_per_shard(n_rows, row_bytes))
    tree = _Tree(n_shards, n_tasks(n_bytes, slots))
    stages = [n_sums] if n_first_sums == 0 else [n_first_sums, n_sums]
    # The sums of the first of two stages are picked out of what each task returns.
    n_all = len(stages) * (tree.n_branches + tree.n_sums) + (len(stages) - 1) * tree.n_branches
    queued = not held and tree.n_branches > EVEN_TASKS * slots
    # What waits for threads is handed to them one too early, so that at the end some have one more.
    waves = math.ceil(tree.n_branches / slots) + queued
    per_thread = waves / tree.n_branches
    if bytes_read is None:
        bytes_read = 0.0 if held else float(n_bytes)
    bytes_read *= len(stages)
    added = 8 * sum(stages)
    sent = _sent(4 * n_parameters, len(stages), tree.n_branches, n_workers, queued, rates)
    n_all += sent.n_tasks
    read = bytes_read * per_thread / rates.reading
    compute = flops * per_thread / rates.flops + len(stages) * waves * rates.worker_per_task
    by_scheduler = n_all * (rates.scheduler_per_task + n_workers * rates.scheduler_per_worker)
    hops = sent.n_hops + 1 + len(stages) * (1 + tree.depth) + (len(stages) - 1)
    # While threads work, the scheduler hears what is done, and hands out what waited for that.
    meanwhile = by_scheduler * (0.5 if held else 0.75)
    return Forecast(
        n_shards=n_shards,
        n_branches=tree.n_branches,
        n_sums=tree.n_sums,
        n_tasks=n_all,
        depth=tree.depth,
        bytes_read=bytes_read,
        bytes_sent=sent.n_bytes + added * (tree.n_branches + tree.n_sums - 1),
        flops=flops,
        seconds={
            "read": read,
            "compute": compute,
            "messages": sent.seconds
            + tree.depth * (len(stages) * rates.latency + ARGUMENTS * added / rates.bandwidth),
            "scheduler": n_all * rates.client_per_task + by_scheduler,
            "round trips": hops * rates.round_trip,
        },
        saved=min(meanwhile, read + compute) * (1 - 1 / waves),
    )


@dataclass(frozen=True)
class _Sent:
    """How parameters come to tasks: in them, or by tasks of their own, one after the other."""

    n_tasks: int
    n_hops: int
    n_bytes: int
    seconds: float


def _sent(
    n_bytes: int, n_stages: int, n_branches: int, n_workers: int, queued: bool, rates: Rates
) -> _Sent:
    """Say how parameters of that size come to all tasks of an evaluation."""
    if travels_in_tasks(n_bytes, n_branches):
        in_all = n_bytes * n_stages * n_branches
        return _Sent(0, 0, in_all, rates.latency + in_all / rates.bandwidth)
    n_reached, groups = min(n_workers, n_branches), n_relays(n_workers, placed=not queued)
    relayed = groups > 1
    return _Sent(
        n_tasks=1 + groups * relayed,
        n_hops=1 + relayed,
        n_bytes=n_bytes * (n_reached - 1),
        seconds=_to_all(n_bytes, groups, rates) + _to_all(n_bytes, -(-n_reached // groups), rates),
    )


EVEN_TASKS = 2
"""For each thread: of more that read rows, workers get the next when they are done with one."""


def _to_all(n_bytes: int, n_workers: int, rates: Rates) -> float:
    """Return seconds until all workers have what one of them has.

    They ask when the scheduler hands them a task. Where that is faster than they can be served, one
    worker serves so many at a time, and sends the rest away for a while, until others have it.
    """
    each = n_bytes / rates.bandwidth
    if each <= rates.scheduler_per_task / 2:
        return rates.latency + each
    seconds, having = 0.0, 1
    while having < n_workers:
        served = min(PEERS, -(-(n_workers - having) // having))
        seconds += rates.latency + served * each
        having += having * served
        seconds += PAUSE if having < n_workers else 0.0
    return seconds


PEERS, PAUSE = 50, 0.15
"""Whom a worker of Dask serves at a time, and seconds after which others ask again."""


def forecast_layer(
    n_rows: int,
    n_features: int,
    n_hidden: int,
    *,
    n_workers: int,
    threads_per_worker: int = 1,
    held: bool = False,
    itemsize: int = 4,
    n_shards: int | None = None,
    bytes_read: float | None = None,
    more_flops: float = 0.0,
    rates: Rates | None = None,
) -> Forecast:
    """Say what an evaluation of one sparse auto-encoder will take, by the policy of the library.

    Few rows are worked on by the client, which is taken to have as many threads as a worker; more
    are passed over twice, and many once.

    Parameters
    ----------
    n_rows, n_features, n_hidden : int
        Rows, entries of each, and hidden units.
    n_workers, threads_per_worker : int
        Workers, and the tasks that each does at a time.
    held : bool
        Whether the workers have the rows in memory.
    itemsize : int
        Bytes of an entry as stored.
    n_shards, bytes_read
        As for `forecast`.
    more_flops : float
        To compute the rows, if they are features of other layers.
    rates : Rates or None
        What machines can do; the defaults if None.

    Returns
    -------
    Forecast

    Examples
    --------
    10^12 patches of 8×8 that 1,000 nodes read from a store, and few that the client holds:

    >>> from stackedae.forecast import forecast_layer
    >>> told = forecast_layer(10**12, 64, 25, n_workers=1000, threads_per_worker=32)
    >>> told.n_branches, told.limit
    (4096, 'read')
    >>> forecast_layer(10_000, 64, 25, n_workers=1000).n_tasks
    0
    """
    rates = Rates() if rates is None else rates
    d, h, row_bytes = n_features, n_hidden, n_features * itemsize
    n_parameters, products = 2 * d * h + d + h, 5 * 2.0 * d * h * n_rows
    slope, n_stage_sums = 2.0 * d * h * n_rows, 3 + h + n_parameters
    if runs_on_client(n_rows * row_bytes, products + slope):
        return _on_client(n_rows, row_bytes, products, threads_per_worker, rates)
    in_two = is_worth_two_stages(4 * n_rows * (d + h))
    return forecast(
        n_rows,
        row_bytes,
        flops=products + (0 if in_two else slope) + (1 + in_two) * more_flops,
        n_parameters=n_parameters,
        n_sums=n_stage_sums + (0 if in_two else d * h + h),
        n_workers=n_workers,
        threads_per_worker=threads_per_worker,
        held=held,
        n_first_sums=h if in_two else 0,
        n_shards=n_shards,
        bytes_read=bytes_read,
        rates=rates,
    )


def _on_client(n_rows: int, row_bytes: int, flops: float, n_threads: int, rates: Rates) -> Forecast:
    n_shards = math.ceil(n_rows / rows_per_shard(n_rows, row_bytes))
    tree = _Tree(n_shards, n_tasks(n_rows * row_bytes, n_threads))
    share = math.ceil(tree.n_branches / n_threads) / tree.n_branches
    seconds = {
        "read": 0.0,
        "compute": flops * share / rates.flops,
        "messages": 0.0,
        "scheduler": 0.0,
        "round trips": 0.0,
    }
    return Forecast(
        n_shards, tree.n_branches, tree.n_sums, 0, tree.depth, 0.0, 0.0, flops, seconds, 0.0
    )


LEVELS_PER_SUM = 2
"""Levels of the tree that one task adds up, as `shards` does."""

ARGUMENTS = 2**LEVELS_PER_SUM - 1
"""Sums that such a task gets from other workers."""


class _Tree:
    """The tree that adds up branches of shards, task by task."""

    def __init__(self, n_shards: int, tasks: int) -> None:
        self.n_shards, self.branches = n_shards, set(halvings(n_shards, tasks))

    @property
    def n_branches(self) -> int:
        return len(self.branches)

    @property
    def n_sums(self) -> int:
        return self._counted[0]

    @property
    def depth(self) -> int:
        return self._counted[1]

    @cached_property
    def _counted(self) -> tuple[int, int]:
        return self._below(0, self.n_shards, 0)

    def _below(self, start: int, stop: int, level: int) -> tuple[int, int]:
        """Return how many tasks add up these shards, and how many of them in sequence."""
        if (start, stop) in self.branches:
            return 0, 0
        middle, above = (start + stop) // 2, n_levels(self.n_branches) - level
        one = int(level == 0 or above % LEVELS_PER_SUM == 0)
        halves = [self._below(*half, level + 1) for half in ((start, middle), (middle, stop))]
        return one + sum(n for n, _ in halves), one + max(depth for _, depth in halves)
