"""What the costs of whole networks have in common: all but their last layers and their loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import numpy as np

from stackedae.arrays import POOL, AnyArray, add_scaled, filled
from stackedae.costs.activations import ACTIVATIONS, Activation
from stackedae.costs.coordinates import AffineMap, CentredCoordinates, width_of
from stackedae.costs.network import Affine, Known, Loss, NetworkKernel, affine, sums_layout_of
from stackedae.costs.preconditioner import (
    AffinePreconditioner,
    Factor,
    Role,
    regularised,
    widened,
)
from stackedae.errors import ArgumentError, DataError
from stackedae.evaluation import Evaluation
from stackedae.layout import Array, Layout, Vector
from stackedae.moments import Moments
from stackedae.noise import Corruption

LEAST_WIDTH = 0.1
"""Of activations: a layer that hardly varies yet should not be blown up."""


class NetworkCost(ABC):
    r"""Cost and gradient of a chain of affine layers: the mean loss of their output, and decay.

    .. math::

        J = \frac{1}{\sum_i w_i} \sum_i w_i\, \ell_i + \frac\alpha2 \sum_W \lVert W \rVert^2

    over rows i and matrices W; biases are not decayed. Subclasses are frozen dataclasses of
    hyper-parameters, and say which layers follow the encoder, and what a loss ℓ is.
    """

    layer_sizes: tuple[int, ...]
    activation: str | tuple[str, ...]
    alpha: float | tuple[float, ...]
    corruption: Corruption | None
    fill: tuple[float, ...]

    sparsity_weight: ClassVar[float] = 0.0
    """There is no sparsity term: one pass sums up all."""

    @cached_property
    @abstractmethod
    def chain(self) -> tuple[Affine, ...]:
        """Layers in the order in which they are applied."""

    @property
    @abstractmethod
    def _widths(self) -> tuple[int, ...]:
        """Entries of a row, and outputs of every layer."""

    @property
    @abstractmethod
    def _loss(self) -> Loss:
        """What the output is compared by."""

    @property
    def _targets(self) -> Callable[[Known], Known] | None:
        """What turns targets into what the output should be; None: that is the rows."""
        return None

    @abstractmethod
    def _terms(self, loss: float, decay: float) -> dict[str, float]:
        """Return the terms of the cost by name."""

    def _unrolled(self, P: dict[str, Array]) -> dict[str, Array]:
        """Return the parameters of every layer of the chain."""
        return P

    def _folded(self, gradient: Vector) -> Vector:
        """Return the gradient in the parameters, from that in those of every layer."""
        return gradient

    @property
    def alphas(self) -> tuple[float, ...]:
        """Weight decay of the matrix of every layer of the chain."""
        if isinstance(self.alpha, tuple | list):
            return tuple(self.alpha)
        return (self.alpha,) * len(self.chain)

    @property
    def n_features(self) -> int:
        """Entries of a row."""
        return self.layer_sizes[0]

    @property
    def n_hidden(self) -> int:
        """Units of the largest hidden layer, for plans of memory; 0 if there is none."""
        return max(self.layer_sizes[1:], default=0)

    @property
    def aside(self) -> tuple[str, ...]:
        """What has to be known of every row beside its entries, as `chunk_sums` calls it."""
        return () if self.corruption is None else ("row",)

    @cached_property
    def layout(self) -> Layout:
        """Layout of the parameters."""
        return self._chain_layout

    @cached_property
    def _chain_layout(self) -> Layout:
        """Layout of the parameters of every layer of the chain."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (n_inputs, n_outputs) in zip(self.chain, pairwise(self._widths), strict=True):
            shapes |= {layer.matrix: (n_outputs, n_inputs), layer.bias: (n_outputs,)}
        return Layout.of(**shapes)

    @cached_property
    def sums_layout(self) -> Layout:
        """Layout of the sums over rows."""
        return sums_layout_of(self.chain, dict(self._chain_layout.shapes))

    def initial_params(self, rng: np.random.Generator) -> Vector:
        r"""Draw a start: weights uniform in :math:`\pm\sqrt{6/(inputs + outputs + 1)}`, no biases.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the weights.

        Returns
        -------
        ndarray of shape (layout.size,), float64
        """
        params = self.layout.zeros()
        for segment in self.layout.unpack(params).values():
            if segment.ndim == 2:
                bound = math.sqrt(6 / (sum(segment.shape) + 1))
                segment[...] = rng.uniform(-bound, bound, segment.shape)
        return params

    def preconditioner(self, moments: Sequence[Moments]) -> AffinePreconditioner:
        """Return an approximate inverse Hessian for inputs with these moments.

        Parameters
        ----------
        moments : sequence of Moments
            Mean and covariance of the input of every layer, in the order in which they are applied;
            those over a sample will do.

        Returns
        -------
        AffinePreconditioner

        Raises
        ------
        ArgumentError
            If there are not as many moments as layers.
        """
        if len(moments) != len(self.chain):
            raise ArgumentError(
                "moments",
                f"those of {len(moments)} inputs",
                f"do not fit {len(self.chain)} layers",
                "pass the moments of the input of every layer",
            )
        return AffinePreconditioner(self.layout, self._factors(moments))

    def coordinates(self, moments: Sequence[Moments]) -> CentredCoordinates:
        """Return coordinates for steps of one size in all parameters; see `preconditioner`.

        Parameters
        ----------
        moments : sequence of Moments
            Of the input of every layer.

        Returns
        -------
        CentredCoordinates
            Biases of decoders whose weights are tied stay as they are.
        """
        widths = [width_of(moments[0]), *(max(width_of(of), LEAST_WIDTH) for of in moments[1:])]
        maps = [
            AffineMap(layer.matrix, layer.bias, of.mean, input_width=width)
            for layer, of, width in zip(self.chain, moments, widths, strict=True)
            if layer.matrix in self.layout.slices
        ]
        return CentredCoordinates(self.layout, maps)

    def _factors(self, moments: Sequence[Moments]) -> tuple[Factor, ...]:
        return tuple(
            Factor(layer.matrix, metric_of(of, alpha), (Role(layer.bias, of.mean),))
            for layer, of, alpha in zip(self.chain, moments, self.alphas, strict=True)
        )

    def flops(self, n_rows: int) -> float:
        """Return the floating-point operations of `chunk_sums`.

        Parameters
        ----------
        n_rows : int
            Rows of the chunk.

        Returns
        -------
        float
            Three products for each layer, but for the first, which passes nothing on below.
        """
        products = [n_inputs * n_outputs for n_inputs, n_outputs in pairwise(self._widths)]
        return (6.0 * sum(products) - 2.0 * products[0]) * n_rows

    def encode(self, params: Array, X: Array) -> Array:
        """Return the activations of the last hidden layer for rows X, (n_rows, n_units).

        Entries that are missing are filled, if there is a `fill`; nothing is corrupted.
        """
        return self._through(params, filled(X, self.fill), slice(len(self.layer_sizes) - 1))

    def _through(self, params: Array, A: Array, layers: slice) -> Array:
        """Return the output of some layers for inputs A."""
        P = self._unrolled(self.layout.unpack(params))
        for layer in self.chain[layers]:
            A = affine(A, P[layer.matrix], P[layer.bias], layer.f)
        return A

    def kernel(self, params: Vector, X: AnyArray) -> NetworkKernel:
        """Return what computes sums over rows like X at these parameters, chunk after chunk.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters; preparing them takes a while, if there are many chunks.
        X : array of shape (n_rows, n_features)
            Rows, whose library, device and precision all chunks have.

        Returns
        -------
        NetworkKernel
            With a method `chunk_sums`, like ours but for the parameters. It is good until the same
            thread makes another.

        Raises
        ------
        ArgumentError
            If X is not two-dimensional with `n_features` columns.
        """
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ArgumentError(
                "X.shape", X.shape, "does not fit the cost", f"pass (n_rows, {self.n_features})"
            )
        return NetworkKernel(
            self.chain,
            self._unrolled(self.layout.unpack(params)),
            self.sums_layout,
            self._loss,
            X,
            targets=self._targets,
            fill=self.fill,
            corruption=self.corruption,
        )

    def finish(self, params: Vector, sums: Vector) -> Evaluation:
        """Turn sums over all rows into the cost and its gradient.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            The parameters that `sums` were computed with.
        sums : ndarray of shape (sums_layout.size,)
            `chunk_sums` of all chunks, added up.

        Returns
        -------
        Evaluation
            With means "activations": of the hidden units, one layer after the other.

        Raises
        ------
        DataError
            If the sums are over no rows, or all weights are 0.
        """
        P, S = self._unrolled(self.layout.unpack(params)), self.sums_layout.unpack(sums)
        n_rows, weight = int(S["n_rows"]), float(S["weight"])
        if n_rows < 1:
            raise DataError("X has no rows: a cost needs at least one; pass more data.")
        if not weight > 0:
            raise DataError("All rows have the weight 0; pass a weight above 0 for some.")
        gradient = POOL.empty((self._chain_layout.size,), np.float64)
        G = self._chain_layout.unpack(gradient)
        for name, slope in G.items():
            np.divide(S[name], weight, out=slope)
        decay = 0.0
        for layer, alpha in zip(self.chain, self.alphas, strict=True):
            W = P[layer.matrix]
            decay += alpha / 2 * float(np.vdot(W, W))
            add_scaled(G[layer.matrix], W, alpha)
        terms = self._terms(float(S["loss"]) / weight, decay)
        activations = [S[layer.activation] for layer in self.chain if layer.activation]
        return Evaluation(
            cost=sum(terms.values()),
            gradient=self._folded(gradient),
            terms=terms,
            means={"activations": np.concatenate([np.zeros(0), *activations]) / weight},
            n_rows=n_rows,
        )


def metric_of(moments: Moments, alpha: float) -> Vector:
    """Return the curvature along inputs, with that of decay: all there is if none varies."""
    return widened(regularised(moments.covariance), alpha)


def encoder_of(cost: NetworkCost) -> tuple[Affine, ...]:
    """Return the hidden layers of a cost, with parameters W1, b1, W2, ..., from the data up."""
    functions = activations_of("activation", cost.activation, len(cost.layer_sizes) - 1)
    return tuple(
        Affine(f"W{number}", f"b{number}", f, f"a{number}")
        for number, f in enumerate(functions, start=1)
    )


def activations_of(name: str, value: str | Sequence[str], n_layers: int) -> list[Activation]:
    """Return the activation of every layer, from one name for all or one for each.

    Parameters
    ----------
    name : str
        The argument.
    value : str or sequence of str
        What was passed for it.
    n_layers : int
        How many layers there are.

    Raises
    ------
    ArgumentError
        If a name is unknown, or there are not as many as layers.

    Examples
    --------
    >>> from stackedae.costs.network_cost import activations_of
    >>> [f.name for f in activations_of("activation", "relu", 2)]
    ['relu', 'relu']
    """
    names = [value] if isinstance(value, str) else list(value)
    for each in names:
        if each not in ACTIVATIONS:
            raise ArgumentError(name, each, "is unknown", f"choose from {', '.join(ACTIVATIONS)}")
    if not isinstance(value, str) and len(names) != n_layers:
        raise ArgumentError(
            name,
            value,
            f"has {len(names)} names for {n_layers} layers",
            "pass one for each, or one for all",
        )
    return [ACTIVATIONS[each] for each in (names * n_layers if isinstance(value, str) else names)]


def check_hyper_parameters(cost: NetworkCost, *, fewest_sizes: int) -> None:
    """Refuse hyper-parameters that no cost can work with.

    Raises
    ------
    ArgumentError
        If there are fewer sizes than that, or something has no meaning.
    """
    sizes, fill = cost.layer_sizes, cost.fill
    if len(sizes) < fewest_sizes or min(sizes) < 1:
        raise ArgumentError(
            "layer_sizes",
            sizes,
            "is no network",
            "pass the number of features and of units of each hidden layer, 1 or more",
        )
    activations_of("activation", cost.activation, len(sizes) - 1)
    if len(cost.alphas) != len(cost.chain):
        raise ArgumentError(
            "alpha",
            cost.alpha,
            f"has {len(cost.alphas)} values for {len(cost.chain)} matrices",
            "pass one for each, or one for all",
        )
    if not all(0 <= alpha < math.inf for alpha in cost.alphas):
        raise ArgumentError("alpha", cost.alpha, "is not a finite weight", "pass 0 or more")
    if fill and len(fill) != cost.n_features:
        raise ArgumentError(
            "fill",
            fill,
            f"has {len(fill)} values for {cost.n_features} features",
            "pass one for each, or none at all",
        )
    if not all(map(math.isfinite, fill)):
        raise ArgumentError("fill", fill, "is not finite everywhere", "pass numbers to work with")
