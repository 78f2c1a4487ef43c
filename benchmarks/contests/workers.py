"""An evaluation on two workers and on two threads, against the kernel on one core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dask
import numpy as np
from distributed import Client, LocalCluster

from contests.measure import Options, alternate, median_and_range, number, say, table
from stackedae.blas import one_blas_thread
from stackedae.costs import AutoEncoderCost
from stackedae.objective import DaskObjective

SHAPES = ((784, 196, 60_000), (64, 25, 1_000_000))
"""Features, hidden units, rows."""

ONE_PASS, EVALUATE = "kernel, one core, one pass", "kernel, one core, `evaluate`"


def report(options: Options) -> str:
    """Measure, and write the section."""
    rows = []
    with two_workers() as client:
        for d, h, n in SHAPES:
            n = n // 50 if options.quick else n
            say(f"workers {d}-{h}, {n} rows")
            rows += _one_shape(client, d, h, n, options.repeats)
    header = ("d-h, rows", "contender", "seconds", "one pass / this", "`evaluate` / this")
    notes = (
        f"Median (lowest–highest) of {options.repeats} alternating evaluations of cost and "
        "gradient, float32 rows that are held. Two workers: a LocalCluster of two processes with "
        "one thread each; its scheduler and its client share the two cores with them."
    )
    return "\n\n".join(["## Workers and threads", table(header, rows), notes])


def _one_shape(client: Client, d: int, h: int, n: int, repeats: int) -> list[tuple]:
    cost = AutoEncoderCost(d, h, sparsity_target=0.1, alpha=3e-3)
    params = cost.initial_params(np.random.default_rng(0))
    X = np.random.default_rng(1).random((n, d), dtype=np.float32)
    with client.as_current():
        on_workers = DaskObjective(cost, X)
    with dask.config.set(scheduler="threads", num_workers=2):
        on_threads = DaskObjective(cost, X)

    def one_pass():
        with one_blas_thread():
            cost.finish(params, cost.chunk_sums(params, X))

    def evaluate():
        with one_blas_thread():
            cost.evaluate(params, X)

    def workers():
        with client.as_current():
            return on_workers(params)

    def threads():
        with dask.config.set(scheduler="threads", num_workers=2):
            return on_threads(params)

    if workers().gradient.tobytes() != threads().gradient.tobytes():
        raise AssertionError("workers and threads differ")
    seconds = alternate(
        {ONE_PASS: one_pass, EVALUATE: evaluate, "two workers": workers, "two threads": threads},
        repeats,
    )
    ours = {name: np.median(values) for name, values in seconds.items()}
    return [
        (
            f"{d}-{h}, {n:,}",
            name,
            median_and_range(values),
            number(ours[ONE_PASS] / ours[name]),
            number(ours[EVALUATE] / ours[name]),
        )
        for name, values in seconds.items()
    ]


@contextmanager
def two_workers(**settings: object) -> Iterator[Client]:
    """Yield the client, not the default one, of two workers with one thread each."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            **settings,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
