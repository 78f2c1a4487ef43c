"""What a fit will take, before it is begun: layer by layer, from stored samples and a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stackedae.blas import one_blas_thread
from stackedae.cluster import Memory, n_threads
from stackedae.containers import Container, bytes_of_a_chunk, bytes_of_a_read, cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.forecast import Forecast, Rates, forecast_layer
from stackedae.labelled import features_in
from stackedae.memory import Placement, hold_or_stream, place_features, rows_per_portion_read
from stackedae.minimisation import TrainingSettings
from stackedae.objective import belongs_here, needs_two_stages
from stackedae.rows import TaskMemory, refuse_too_many_parameters, refuse_unless_it_fits
from stackedae.shards import RowSource, Shards


@dataclass(frozen=True)
class LayerPlan:
    """What training a layer will take.

    Parameters
    ----------
    n_features, n_hidden : int
        Of the layer.
    place : {"here", "held", "streamed", "recomputed", "spilled"}
        Where its input will be: with the client, which works itself; with the workers; read from
        the store, computed again, or read from a scratch folder by every evaluation.
    reason : str
        Why.
    task : TaskMemory or None
        What a task takes of a worker's memory; None if the client works itself.
    bytes_to_hold : int
        Read once, before the first evaluation.
    forecast : Forecast
        Of an evaluation over all samples.
    """

    n_features: int
    n_hidden: int
    place: str
    reason: str
    task: TaskMemory | None
    bytes_to_hold: int
    forecast: Forecast


@dataclass(frozen=True)
class Workers:
    """A cluster that there might be.

    Parameters
    ----------
    n : int
        Workers.
    threads : int
        Of each.
    memory : float
        Bytes of each.
    """

    n: int
    threads: int
    memory: float

    @property
    def together(self) -> Memory:
        """What they have for tasks."""
        return Memory(self.n * self.threads, self.memory / self.threads, "a worker")


def plan_layers(
    X: Container,
    hidden: Sequence[int],
    workers: Workers,
    training: TrainingSettings,
    *,
    may_spill: bool = False,
) -> Iterator[LayerPlan]:
    """Say what each layer of a fit will take.

    What kernels and the store give is measured here, with some of the samples, in about a second
    for each layer: machines of the cluster are taken to be like this one.

    Parameters
    ----------
    X : container of shape (n_samples, …)
        Samples, stored.
    hidden : sequence of int
        Hidden units of each layer.
    workers : Workers
        The cluster.
    training : TrainingSettings
        How the layers will be trained.
    may_spill : bool
        Whether there is a folder that all workers see (``stackedae.scratch``).

    Yields
    ------
    LayerPlan

    Raises
    ------
    MemoryPlanError
        If a task takes more memory than a worker has for it, or the solver more than is here.
    """
    shards, memory = cut_into_shards(X, training.dtype), workers.together
    chunk_bytes, read_bytes, to_make = bytes_of_a_chunk(X), float(bytes_of_a_read(X)), 0.0
    rates = Rates(reading=_reading_rate(shards))
    place, held_bytes = "", 0
    for n_hidden in hidden:
        cost = AutoEncoderCost(shards.n_features, n_hidden)
        refuse_too_many_parameters(cost)
        if belongs_here(cost, shards):
            placed = Placement("here", "few samples: the client holds them, and works itself")
        elif not place:
            holding = hold_or_stream(shards.n_bytes, memory.capacity)
            placed = Placement("held" if holding.held else "streamed", holding.reason)
        else:
            placed = place_features(
                shards.n_bytes,
                held_bytes=held_bytes,
                read_bytes=round(read_bytes),
                flops=to_make,
                n_evaluations=training.n_evaluations,
                capacity=memory.capacity,
                may_spill=may_spill,
            )
        place, before = placed.place, read_bytes
        if place in KEPT:
            read_bytes, to_make = float(shards.n_bytes) if place == "spilled" else 0.0, 0.0
        task = None
        if place != "here":
            task = refuse_unless_it_fits(shards, cost, chunk_bytes, memory, held=place == "held")
        yield LayerPlan(
            cost.n_features,
            n_hidden,
            place,
            placed.reason,
            task,
            round(before) if place in KEPT else 0,
            forecast_layer(
                shards.n_rows,
                cost.n_features,
                n_hidden,
                n_workers=workers.n,
                threads_per_worker=n_threads() if place == "here" else workers.threads,
                held=place == "held",
                itemsize=shards.dtype.itemsize,
                n_shards=len(shards.rows),
                bytes_read=read_bytes,
                more_flops=to_make,
                rates=replace(rates, flops=_kernel_rate(shards, cost)),
            ),
        )
        held_bytes = shards.n_bytes if place in ("here", "held") else 0
        to_make += 2.0 * cost.n_features * n_hidden * shards.n_rows
        shards = replace(shards, n_features=n_hidden, dtype=np.dtype(training.dtype), blocks=[None])
        chunk_bytes = 0


KEPT = ("here", "held", "spilled")
"""What is there after one read of what it is made of."""


def _reading_rate(shards: Shards) -> float:
    """Measure how many bytes a thread reads in a second."""
    began, n_bytes = time.perf_counter(), 0
    for block in shards.blocks:
        if isinstance(block, RowSource):
            n_bytes += sum(features_in(portion).nbytes for portion in block.portions())
        else:
            rows = block.compute(scheduler="synchronous")
            n_bytes += rows.nbytes
        if time.perf_counter() - began > SECONDS_TO_MEASURE:
            break
    return n_bytes / (time.perf_counter() - began)


def _kernel_rate(shards: Shards, cost: AutoEncoderCost) -> float:
    """Measure how many operations a core does in a second, in the kernels that will be used."""
    dtype = np.result_type(shards.dtype, np.float32)
    rng = np.random.default_rng(0)
    n_rows = rows_per_portion_read(cost.n_features * dtype.itemsize)
    rows, params = rng.random((n_rows, cost.n_features), dtype), cost.initial_params(rng)
    in_two = needs_two_stages(cost, shards)
    evaluate: Callable[..., Any] = cost.evaluate if in_two else cost.chunk_sums
    flops = cost.flops(len(rows)) * (10 / 12 if in_two else 1)
    seconds = list[float]()
    with one_blas_thread():
        end = time.perf_counter() + SECONDS_TO_MEASURE
        while time.perf_counter() < end or len(seconds) < FEWEST_TIMES:
            began = time.perf_counter()
            evaluate(params, rows)
            seconds.append(time.perf_counter() - began)
    return flops / float(np.median(seconds))


SECONDS_TO_MEASURE, FEWEST_TIMES = 0.5, 3
"""Of kernels, and of reading."""
