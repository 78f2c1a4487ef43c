"""What `stackedae plan` says that an evaluation takes, and what evaluations take."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import zarr
from distributed import wait

from contests.data import write_patches
from contests.measure import Options, median_and_range, number, say, seconds_of, table
from contests.workers import two_workers
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.minimisation import TrainingSettings
from stackedae.objective import DaskObjective
from stackedae.planning import Workers, plan_layers

HELD = ((64, 25, 1_000_000), (784, 196, 60_000), (64, 25, 4_000_000))
STREAMED = ((64, 25, 2_000_000), (784, 196, 200_000), (64, 25, 8_000_000))
"""Features, hidden units, rows; of fewer than these, no cluster is short of memory."""

TRAINING = TrainingSettings("lbfgs", "progressive", 400, 1e-6, "float32", missing=False)


def report(options: Options) -> str:
    """Measure, and write the section."""
    lines = []
    for place, sizes in (("held", HELD), ("streamed", STREAMED)):
        for d, h, n in sizes:
            n = n // 4 if options.quick else n
            say(f"plan: {place}, {d}-{h}, {n:,} rows")
            with tempfile.TemporaryDirectory() as folder:
                rows = write_patches(f"{folder}/rows.zarr", n, d)
                told, seconds = _told_and_took(rows, h, place, options.repeats)
            ratio = np.median(told) / np.median(seconds)
            say(f"  {ratio:.2f}: {median_and_range(told)}, {median_and_range(seconds)}")
            lines.append(
                (
                    place,
                    f"{d}-{h}",
                    f"{n:,}",
                    number(4 * d * n / 1e6),
                    median_and_range(told),
                    median_and_range(seconds),
                    f"{ratio:.2f}",
                )
            )
    header = ("rows are", "layer", "rows", "MB", "planned, s", "measured, s", "planned / measured")
    notes = (
        f"Median (lowest–highest) of three plans and of {options.repeats} evaluations between "
        "them, on two workers of one thread each; the client and the scheduler share the two cores "
        "with them. Float32 rows in the chunks that this library writes."
    )
    return "\n\n".join(["## Plans", table(header, lines), notes])


def _told_and_took(
    rows: zarr.Array, h: int, place: str, repeats: int
) -> tuple[list[float], Sequence[float]]:
    """Plan, and evaluate, in turn."""
    n_bytes = rows.shape[0] * rows.shape[1] * rows.dtype.itemsize
    workers = Workers(2, 1, 2 * n_bytes if place == "held" else n_bytes / 2)
    cost = AutoEncoderCost(rows.shape[1], h)
    params = cost.initial_params(np.random.default_rng(0))
    told, seconds = [], list[float]()
    with two_workers(memory_limit="4GB") as client, client.as_current():
        shards = cut_into_shards(rows, "float32")
        if place == "held":
            shards = shards.hold()
            wait(shards.blocks)
        objective = DaskObjective(cost, shards)
        objective(params)
        for turn in range(3):
            (plan,) = plan_layers(rows, [h], workers, TRAINING)
            if plan.place != place:
                raise AssertionError(f"planned as {plan.place}, not {place}")
            told.append(plan.forecast.total)
            n = len(range(turn, repeats, 3))
            seconds += [seconds_of(lambda: objective(params)) for _ in range(n)]
    return told, seconds
