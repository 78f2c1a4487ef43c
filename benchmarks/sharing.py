"""What several settings read, and how long they take, fitted side by side and one by one.

    python benchmarks/sharing.py [--rate 100] [--rows N] [--markdown FILE]

Rows of random numbers are streamed from a Zarr store on this machine, as if they did not fit into
memory, by threads of this process. What is read is counted in the store.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator

import dask
import numpy as np
import zarr
from contests.measure import number, say, table, tell
from zarr.storage import LocalStore

from stackedae import StackedAutoEncoder, fit_many
from stackedae.memory import rows_per_chunk

N_ROWS, D, H = 1_800_000, 64, 16
"""Just beyond what is evaluated in two stages, which take two reads."""

SETTINGS = [
    {"sparsity_target": target, "alpha": alpha}
    for target in (0.01, 0.02)
    for alpha in (1e-5, 1e-4, 3e-4, 1e-3)
]
"""All of which take about as many passes."""

ITERATIONS = 3


class Counting(LocalStore):
    """A store on a disk that counts bytes of chunks, and is as slow as wanted."""

    n_bytes, rate, lock = 0, float("inf"), threading.Lock()

    async def get(self, key, *arguments, **options):
        value = await super().get(key, *arguments, **options)
        if "c/" in key and value is not None:
            with Counting.lock:
                Counting.n_bytes += len(value)
            await asyncio.sleep(len(value) / Counting.rate)
        return value


def write(folder: str, n_rows: int) -> zarr.Array:
    """Write rows that are made a chunk at a time."""
    rng, chunk_rows = np.random.default_rng(0), rows_per_chunk(4 * D)
    array = zarr.create_array(
        Counting(folder), shape=(n_rows, D), chunks=(chunk_rows, D), dtype="float32"
    )
    for start in range(0, n_rows, chunk_rows):
        size = min(chunk_rows, n_rows - start)
        array[start : start + size] = rng.random((size, D), dtype=np.float32)
    return array


def fitted(array: zarr.Array, n: int) -> tuple[int, float, int]:
    """Bytes read, seconds, and evaluations of the longest fit, of so many settings."""
    sae = StackedAutoEncoder(H, max_iter=ITERATIONS, tol=0, batching="full", random_state=0)
    Counting.n_bytes, began = 0, time.perf_counter()
    models = fit_many(sae, SETTINGS[:n], array)
    seconds = time.perf_counter() - began
    longest = max(sum(r["n_evaluations"] for r in model.history_) for model in models)
    return Counting.n_bytes, seconds, longest


def lines(array: zarr.Array) -> Iterator[tuple[object, ...]]:
    """Lines of the table."""
    one: tuple[int, float] | None = None
    for n in (1, 2, 4, 8):
        say(f"{n} of {len(SETTINGS)} settings")
        n_bytes, seconds, longest = fitted(array, n)
        one = (n_bytes, seconds) if one is None else one
        yield (
            n,
            number(n_bytes / 1e6),
            f"{n_bytes / one[0]:.2f}",
            longest,
            number(seconds),
            f"{seconds / one[1]:.2f}",
            f"{n * one[1] / seconds:.2f}",
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, help="MB/s that the store gives to a request")
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--markdown", help="write the table here too")
    arguments = parser.parse_args()
    if arguments.rate is not None:
        Counting.rate = arguments.rate * 1e6
    with tempfile.TemporaryDirectory() as folder, dask.config.set({"stackedae.memory": "100MB"}):
        say(f"writing {arguments.rows:,} rows")
        array = write(folder, arguments.rows)
        header = (
            "settings",
            "MB read",
            "of one setting",
            "evaluations of the longest",
            "seconds",
            "of one setting",
            "one by one / side by side",
        )
        store = "a local disk" if arguments.rate is None else f"{arguments.rate:g} MB/s a request"
        told = [
            table(header, lines(array)),
            f"{arguments.rows:,} rows of {D} float32 in chunks of {array.chunks[0]:,} from "
            f"{store}, {H} units, {ITERATIONS} iterations over all rows; compressed bytes. One by "
            "one: so many times the seconds of one setting.",
        ]
    tell(told, arguments.markdown)


if __name__ == "__main__":
    main()
