"""Evaluations by the real engine, scheduler and client with thousands of simulated workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import zarr
from distributed import Client, wait

from contests.crowd import Machine
from contests.measure import say
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.forecast import Forecast, Rates, forecast_layer
from stackedae.memory import rows_per_shard
from stackedae.objective import DaskObjective, needs_two_stages
from stackedae.shards import Shards

RATES = Rates()
NARROW, WIDE = (64, 25), (784, 196)


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
    """Seconds of evaluations: all, until the scheduler had the graph, and until it knew the tasks.

    And CPU seconds of an evaluation: of the client, the scheduler and the workers.
    """

    case: Case
    seconds: list[float]
    until_sent: float
    until_known: float
    cpu: tuple[float, float, float]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def cases_for(n: int) -> list[Case]:
    """Return the cases for so many workers with a thread each."""
    cases = [
        Case(kind, n, n_rows, held)
        for kind, n_rows in (("weak", 2_500_000 * n), ("strong", 20_000_000))
        for held in (False, True)
    ]
    if n in (8, 32):
        cases.append(Case("two stages", n, 1_000_000, True))
    if n in (32, 128, 512):
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
                f"  {measured.median:.3f} s, foretold {told.total:.3f}; {told.n_tasks} tasks; CPU "
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
        env=os.environ | {"DASK_DISTRIBUTED__COMM__OFFLOAD": "False"}
        if "crowd" in module
        else None,
    )
    stack.callback(child.wait, 60)
    stack.callback(child.terminate)
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
        processes = [psutil.Process(), *(psutil.Process(child.pid) for child in children)]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        seconds, sent, known = [], [], []
        while len(seconds) < repeats and sum(seconds) < 20:
            started = time.time()
            objective(params)
            seconds.append(time.time() - started)
            _, event = client.get_events("scheduler")[-1]
            sent.append(event["metrics"]["start_timestamp_seconds"] - started)
            known.append(sent[-1] + event["metrics"]["duration_seconds"])
        cpu = tuple(
            (sum(process.cpu_times()[:2]) - so_far) / len(seconds)
            for process, so_far in zip(processes, before, strict=True)
        )
    return Measured(case, seconds, float(np.median(sent)), float(np.median(known)), cpu)


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


def keep(every: Sequence[Measured], path: str) -> None:
    Path(path).write_text(json.dumps([asdict(each) for each in every]))
