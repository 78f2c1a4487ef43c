"""Cost and gradient on a GPU, through CuPy, against the cores of the same machine.

    python benchmarks/gpu.py

The same kernels work on arrays of either; rows are where they are worked on before the clock runs.
Says how far the gradients are apart, too.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"))

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import cupy
import numpy as np

from stackedae.costs import AutoEncoderCost, ClassifierCost, DeepCost
from stackedae.noise import Corruption

REPEATS = 5


def problems() -> dict[str, tuple[Any, int, dict[str, Callable[[int], np.ndarray]]]]:
    """Cost, rows, and what is known beside them, by name."""
    small, large = AutoEncoderCost(64, 25), AutoEncoderCost(784, 196)
    gaps = replace(large, fill=(0.5,) * 784)
    numbers = {"row": np.arange}
    classes = {"y": lambda n: np.arange(n) % 10}
    return {
        "64-25": (small, 2_000_000, {}),
        "784-196": (large, 200_000, {}),
        "784-196, a tenth missing": (gaps, 200_000, {}),
        "784-196, masking noise": (
            replace(large, corruption=Corruption("masking", 0.3)),
            200_000,
            numbers,
        ),
        "784-196, gaussian noise": (
            replace(large, corruption=Corruption("gaussian", 0.3)),
            200_000,
            numbers,
        ),
        "784-200-200, unrolled": (DeepCost((784, 200, 200)), 200_000, {}),
        "784-200-200-10": (ClassifierCost((784, 200, 200), 10), 200_000, classes),
        "784-1024": (AutoEncoderCost(784, 1024), 100_000, {}),
    }


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    """Median seconds of a call, and what the first one returned."""
    first = function()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times), first


def on_cores(cost: Any, params: np.ndarray, X: np.ndarray, known: dict[str, np.ndarray]) -> Any:
    """Sums over parts of the rows, one for each thread, added up."""
    n_parts = 4 * len(os.sched_getaffinity(0))
    borders = np.linspace(0, len(X), n_parts + 1).astype(int)
    parts = [slice(*ends) for ends in pairwise(borders)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def all_parts() -> np.ndarray:
            def sums(part: slice) -> np.ndarray:
                aside = {name: values[part] for name, values in known.items()}
                return cost.kernel(params, X[part]).chunk_sums(X[part], **aside)

            return sum(pool.map(sums, parts))

        seconds, sums = seconds_of(all_parts)
    return seconds, cost.finish(params.astype(float), sums)


def on_gpu(cost: Any, params: np.ndarray, X: Any, known: dict[str, np.ndarray]) -> Any:
    """Sums over all rows."""
    seconds, sums = seconds_of(lambda: cost.kernel(params, X).chunk_sums(X, **known))
    return seconds, cost.finish(params.astype(float), sums)


def main() -> None:
    """Measure all problems and print a table."""
    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    cores = len(os.sched_getaffinity(0))
    print(f"{device}, CuPy {cupy.__version__}; {cores} cores, NumPy {np.__version__}\n")
    header = ("problem, rows", f"{cores} cores, s", "GPU, s", "times as fast", "gradients apart")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for name, (cost, n_rows, columns) in problems().items():
        rng = np.random.default_rng(0)
        X = rng.random((n_rows, cost.n_features), dtype=np.float32)
        if getattr(cost, "fill", ()):
            X[rng.random(X.shape, dtype=np.float32) < 0.1] = np.nan
        known = {key: values(n_rows) for key, values in columns.items()}
        params = cost.initial_params(rng).astype(np.float32)
        of_cores, expected = on_cores(cost, params, X, known)
        there = cupy.asarray(X)
        of_gpu, evaluation = on_gpu(cost, params, there, known)
        apart = np.linalg.norm(evaluation.gradient - expected.gradient)
        apart /= np.linalg.norm(expected.gradient)
        times = f"{of_cores:.3f}", f"{of_gpu:.3f}", f"{of_cores / of_gpu:.1f}"
        row = (f"{name}, {n_rows:,}", *times, f"{apart:.1e}")
        print(f"| {' | '.join(row)} |", flush=True)
        del there
        cupy.get_default_memory_pool().free_all_blocks()


if __name__ == "__main__":
    main()
