"""Adam: steps along gradients of mini-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from stackedae.arrays import POOL
from stackedae.errors import ArgumentError
from stackedae.layout import Vector


@dataclass(frozen=True)
class AdamState:
    """State after some steps: arrays and numbers, enough to continue bit for bit.

    Parameters
    ----------
    params : ndarray of shape (n_parameters,)
        Parameters after the last step.
    first, second : ndarray of shape (n_parameters,)
        Means of gradients and of their squares, over the last steps; both begin as zeros.
    n_steps : int
        Steps taken.
    epoch : int
        Times that all rows were visited.
    means : ndarray
        Running means that the cost keeps, mean activations say; empty until there are any.
    n_averaged : float
        Rows that they are over.
    """

    params: Vector
    first: Vector
    second: Vector
    n_steps: int = 0
    epoch: int = 0
    means: Vector = field(default_factory=lambda: np.zeros(0))
    n_averaged: float = 0.0


@dataclass(frozen=True)
class Adam:
    r"""Steps whose size, in every parameter, is that of the learning rate.

    .. math::

        m &\leftarrow \beta_1 m + (1-\beta_1)\,g, \qquad
        v \leftarrow \beta_2 v + (1-\beta_2)\,g^2 \\
        \theta &\leftarrow \theta
            - \eta\,\frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    Parameters and moments are in float64, whatever the precision of the gradient's arithmetic: at
    the end of a schedule, steps are below what float32 can tell apart.

    Parameters
    ----------
    learning_rate : float
        η, until half of the way is done; from there, it falls to 0 along a line.
    beta_1, beta_2 : float
        How much of the means of g and of g² a step keeps.
    epsilon : float
        ε, against division by zero.

    Raises
    ------
    ArgumentError
        If a setting cannot be worked with.

    References
    ----------
    Kingma, D., Ba, J., "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.solvers import Adam
    >>> adam = Adam(learning_rate=0.1)
    >>> state = adam.init(np.zeros(3))
    >>> adam.step(state, np.array([1.0, -2.0, 0.0]), adam.rate(0.0)).params.round(6)
    array([-0.1,  0.1,  0. ])
    """

    learning_rate: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise ArgumentError(
                    name, getattr(self, name), "is not a positive number", "pass one above 0"
                )
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ArgumentError(
                    name, getattr(self, name), "is no share to keep", "pass 0 or more, below 1"
                )

    def init(self, params: Vector) -> AdamState:
        """Return the state before the first step."""
        params = params.astype(np.float64)
        return AdamState(params, np.zeros_like(params), np.zeros_like(params))

    def rate(self, done: float) -> float:
        """Return the learning rate where such a share of the way is done.

        Examples
        --------
        >>> from stackedae.solvers import Adam
        >>> [Adam(learning_rate=1.0).rate(done) for done in (0.0, 0.5, 0.75, 1.0)]
        [1.0, 1.0, 0.5, 0.0]
        """
        return self.learning_rate * min(1.0, 2.0 * (1.0 - done))

    def step(self, state: AdamState, gradient: Vector, rate: float) -> AdamState:
        """Return the state after one step, along one gradient, at one rate.

        Parameters
        ----------
        state : AdamState
            Where to step from; it stays as it is.
        gradient : ndarray of shape (n_parameters,)
            Of a mini-batch.
        rate : float
            η.

        Returns
        -------
        AdamState
        """
        moved, step = self.moments(state, gradient, rate)
        step += state.params
        return replace(moved, params=step)

    def moments(self, state: AdamState, gradient: Vector, rate: float) -> tuple[AdamState, Vector]:
        """Return the state after one step, its parameters left as they were, and the step.

        For steps that are changed before they are taken.

        Parameters
        ----------
        state, gradient, rate
            See `step`.

        Returns
        -------
        state : AdamState
        step : ndarray of shape (n_parameters,)
            In memory of its own: it may be overwritten.
        """
        n_steps = state.n_steps + 1
        first = _kept(state.first, self.beta_1)
        second = _kept(state.second, self.beta_2)
        # In memory that is lent: fresh pages take longer than all of the arithmetic.
        scratch = POOL.empty(gradient.shape, np.float64)
        first += np.multiply(gradient, 1 - self.beta_1, out=scratch, dtype=np.float64)
        np.multiply(gradient, gradient, out=scratch, dtype=np.float64)
        scratch *= 1 - self.beta_2
        second += scratch
        # Corrections for the zeros that moments begin with, taken out of the arrays.
        root = math.sqrt(1 - self.beta_2**n_steps)
        np.sqrt(second, out=scratch)
        scratch += self.epsilon * root
        np.divide(first, scratch, out=scratch)
        scratch *= -rate * root / (1 - self.beta_1**n_steps)
        return replace(state, first=first, second=second, n_steps=n_steps), scratch


def _kept(moment: Vector, share: float) -> Vector:
    kept: Vector = POOL.empty(moment.shape, np.float64)
    return np.multiply(moment, share, out=kept)
