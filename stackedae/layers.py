"""Trained layers, one on top of the other, and what predicts from the features of the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stackedae.costs import AutoEncoderCost, ClassifierCost
from stackedae.costs.network_cost import NetworkCost
from stackedae.costs.supervised import SupervisedCost
from stackedae.evaluation import Cost
from stackedae.layout import Array, Vector
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
        return self.cost.unpack(self.params)["W1"]

    @property
    def b1(self) -> Array:
        """Encoder biases, (n_hidden,)."""
        return self.cost.unpack(self.params)["b1"]

    @property
    def W2(self) -> Array:
        """Decoder weights, (n_features, n_hidden); the transpose of W1 if they are tied."""
        return self.cost.unpack(self.params)["W2"]

    @property
    def b2(self) -> Array:
        """Decoder biases, (n_features,)."""
        return self.cost.unpack(self.params)["b2"]


@dataclass(frozen=True)
class Head:
    """What predicts from the features of the last layer: S h + s, through softmax for classes.

    Parameters
    ----------
    cost : SupervisedCost
        What was minimised: of no layers but the head.
    params : ndarray of shape (cost.layout.size,)
        Parameters, in the precision of the arithmetic.
    status : Status
        How the training ended.
    """

    cost: SupervisedCost
    params: Array
    status: Status

    @property
    def S(self) -> Array:
        """Weights, (n_outputs, n_hidden)."""
        return self.cost.layout.unpack(self.params)["S"]

    @property
    def s(self) -> Array:
        """Biases, (n_outputs,)."""
        return self.cost.layout.unpack(self.params)["s"]

    @property
    def activation(self) -> str:
        """What makes predictions of S h + s: "softmax" or "identity"."""
        return "softmax" if isinstance(self.cost, ClassifierCost) else "identity"

    def outputs(self, A: Array) -> Array:
        """Return S h + s of every row.

        Parameters
        ----------
        A : ndarray of shape (n_rows, n_hidden)
            Features of the last layer.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
        """
        Z: Array = A @ self.S.T
        Z += self.s
        return Z


def parameters_of_all(cost: NetworkCost, layers: Sequence[Layer], head: Head | None) -> Vector:
    """Return the parameters of a cost of all layers, as these have been trained one by one."""
    segments: dict[str, Array] = {}
    for number, layer in enumerate(layers, start=1):
        segments |= {f"W{number}": layer.W1, f"b{number}": layer.b1}
    for number, layer in enumerate(reversed(layers), start=1):
        segments |= {f"V{number}": layer.W2, f"c{number}": layer.b2}
    if head is not None:
        segments |= {"S": head.S, "s": head.s}
    return cost.layout.pack({name: segments[name] for name, _ in cost.layout.shapes})


def with_trained(
    layers: tuple[Layer, ...],
    head: Head | None,
    cost: Cost,
    params: Array,
    mean_activations: Vector,
    status: Status,
) -> tuple[tuple[Layer, ...], Head | None, Status | None]:
    """Return layers, head, and how all together were trained, after a minimisation.

    Parameters
    ----------
    layers, head
        What there was before.
    cost : Cost
        What was minimised: that of a layer more, of a head, or of all together.
    params : ndarray of shape (cost.layout.size,)
        Where it ended.
    mean_activations : ndarray
        Of the layer, or of all layers.
    status : Status
        How it ended.
    """
    if isinstance(cost, AutoEncoderCost):
        return (*layers, Layer(cost, params, mean_activations, status)), head, None
    assert isinstance(cost, NetworkCost)
    if isinstance(cost, SupervisedCost) and len(cost.layer_sizes) == 1:
        return layers, Head(cost, params, status), None
    P = cost.layout.unpack(params)
    means = np.split(mean_activations, np.cumsum([layer.cost.n_hidden for layer in layers])[:-1])
    tuned = []
    for number, (layer, mean) in enumerate(zip(layers, means, strict=True), start=1):
        from_top = len(layers) + 1 - number
        segments = {
            "W1": P[f"W{number}"],
            "b1": P[f"b{number}"],
            "W2": P.get(f"V{from_top}", layer.W2),
            "b2": P.get(f"c{from_top}", layer.b2),
        }
        packed = layer.cost.layout.pack({k: segments[k] for k, _ in layer.cost.layout.shapes})
        tuned.append(replace(layer, params=packed.astype(params.dtype), mean_activations=mean))
    if head is not None:
        packed = head.cost.layout.pack({"S": P["S"], "s": P["s"]})
        head = replace(head, params=packed.astype(params.dtype))
    return tuple(tuned), head, status


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

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the arithmetic."""
        return self.layers[0].params.dtype

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

    def predict(self, head: Head, X: Array) -> Array:
        """Return what a head makes of the features of the last layer, (n_rows, n_outputs)."""
        return self._by_blocks(lambda rows: head.outputs(self._up(rows)), X, len(head.s))

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

    def scores(self, X: Array) -> Array:
        """Return minus the errors as a column, (n_rows, 1): higher is more normal."""
        return -self.errors(X)[:, None]

    def _up(self, rows: Array) -> Array:
        for layer in self.layers:
            rows = layer.cost.encode(layer.params, rows)
        return rows

    def _down(self, rows: Array) -> Array:
        for layer in reversed(self.layers):
            rows = layer.cost.decode(layer.params, rows)
        return rows

    def _by_blocks(self, function: Callable[[Array], Array], X: Array, n_columns: int) -> Array:
        dtype = self.dtype
        out = np.empty((len(X), n_columns), dtype)
        for start in range(0, len(X), MAX_BLOCK_ROWS):
            rows = slice(start, start + MAX_BLOCK_ROWS)
            out[rows] = function(X[rows].astype(dtype, copy=False))
        return out
