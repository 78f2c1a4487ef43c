"""Rows that do not fit into memory: reading and computing at a time, against each alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
from distributed import Client

from contests.data import write_patches
from contests.measure import Options, alternate, median_and_range, say, table
from contests.workers import two_workers
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.objective import DaskObjective
from stackedae.shards import RowSource, Shards, each_alone

SHAPES = ((784, 196), (64, 25))
"""Features, hidden units."""

N_BYTES = 4 * 10**9


def report(options: Options) -> str:
    """Measure, and write the section."""
    n_bytes, repeats = (10**8, 1) if options.quick else (N_BYTES, min(options.repeats, 3))
    rows = []
    for d, h in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            n = n_bytes // (4 * d)
            say(f"writing {n:,} rows of {d}")
            store = write_patches(f"{folder}/rows.zarr", n, d)
            say(f"streaming {d}-{h}")
            rows.append(_one_shape(store, d, h, repeats))
    header = (
        "d-h",
        "reading alone",
        "computing alone",
        "both",
        "slower alone / both",
        "the two added up / both",
        "most memory of a worker",
        "spilled",
    )
    notes = (
        f"Seconds for one evaluation over {n_bytes / 1e9:g} GB of float32 rows in the chunks and "
        "with the compression that this library writes, on two workers of one thread and 1 GB "
        f"each: median (lowest–highest) of {repeats} in turn. Computing alone works on rows that "
        "every worker makes once."
    )
    return "\n\n".join(["## Streaming", table(header, rows), notes])


def _one_shape(store: object, d: int, h: int, repeats: int) -> tuple:
    cost = AutoEncoderCost(d, h, sparsity_target=0.1)
    params = cost.initial_params(np.random.default_rng(0))
    with two_workers(memory_limit="1GB") as client, client.as_current():
        streamed = cut_into_shards(store)
        resident = Shards([Repeated(n, d) for n in streamed.rows], streamed.rows, d, streamed.dtype)
        objective = DaskObjective(cost, streamed)
        alone = DaskObjective(cost, resident)
        seconds = alternate(
            {
                "read": lambda: streamed.sum(each_alone(_nothing), name="stackedae-read"),
                "compute": lambda: alone(params),
                "both": lambda: objective(params),
            },
            repeats,
        )
        most, spilled = _memory(client)
    read, compute, both = (np.median(seconds[name]) for name in ("read", "compute", "both"))
    return (
        f"{d}-{h}",
        *(median_and_range(seconds[name]) for name in ("read", "compute", "both")),
        f"{100 * max(read, compute) / both:.0f} %",
        f"{100 * (read + compute) / both:.0f} %",
        f"{most / 1e6:.0f} MB",
        f"{spilled / 1e6:.0f} MB",
    )


class Repeated(RowSource):
    """As many rows as wanted, without reading: one portion again and again."""

    kept: np.ndarray | None = None

    def __init__(self, n_rows: int, n_features: int) -> None:
        self.n_rows, self.n_features = n_rows, n_features

    def portions(self) -> Iterator[np.ndarray]:
        step = max(4096, 2**21 // self.n_features // 4096 * 4096)
        if Repeated.kept is None or Repeated.kept.shape != (step, self.n_features):
            rng = np.random.default_rng(0)
            Repeated.kept = rng.random((step, self.n_features), dtype=np.float32)
        for start in range(0, self.n_rows, step):
            yield Repeated.kept[: self.n_rows - start]


def _nothing(rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    return np.zeros(1)


def _memory(client: Client) -> tuple[int, int]:
    """Return the most memory that a worker ever had, and what they have spilled to disk."""

    def of_worker(dask_worker):
        import resource

        spilled = getattr(dask_worker.data, "spilled_total", None)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak, spilled.disk if spilled is not None else 0

    peaks, spilled = zip(*client.run(of_worker).values(), strict=True)
    return max(peaks), sum(spilled)
