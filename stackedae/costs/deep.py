"""The unrolled stack: all encoders, then all decoders, tuned together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from stackedae.arrays import AnyArray
from stackedae.costs.network import Affine, Known, Loss, squared_error
from stackedae.costs.network_cost import (
    NetworkCost,
    activations_of,
    check_hyper_parameters,
    encoder_of,
    metric_of,
)
from stackedae.costs.preconditioner import Factor, Role, variances_of, widened
from stackedae.layout import Array, Layout, Vector
from stackedae.moments import Moments
from stackedae.noise import Corruption


@dataclass(frozen=True)
class DeepCost(NetworkCost):
    r"""Cost and gradient of a deep auto-encoder, the unrolled stack of k layers.

    Rows :math:`x_1 … x_n` go up through encoders, and down through decoders:

    .. math::

        h_0 &= x, \qquad h_l = f_l(W_l h_{l-1} + b_l), \\
        r_k &= h_k, \qquad r_{l-1} = g_l(V_{k+1-l}\, r_l + c_{k+1-l}), \qquad l = 1 … k \\
        J &= \underbrace{\frac1n \sum_i \tfrac12 \lVert r_{0,i} - x_i \rVert^2}_{reconstruction}
           + \underbrace{\frac\alpha2 \sum_j (\lVert W_j \rVert^2 + \lVert V_j \rVert^2)}_{decay}

    With weights w of rows the mean is :math:`\frac{1}{\sum_i w_i} \sum_i w_i\,(\cdot)`.

    Parameters
    ----------
    layer_sizes : tuple of int
        Entries of a row, and units of the k hidden layers: (d, h1, …, hk).
    activation : str or tuple of str
        The functions :math:`f_1 … f_k`, or one for all: "logistic", "tanh", "relu" or "identity".
    output_activation : str or tuple of str
        The functions :math:`g_1 … g_k`, or one for all. Both are counted from the data up: the
        decoder that reconstructs the input of layer l uses :math:`g_l`.
    alpha : float or tuple of float
        Weight decay α, or one for each of W1, …, Wk, V1, …, Vk; biases are not decayed, and alpha
        is not divided by the number of rows.
    tied : bool
        Whether :math:`V_j = W_{k+1-j}^T`. J is the same, each matrix being decayed in both roles.
    corruption : Corruption or None
        What is done to rows before they go in, the missing entries filled; the error is that of the
        reconstruction of the rows as they were.
    fill : tuple of float
        What stands in for entries that are missing (NaN), one per feature; they are left out of the
        error, as in `AutoEncoderCost`. Empty: none may be missing.

    Attributes
    ----------
    layout : Layout
        Where W1 (h1, d), b1, …, Wk, bk and V1 (h_{k-1}, hk), c1, …, Vk (d, h1), ck lie in the
        vector of parameters, row-major. There are no V if weights are tied.
    sums_layout : Layout
        Where the sums over rows lie in the vector that `chunk_sums` returns.

    Raises
    ------
    ArgumentError
        If a hyper-parameter cannot be worked with.

    References
    ----------
    Hinton, G., Salakhutdinov, R., "Reducing the dimensionality of data with neural networks",
    Science 313, 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.costs import DeepCost
    >>> cost = DeepCost((4, 3, 2), alpha=0.0)
    >>> [name for name, _ in cost.layout.shapes]
    ['W1', 'b1', 'W2', 'b2', 'V1', 'c1', 'V2', 'c2']
    >>> X, params = np.full((5, 4), 0.5), cost.layout.zeros()
    >>> cost.finish(params, cost.chunk_sums(params, X)).cost
    0.0
    """

    layer_sizes: tuple[int, ...]
    activation: str | tuple[str, ...] = "logistic"
    output_activation: str | tuple[str, ...] = "logistic"
    alpha: float | tuple[float, ...] = 1e-4
    tied: bool = False
    corruption: Corruption | None = None
    fill: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_hyper_parameters(self, fewest_sizes=2)
        activations_of("output_activation", self.output_activation, self._n_layers)

    @property
    def _n_layers(self) -> int:
        """Hidden layers, k."""
        return len(self.layer_sizes) - 1

    @cached_property
    def chain(self) -> tuple[Affine, ...]:
        """Layers in the order in which they are applied."""
        functions = activations_of("output_activation", self.output_activation, self._n_layers)
        decoder = (
            Affine(f"V{number}", f"c{number}", g)
            for number, g in enumerate(reversed(functions), start=1)
        )
        return (*encoder_of(self), *decoder)

    @property
    def _widths(self) -> tuple[int, ...]:
        return (*self.layer_sizes, *self.layer_sizes[-2::-1])

    @property
    def _loss(self) -> Loss:
        return squared_error

    def _terms(self, loss: float, decay: float) -> dict[str, float]:
        return {"reconstruction": loss, "decay": decay, "sparsity": 0.0}

    @cached_property
    def _tied(self) -> dict[str, str]:
        """Which matrix each one of the decoder is the transpose of."""
        k = self._n_layers
        return {f"V{k + 1 - number}": f"W{number}" for number in range(1, k + 1) if self.tied}

    @cached_property
    def layout(self) -> Layout:
        """Layout of the parameters."""
        shapes = self._chain_layout.shapes
        return Layout(tuple(each for each in shapes if each[0] not in self._tied))

    def _unrolled(self, P: dict[str, Array]) -> dict[str, Array]:
        return P | {decoder: P[encoder].T for decoder, encoder in self._tied.items()}

    def _folded(self, gradient: Vector) -> Vector:
        if not self.tied:
            return gradient
        G = self._chain_layout.unpack(gradient)
        both = {encoder: G[encoder] + G[decoder].T for decoder, encoder in self._tied.items()}
        return self.layout.pack({name: both.get(name, G[name]) for name, _ in self.layout.shapes})

    def _factors(self, moments: Sequence[Moments]) -> tuple[Factor, ...]:
        """Return what is known of the inputs of every matrix, those of both roles if tied."""
        if not self.tied:
            return super()._factors(moments)
        return tuple(map(self._tied_factor, range(self._n_layers), moments, reversed(moments)))

    def _tied_factor(self, index: int, below: Moments, above: Moments) -> Factor:
        encoder, decoder, alpha = self.chain[index], self.chain[-1 - index], self.alphas[index]
        variance = float(variances_of(above.covariance).mean())
        roles = Role(encoder.bias, below.mean), Role(decoder.bias, above.mean, transposed=True)
        return Factor(encoder.matrix, widened(metric_of(below, alpha), variance), roles)

    def decode(self, params: Array, A: Array) -> Array:
        """Return what features A of the last hidden layer stand for, (n_rows, n_features)."""
        return self._through(params, A, slice(self._n_layers, None))

    def chunk_sums(
        self,
        params: Vector,
        X: AnyArray,
        out: Vector | None = None,
        *,
        weight: Known | None = None,
        row: Known | None = None,
    ) -> Vector:
        """Sum over the rows of X everything that the cost and its gradient need.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters.
        X : array of shape (n_rows, n_features)
            Rows, in NumPy or any library with the array API: the work is done there. Arithmetic is
            in float64 if they are float64 or wide integers, else in float32; blocks of rows are
            cast one at a time, and summed up in float64.
        out : ndarray of shape (sums_layout.size,), float64, or None
            Sums over rows that came before: added to, and returned. Where these rows fill whole
            blocks (`stackedae.memory.rows_per_block` of the widest layer), the bits are those of
            one call for all rows.
        weight : ndarray of shape (n_rows,) or None
            What each row counts; None: 1.
        row : ndarray of shape (n_rows,) or None
            Numbers of the rows in the data, on which `corruption` depends.

        Returns
        -------
        ndarray of shape (sums_layout.size,), float64
            Additive: the sums of two chunks together are the sum of their sums.

        Raises
        ------
        ArgumentError
            If X is not two-dimensional with `n_features` columns, or what is known of its rows is
            missing or of another number.
        """
        return self.kernel(params, X).chunk_sums(X, out, weight=weight, row=row)
