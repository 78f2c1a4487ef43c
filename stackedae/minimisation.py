"""One minimisation: from a start, over growing samples or not, to where nothing is left to gain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from stackedae.evaluation import Cost
from stackedae.growth import NormTest, halves_of, is_whole, next_size
from stackedae.layout import Vector
from stackedae.local_steps import BatchSteps, LocalSteps
from stackedae.memory import FIRST_SAMPLE_ROWS, is_worth_sampling
from stackedae.objective import DaskObjective, HalvedObjective, Visits
from stackedae.progress import Best, Position, Stage
from stackedae.shards import Shards
from stackedae.solvers import (
    COST_WINDOW,
    LBFGS,
    Adam,
    GradientDescent,
    SolverState,
    Status,
    StrongWolfe,
    Surrogate,
    minimize,
)

FEWEST_STEPS = 10
"""Steps over all rows, however few `max_iter` gives."""

STEP_WORTH = 2.5
"""Iterations that one of them counts as: nine evaluations on a sample are as many visits again."""

OnStep = Callable[[Position], None]


SOLVERS = ("lbfgs", "gd", "adam")
BATCHING = ("progressive", "full")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train, whatever the layer."""

    solver: str
    batching: str
    max_iter: int
    tol: float
    dtype: str
    missing: bool
    validation: float = 0.0
    patience: int = 10
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 0.02
    local_steps: int = 32

    @property
    def n_evaluations(self) -> int:
        """Evaluations over all rows, about and at most."""
        if self.solver == "adam":
            return self.epochs
        return self.n_steps if self.batching == "progressive" else self.max_iter

    @property
    def n_steps(self) -> int:
        """Steps over all rows after samples."""
        return max(FEWEST_STEPS, int(self.max_iter / STEP_WORTH))


@dataclass(frozen=True)
class Minimisation:
    """A cost to be minimised over rows: all of them in every step, or progressively.

    Parameters
    ----------
    cost : Cost
        What to minimise.
    shards : Shards
        The rows to minimise it over.
    sample : Shards
        Some of them, to start with.
    preconditioner : AutoEncoderPreconditioner or the like
        For L-BFGS.
    start : ndarray of shape (cost.layout.size,)
        First parameters.
    training : TrainingSettings
        How.
    seed : int
        Of samples.
    visits : Visits
        Where rows are counted.
    near : bool
        Whether the start is near the end: small samples would lead away from it.
    coordinates : CentredCoordinates or None
        For Adam.
    held_out : Shards or None
        Rows to stop by: where they have cost no less for a while, though all is minimised further.
    """

    cost: Cost
    shards: Shards
    sample: Shards
    preconditioner: Any
    start: Vector
    training: TrainingSettings
    seed: int
    visits: Visits
    near: bool = False
    coordinates: Any = None
    held_out: Shards | None = None

    def run(self, at: Position, on_step: OnStep) -> SolverState:
        """Go through stages from any state of any of them, and return the last state.

        Parameters
        ----------
        at : Position
            `first()`, or what `on_step` was called with after some step.
        on_step : callable
            Called after every step.

        Returns
        -------
        SolverState
            Its evaluation is over all rows.
        """
        while True:
            at = self._go_through(at, on_step)
            following = self._following(at.stage, at.state)
            if following is None:
                return self._best(at, on_step)
            at = Position(*following, best=at.best)

    def first(self) -> Position:
        """Return where to begin."""
        training, state = self.training, SolverState(params=self.start)
        if training.solver == "adam":
            return Position(Stage("batches", training.epochs), state)
        sampled = training.solver == "lbfgs" and training.batching == "progressive"
        if not (sampled and is_worth_sampling(self.shards.n_rows)):
            return Position(Stage("full", training.max_iter), state)
        if self.near:
            return Position(Stage("surrogate", training.n_steps), state)
        return Position(Stage("growing", training.max_iter, n_rows=FIRST_SAMPLE_ROWS), state)

    def _go_through(self, at: Position, on_step: OnStep) -> Position:
        stage = at.stage
        if stage.name == "batches":
            return self._go_through_epochs(at, on_step)
        step_until = partial(minimize, start=at.state, max_iter=stage.until, tol=self.training.tol)
        if stage.name == "growing":
            halves = halves_of(self.sample, stage.n_rows)
            test = NormTest(stage.norms)
            state = step_until(
                self._lbfgs,
                HalvedObjective(self.cost, *halves, self.visits),
                on_step=lambda state: on_step(Position(replace(stage, norms=test.norms), state)),
                enough=test,
            )
            return Position(stage, state)
        solver: Any = self._lbfgs
        if stage.name == "surrogate":
            # Fits that share reads then draw the same samples, however long they grew theirs.
            begun = stage.until - self.training.n_steps
            solver = Surrogate(self._lbfgs, self.preconditioner.inverse, begun=begun)
        elif self.training.solver == "gd":
            solver = GradientDescent(self._search)
        watch = self._validation(at)
        if watch is None:
            state = step_until(
                solver, self._objective, on_step=lambda state: on_step(Position(stage, state))
            )
            return Position(stage, state)
        state = step_until(
            solver,
            self._objective,
            on_step=lambda state: on_step(Position(stage, state, watch.best, watch.loss)),
            enough=watch,
        )
        return Position(stage, state, watch.best)

    def _go_through_epochs(self, at: Position, on_step: OnStep) -> Position:
        """Visit all rows in mini-batches, time and again.

        After an epoch the sample is evaluated, after the last one all rows.
        """
        training, watch = self.training, self._validation(at)
        steps = BatchSteps(
            self.cost, Adam(training.learning_rate), training.batch_size, self.coordinates
        )
        local = LocalSteps(
            steps,
            self.shards,
            training.epochs,
            training.local_steps,
            seed=self.seed,
            clock=self.visits,
        )
        of_sample = DaskObjective(self.cost, self.sample, visits=self.visits)
        batches = at.state.batches or local.init(at.state.params)
        while at.state.status is Status.RUNNING:
            batches, _ = local.epoch(batches)
            self.visits.count(self.shards)
            state = replace(
                at.state,
                params=batches.params,
                batches=batches,
                iteration=batches.epoch,
                n_evaluations=1,
                step_length=steps.adam.rate((batches.epoch - 1) / training.epochs),
            )
            enough = watch is not None and watch(state)
            ended = enough or batches.epoch >= training.epochs
            evaluation = (self._objective if ended else of_sample)(batches.params)
            if enough:
                status = Status.ENOUGH
            elif not evaluation.is_finite:
                status = Status.NOT_FINITE
            else:
                status = Status.SCHEDULE_ENDED if ended else Status.RUNNING
            state = replace(state, evaluation=evaluation, status=status)
            at = Position(at.stage, state, *(() if watch is None else (watch.best, watch.loss)))
            on_step(at)
        return at

    def _validation(self, at: Position) -> _Validation | None:
        if self.held_out is None:
            return None
        return _Validation(self.cost, self.held_out, self.training.patience, at.best, self.visits)

    def _best(self, at: Position, on_step: OnStep) -> SolverState:
        """Return the state in which rows that are held out cost least, or the last one."""
        if at.best is None or at.best.n_worse == 0:
            return at.state
        early = at.state.status is Status.ENOUGH
        state = replace(
            at.best.state,
            status=Status.STOPPED_EARLY if early else at.state.status,
            n_evaluations=0,
        )
        on_step(Position(at.stage, state, replace(at.best, n_worse=0), at.best.loss))
        return state

    def _following(self, stage: Stage, state: SolverState) -> tuple[Stage, SolverState] | None:
        """Return the stage after one that has ended, and where it begins."""
        training, now = self.training, state.iteration
        if stage.name == "growing":
            if is_whole(self.sample, stage.n_rows):
                return Stage("surrogate", now + training.n_steps), state.restarted()
            larger = next_size(stage.n_rows)
            return Stage("growing", now + training.max_iter, n_rows=larger), state.restarted()
        if stage.name in ("full", "batches") or state.status is not Status.LINE_SEARCH_FAILED:
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
        return DaskObjective(self.cost, self.shards, seed=self.seed, visits=self.visits)

    @cached_property
    def _lbfgs(self) -> LBFGS:
        return LBFGS(self._search, preconditioner=self.preconditioner)

    @property
    def _search(self) -> StrongWolfe:
        return StrongWolfe(rounding=float(np.finfo(self.training.dtype).eps))


class _Validation:
    """Says when rows that are held out have cost no less for a while."""

    def __init__(
        self, cost: Cost, rows: Shards, patience: int, best: Best | None, visits: Visits
    ) -> None:
        self.objective, self.visits = DaskObjective(cost, rows), visits
        self.patience, self.best, self.loss = patience, best, math.nan

    def __call__(self, state: SolverState) -> bool:
        """Look at the state after a step."""
        evaluation = self.objective(state.params)
        self.visits.take_in(self.objective.visits)
        self.loss = evaluation.cost - evaluation.terms["decay"]
        self.best = Best.after(self.best, state, self.loss)
        return self.best.n_worse >= self.patience
