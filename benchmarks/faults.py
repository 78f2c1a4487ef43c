"""What dying costs: clients and workers that are killed at random, and what guards against it.

    python benchmarks/faults.py [--only clients,workers,flat,overhead] [--kills 100] [--seed 0]
                                [--seconds 60]

"clients": fits are killed with SIGKILL at random moments, again and again, and go on from their
checkpoint until one ends: its bits are compared with those of a fit that nothing happened to.
"workers": over a fit of a minute on two workers, one is killed every three seconds on average
(exponentially distributed waits). "flat": tasks of the scheduler and memory of the client over 500
iterations. "overhead": share of the time that checkpoints every 30 s take. Exits with 1 if any bit
differs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import dask
import numpy as np
import psutil
from distributed import Client, Scheduler
from distributed.deploy.subprocess import SubprocessCluster

from stackedae import StackedAutoEncoder
from stackedae.checkpoint import Checkpoint
from stackedae.deployment import local_workers

MEAN_WAIT = 3.0
"""Seconds between kills of workers."""


def rows(n: int, d: int) -> np.ndarray:
    """Rows whose second half is a function of the first."""
    X = np.random.default_rng(0).random((n, d), dtype=np.float32)
    X[:, d // 2 :] = X[:, : d // 2] ** 2
    return X


def bits(sae: StackedAutoEncoder) -> bytes:
    """All that was learned."""
    return b"".join(layer.params.tobytes() for layer in sae.layers_)


def clients(asked: argparse.Namespace) -> bool:
    """Kill fits of one machine until so many were killed."""
    X, rng = rows(17_000, 12), np.random.default_rng(asked.seed)
    settings = {"hidden_layer_sizes": (5, 3), "max_iter": 6, "tol": 0, "random_state": 0}
    # A fork has no threads but its own, so everything runs in forks.
    context = multiprocessing.get_context("fork")

    def fit(folder: str, checkpoint: bool) -> None:
        where = {"checkpoint": f"{folder}/run.zarr", "checkpoint_every": 2} if checkpoint else {}
        Path(folder, "bits").write_bytes(bits(StackedAutoEncoder(**settings, **where).fit(X)))

    def run(folder: str, checkpoint: bool, limit: float | None) -> bool:
        child = context.Process(target=fit, args=(folder, checkpoint))
        child.start()
        child.join(limit)
        if killed := child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        elif child.exitcode:
            raise SystemExit(f"a fit ended with {child.exitcode}")
        return killed

    with tempfile.TemporaryDirectory() as folder:
        run(folder, False, None)
        expected = Path(folder, "bits").read_bytes()
        began = time.perf_counter()
        run(folder, True, None)
        length = time.perf_counter() - began
    n_killed = n_fits = n_trials = n_equal = 0
    while n_killed < asked.kills:
        with tempfile.TemporaryDirectory() as folder:
            n_trials += 1
            for _ in range(int(rng.integers(1, 5))):
                n_fits += 1
                n_killed += run(folder, True, float(rng.uniform(0, length)))
            n_fits += 1
            run(folder, True, None)
            n_equal += Path(folder, "bits").read_bytes() == expected
    print(
        f"clients   seed {asked.seed}: {n_killed} killed of {n_fits} fits; "
        f"{n_equal} of {n_trials} went on to the same bits"
    )
    return n_equal == n_trials


def workers(asked: argparse.Namespace) -> bool:
    """Kill workers over a fit of about a minute, or of so many seconds as asked."""
    X, rng = rows(200_000, 64), np.random.default_rng(asked.seed)
    settings = {"hidden_layer_sizes": 50, "batching": "full", "tol": 0, "random_state": 0}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        local_workers(2) as client,
    ):
        began = time.perf_counter()
        StackedAutoEncoder(max_iter=20, **settings).fit(X)
        n_iter = max(20, int(asked.seconds / (time.perf_counter() - began) * 20))
        began = time.perf_counter()
        expected = StackedAutoEncoder(max_iter=n_iter, **settings).fit(X)
        undisturbed = time.perf_counter() - began
        over, killed = threading.Event(), []

        def killer() -> None:
            while not over.wait(rng.exponential(MEAN_WAIT)):
                pids = [nanny.pid for nanny in client.cluster.workers.values() if nanny.pid]
                if pids:
                    os.kill(int(rng.choice(pids)), signal.SIGKILL)
                    killed.append(time.perf_counter())

        # A nanny gives up on a worker that is killed at the wrong moment of its start.
        client.cluster.adapt(minimum=2, maximum=2)
        thread = threading.Thread(target=killer)
        thread.start()
        began = time.perf_counter()
        fitted = StackedAutoEncoder(max_iter=n_iter, **settings).fit(X)
        disturbed = time.perf_counter() - began
        over.set()
        thread.join()
    same = bits(fitted) == bits(expected)
    print(
        f"workers   seed {asked.seed}: {len(killed)} killed; {undisturbed:.1f} s undisturbed, "
        f"{disturbed:.1f} s with them, {(disturbed - undisturbed) / max(1, len(killed)):.2f} s a "
        f"kill; bits {'equal' if same else 'DIFFER'}"
    )
    return same


def of_scheduler(dask_scheduler: Scheduler) -> tuple[float, float]:
    """Tasks that a scheduler knows, and its resident memory in MiB."""
    return len(dask_scheduler.tasks), psutil.Process().memory_info().rss / 2**20


def flat(asked: argparse.Namespace) -> bool:
    """Watch tasks and memory over 500 iterations, each of which sends 150 kB of parameters."""
    X, process = rows(50_000, 196), psutil.Process()  # too many for the client alone
    # The scheduler has a process of its own: its log of transitions is not the client's memory.
    with (
        SubprocessCluster(
            "127.0.0.1",
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        seen: list[tuple[float, float, float]] = []

        def watch(record: dict) -> None:
            seen.append((process.memory_info().rss / 2**20, *client.run_on_scheduler(of_scheduler)))

        StackedAutoEncoder(100, batching="full", max_iter=500, tol=0, random_state=0).fit(
            X, callback=watch
        )
    steps = np.arange(100, len(seen))
    for name, series in zip(
        ("client, MiB", "tasks", "scheduler, MiB"), np.transpose(seen), strict=True
    ):
        slope = np.polyfit(steps, series[100:], 1)[0]
        print(
            f"flat      {name:14} {series[100]:.0f} at iteration 100, {series[-1]:.0f} at "
            f"{len(series)}, slope {slope:.4f} an iteration"
        )
    return True


def overhead(asked: argparse.Namespace) -> bool:
    """Time the writing of checkpoints, every 30 s, within a fit of some minutes."""
    X, spent, write = rows(60_000, 784), [], Checkpoint.write

    def timed(self: Checkpoint, progress: object) -> None:
        began = time.perf_counter()
        write(self, progress)
        spent.append(time.perf_counter() - began)

    Checkpoint.write = timed
    folder = tempfile.mkdtemp()
    try:
        began = time.perf_counter()
        StackedAutoEncoder(
            196, max_iter=150, tol=0, random_state=0, checkpoint=f"{folder}/run.zarr"
        ).fit(X)
        took = time.perf_counter() - began
    finally:
        Checkpoint.write = write
        shutil.rmtree(folder)
    print(
        f"overhead  784-196: {len(spent)} checkpoints in {took:.0f} s take {sum(spent):.2f} s, "
        f"{100 * sum(spent) / took:.2f} %; the longest {max(spent):.2f} s"
    )
    return True


def main() -> int:
    """Run what was asked for."""
    sections = {"clients": clients, "workers": workers, "flat": flat, "overhead": overhead}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(sections))
    parser.add_argument("--kills", type=int, default=100, help="of clients")
    parser.add_argument("--seconds", type=float, default=60, help='of the fit in "workers"')
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    well = [sections[name](arguments) for name in arguments.only]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
