"""Greedy training: one layer after the other, each on the features of the one below."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from stackedae.blas import one_blas_thread
from stackedae.containers import Container, n_columns
from stackedae.costs import AutoEncoderCost
from stackedae.errors import DataError
from stackedae.growth import NormTest, halves_of, is_whole, next_size
from stackedae.layout import Vector
from stackedae.memory import FIRST_SAMPLE_ROWS, is_worth_sampling
from stackedae.moments import Moments, column_sums, scatter_sums
from stackedae.objective import DaskObjective, HalvedObjective, Visits
from stackedae.progress import Log, Observer, Progress, Stage
from stackedae.rows import Rows, Survey, features_of, rows_of
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

SOLVERS = ("lbfgs", "gd")
BATCHING = ("progressive", "full")
DTYPES = ("float32", "float64")

OnStep = Callable[[Stage, SolverState], None]


@dataclass(frozen=True)
class LayerSettings:
    """What a user asks of one layer; see `StackedAutoEncoder` for the meaning of each."""

    n_hidden: int
    activation: str
    output_activation: str
    alpha: float
    sparsity_target: float
    sparsity_weight: float

    def cost(
        self, n_features: int, output_activation: str, fill: tuple[float, ...] = ()
    ) -> AutoEncoderCost:
        """Return the cost for rows of this many features, with "auto" decided."""
        settings = {**asdict(self), "output_activation": output_activation, "fill": fill}
        return AutoEncoderCost(n_features=n_features, **settings)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train, whatever the layer."""

    solver: str
    batching: str
    max_iter: int
    tol: float
    dtype: str
    missing: bool

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
    begun: Progress,
    observer: Observer,
) -> Progress:
    """Train layers from the data up, from wherever training stands.

    Parameters
    ----------
    X : container of shape (n_samples, …)
        Samples; see `stackedae.rows` for where they, and the features of each layer, are while they
        are needed.
    layers : sequence of LayerSettings
        From the data up.
    training : TrainingSettings
        How to train each.
    begun : Progress
        What there is already: nothing but a seed, or what `observer` was told before on the same
        data. What follows is the same to the last bit.
    observer : Observer
        Who is told.

    Returns
    -------
    Progress
        With all layers.

    Raises
    ------
    DataError
        If X has infinity, or NaN unless that is to be masked.
    """
    progress = begun
    first = np.random.default_rng(begun.seed)
    rngs = [first, *first.spawn(len(layers) - 1)]
    # OpenBLAS's threads look out for more work for some 20 ms after each call, on
    # cores that the next evaluation needs; and bits depend on how many there are.
    with ExitStack() as scratch, one_blas_thread():
        cost = layers[0].cost(n_columns(X), "identity")
        rows = rows_of(X, cost, training.dtype, missing=training.missing)
        for index, (settings, rng) in enumerate(zip(layers, rngs, strict=True)):
            _LOGGER.info("layer %d: %s", index, rows.reason)
            seed = int(rng.integers(2**31))
            log = Log(progress, rows, observer.on_step)
            if index == 0 or index == len(progress.layers):
                log.visits.reads += not rows.shards.held
                survey = rows.survey(seed)
                if survey.n_bad:
                    rows.refuse()
            if index == 0:
                data = {**rows.shards.description, **survey.checksums()}
                log.visits.reads += not survey.sample.held
                observer.on_data(data)
                log.progress = replace(progress, data=data)
            if index == len(progress.layers):
                train_layer(rows, survey, settings, training, rng, seed, log)
                progress = log.progress.with_layer(training.dtype)
                observer.on_layer(progress)
            if len(progress.layers) < len(layers):
                following = layers[index + 1].cost(settings.n_hidden, "identity")
                layer = progress.layers[index]
                rows = features_of(rows, layer, following, training.n_evaluations, scratch)
    return progress


def train_layer(
    rows: Rows,
    survey: Survey,
    settings: LayerSettings,
    training: TrainingSettings,
    rng: np.random.Generator,
    seed: int,
    log: Log,
) -> None:
    """Train one layer, from where the progress in `log` stands, and leave it there."""
    output_activation = settings.output_activation
    if output_activation == "auto":
        output_activation = "identity" if survey.n_outside else "logistic"
    cost = settings.cost(rows.shards.n_features, output_activation, survey.fill)
    moments = moments_of(survey.sample, survey.fill)
    log.visits.reads += 0 if survey.sample.held else 2  # for the mean, and around it
    start = cost.initial_params(rng, moments)
    minimisation = Minimisation(
        cost, rows, survey.sample, moments, start, training, seed, log.visits
    )
    stage, state = log.progress.stage, log.progress.state
    at = minimisation.first() if stage is None or state is None else (stage, state)
    state = minimisation.run(at, partial(log.on_step, cost))
    if state.evaluation is None or not state.evaluation.is_finite:
        raise DataError(f"The cost at the start is not finite: {Status.NOT_FINITE.advice}.")


def moments_of(sample: Shards, fill: tuple[float, ...] = ()) -> Moments:
    """Return the mean and covariance of rows, with what stands in for entries that are missing."""
    summing, scattering = (partial(each, fill=fill) for each in (column_sums, scatter_sums))
    mean = sample.sum(each_alone(summing), name="stackedae-mean") / sample.n_rows
    scatter = sample.sum(each_alone(scattering), mean, name="stackedae-covariance")
    return Moments.from_sums(mean, scatter, sample.n_rows)


@dataclass(frozen=True)
class Minimisation:
    """A cost to be minimised over rows: all of them in every step, or progressively.

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
    """

    cost: AutoEncoderCost
    rows: Rows
    sample: Shards
    moments: Moments
    start: Vector
    training: TrainingSettings
    seed: int
    visits: Visits

    def run(self, at: tuple[Stage, SolverState], on_step: OnStep) -> SolverState:
        """Go through stages from any state of any of them, and return the last state.

        Parameters
        ----------
        at : (Stage, SolverState)
            `first()`, or what `on_step` was called with after some step.
        on_step : callable
            Called after every step.

        Returns
        -------
        SolverState
            Its evaluation is over all rows.
        """
        stage, state = at
        while True:
            state = self._go_through(stage, state, on_step)
            following = self._following(stage, state)
            if following is None:
                return state
            stage, state = following

    def first(self) -> tuple[Stage, SolverState]:
        """Return where to begin."""
        training, state = self.training, SolverState(params=self.start)
        sampled = training.solver == "lbfgs" and training.batching == "progressive"
        if sampled and is_worth_sampling(self.rows.shards.n_rows):
            return Stage("growing", training.max_iter, n_rows=FIRST_SAMPLE_ROWS), state
        return Stage("full", training.max_iter), state

    def _go_through(self, stage: Stage, state: SolverState, on_step: OnStep) -> SolverState:
        step_until = partial(minimize, start=state, max_iter=stage.until, tol=self.training.tol)
        if stage.name == "growing":
            halves = halves_of(self.sample, stage.n_rows)
            test = NormTest(stage.norms)
            return step_until(
                self._lbfgs,
                HalvedObjective(self.cost, *halves, self.visits),
                on_step=lambda state: on_step(replace(stage, norms=test.norms), state),
                enough=test,
            )
        solver: Any = self._lbfgs
        if stage.name == "surrogate":
            solver = Surrogate(self._lbfgs, self._preconditioner.inverse)
        elif self.training.solver == "gd":
            solver = GradientDescent(self._search)
        return step_until(solver, self._objective, on_step=partial(on_step, stage))

    def _following(self, stage: Stage, state: SolverState) -> tuple[Stage, SolverState] | None:
        """Return the stage after one that has ended, and where it begins."""
        training, now = self.training, state.iteration
        if stage.name == "growing":
            if is_whole(self.sample, stage.n_rows):
                return Stage("surrogate", now + training.n_steps), state.restarted()
            larger = next_size(stage.n_rows)
            return Stage("growing", now + training.max_iter, n_rows=larger), state.restarted()
        if stage.name == "full" or state.status is not Status.LINE_SEARCH_FAILED:
            return None
        # Samples do not speak for all rows here, or not any more: go on without
        # them, for what is left of the steps; from the start if they never did.
        left = stage.until - now
        misled = training.n_steps - left <= COST_WINDOW
        n_iter = training.max_iter if misled else int(STEP_WORTH * left)
        state = replace(state.restarted(), pairs=(), params=self.start if misled else state.params)
        return Stage("full", now + min(n_iter, training.max_iter)), state

    @cached_property
    def _objective(self) -> DaskObjective:
        return DaskObjective(self.cost, self.rows.shards, seed=self.seed, visits=self.visits)

    @cached_property
    def _preconditioner(self) -> Any:
        return self.cost.preconditioner(self.moments)

    @cached_property
    def _lbfgs(self) -> LBFGS:
        return LBFGS(self._search, preconditioner=self._preconditioner)

    @property
    def _search(self) -> StrongWolfe:
        return StrongWolfe(rounding=float(np.finfo(self.training.dtype).eps))
