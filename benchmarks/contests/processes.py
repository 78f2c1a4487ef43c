"""Real workers on this machine: from one to two of them, and many that idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import numpy as np
from distributed import Client, LocalCluster, wait
from distributed.utils import get_mp_context

from contests.measure import Options, median_and_range, say, seconds_of, table
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.objective import DaskObjective

SHAPES = ((784, 196, 30_000), (64, 25, 1_000_000))
"""Features, hidden units, rows of one worker."""

MANY = (1, 2, 4, 8, 16, 32, 64)
TINY = (64, 25, 100_000)
"""Of so few rows that they are cut into as many tasks as workers, or shards."""


def report(options: Options) -> str:
    """Measure, and write the section."""
    # Forked from a process that has imported what they need, sixty workers are there in seconds.
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    get_mp_context().set_forkserver_preload(["distributed", "stackedae.objective"])
    shrink = 50 if options.quick else 1
    lines = []
    for d, h, rows in SHAPES:
        n = rows // shrink
        strong = [_seconds(workers, d, h, 2 * n, options.repeats) for workers in (1, 2)]
        weak = [strong[0], _seconds(2, d, h, 4 * n, options.repeats)]
        one, two, twice = (float(np.median(each)) for each in (*strong, weak[1]))
        lines += [
            _line("strong", d, h, (2 * n, 2 * n), strong, one / two / 2),
            _line("weak", d, h, (2 * n, 4 * n), weak, one / twice),
        ]
    header = ("scaling", "layer", "rows", "one worker, s", "rows", "two workers, s", "efficiency")
    scaling = [table(header, lines)]
    scaling.append(
        f"Median (lowest–highest) of {options.repeats} evaluations of float32 rows that are held "
        "by processes of one thread; the scheduler and the client share the two cores with them."
    )
    sizes = MANY[:3] if options.quick else MANY
    d, h, n = TINY
    overhead = []
    for workers in sizes:
        seconds = [1e3 * each for each in _seconds(workers, d, h, n, 3 * options.repeats)]
        overhead.append((f"{workers}", median_and_range(seconds)))
    few = (
        f"Milliseconds of an evaluation of {n:,} rows of {d}-{h}, whose products take one core "
        "about 40 ms: the engine, nearly alone. Most of many processes have nothing to do, and yet "
        "share the two cores."
    )
    return "\n\n".join(
        ["## Workers", *scaling, table(("worker processes", "an evaluation, ms"), overhead), few]
    )


def _line(
    kind: str,
    d: int,
    h: int,
    rows: tuple[int, int],
    seconds: list[list[float]],
    efficiency: float,
) -> tuple[str, ...]:
    pairs = [(f"{n:,}", median_and_range(each)) for n, each in zip(rows, seconds, strict=True)]
    return (kind, f"{d}-{h}", *pairs[0], *pairs[1], f"{100 * efficiency:.0f} %")


def _seconds(workers: int, d: int, h: int, n: int, repeats: int) -> list[float]:
    say(f"{workers} workers, {d}-{h}, {n:,} rows")
    cost = AutoEncoderCost(d, h, sparsity_target=0.1)
    X = np.random.default_rng(1).random((n, d), dtype=np.float32)
    params = cost.initial_params(np.random.default_rng(0))
    with _processes(workers) as client:
        shards = cut_into_shards(X).hold()
        wait(shards.blocks)
        del X
        client.wait_for_workers(workers)
        objective = DaskObjective(cost, shards)
        for _ in range(3):
            objective(params)
        time.sleep(SETTLING)
        seconds = [seconds_of(lambda: objective(params)) for _ in range(repeats)]
    say(f"  {median_and_range(seconds)} s")
    return seconds


SETTLING = 3.0
"""Seconds after which new processes are done with what they do at first."""


@contextmanager
def _processes(n: int) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=n, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
