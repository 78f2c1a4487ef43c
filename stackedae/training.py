"""Greedy training: one layer after the other, each on the features of the one below."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike

from stackedae.cluster import Shards
from stackedae.containers import Container, as_array, cut_into_shards, refuse_bad_rows
from stackedae.costs import AutoEncoderCost
from stackedae.errors import DataError
from stackedae.layers import Layer, Stack
from stackedae.moments import Moments, first_bad_row, scatter_sums, survey_sums
from stackedae.objective import DaskObjective
from stackedae.solvers import (
    LBFGS,
    Descent,
    GradientDescent,
    SolverState,
    Status,
    StrongWolfe,
    minimize,
)

Record = dict[str, Any]
"""What `history_` says of one iteration."""

OnIteration = Callable[[Record], None]


SOLVERS = ("lbfgs", "gd")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class LayerSettings:
    """What a user asks of one layer; see `StackedAutoEncoder` for the meaning of each."""

    n_hidden: int
    activation: str
    output_activation: str
    alpha: float
    sparsity_target: float
    sparsity_weight: float

    def cost(self, n_features: int, output_activation: str) -> AutoEncoderCost:
        """Return the cost for rows of this many features, with "auto" decided."""
        settings = {**asdict(self), "output_activation": output_activation}
        return AutoEncoderCost(n_features=n_features, **settings)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train, whatever the layer."""

    solver: str
    max_iter: int
    tol: float
    dtype: DTypeLike


def train_stack(
    X: Container,
    layers: Sequence[LayerSettings],
    training: TrainingSettings,
    rng: np.random.Generator,
    on_iteration: OnIteration,
) -> tuple[list[Layer], list[Record]]:
    """Train layers from the data up.

    Parameters
    ----------
    X : container of shape (n_samples, …)
        Samples; read once, then held by the workers. Features of a layer are computed where its
        rows are, and held there for the next layer; the client never holds them.
    layers : sequence of LayerSettings
        From the data up.
    training : TrainingSettings
        How to train each.
    rng : numpy.random.Generator
        Source of the first parameters.
    on_iteration : callable
        Called with every record of the history as it comes.

    Returns
    -------
    layers : list of Layer
    history : list of dict

    Raises
    ------
    DataError
        If X has NaN or infinity.
    """
    trained: list[Layer] = []
    history: list[Record] = []
    shards = cut_into_shards(X, training.dtype).hold()
    refuse_bad_rows(X, shards.rows, shards.gather(first_bad_row, name="stackedae-check"))
    bytes_read = _bytes_to_read(X)
    for index, settings in enumerate(layers):
        log = _Log(index, shards.n_rows, bytes_read, on_iteration)
        layer = train_layer(shards, settings, training, rng, log.on_step)
        trained.append(layer)
        history += log.records
        if index + 1 < len(layers):
            shards = shards.map(
                Stack.encode,
                Stack([layer]),
                n_features=layer.cost.n_hidden,
                dtype=training.dtype,
                name="stackedae-encode",
            ).hold()
            bytes_read = 0
    return trained, history


def train_layer(
    shards: Shards,
    settings: LayerSettings,
    training: TrainingSettings,
    rng: np.random.Generator,
    on_step: Callable[[SolverState], None],
) -> Layer:
    """Train one layer on rows that the workers hold."""
    n_outside_unit, *column_sums = shards.sum(survey_sums, name="stackedae-survey")
    output_activation = settings.output_activation
    if output_activation == "auto":
        output_activation = "identity" if n_outside_unit else "logistic"
    cost = settings.cost(shards.n_features, output_activation)
    mean = np.array(column_sums) / shards.n_rows
    scatter = shards.sum(scatter_sums, mean, name="stackedae-covariance")
    moments = Moments.from_sums(mean, scatter, shards.n_rows)
    state = minimize(
        _solver(cost, moments, training),
        DaskObjective(cost, shards),
        cost.initial_params(rng, moments),
        max_iter=training.max_iter,
        tol=training.tol,
        on_step=on_step,
    )
    if state.evaluation is None or not state.evaluation.is_finite:
        raise DataError(f"The cost at the start is not finite: {Status.NOT_FINITE.advice}.")
    return Layer(
        cost=cost,
        params=state.params.astype(training.dtype),
        mean_activations=state.evaluation.means["activations"],
        status=state.status,
    )


def _solver(cost: AutoEncoderCost, moments: Moments, training: TrainingSettings) -> Descent:
    search = StrongWolfe(rounding=float(np.finfo(training.dtype).eps))
    if training.solver == "gd":
        return GradientDescent(search)
    return LBFGS(search, preconditioner=cost.preconditioner(moments))


def _bytes_to_read(X: Container) -> int:
    array = as_array(X)
    return int(array.nbytes) if isinstance(array, da.Array) else 0


class _Log:
    """Turns the states of a solver into the records of one layer's history."""

    def __init__(self, layer: int, n_rows: int, bytes_read: int, on_iteration: OnIteration) -> None:
        self.layer, self.n_rows, self.bytes_read = layer, n_rows, bytes_read
        self.on_iteration = on_iteration
        self.records: list[Record] = []
        self.since = time.perf_counter()

    def on_step(self, state: SolverState) -> None:
        """Record where the solver stands after an iteration."""
        assert state.evaluation is not None
        now = time.perf_counter()
        self.records.append(
            {
                "layer": self.layer,
                "phase": "full",
                "iteration": state.iteration,
                "n_rows": self.n_rows,
                "cost": state.evaluation.cost,
                **state.evaluation.terms,
                "gradient_norm": float(np.linalg.norm(state.evaluation.gradient)),
                "step": state.step_length,
                "n_evaluations": state.n_evaluations,
                "rows_visited": state.n_evaluations * self.n_rows,
                "bytes_read": self.bytes_read,
                "seconds": now - self.since,
            }
        )
        self.since, self.bytes_read = now, 0
        self.on_iteration(self.records[-1])
