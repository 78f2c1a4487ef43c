"""Evaluations by the real engine, scheduler and client with thousands of simulated workers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import zarr
from distributed import Client, wait
from scipy.optimize import least_squares

from contests.crowd import SPARING, Machine
from contests.measure import Options, having, number, say, table
from stackedae import memory, storage
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.forecast import Forecast, Rates, forecast_layer
from stackedae.memory import rows_per_shard
from stackedae.objective import DaskObjective, needs_two_stages
from stackedae.shards import Shards

RATES = Rates()
NARROW, WIDE = (64, 25), (784, 196)
SIZES = (2, 8, 32, 128, 512, 1000, 2000, 4000)
CALIBRATING = (8, 128, 512, 4000)
"""Sizes that the constants of Dask are taken from; the others are foretold."""

ENVIRONMENT_OF = {"contests.crowd": SPARING}
SCHEDSTAT = "*/schedstat"
MORE_SHARDS = (4096, 8192)
LONG = 10.0
"""Seconds of evaluations after which no more are measured."""


@dataclass(frozen=True)
class Case:
    """Rows, a layer, and a cluster."""

    kind: str
    n_workers: int
    n_rows: int
    held: bool
    shape: tuple[int, int] = NARROW
    n_threads: int = 1

    def told(self, rates: Rates) -> Forecast:
        return forecast_layer(
            self.n_rows,
            *self.shape,
            n_workers=self.n_workers,
            threads_per_worker=self.n_threads,
            held=self.held,
            rates=rates,
        )


@dataclass(frozen=True)
class Measured:
    """Seconds of evaluations: by the clock, and of these for how long the scheduler had no core.

    And CPU seconds of one: of the client, the scheduler and the workers.
    """

    case: Case
    seconds: list[float]
    waiting: list[float]
    cpu: tuple[float, float, float]

    @property
    def median(self) -> float:
        """Seconds of an evaluation, had the scheduler had its core."""
        return float(np.median(np.subtract(self.seconds, self.waiting)))


def report(options: Options) -> str:
    """Measure, and write the section."""
    sizes = (2, 8, 32) if options.quick else SIZES
    every = [each for n in sizes for each in measure(cases_for(n), options.repeats)]
    more = [] if options.quick else list(with_more_shards())
    return written(every, more, options.repeats)


def written(every: Sequence[Measured], more: Sequence[tuple[int, Measured]], repeats: int) -> str:
    """Calibrate the model, and compare."""
    rates = calibrated([each for each in every if each.case.n_workers in CALIBRATING])
    header = (
        *("rows", "workers", "layer", "million rows", "tasks", "simulated, s"),
        *("by the clock, s", "foretold, s", "foretold / simulated", "limit"),
        "CPU seconds: client, scheduler, workers",
    )
    lines = [_line(each, rates) for each in every]
    new = [each for each in every if each.case.n_workers not in CALIBRATING]
    clock = [each.case.told(rates).total / float(np.median(each.seconds)) for each in every]
    notes = (
        f"Median seconds of up to {repeats} evaluations by the real engine, client and "
        "scheduler (a process of its own) with simulated workers of one thread; by the clock, and "
        "less those for which the scheduler waited for a core, as this machine had others to serve "
        "and a scheduler's does not. Workers "
        f"sleep for as long as they would work: {RATES.flops:.3g} flop/s and "
        f"{RATES.reading / 1e6:.0f} MB/s of the store a thread, "
        f"{RATES.bandwidth / 1e6:.0f} MB/s and {1e3 * RATES.latency:.0f} ms of "
        f"the network. Constants of Dask are from {', '.join(map(str, CALIBRATING))} workers of "
        f"this run: {1e3 * rates.client_per_task:.2f} ms of the client and "
        f"{1e3 * rates.scheduler_per_task:.2f} ms of the scheduler for a task, and "
        f"{1e6 * rates.scheduler_per_worker:.2g} µs more for each worker, "
        f"{1e3 * rates.round_trip:.0f} ms for a round trip. "
        f"{_near([_ratio(each, rates) for each in every])} are foretold within 25 % "
        f"({_near([_ratio(each, rates) for each in new])} that were not calibrated with; by the "
        f"clock {_near(clock)})."
    )
    parts = ["## Simulation", table(header, lines), notes]
    if more:
        parts.append(_more_shards(more, rates))
    return "\n\n".join(parts)


def _near(ratios: Sequence[float]) -> str:
    return f"{sum(0.8 <= ratio <= 1.25 for ratio in ratios)} of {len(ratios)}"


def calibrated(every: Sequence[Measured]) -> Rates:
    """Return rates with Dask's constants: the client's CPU seconds, and what fits of the others.

    CPU seconds grow with the tasks and, as processes are never quite idle, with the time.
    """
    causes = np.array([(each.case.told(RATES).n_tasks, each.median) for each in every])
    cpu = np.array([each.cpu[0] for each in every])
    client = float(np.linalg.lstsq(causes / cpu[:, None], np.ones(len(every)))[0][0])

    def rates(constants: Sequence[float]) -> Rates:
        told = dict(zip(FITTED, map(float, constants), strict=True))
        return replace(RATES, client_per_task=client, **told)

    def errors(constants: Sequence[float]) -> list[float]:
        return [math.log(_ratio(each, rates(constants))) for each in every]

    start = np.array([getattr(RATES, name) for name in FITTED])
    best = least_squares(
        errors, start, bounds=(start / 10, start * 10), x_scale=start, loss="soft_l1", f_scale=0.1
    )
    return rates(best.x)


FITTED = ("scheduler_per_task", "scheduler_per_worker", "round_trip")


def _ratio(each: Measured, rates: Rates) -> float:
    return each.case.told(rates).total / each.median


def _line(each: Measured, rates: Rates) -> tuple[object, ...]:
    case, told = each.case, each.case.told(rates)
    return (
        f"{case.kind}, {'held' if case.held else 'streamed'}",
        f"{case.n_workers:,}" + (f" × {case.n_threads}" if case.n_threads > 1 else ""),
        "-".join(map(str, case.shape)),
        number(case.n_rows / 1e6),
        f"{told.n_tasks:,}",
        number(each.median),
        number(np.median(each.seconds)),
        number(told.total),
        f"{_ratio(each, rates):.2f}",
        told.limit,
        ", ".join(number(seconds) for seconds in each.cpu),
    )


def with_more_shards() -> Iterator[tuple[int, Measured]]:
    """Measure what more shards take, on more threads than there are shards."""
    case = Case("held", 1000, 10**10, True, n_threads=32)
    for n_shards in MORE_SHARDS:
        with more_shards(n_shards):
            yield n_shards, next(measure([case], 1))


@contextmanager
def more_shards(most: int) -> Iterator[None]:
    with having(memory, MAX_SHARDS=most), having(storage, MAX_SHARDS=most):
        yield


def _more_shards(more: Sequence[tuple[int, Measured]], rates: Rates) -> str:
    lines = []
    for n_shards, each in more:
        with more_shards(n_shards):
            lines.append((f"{n_shards:,}", *_line(each, rates)[4:]))
    header = (
        *("shards at most", "tasks", "simulated, s", "by the clock, s", "foretold, s"),
        *("foretold / simulated", "limit", "CPU seconds: client, scheduler, workers"),
    )
    notes = "10^10 rows of 64-25 that 1,000 workers of 32 threads hold: one evaluation each."
    return "\n\n".join([table(header, lines), notes])


def cases_for(n: int) -> list[Case]:
    """Return the cases for so many workers with a thread each."""
    cases = [
        Case(kind, n, n_rows, held)
        for kind, n_rows in (("strong", 20_000_000), ("weak", 2_500_000 * n))
        for held in (False, True)
    ]
    if n in (8, 32):
        cases.append(Case("two stages", n, 1_000_000, True))
    if n >= 32:
        cases.append(Case("weak", n, 50_000 * n, True, WIDE))
    return cases


def measure(cases: Sequence[Case], repeats: int) -> Iterator[Measured]:
    """Measure cases for the same workers."""
    n, n_threads = cases[0].n_workers, cases[0].n_threads
    with crowd(n, n_threads) as (client, children):
        for case in cases:
            say(f"{case}")
            measured = _measured(case, client, children, repeats)
            told = case.told(RATES)
            say(
                f"  {', '.join(f'{each:.3f}' for each in measured.seconds)} s "
                f"(waiting {', '.join(f'{each:.3f}' for each in measured.waiting)}), "
                f"foretold {told.total:.3f}; {told.n_tasks} tasks; CPU "
                + ", ".join(f"{each:.2f} s" for each in measured.cpu)
            )
            yield measured


@contextmanager
def crowd(n_workers: int, n_threads: int) -> Iterator[tuple[Client, list[subprocess.Popen]]]:
    """Start a scheduler, and workers, in a process of their own each."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder, "scheduler.json")
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        scheduler = start(
            stack, "distributed.cli.dask_scheduler", *options, "--scheduler-file", file
        )
        while not file.exists():
            time.sleep(0.1)
        client = stack.enter_context(Client(scheduler_file=str(file)))
        address = client.scheduler.address
        workers = start(stack, "contests.crowd", address, n_workers, n_threads)
        tell(workers, Machine())
        client.wait_for_workers(n_workers, timeout=600)
        yield client, [scheduler, workers]


def start(stack: ExitStack, module: str, *arguments: object) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parent.parent,
        env=os.environ | ENVIRONMENT_OF.get(module, {}),
    )
    stack.callback(child.wait, 60)
    stack.callback(child.kill)
    return child


def tell(child: subprocess.Popen, machine: Machine) -> None:
    child.stdin.write(machine.line())
    child.stdin.flush()
    time.sleep(0.2)


def _measured(
    case: Case, client: Client, children: Sequence[subprocess.Popen], repeats: int
) -> Measured:
    cost = AutoEncoderCost(*case.shape)
    with tempfile.TemporaryDirectory() as folder:
        shards = shards_without_rows(folder, case)
        tell(children[-1], machine_for(cost, case, shards))
        if case.held:
            shards = shards.hold()
            wait(shards.blocks)
        objective, params = DaskObjective(cost, shards), cost.layout.zeros()
        objective(params)
        processes = [os.getpid(), *(child.pid for child in children)]
        before, seconds, waiting = ran_and_waited(processes), [], []
        while len(seconds) < repeats and sum(seconds) < LONG:
            waited = ran_and_waited(processes[1:2])[1]
            started = time.time()
            objective(params)
            seconds.append(time.time() - started)
            waiting.append(float(sum(ran_and_waited(processes[1:2])[1] - waited)))
        cpu = (ran_and_waited(processes) - before)[0] / len(seconds)
    return Measured(case, seconds, waiting, tuple(cpu))


def ran_and_waited(processes: Sequence[int]) -> np.ndarray:
    """Return the seconds that each process ran, and those that it waited for a core."""
    every = []
    for process in processes:
        stats = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob(SCHEDSTAT)]
        every.append(np.array(stats, float).sum(axis=0)[:2] / 1e9)
    return np.array(every).T


def shards_without_rows(folder: str, case: Case) -> Shards:
    """Return the shards of an array of so many rows, none of which is ever written."""
    d, n = case.shape[0], case.n_rows
    array = zarr.create_array(
        f"{folder}/rows.zarr",
        shape=(n, d),
        chunks=(rows_per_shard(n, 4 * d), d),
        dtype="f4",
        compressors=None,
    )
    return cut_into_shards(array)


def machine_for(cost: AutoEncoderCost, case: Case, shards: Shards) -> Machine:
    in_two, n_shards = needs_two_stages(cost, shards), len(shards.rows)
    n_bytes, passes = shards.n_bytes, 1 + in_two
    flops = (10 if in_two else 12) * cost.n_features * cost.n_hidden * case.n_rows
    reading = 0.0 if case.held else n_bytes / RATES.reading
    sums = cost.stage_layout if in_two else cost.sums_layout
    return Machine(
        per_shard=(flops / RATES.flops / passes + reading) / n_shards,
        per_task=RATES.worker_per_task,
        bandwidth=RATES.bandwidth,
        latency=RATES.latency,
        parameter_bytes=4 * cost.layout.size,
        shard_bytes=n_bytes // n_shards,
        sum_bytes=8 * sums.size,
        first_sum_bytes=8 * cost.n_hidden if in_two else 0,
    )
