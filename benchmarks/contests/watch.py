"""What contenders minimise, and the stopwatch that they do it against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from stackedae.costs import AutoEncoderCost
from stackedae.objective import DaskObjective

MAX_SECONDS = 600.0
"""Time that any one run may take."""


@dataclass(frozen=True)
class Problem:
    """A cost, its rows, the start, and how long to go on.

    Parameters
    ----------
    iterations : int
        Of the runs that set the targets.
    passes : int
        Over the rows, for methods that know no iterations.
    """

    name: str
    cost: AutoEncoderCost
    X: np.ndarray
    start: np.ndarray
    iterations: int
    passes: int
    exact: DaskObjective


@dataclass
class Watch:
    """A stopwatch that contenders show their parameters to, and that stands still meanwhile.

    Parameters
    ----------
    problem : Problem
        What is minimised.
    targets : mapping of str to float
        Costs to reach.
    seconds : float
        Time that the contender has had.
    rows : int
        Rows that it has visited.
    lowest : float
        Lowest cost that was looked at, by our cost in float64 over all rows.
    reached : dict of str to (float, float)
        Seconds and passes to each target that was reached.
    checkpoints : int
        Times the contender has shown its parameters.
    """

    problem: Problem
    targets: Mapping[str, float]
    seconds: float = 0.0
    rows: int = 0
    lowest: float = np.inf
    reached: dict[str, tuple[float, float]] = field(default_factory=dict)
    checkpoints: int = 0
    _since: float = 0.0
    _params: np.ndarray | None = None

    def __call__(self, params: np.ndarray, rows: int, own_cost: float | None = None) -> None:
        """Look at parameters after visiting so many rows in all.

        `own_cost` is what the contender believes J over all rows to be; where it is far above every
        target, nobody checks. Raises `Finished` when there is nothing more to wait for.
        """
        self.seconds += time.perf_counter() - self._since
        self.rows, self.checkpoints = rows, self.checkpoints + 1
        self._params = np.array(params, dtype=np.float64)
        pending = [name for name in self.targets if name not in self.reached]
        if own_cost is None or any(own_cost <= self.targets[t] * (1 + 1e-5) for t in pending):
            J = self._look()
            for name in pending:
                if self.targets[name] >= J:
                    self.reached[name] = (self.seconds, rows / len(self.problem.X))
        if (self.targets and len(self.reached) == len(self.targets)) or self.seconds > MAX_SECONDS:
            raise Finished
        self._since = time.perf_counter()

    def time(self, contender: Contender) -> Watch:
        """Let a contender run until it stops or is stopped."""
        self._since = time.perf_counter()
        with suppress(Finished):
            contender(self.problem, self)
        if self._params is not None:
            self._look()
        return self

    def _look(self) -> float:
        J = self.problem.exact(self._params).cost
        self.lowest = min(self.lowest, J)
        return J


class Finished(Exception):  # noqa: N818 (no error)
    """Every target is reached, or time is up."""


Contender = Callable[[Problem, Watch], None]
