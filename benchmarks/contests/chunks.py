"""Many small chunks, and many rows: how many tasks, and what the engine takes beside the kernel."""

from __future__ import annotations

import tempfile
import time

import dask
import numpy as np
import zarr

from contests.measure import Options, alternate, median_and_range, number, say, table
from stackedae.blas import one_blas_thread
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.objective import DaskObjective
from stackedae.shards import Shards, each_alone

D, H = 64, 25
N_CHUNKS, CHUNK_ROWS = 100_000, 100
SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)


def report(options: Options) -> str:
    """Measure, and write the section."""
    n_chunks = 1_000 if options.quick else N_CHUNKS
    sizes = [n // 50 for n in SIZES] if options.quick else SIZES
    cost = AutoEncoderCost(D, H, sparsity_target=0.01)
    params = cost.initial_params(np.random.default_rng(0))
    # On one thread: what two of them take from each other is not the engine's share.
    with dask.config.set(scheduler="synchronous"):
        chunks = _many_chunks(cost, params, n_chunks, options.repeats)
        growth = _many_rows(cost, params, sizes, options.repeats)
    return "\n\n".join(["## Chunks and rows", chunks, growth])


def _many_chunks(cost: AutoEncoderCost, params: np.ndarray, n_chunks: int, repeats: int) -> str:
    n = n_chunks * CHUNK_ROWS
    X = np.random.default_rng(1).random((n, D), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        say(f"writing {n_chunks} chunks")
        stored = zarr.create_array(
            f"{folder}/x.zarr", shape=X.shape, chunks=(CHUNK_ROWS, D), dtype="f4", compressors=None
        )
        stored[:] = X
        started = time.perf_counter()
        objective = DaskObjective(cost, cut_into_shards(stored).hold())
        nothing = objective.shards.sum(each_alone(_count), name="stackedae-count")
        to_hold = time.perf_counter() - started
        assert nothing[0] == n
    tasks = _count_tasks(lambda: objective(params))
    shards = objective.shards

    def kernel():
        with one_blas_thread():
            cost.finish(params, cost.chunk_sums(params, X))

    seconds = alternate({"engine": lambda: objective(params), "kernel": kernel}, repeats)
    share = 1 - np.median(seconds["kernel"]) / np.median(seconds["engine"])
    header = ("chunks × rows", "shards", "tasks", "to hold", "evaluation", "kernel", "engine's")
    row = (
        f"{n_chunks:,} × {CHUNK_ROWS}",
        len(shards.rows),
        tasks,
        number(to_hold),
        median_and_range(seconds["engine"]),
        median_and_range(seconds["kernel"]),
        f"{100 * share:.1f} %",
    )
    notes = (
        f"Seconds, {D}-{H}, one thread, {repeats} alternating evaluations: median (lowest–"
        "highest). The kernel works on the same rows in one array, in one pass."
    )
    return "\n\n".join([table(header, [row]), notes])


def _many_rows(
    cost: AutoEncoderCost, params: np.ndarray, sizes: list[int] | tuple[int, ...], repeats: int
) -> str:
    X = np.random.default_rng(1).random((max(sizes), D), dtype=np.float32)
    objectives = {f"{n:,}": DaskObjective(cost, _by_tasks(X[:n])) for n in sizes}
    seconds = alternate(
        {name: lambda o=o: o(params) for name, o in objectives.items()}, max(3, repeats // 2)
    )
    medians = [np.median(values) for values in seconds.values()]
    exponent = np.polyfit(np.log(sizes), np.log(medians), 1)[0]
    rows = [
        (name, len(objectives[name].shards.rows), median_and_range(values))
        for name, values in seconds.items()
    ]
    notes = f"Seconds grow with the rows to the power of {exponent:.3f} (least squares of logs)."
    return "\n\n".join([table(("rows", "shards", "evaluation"), rows), notes])


def _by_tasks(X: np.ndarray) -> Shards:
    """Return shards for the scheduler, however few the rows are."""
    return cut_into_shards(X).hold()


def _count(rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    return np.array([len(rows)], float) + (0 if out is None else out)


def _count_tasks(call) -> int:
    from dask.callbacks import Callback

    keys = []
    with Callback(pretask=lambda key, *_: keys.append(key)):
        call()
    return len(keys)
