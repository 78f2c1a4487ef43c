"""What a cost answers and a solver asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from stackedae.layout import Layout, Vector


@dataclass(frozen=True)
class Evaluation:
    """The objective and its gradient at one vector of parameters.

    Parameters
    ----------
    cost : float
        The objective J.
    gradient : ndarray of shape (n_parameters,), float64
        ∂J/∂parameters.
    terms : mapping of str to float
        The parts that `cost` is the sum of.
    means : mapping of str to ndarray
        Averages over all examples that the cost used on the way, such as mean activations.
    n_rows : int
        Examples.
    gradient_variance : float
        For examples that are a sample: the squared error of the gradient that comes from that,
        E‖gradient − gradient over all‖², estimated. 0 for all of them.
    """

    cost: float
    gradient: Vector
    terms: Mapping[str, float] = field(default_factory=dict)
    means: Mapping[str, Vector] = field(default_factory=dict)
    n_rows: int = 0
    gradient_variance: float = 0.0

    @property
    def is_finite(self) -> bool:
        """Whether the cost and every entry of the gradient are finite numbers."""
        return bool(np.isfinite(self.cost) and np.isfinite(self.gradient).all())


class Cost(Protocol):
    """A cost of rows: pure functions of parameters and rows, of which the engine knows no more."""

    @property
    def n_features(self) -> int:
        """Entries of a row."""

    @property
    def n_hidden(self) -> int:
        """Units of a layer: what codes of a row take, at most."""

    @property
    def aside(self) -> tuple[str, ...]:
        """What has to be known of each row beside it: names of columns."""

    @property
    def layout(self) -> Layout:
        """Layout of the parameters."""

    @property
    def sums_layout(self) -> Layout:
        """Layout of the sums over rows."""

    def flops(self, n_rows: int, /) -> float:
        """Return the floating-point operations of the sums over so many rows."""

    def kernel(self, params: Vector, X: Any, /) -> Any:
        """Return what sums over rows like X: ``kernel.chunk_sums(X, out, **aside)``."""

    def finish(self, params: Vector, sums: Vector, /) -> Evaluation:
        """Turn sums over all rows into the cost and its gradient."""


class Objective(Protocol):
    """Anything that evaluates a cost: all that a solver knows of the problem."""

    def __call__(self, params: Vector, /) -> Evaluation:
        """Evaluate the cost and its gradient at `params`."""
        ...


class SampledObjective(Objective, Protocol):
    """An objective over many examples that offers the same objective over samples of them."""

    def sample(self, number: int, /) -> Objective:
        """Return the objective over a random sample; another for every number."""
        ...

    def evaluate(self, params: Vector, /, sample: int) -> Evaluation:
        """Evaluate at `params` over all examples, and draw the sample of this number meanwhile."""
        ...
