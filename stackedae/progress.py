"""Where training stands: enough to go on bit for bit, and what is told of it on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from stackedae.costs import AutoEncoderCost
from stackedae.layers import Layer
from stackedae.objective import Visits
from stackedae.rows import Rows
from stackedae.solvers import SolverState, Status

Record = dict[str, Any]
"""What `history_` says of one iteration."""


STAGES = ("growing", "surrogate", "full")


@dataclass(frozen=True)
class Stage:
    """A stretch of the training of a layer: which solver, over which rows, for how long.

    Parameters
    ----------
    name : {"growing", "surrogate", "full"}
        L-BFGS on a growing sample; steps on samples, each seeing all rows once; all rows in every
        evaluation.
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
        return "sample" if self.name == "growing" else "full"


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
    history : sequence of dict
        Records of all iterations.
    visits : Visits
        Of the layer in training.
    cost : AutoEncoderCost or None
        What the layer in training minimises; None between layers, and so `stage` and `state`.
    stage, state : Stage, SolverState
        Where it stands.
    """

    seed: int
    data: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[Mapping[str, Any], ...] = ()
    layers: tuple[Layer, ...] = ()
    history: list[Record] = field(default_factory=list)
    visits: Visits = field(default_factory=Visits)
    cost: AutoEncoderCost | None = None
    stage: Stage | None = None
    state: SolverState | None = None

    def with_layer(self, dtype: str, status: Status | None = None) -> Progress:
        """Return what there is if the layer in training ends here, with a status of its own."""
        cost, state = self.cost, self.state
        if cost is None or state is None or state.evaluation is None:
            return self
        layer = Layer(
            cost=cost,
            params=state.params.astype(dtype),
            mean_activations=state.evaluation.means["activations"],
            status=state.status if status is None else status,
        )
        return replace(
            self,
            layers=(*self.layers, layer),
            visits=Visits(),
            cost=None,
            stage=None,
            state=None,
        )


class Observer(Protocol):
    """Who is told how training goes."""

    def on_data(self, data: Mapping[str, Any], /) -> None:
        """Be told what the data are, before anything is learned from them."""

    def on_step(self, progress: Progress, /) -> None:
        """Be told after every iteration."""

    def on_layer(self, progress: Progress, /) -> None:
        """Be told when a layer is trained."""


class Log:
    """Turns the states of a solver into the records of one layer's history.

    Parameters
    ----------
    progress : Progress
        What there is before the first of them.
    rows : Rows
        What the layer is trained on.
    on_step : callable
        Called with the progress after every step.
    """

    def __init__(self, progress: Progress, rows: Rows, on_step: Callable[[Progress], None]) -> None:
        self.progress, self.rows, self.tell = progress, rows, on_step
        self.visits = replace(progress.visits)
        self.before = replace(progress.visits)
        self.bytes_read = rows.bytes_to_hold
        self.since = time.perf_counter()

    def on_step(self, cost: AutoEncoderCost, stage: Stage, state: SolverState) -> None:
        """Record where the solver stands after a step."""
        assert state.evaluation is not None
        now, before = time.perf_counter(), self.before
        reads = self.visits.reads - before.reads
        self.progress.history.append(
            {
                "layer": len(self.progress.layers),
                "phase": stage.phase,
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
        self.progress = replace(
            self.progress, visits=self.before, cost=cost, stage=stage, state=state
        )
        self.tell(self.progress)
