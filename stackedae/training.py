"""Greedy training: one layer after the other, each on the features of the one below."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from stackedae.blas import one_blas_thread
from stackedae.containers import Container, n_columns
from stackedae.costs import AutoEncoderCost
from stackedae.errors import DataError
from stackedae.growth import grow_samples
from stackedae.layers import Layer
from stackedae.layout import Vector
from stackedae.memory import is_worth_sampling
from stackedae.moments import Moments, column_sums, scatter_sums
from stackedae.objective import DaskObjective, Visits
from stackedae.rows import Rows, features_of, rows_of
from stackedae.shards import Shards, each_alone
from stackedae.solvers import (
    COST_WINDOW,
    LBFGS,
    GradientDescent,
    SolverState,
    Status,
    StrongWolfe,
    Surrogate,
    minimize,
)

_LOGGER = logging.getLogger("stackedae")

FEWEST_STEPS = 10
"""Steps over all rows, however few `max_iter` gives."""

STEP_WORTH = 2.5
"""Iterations that one of them counts as: nine evaluations on a sample are as many visits again."""

Record = dict[str, Any]
"""What `history_` says of one iteration."""

OnIteration = Callable[[Record], None]


SOLVERS = ("lbfgs", "gd")
BATCHING = ("progressive", "full")
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
    batching: str
    max_iter: int
    tol: float
    dtype: str

    @property
    def n_evaluations(self) -> int:
        """Evaluations over all rows, about and at most."""
        return self.n_steps if self.batching == "progressive" else self.max_iter

    @property
    def n_steps(self) -> int:
        """Steps over all rows after samples."""
        return max(FEWEST_STEPS, int(self.max_iter / STEP_WORTH))


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
        Samples; see `stackedae.rows` for where they, and the features of each layer, are while they
        are needed.
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
    # OpenBLAS's threads look out for more work for some 20 ms after each call, on
    # cores that the next evaluation needs; and bits depend on how many there are.
    with ExitStack() as scratch, one_blas_thread():
        rows = rows_of(X, layers[0].cost(n_columns(X), "identity"), training.dtype)
        for index, settings in enumerate(layers):
            _LOGGER.info("layer %d: %s", index, rows.reason)
            log = _Log(index, rows, on_iteration)
            layer = train_layer(rows, settings, training, rng, log)
            trained.append(layer)
            history += log.records
            if index + 1 < len(layers):
                following = layers[index + 1].cost(layer.cost.n_hidden, "identity")
                rows = features_of(rows, layer, following, training.n_evaluations, scratch)
    return trained, history


def train_layer(
    rows: Rows,
    settings: LayerSettings,
    training: TrainingSettings,
    rng: np.random.Generator,
    log: _Log,
) -> Layer:
    """Train one layer."""
    seed = int(rng.integers(2**31))
    log.visits.reads += not rows.shards.held
    (n_outside, n_bad), sample = rows.survey(seed)
    if n_bad:
        rows.refuse()
    output_activation = settings.output_activation
    if output_activation == "auto":
        output_activation = "identity" if n_outside else "logistic"
    cost = settings.cost(rows.shards.n_features, output_activation)
    moments = moments_of(sample)
    log.visits.reads += 0 if sample.held else 2  # for the mean, and around it
    start = cost.initial_params(rng, moments)
    state = minimise(
        cost, rows, sample, moments, start, training, seed, visits=log.visits, on_step=log.on_step
    )
    if state.evaluation is None or not state.evaluation.is_finite:
        raise DataError(f"The cost at the start is not finite: {Status.NOT_FINITE.advice}.")
    return Layer(
        cost=cost,
        params=state.params.astype(training.dtype),
        mean_activations=state.evaluation.means["activations"],
        status=state.status,
    )


def moments_of(sample: Shards) -> Moments:
    """Return the mean and covariance of rows."""
    mean = sample.sum(each_alone(column_sums), name="stackedae-mean") / sample.n_rows
    scatter = sample.sum(each_alone(scatter_sums), mean, name="stackedae-covariance")
    return Moments.from_sums(mean, scatter, sample.n_rows)


def minimise(
    cost: AutoEncoderCost,
    rows: Rows,
    sample: Shards,
    moments: Moments,
    start: Vector,
    training: TrainingSettings,
    seed: int,
    *,
    visits: Visits,
    on_step: Callable[[str, SolverState], None],
) -> SolverState:
    """Minimise a cost over rows: all of them in every step, or progressively.

    Parameters
    ----------
    cost : AutoEncoderCost
        What to minimise.
    rows : Rows
        What to minimise it over.
    sample : Shards
        Some of them, to start with.
    moments : Moments
        What the preconditioner is made of.
    start : ndarray of shape (cost.layout.size,)
        First parameters.
    training : TrainingSettings
        How.
    seed : int
        Of samples.
    visits : Visits
        Where rows are counted.
    on_step : callable
        Called with "sample" or "full" and the state after every step.

    Returns
    -------
    SolverState
        After the last step; its evaluation is over all rows.
    """
    objective = DaskObjective(cost, rows.shards, seed=seed, visits=visits)
    over_all = partial(
        minimize, objective=objective, tol=training.tol, on_step=partial(on_step, "full")
    )
    search = StrongWolfe(rounding=float(np.finfo(training.dtype).eps))
    if training.solver == "gd":
        return over_all(GradientDescent(search), start=start, max_iter=training.max_iter)
    preconditioner = cost.preconditioner(moments)
    lbfgs = LBFGS(search, preconditioner=preconditioner)
    if training.batching == "full" or not is_worth_sampling(rows.shards.n_rows):
        return over_all(lbfgs, start=start, max_iter=training.max_iter)
    grown = grow_samples(
        cost,
        sample,
        lbfgs,
        start,
        max_iter=training.max_iter,
        tol=training.tol,
        visits=visits,
        on_step=partial(on_step, "sample"),
    )
    state = over_all(
        Surrogate(lbfgs, preconditioner.inverse),
        start=grown.restarted(),
        max_iter=grown.iteration + training.n_steps,
    )
    if state.status is not Status.LINE_SEARCH_FAILED:
        return state
    # Samples do not speak for all rows here, or not any more: go on without
    # them, for what is left of the steps; from the start if they never did.
    taken = state.iteration - grown.iteration
    misled = taken <= COST_WINDOW
    left = training.max_iter if misled else int(STEP_WORTH * (training.n_steps - taken))
    state = replace(state.restarted(), pairs=(), params=start if misled else state.params)
    return over_all(lbfgs, start=state, max_iter=state.iteration + min(left, training.max_iter))


class _Log:
    """Turns the states of a solver into the records of one layer's history."""

    def __init__(self, layer: int, rows: Rows, on_iteration: OnIteration) -> None:
        self.layer, self.rows, self.on_iteration = layer, rows, on_iteration
        self.visits = Visits()
        self.records: list[Record] = []
        self.before = Visits()
        self.bytes_read = rows.bytes_to_hold
        self.since = time.perf_counter()

    def on_step(self, phase: str, state: SolverState) -> None:
        """Record where the solver stands after a step."""
        assert state.evaluation is not None
        now, before = time.perf_counter(), self.before
        reads = self.visits.reads - before.reads
        self.records.append(
            {
                "layer": self.layer,
                "phase": phase,
                "iteration": state.iteration,
                "n_rows": state.evaluation.n_rows,
                "cost": state.evaluation.cost,
                **state.evaluation.terms,
                "gradient_norm": float(np.linalg.norm(state.evaluation.gradient)),
                "step": state.step_length,
                "n_evaluations": state.n_evaluations,
                "rows_visited": self.visits.rows - before.rows,
                "bytes_read": self.bytes_read + reads * self.rows.bytes_per_read,
                "seconds": now - self.since,
            }
        )
        self.since, self.bytes_read, self.before = now, 0, replace(self.visits)
        self.on_iteration(self.records[-1])
