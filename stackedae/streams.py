"""Endless streams: layers that take in rows as they come, all of them at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.blas import one_blas_thread
from stackedae.cluster import OnCluster
from stackedae.containers import Container, cut_into_shards, refuse_bad_rows
from stackedae.costs import AutoEncoderCost
from stackedae.labelled import Labelled
from stackedae.layers import Layer
from stackedae.layout import Array
from stackedae.local_steps import BatchSteps, adam_on
from stackedae.minimisation import TrainingSettings
from stackedae.moments import Moments, column_sums, first_bad_row, scatter_sums, survey_sums
from stackedae.progress import Record
from stackedae.shards import portions_of_each
from stackedae.solvers import Adam, AdamState, Status
from stackedae.training import LayerSettings

Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class StreamedLayer:
    """A layer that takes in rows as they come.

    Parameters
    ----------
    steps : BatchSteps
        How it learns, and what it minimises.
    state : AdamState
        Where that stands.
    """

    steps: BatchSteps
    state: AdamState

    @classmethod
    def begun(
        cls,
        settings: LayerSettings,
        training: TrainingSettings,
        rows: Array,
        rng: np.random.Generator,
    ) -> StreamedLayer:
        """Begin with the first rows that came: what is to be known of rows comes from them."""
        survey = survey_sums(rows, missing=training.missing)
        n_present, present = survey[3:].reshape(2, -1) if training.missing else np.zeros((2, 0))
        fill = tuple((present / np.maximum(n_present, 1)).tolist())
        output_activation = settings.output_activation
        if output_activation == "auto":
            output_activation = "identity" if survey[0] else "logistic"
        cost = settings.cost(rows.shape[1], output_activation, fill)
        mean = column_sums(rows, fill=fill) / len(rows)
        moments = Moments.from_sums(mean, scatter_sums(mean, rows, fill=fill), len(rows))
        adam, coordinates = Adam(training.learning_rate), cost.coordinates(moments)
        steps = BatchSteps(cost, adam, training.batch_size, coordinates)
        return cls(steps, adam.init(cost.initial_params(rng, moments)))

    @property
    def cost(self) -> AutoEncoderCost:
        """What it minimises."""
        cost: AutoEncoderCost = self.steps.cost
        return cost

    def take_in(self, rows: Array, numbers: Numbers) -> StreamedLayer:
        """Take one step for each mini-batch of rows, whose numbers in the stream are given."""
        known = Labelled(rows, {"row": numbers}) if self.cost.aside else rows
        return replace(self, state=adam_on(self.steps, self.state, known))

    def as_layer(self, dtype: str) -> Layer:
        """Return what was learned until now."""
        means = self.state.means if self.state.means.size else np.zeros(self.cost.n_hidden)
        return Layer(self.cost, self.state.params.astype(dtype), means.copy(), Status.RUNNING)


@dataclass(frozen=True)
class Stream:
    """Layers that take in a stream, and how far it has come.

    Parameters
    ----------
    seed : int
        Where all that is random comes from.
    layers : tuple of StreamedLayer
        From the data up; none before the first rows.
    n_rows, n_portions : int
        What has come until now.
    """

    seed: int
    layers: tuple[StreamedLayer, ...] = ()
    n_rows: int = 0
    n_portions: int = 0

    def take_in(
        self, settings: Sequence[LayerSettings], training: TrainingSettings, rows: Array
    ) -> tuple[Stream, list[Record]]:
        """Take steps with every layer, on what the layers below make of rows by then.

        Returns
        -------
        stream : Stream
            After them.
        records : list of dict
            What the history is to say, of each layer.
        """
        rng = np.random.default_rng((self.seed, self.n_portions))
        order, layers, records = rng.permutation(len(rows)), list(self.layers), []
        numbers, rows = self.n_rows + order, rows[order]
        for index, of_layer in enumerate(settings):
            began = time.perf_counter()
            if index == len(layers):
                layers.append(StreamedLayer.begun(of_layer, training, rows, rng))
            layers[index] = layer = layers[index].take_in(rows, numbers)
            records.append(self._record(index, layer, rows, numbers, began))
            rows = layer.cost.encode(layer.state.params.astype(rows.dtype), rows)
        n_rows, n_portions = self.n_rows + len(rows), self.n_portions + 1
        return Stream(self.seed, tuple(layers), n_rows, n_portions), records

    def _record(
        self, index: int, layer: StreamedLayer, rows: Array, numbers: Numbers, began: float
    ) -> Record:
        params: Any = layer.state.params.astype(rows.dtype)
        known = {"row": numbers} if layer.cost.aside else {}
        evaluation = layer.cost.evaluate(params, rows, **known)
        return {
            "layer": index,
            "phase": "batches",
            "iteration": self.n_portions + 1,
            "n_rows": len(rows),
            "cost": evaluation.cost,
            **evaluation.terms,
            "gradient_norm": float(np.linalg.norm(evaluation.gradient)),
            "step": layer.steps.adam.rate(0.0),
            "n_evaluations": 1,
            "rows_visited": 2 * len(rows),
            "bytes_read": 0,
            "seconds": time.perf_counter() - began,
        }


def portions_of(X: Container, training: TrainingSettings) -> Iterator[Array]:
    """Yield the rows of a container in order, in the precision of the arithmetic.

    Raises
    ------
    DataError
        If X has infinity, or NaN unless that is to be masked.
    """
    shards = cut_into_shards(X, training.dtype)
    bad = shards.gather(partial(first_bad_row, missing=training.missing), name="stackedae-check")
    refuse_bad_rows(X, shards.rows, bad, missing=training.missing)
    with one_blas_thread():
        for block in shards.blocks:
            for portions in portions_of_each(OnCluster().compute(block)):
                for rows in portions:
                    yield rows.astype(training.dtype)
