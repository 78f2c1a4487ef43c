"""Where training stands: enough to go on bit for bit, and what is told of it on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from stackedae.evaluation import Cost
from stackedae.layers import Head, Layer, with_trained
from stackedae.objective import Visits
from stackedae.rows import Rows
from stackedae.sharing import payer_of
from stackedae.solvers import SolverState, Status

Record = dict[str, Any]
"""What `history_` says of one iteration."""

TERMS = ("reconstruction", "cross_entropy", "squared_error", "decay", "sparsity")
"""What costs are sums of; no record has all of them."""


SECONDS = ("seconds_read", "seconds_compute", "seconds_reduce", "seconds_wait")
"""What evaluations took, as a mean over threads; records of older models have none of these."""


def part_of(record: Record, n_layers: int) -> str:
    """Return what a record is of: a layer, the head, or all layers together.

    Examples
    --------
    >>> from stackedae.progress import part_of
    >>> terms = {"cross_entropy": 0.2, "decay": 0.1}
    >>> [part_of({"layer": number, **terms}, 2) for number in (1, 2, 3)]
    ['layer 1', 'head', 'all layers']
    """
    number = record["layer"]
    if number < n_layers:
        return f"layer {number}"
    # What reconstructs has no head, which would come before all layers together.
    has_head = "reconstruction" not in record
    return "head" if has_head and number == n_layers else "all layers"


STAGES = ("growing", "surrogate", "full", "batches")


@dataclass(frozen=True)
class Stage:
    """A stretch of the training of a layer: which solver, over which rows, for how long.

    Parameters
    ----------
    name : {"growing", "surrogate", "full", "batches"}
        L-BFGS on a growing sample; steps on samples, each seeing all rows once; all rows in every
        evaluation; mini-batches, an iteration being an epoch.
    until : int
        Iteration with which it ends, at the latest.
    n_rows : int
        Rows of the sample asked for ("growing" only).
    norms : tuple of (float, float)
        What the test for a larger sample has seen ("growing" only).
    """

    name: str
    until: int
    n_rows: int = 0
    norms: tuple[tuple[float, float], ...] = ()

    @property
    def phase(self) -> str:
        """What `history_` calls it."""
        return {"growing": "sample", "batches": "batches"}.get(self.name, "full")


@dataclass(frozen=True)
class Best:
    """Where rows that are held out cost least so far.

    Parameters
    ----------
    state : SolverState
        Of the solver then.
    loss : float
        What they cost, but for decay.
    n_worse : int
        Iterations since.
    """

    state: SolverState
    loss: float
    n_worse: int = 0

    @classmethod
    def after(cls, before: Best | None, state: SolverState, loss: float) -> Best:
        """Return the best after one more iteration."""
        if before is not None and not loss < before.loss:
            return replace(before, n_worse=before.n_worse + 1)
        return cls(replace(state, pairs=()), loss)


@dataclass(frozen=True)
class Position:
    """Where a minimisation stands.

    Parameters
    ----------
    stage : Stage
        What is being done.
    state : SolverState
        Of the solver.
    best : Best or None
        Where rows that are held out cost least so far, if there are any.
    validation : float or None
        What they cost now, but for decay, if that was looked at.
    """

    stage: Stage
    state: SolverState
    best: Best | None = None
    validation: float | None = None


@dataclass(frozen=True)
class Progress:
    """What has been learned so far, and where the layer in training stands.

    Parameters
    ----------
    seed : int
        Where all that is random comes from.
    data : mapping of str to object
        What tells the data from others; empty until they were looked at.
    runs : tuple of mapping
        What is known of each process that had a part in it.
    layers : tuple of Layer
        Those that are trained.
    head : Head or None
        What predicts from the features of the last layer, once it is trained.
    tuned : Status or None
        How the training of all together ended, once it has.
    history : sequence of dict
        Records of all iterations.
    visits : Visits
        Of the layer in training.
    cost : Cost or None
        What is being minimised; None between minimisations, and so `stage` and `state`.
    stage, state : Stage, SolverState
        Where it stands.
    best : Best or None
        Where rows that are held out cost least so far, if there are any.
    """

    seed: int
    data: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[Mapping[str, Any], ...] = ()
    layers: tuple[Layer, ...] = ()
    head: Head | None = None
    tuned: Status | None = None
    history: list[Record] = field(default_factory=list)
    visits: Visits = field(default_factory=Visits)
    cost: Cost | None = None
    stage: Stage | None = None
    state: SolverState | None = None
    best: Best | None = None

    @property
    def position(self) -> Position | None:
        """Where the present minimisation stands; None between two."""
        if self.stage is None or self.state is None:
            return None
        return Position(self.stage, self.state, self.best)

    @property
    def done(self) -> int:
        """Minimisations that have ended: of layers, of a head, of all together."""
        return len(self.layers) + (self.head is not None) + (self.tuned is not None)

    def finished(self, dtype: str, status: Status | None = None) -> Progress:
        """Return what there is if the present minimisation ends here, with a status of its own."""
        cost, state = self.cost, self.state
        if cost is None or state is None or state.evaluation is None:
            return self
        layers, head, tuned = with_trained(
            self.layers,
            self.head,
            cost,
            state.params.astype(dtype),
            state.evaluation.means["activations"],
            state.status if status is None else status,
        )
        return replace(
            self,
            layers=layers,
            head=head,
            tuned=tuned,
            visits=Visits(),
            cost=None,
            stage=None,
            state=None,
            best=None,
        )


class Observer(Protocol):
    """Who is told how training goes."""

    def on_data(self, data: Mapping[str, Any], /) -> None:
        """Be told what the data are, before anything is learned from them."""

    def on_step(self, progress: Progress, /) -> None:
        """Be told after every iteration."""

    def on_layer(self, progress: Progress, /) -> None:
        """Be told when a layer, a head, or all together are trained."""


class Log:
    """Turns the states of a solver into records of the history.

    Parameters
    ----------
    progress : Progress
        What there is before the first of them.
    rows : Rows
        What the layer is trained on.
    on_step : callable
        Called with the progress after every step.
    held_out : Rows or None
        What it is not trained on.
    """

    def __init__(
        self,
        progress: Progress,
        rows: Rows,
        on_step: Callable[[Progress], None],
        held_out: Rows | None,
    ) -> None:
        self.progress, self.tell = progress, on_step
        self.visits = replace(progress.visits)
        self.before = replace(progress.visits)
        # Not the rows themselves: errors keep who follows a solver, and workers would keep those.
        self.bytes_read, self.bytes_per_read = rows.bytes_to_hold, rows.bytes_per_read
        self.bytes_held_out = 0
        if held_out is not None:
            self.bytes_read += held_out.bytes_to_hold
            self.bytes_held_out = held_out.bytes_per_read
        self.paid = payer_of(rows.shards)
        self.since = time.perf_counter()

    def on_step(self, cost: Cost, at: Position) -> None:
        """Record where the solver stands after a step."""
        stage, state = at.stage, at.state
        assert state.evaluation is not None
        now, before = time.perf_counter(), self.before
        paid = self.paid(self.visits.reads - before.reads) * self.bytes_per_read
        seconds = self.visits.seconds - before.seconds
        paid += (self.visits.reads_held_out - before.reads_held_out) * self.bytes_held_out
        self.progress.history.append(
            {
                "layer": self.progress.done,
                "phase": stage.phase,
                "iteration": state.iteration,
                "n_rows": state.evaluation.n_rows,
                "cost": state.evaluation.cost,
                **state.evaluation.terms,
                **({} if at.validation is None else {"validation": at.validation}),
                "gradient_norm": float(np.linalg.norm(state.evaluation.gradient)),
                "step": state.step_length,
                "n_evaluations": state.n_evaluations,
                "rows_visited": self.visits.rows - before.rows,
                "bytes_read": self.bytes_read + round(paid),
                "seconds": now - self.since,
                **dict(zip(SECONDS, astuple(seconds), strict=True)),
            }
        )
        self.since, self.bytes_read, self.before = now, 0, replace(self.visits)
        self.progress = replace(
            self.progress,
            visits=self.before,
            cost=cost,
            stage=stage,
            state=state,
            best=at.best,
        )
        self.tell(self.progress)
