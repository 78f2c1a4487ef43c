"""Activation functions, with their derivatives as functions of their own output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stackedae.layout import Array

_FARTHEST = 1e-2
"""Inverses keep this far from the ends of a bounded range, where z would be infinite."""


@dataclass(frozen=True)
class Activation:
    """One activation function f, applied element by element.

    Parameters
    ----------
    name : str
        What users call it.
    apply : callable
        ``apply(z)`` overwrites z with f(z).
    times_derivative : callable
        ``times_derivative(out, a)`` multiplies `out` by f'(z), computed from a = f(z).
    inverse : callable
        ``inverse(a)`` gives z with f(z) = a, for a moved into the range of f if need be.
    low, high : float
        The range of f; infinite where it has no bound.
    """

    name: str
    apply: Callable[[Array], None]
    times_derivative: Callable[[Array, Array], None]
    inverse: Callable[[Array], Array]
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether a mean activation can be read as a share between 0 and 1."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def _logistic(z: Array) -> None:
    # 1/(1+exp(-z)) written with tanh: never overflows, so needs no clipping,
    # and NumPy's float32 tanh is vectorised.
    z *= 0.5
    np.tanh(z, out=z)
    z += 1.0
    z *= 0.5


def _times_logistic_derivative(out: Array, a: Array) -> None:
    out *= a
    out *= 1.0 - a


def _logit(a: Array) -> Array:
    a = np.clip(a, _FARTHEST, 1 - _FARTHEST)
    return np.log(a / (1 - a))


def _tanh(z: Array) -> None:
    np.tanh(z, out=z)


def _times_tanh_derivative(out: Array, a: Array) -> None:
    out *= 1.0 - a * a


def _arctanh(a: Array) -> Array:
    return np.arctanh(np.clip(a, _FARTHEST - 1, 1 - _FARTHEST))


def _relu(z: Array) -> None:
    np.maximum(z, 0.0, out=z)


def _times_relu_derivative(out: Array, a: Array) -> None:
    out *= a > 0


def _positive(a: Array) -> Array:
    return np.maximum(a, 0.0)


def _identity(z: Array) -> None:
    pass


def _times_one(out: Array, a: Array) -> None:
    pass


def _same(a: Array) -> Array:
    return a


ACTIVATIONS = {
    f.name: f
    for f in (
        Activation("logistic", _logistic, _times_logistic_derivative, _logit, 0.0, 1.0),
        Activation("tanh", _tanh, _times_tanh_derivative, _arctanh, -1.0, 1.0),
        Activation("relu", _relu, _times_relu_derivative, _positive, 0.0, np.inf),
        Activation("identity", _identity, _times_one, _same, -np.inf, np.inf),
    )
}
"""Every activation by name."""
