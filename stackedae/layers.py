"""Trained layers, one on top of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stackedae.costs import AutoEncoderCost
from stackedae.layout import Array
from stackedae.memory import MAX_BLOCK_ROWS
from stackedae.solvers import Status


@dataclass(frozen=True)
class Layer:
    """One trained auto-encoder.

    Parameters
    ----------
    cost : AutoEncoderCost
        What was minimised: shapes, activations and hyper-parameters.
    params : ndarray of shape (cost.layout.size,)
        Parameters, in the precision of the arithmetic.
    mean_activations : ndarray of shape (n_hidden,)
        Mean activation of every hidden unit over the training rows.
    status : Status
        How the training ended.
    """

    cost: AutoEncoderCost
    params: Array
    mean_activations: Array
    status: Status

    @property
    def W1(self) -> Array:
        """Encoder weights, (n_hidden, n_features)."""
        return self.cost.layout.unpack(self.params)["W1"]

    @property
    def b1(self) -> Array:
        """Encoder biases, (n_hidden,)."""
        return self.cost.layout.unpack(self.params)["b1"]

    @property
    def W2(self) -> Array:
        """Decoder weights, (n_features, n_hidden)."""
        return self.cost.layout.unpack(self.params)["W2"]

    @property
    def b2(self) -> Array:
        """Decoder biases, (n_features,)."""
        return self.cost.layout.unpack(self.params)["b2"]


@dataclass(frozen=True)
class Stack:
    """Layers applied in order; every method is a pure function of rows.

    Arithmetic is in the precision of the parameters, a block of rows at a time through all layers,
    so that no layer's features are held whole.

    Parameters
    ----------
    layers : sequence of Layer
        From the data up.
    """

    layers: Sequence[Layer]

    def encode(self, X: Array) -> Array:
        """Return the features of the last layer, (n_rows, n_hidden).

        Entries that are missing (NaN) are filled, here and in what follows, if the first layer has
        learned how.
        """
        return self._by_blocks(self._up, X, self.layers[-1].cost.n_hidden)

    def decode(self, A: Array) -> Array:
        """Return the rows that features of the last layer stand for, (n_rows, n_features)."""
        return self._by_blocks(self._down, A, self.layers[0].cost.n_features)

    def reconstruct(self, X: Array) -> Array:
        """Encode and decode, (n_rows, n_features); entries that are missing are predicted."""
        return self._by_blocks(lambda rows: self._down(self._up(rows)), X, X.shape[1])

    def errors(self, X: Array) -> Array:
        """Return ½‖r − x‖² of every row, (n_rows,), over the entries that are present."""
        masks = bool(self.layers[0].cost.fill)

        def halved_squares(rows: Array) -> Array:
            difference = self._down(self._up(rows)) - rows
            if masks:
                difference[np.isnan(rows)] = 0
            squares: Array = np.einsum("ij,ij->i", difference, difference)
            return 0.5 * squares[:, None]

        return self._by_blocks(halved_squares, X, 1)[:, 0]

    def _up(self, rows: Array) -> Array:
        for layer in self.layers:
            rows = layer.cost.encode(layer.params, rows)
        return rows

    def _down(self, rows: Array) -> Array:
        for layer in reversed(self.layers):
            rows = layer.cost.decode(layer.params, rows)
        return rows

    def _by_blocks(self, function: Callable[[Array], Array], X: Array, n_columns: int) -> Array:
        dtype = self.layers[0].params.dtype
        out = np.empty((len(X), n_columns), dtype)
        for start in range(0, len(X), MAX_BLOCK_ROWS):
            rows = slice(start, start + MAX_BLOCK_ROWS)
            out[rows] = function(X[rows].astype(dtype, copy=False))
        return out
