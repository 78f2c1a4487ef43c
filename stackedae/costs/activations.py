"""Activation functions, with their derivatives as functions of their own output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stackedae.arrays import into
from stackedae.layout import Array

_FARTHEST = 1e-2
"""Inverses keep this far from the ends of a bounded range, where z would be infinite."""


@dataclass(frozen=True)
class Activation:
    """One activation function f, applied element by element to arrays of any array API.

    Parameters
    ----------
    name : str
        What users call it.
    scale : float
        A power of two; `apply` takes z times this, so that callers can scale weights instead.
    apply : callable
        ``apply(xp, z)`` overwrites scale·z with f(z), in the array namespace xp.
    derivative : callable
        ``derivative(xp, a, out)`` writes f'(z), known from a = f(z), to another array.
    times_derivative : callable
        ``times_derivative(xp, out, a)`` multiplies `out` by f'(z) and may overwrite `a` on the way.
    inverse : callable
        ``inverse(a)`` gives z with f(z) = a, for a moved into the range of f if need be.
    low, high : float
        The range of f; infinite where it has no bound.
    unit : float
        scale·z for a z with f(z) = 1, exactly.
    """

    name: str
    scale: float
    apply: Callable[[Any, Array], None]
    derivative: Callable[[Any, Array, Array], None]
    times_derivative: Callable[[Any, Array, Array], None]
    inverse: Callable[[Array], Array]
    low: float
    high: float
    unit: float

    @property
    def bounded(self) -> bool:
        """Whether a mean activation can be read as a share between 0 and 1."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def _logistic(xp: Any, z: Array) -> None:
    # 1/(1+exp(-z)) written with tanh(z/2): never overflows, so needs no
    # clipping, and NumPy's float32 tanh is vectorised.
    into(z, xp.tanh, z)
    z += 1.0
    z *= 0.5


def _logistic_derivative(xp: Any, a: Array, out: Array) -> None:
    into(out, xp.subtract, 1.0, a)
    out *= a


def _times_logistic_derivative(xp: Any, out: Array, a: Array) -> None:
    out *= a
    into(a, xp.subtract, 1.0, a)
    out *= a


def _logit(a: Array) -> Array:
    a = np.clip(a, _FARTHEST, 1 - _FARTHEST)
    return np.log(a / (1 - a))


def _tanh(xp: Any, z: Array) -> None:
    into(z, xp.tanh, z)


def _tanh_derivative(xp: Any, a: Array, out: Array) -> None:
    into(out, xp.multiply, a, a)
    into(out, xp.subtract, 1.0, out)


def _times_tanh_derivative(xp: Any, out: Array, a: Array) -> None:
    a *= a
    into(a, xp.subtract, 1.0, a)
    out *= a


def _arctanh(a: Array) -> Array:
    return np.arctanh(np.clip(a, _FARTHEST - 1, 1 - _FARTHEST))


def _relu(xp: Any, z: Array) -> None:
    into(z, xp.maximum, z, 0.0)


def _relu_derivative(xp: Any, a: Array, out: Array) -> None:
    into(out, xp.sign, a)


def _times_relu_derivative(xp: Any, out: Array, a: Array) -> None:
    into(a, xp.sign, a)
    out *= a


def _positive(a: Array) -> Array:
    return np.maximum(a, 0.0)


def _identity(xp: Any, z: Array) -> None:
    pass


def _identity_derivative(xp: Any, a: Array, out: Array) -> None:
    out[...] = 1.0


def _times_one(xp: Any, out: Array, a: Array) -> None:
    pass


def _same(a: Array) -> Array:
    return a


_SATURATED = 20.0
"""tanh of this is 1 in either precision."""

ACTIVATIONS = {
    f.name: f
    for f in (
        Activation(
            name="logistic",
            scale=0.5,
            apply=_logistic,
            derivative=_logistic_derivative,
            times_derivative=_times_logistic_derivative,
            inverse=_logit,
            low=0.0,
            high=1.0,
            unit=_SATURATED,
        ),
        Activation(
            name="tanh",
            scale=1.0,
            apply=_tanh,
            derivative=_tanh_derivative,
            times_derivative=_times_tanh_derivative,
            inverse=_arctanh,
            low=-1.0,
            high=1.0,
            unit=_SATURATED,
        ),
        Activation(
            name="relu",
            scale=1.0,
            apply=_relu,
            derivative=_relu_derivative,
            times_derivative=_times_relu_derivative,
            inverse=_positive,
            low=0.0,
            high=np.inf,
            unit=1.0,
        ),
        Activation(
            name="identity",
            scale=1.0,
            apply=_identity,
            derivative=_identity_derivative,
            times_derivative=_times_one,
            inverse=_same,
            low=-np.inf,
            high=np.inf,
            unit=1.0,
        ),
    )
}
"""Every activation by name."""
