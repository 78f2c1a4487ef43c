"""What a cost answers and a solver asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stackedae.layout import Vector


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
    """

    cost: float
    gradient: Vector
    terms: Mapping[str, float] = field(default_factory=dict)
    means: Mapping[str, Vector] = field(default_factory=dict)

    @property
    def is_finite(self) -> bool:
        """Whether the cost and every entry of the gradient are finite numbers."""
        return bool(np.isfinite(self.cost) and np.isfinite(self.gradient).all())


class Objective(Protocol):
    """Anything that evaluates a cost: all that a solver knows of the problem."""

    def __call__(self, params: Vector, /) -> Evaluation:
        """Evaluate the cost and its gradient at `params`."""
        ...
