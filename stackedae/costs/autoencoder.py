"""The sparse auto-encoder: one hidden layer that reconstructs its input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.arrays import POOL, AnyArray, add_scaled, filled
from stackedae.costs.activations import ACTIVATIONS, Activation
from stackedae.costs.coordinates import AffineMap, CentredCoordinates, width_of
from stackedae.costs.kernel import Kernel
from stackedae.costs.preconditioner import (
    AutoEncoderPreconditioner,
    regularised,
)
from stackedae.errors import ArgumentError, DataError
from stackedae.evaluation import Evaluation
from stackedae.layout import Array, Layout, Vector
from stackedae.moments import Moments
from stackedae.noise import Corruption

_KL_EDGE = np.finfo(np.float64).eps
"""Mean activations are kept this far from 0 and 1, where the divergence is infinite."""


@dataclass(frozen=True)
class AutoEncoderCost:
    r"""Cost and gradient of one sparse auto-encoder.

    For rows :math:`x_1 … x_n` and parameters W1, b1, W2, b2

    .. math::

        a &= f(W_1 x + b_1), \qquad r = g(W_2 a + b_2), \qquad
        \hat\rho_j = \frac1n \sum_i a_{ij} \\
        J &= \underbrace{\frac1n \sum_i \tfrac12 \lVert r_i - x_i \rVert^2}_{reconstruction}
           + \underbrace{\frac\alpha2 (\lVert W_1 \rVert^2 + \lVert W_2 \rVert^2)}_{decay}
           + \underbrace{\beta \sum_j \mathrm{KL}(\rho \,\Vert\, \hat\rho_j)}_{sparsity}

    with :math:`\mathrm{KL}(\rho \Vert q) = \rho\log\frac\rho q + (1-\rho)\log\frac{1-\rho}{1-q}`.
    For ``activation="tanh"`` the divergence is taken of :math:`(1 + \hat\rho_j)/2`.

    With `fill` φ, entries of a row may be missing (NaN): m is 1 where one is present, else 0. The
    encoder gets :math:`\tilde x = m \circ x + (1-m) \circ \varphi` for x, and the reconstruction is
    :math:`\frac1n \sum_i \tfrac12 \lVert m_i \circ (r_i - \tilde x_i) \rVert^2`.

    With `corruption` the auto-encoder learns to remove noise: the encoder gets x (filled, if need
    be) with noise in it, the reconstruction is compared with x itself. The noise of a row is the
    same in every evaluation. `encode` and `decode` add none.

    Rows may have weights w; then every mean is a weighted one,
    :math:`\frac1{\sum_i w_i} \sum_i w_i \cdots` for :math:`\frac1n \sum_i \cdots`.

    Parameters
    ----------
    n_features, n_hidden : int
        Entries of a row, d, and hidden units, h.
    activation, output_activation : {"logistic", "tanh", "relu", "identity"}
        The functions f and g.
    alpha : float
        Weight decay; biases are not decayed, and alpha is not divided by the number of rows.
    sparsity_target : float
        ρ, the mean activation wanted of every hidden unit, strictly between 0 and 1.
    sparsity_weight : float
        β. Must be 0 for "relu" and "identity", whose mean activation is not a share.
    fill : tuple of float
        φ, what stands in for entries that are missing (NaN), one per feature; empty: none may be
        missing.
    tied : bool
        Whether W2 is W1ᵀ. J is the same function, so that decay counts the matrix in both of its
        roles: :math:`\alpha \lVert W_1 \rVert^2`.
    corruption : Corruption or None
        The noise; None: there is none.

    Attributes
    ----------
    layout : Layout
        Where W1 (h, d), b1 (h,), W2 (d, h; not if tied) and b2 (d,) lie in the vector of
        parameters, row-major.
    sums_layout : Layout
        Where the sums over rows lie in the vector that `chunk_sums` returns.

    Raises
    ------
    ArgumentError
        If a hyper-parameter cannot be worked with.

    Notes
    -----
    The divergence couples all rows: its slope
    :math:`c_j = \beta(-\rho/\hat\rho_j + (1-\rho)/(1-\hat\rho_j))` needs :math:`\hat\rho` over
    *all* rows before back-propagation through any of them. But
    :math:`\delta_2 = (W_2^T\delta_3 + c) \circ f'` is linear in c. So each chunk sums
    :math:`f'(z)\,x^T` and :math:`f'(z)` as well, and `finish` adds c times these:
    one pass over the data gives the exact gradient.

    A chunk of m rows takes 10·m·d·h floating-point operations, 12·m·d·h with a sparsity term.
    Where all rows are at hand (`evaluate`), their codes are kept until :math:`\hat\rho` is known,
    and it is 10 in either case.

    References
    ----------
    Ng, A., "Sparse autoencoder", CS294A lecture notes, Stanford, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.costs import AutoEncoderCost
    >>> cost = AutoEncoderCost(n_features=3, n_hidden=2, sparsity_weight=0.0, alpha=0.0)
    >>> X = np.full((5, 3), 0.5)
    >>> params = cost.layout.zeros()
    >>> cost.finish(params, cost.chunk_sums(params, X)).cost
    0.0
    """

    n_features: int
    n_hidden: int
    activation: str = "logistic"
    output_activation: str = "logistic"
    alpha: float = 1e-4
    sparsity_target: float = 0.05
    sparsity_weight: float = 3.0
    fill: tuple[float, ...] = ()
    tied: bool = False
    corruption: Corruption | None = None

    def __post_init__(self) -> None:
        for name in ("n_features", "n_hidden"):
            if getattr(self, name) < 1:
                raise ArgumentError(name, getattr(self, name), "is no size", "pass 1 or more")
        for name in ("activation", "output_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                raise ArgumentError(
                    name, getattr(self, name), "is unknown", f"choose from {', '.join(ACTIVATIONS)}"
                )
        for name in ("alpha", "sparsity_weight"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ArgumentError(
                    name, getattr(self, name), "is not a finite weight", "pass 0 or more"
                )
        if not 0 < self.sparsity_target < 1:
            raise ArgumentError(
                "sparsity_target",
                self.sparsity_target,
                "is no mean activation between 0 and 1 (both excluded)",
                "pass a small share such as 0.05",
            )
        if self.sparsity_weight > 0 and not self._f.bounded:
            raise ArgumentError(
                "sparsity_weight",
                self.sparsity_weight,
                f"needs a bounded activation, and activation={self.activation!r} has none",
                'pass sparsity_weight=0, or activation="logistic" or "tanh"',
            )
        if self.fill and len(self.fill) != self.n_features:
            raise ArgumentError(
                "fill",
                self.fill,
                f"has {len(self.fill)} values for {self.n_features} features",
                "pass one for each, or none at all",
            )
        if not all(map(math.isfinite, self.fill)):
            raise ArgumentError(
                "fill", self.fill, "is not finite everywhere", "pass numbers to work with"
            )

    @property
    def _f(self) -> Activation:
        return ACTIVATIONS[self.activation]

    @property
    def _g(self) -> Activation:
        return ACTIVATIONS[self.output_activation]

    @property
    def _sparse(self) -> bool:
        return self.sparsity_weight > 0

    @property
    def aside(self) -> tuple[str, ...]:
        """What the cost needs to know of rows beside the rows: "row" if they are corrupted."""
        return () if self.corruption is None else ("row",)

    @cached_property
    def layout(self) -> Layout:
        """Layout of the parameters."""
        shapes = dict(self._untied_layout.shapes)
        if self.tied:
            del shapes["W2"]
        return Layout.of(**shapes)

    @cached_property
    def _untied_layout(self) -> Layout:
        d, h = self.n_features, self.n_hidden
        return Layout.of(W1=(h, d), b1=(h,), W2=(d, h), b2=(d,))

    @cached_property
    def sums_layout(self) -> Layout:
        """Layout of the sums over rows."""
        d, h = self.n_features, self.n_hidden
        slopes = {"slope_x": (h, d), "slope": (h,)} if self._sparse else {}
        return Layout.of(**dict(self.stage_layout.shapes), **slopes)

    @cached_property
    def stage_layout(self) -> Layout:
        """Layout of the sums over rows, where the mean activations are known beforehand."""
        counts = {"n_rows": (), "weight": (), "squared_error": ()}
        return Layout.of(**counts, activation=(self.n_hidden,), **dict(self._untied_layout.shapes))

    def unpack(self, params: Array) -> dict[str, Array]:
        """Return W1, b1, W2 and b2, as views.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters.

        Returns
        -------
        dict of str to ndarray
            W2 is the transpose of W1 if they are tied.

        Examples
        --------
        >>> from stackedae.costs import AutoEncoderCost
        >>> cost = AutoEncoderCost(n_features=3, n_hidden=2, tied=True)
        >>> {name: each.shape for name, each in cost.unpack(cost.layout.zeros()).items()}
        {'W1': (2, 3), 'b1': (2,), 'b2': (3,), 'W2': (3, 2)}
        """
        P = self.layout.unpack(params)
        if self.tied:
            P["W2"] = P["W1"].T
        return P

    def initial_params(self, rng: np.random.Generator, moments: Moments | None = None) -> Vector:
        r"""Draw a start: weights uniform in :math:`\pm\sqrt{6/(d+h+1)}`, biases zero.

        Given the moments of the rows, weights are in units of their standard deviation σ (W1 of
        1/(3σ), so that hidden units start where f is nearly linear), and biases such that the mean
        row activates every hidden unit by ρ (by f(0) if there is no sparsity term) and comes out
        where no unit is active. Where there is noise, σ and the mean row of the encoder are those
        of rows with noise. Tied weights are in units of the geometric mean of 1/(3σ) and σ: 1/√3
        without noise, whatever σ is.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the weights.
        moments : Moments or None
            Mean and covariance of the rows; those of a sample will do.

        Returns
        -------
        ndarray of shape (layout.size,), float64
        """
        bound = np.sqrt(6.0 / (self.n_features + self.n_hidden + 1))
        params = self.layout.zeros()
        P = self.layout.unpack(params)
        for name in ("W1",) if self.tied else ("W1", "W2"):
            P[name][...] = rng.uniform(-bound, bound, P[name].shape)
        if moments is not None:
            seen = self._seen(moments)
            sigma, sigma_seen = (each.standard_deviation or 1.0 for each in (moments, seen))
            if self.tied:
                P["W1"] *= math.sqrt(sigma / (3 * sigma_seen))
            else:
                P["W1"] /= 3 * sigma_seen
                P["W2"] *= sigma
            P["b1"][...] = -P["W1"] @ seen.mean
            P["b2"][...] = self._g.inverse(moments.mean)
            if self._sparse:
                P["b1"] += self._f.inverse(np.asarray(self._target_activation))
        return params

    def _seen(self, moments: Moments) -> Moments:
        """Return the moments of what the encoder gets of rows with these."""
        return moments if self.corruption is None else self.corruption.moments(moments)

    @property
    def _target_activation(self) -> float:
        """ρ on the scale of f."""
        return self._f.low + self.sparsity_target * (self._f.high - self._f.low)

    def preconditioner(self, moments: Moments) -> AutoEncoderPreconditioner:
        """Return an approximate inverse Hessian for rows with these moments.

        Parameters
        ----------
        moments : Moments
            Mean and covariance of the rows; those of a sample will do.

        Returns
        -------
        AutoEncoderPreconditioner
            Hidden units are taken to be as active as the sparsity term wants them to be.
        """
        code_mean, code_variance = 0.0, 1.0
        if self._sparse:
            rho, width = self.sparsity_target, self._f.high - self._f.low
            code_mean, code_variance = self._target_activation, rho * (1 - rho) * width**2
        seen = self._seen(moments)
        return AutoEncoderPreconditioner(
            self.layout,
            seen.mean,
            regularised(seen.covariance),
            code_mean,
            code_variance,
        )

    def coordinates(self, moments: Moments) -> CentredCoordinates:
        """Return coordinates for steps of one size in all parameters, of rows with these moments.

        Parameters
        ----------
        moments : Moments
            Mean and covariance of the rows; those of a sample will do.

        Returns
        -------
        CentredCoordinates
            Hidden units are taken to be as active as the sparsity term wants them to be. The bias
            of a decoder whose weights are tied stays as it is.
        """
        seen = self._seen(moments)
        width = width_of(seen)
        maps = [AffineMap("W1", "b1", seen.mean, input_width=width)]
        if not self.tied:
            code = np.full(self.n_hidden, self._target_activation if self._sparse else 0.0)
            maps.append(AffineMap("W2", "b2", code, output_width=width))
        return CentredCoordinates(self.layout, maps)

    def flops(self, n_rows: int) -> float:
        """Return the floating-point operations of `chunk_sums`.

        Parameters
        ----------
        n_rows : int
            Rows of the chunk.

        Returns
        -------
        float
        """
        return (12.0 if self._sparse else 10.0) * self.n_features * self.n_hidden * n_rows

    def encode(self, params: Array, X: Array) -> Array:
        """Return the hidden activations a = f(W1 x + b1) of rows X, (n_rows, n_hidden).

        Entries that are missing are filled, if there is a `fill`.
        """
        P = self.unpack(params)
        return _affine(filled(X, self.fill), P["W1"], P["b1"], self._f)

    def decode(self, params: Array, A: Array) -> Array:
        """Return the reconstruction r = g(W2 a + b2) of rows A, (n_rows, n_features)."""
        P = self.unpack(params)
        return _affine(A, P["W2"], P["b2"], self._g)

    def chunk_sums(
        self,
        params: Vector,
        X: AnyArray,
        out: Vector | None = None,
        *,
        row: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
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
            blocks (`stackedae.memory.rows_per_block`), the bits are those of one call for all rows.
        row : ndarray of shape (n_rows,), or None
            Number of each row in the data, which its noise depends on; 0, 1, … if None.
        weight : ndarray of shape (n_rows,), or None
            Weight of each row; all are 1 if None.

        Returns
        -------
        ndarray of shape (sums_layout.size,), float64
            Additive: the sums of two chunks together are the sum of their sums.

        Raises
        ------
        ArgumentError
            If X is not two-dimensional with `n_features` columns, or there is not one number for
            each of its rows.
        """
        return self.kernel(params, X).chunk_sums(X, out, row=row, weight=weight)

    def forward(
        self,
        params: Vector,
        X: AnyArray,
        out: Vector | None = None,
        *,
        row: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
    ) -> tuple[AnyArray, Vector]:
        """Return the codes of all rows, to be kept for `backward`, and the sum of activations.

        Where the codes of all rows can be kept until their mean is known, `forward` and `backward`
        together take a product less than `chunk_sums`.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters.
        X : array of shape (n_rows, n_features)
            Rows.
        out : ndarray of shape (n_hidden,), float64, or None
            Sums over rows that came before: added to, and returned.
        row, weight : ndarray of shape (n_rows,), or None
            As for `chunk_sums`.

        Returns
        -------
        codes : array of shape (n_rows, n_hidden + 1)
            Hidden activations, and a unit that is always 1.
        activation : ndarray of shape (n_hidden,), float64
            Their (weighted) sum over rows; additive.
        """
        return self.kernel(params, X).forward(X, out, row=row, weight=weight)

    def backward(
        self,
        params: Vector,
        mean_activations: Vector,
        X: AnyArray,
        out: Vector | None = None,
        *,
        codes: AnyArray | None = None,
        row: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
    ) -> Vector:
        """Return the other sums that `finish` needs, given the mean activations over *all* rows.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters.
        mean_activations : ndarray of shape (n_hidden,)
            What the sums of `forward` over all rows come to, divided by the weight of all.
        X : array of shape (n_rows, n_features)
            Rows.
        out : ndarray of shape (stage_layout.size,), float64, or None
            Sums over rows that came before: added to, and returned.
        codes : array of shape (n_rows, n_hidden + 1) or None
            What `forward` returned for these rows; computed again, to the same bits, if None.
        row, weight : ndarray of shape (n_rows,), or None
            As for `chunk_sums`.

        Returns
        -------
        ndarray of shape (stage_layout.size,), float64
            For `finish`, which takes the sum of activations from `forward`. The sparsity term is
            in the sums for W1 and b1, whose gradients need nothing else.
        """
        kernel = self.kernel(params, X, mean_activations)
        return kernel.backward(X, out, codes=codes, row=row, weight=weight)

    def evaluate(
        self,
        params: Vector,
        X: AnyArray,
        *,
        row: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
    ) -> Evaluation:
        """Return the cost and its gradient over rows that are all at hand.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters.
        X : array of shape (n_rows, n_features)
            Rows.
        row, weight : ndarray of shape (n_rows,), or None
            As for `chunk_sums`.

        Returns
        -------
        Evaluation
            That of `finish` and `chunk_sums`, but for rounding, in less time.

        Examples
        --------
        >>> import numpy as np
        >>> from stackedae.costs import AutoEncoderCost
        >>> cost = AutoEncoderCost(n_features=3, n_hidden=2)
        >>> params = cost.initial_params(np.random.default_rng(0))
        >>> X = np.random.default_rng(1).random((5, 3))
        >>> here, summed = cost.evaluate(params, X), cost.finish(params, cost.chunk_sums(params, X))
        >>> bool(np.allclose(here.gradient, summed.gradient, rtol=1e-12))
        True
        """
        if not self._sparse:
            return self.finish(params, self.chunk_sums(params, X, row=row, weight=weight))
        codes, activation = self.forward(params, X, row=row, weight=weight)
        total = X.shape[0] if weight is None else float(np.sum(weight))
        mean = activation / (total or 1)  # no rows are refused in the end
        sums = self.backward(params, mean, X, codes=codes, row=row, weight=weight)
        return self.finish(params, sums, activation)

    def kernel(self, params: Vector, X: AnyArray, mean_activations: Vector | None = None) -> Kernel:
        """Return what computes sums over rows like X at these parameters, chunk after chunk.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters; preparing them takes a while, if there are many chunks.
        X : array of shape (n_rows, n_features)
            Rows, whose library, device and precision all chunks have.
        mean_activations : ndarray of shape (n_hidden,) or None
            Over all rows, for `backward`.

        Returns
        -------
        Kernel
            With methods `chunk_sums`, `forward` and `backward`, like ours but for the parameters.
            It is good until the same thread makes another.

        Raises
        ------
        ArgumentError
            If X is not two-dimensional with `n_features` columns.
        """
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ArgumentError(
                "X.shape", X.shape, "does not fit the cost", f"pass (n_rows, {self.n_features})"
            )
        P, slope, layout = self.unpack(params), None, self.sums_layout
        if self._sparse and mean_activations is not None:
            slope, layout = self._divergence(mean_activations)[1], self.stage_layout
        fill = np.array(self.fill) if self.fill else None
        return Kernel(self._f, self._g, layout, P, X, slope, fill, self.corruption)

    def finish(self, params: Vector, sums: Vector, activation: Vector | None = None) -> Evaluation:
        """Turn sums over all rows into the cost and its gradient.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            The parameters that `sums` were computed with.
        sums : ndarray of shape (sums_layout.size,)
            `chunk_sums` of all chunks, added up; or `backward` of all, (stage_layout.size,).
        activation : ndarray of shape (n_hidden,) or None
            The sum of activations that goes with `backward`; None: it is among the sums.

        Returns
        -------
        Evaluation
            With terms "reconstruction", "decay" and "sparsity", and means "activations"; `n_rows`
            counts rows, whatever their weights. The gradient of a tied matrix is the sum of those
            in its two roles.

        Raises
        ------
        DataError
            If the sums are over no rows, or over none that has a weight.
        """
        P = self.unpack(params)
        S = (self.sums_layout if activation is None else self.stage_layout).unpack(sums)
        n_rows, total = int(S["n_rows"]), float(S["weight"])
        if n_rows < 1:
            raise DataError("X has no rows: a cost needs at least one; pass more data.")
        if not total > 0:
            raise DataError(f"The weights of X add up to {total}: pass some that are positive.")
        mean_activations = (S["activation"] if activation is None else activation) / total
        gradient = POOL.empty((self._untied_layout.size,), np.float64)
        G = self._untied_layout.unpack(gradient)
        for name, each in G.items():
            np.divide(S[name], total, out=each)
        terms = {
            "reconstruction": float(S["squared_error"]) / (2 * total),
            "decay": self.alpha / 2 * float(np.vdot(P["W1"], P["W1"]) + np.vdot(P["W2"], P["W2"])),
            "sparsity": 0.0,
        }
        for name in ("W1", "W2"):
            add_scaled(G[name], P[name], self.alpha)
        if self._sparse:
            terms["sparsity"], slope = self._divergence(mean_activations)
            if activation is None:
                add_scaled(G["W1"], S["slope_x"], (slope / total)[:, None])
                G["b1"] += slope * S["slope"] / total
        if self.tied:
            G["W1"] += G.pop("W2").T
            gradient = self.layout.pack(G)
        return Evaluation(
            cost=sum(terms.values()),
            gradient=gradient,
            terms=terms,
            means={"activations": mean_activations.astype(np.float64)},
            n_rows=n_rows,
        )

    def _divergence(self, mean_activations: Array) -> tuple[float, Array]:
        """Return β Σ KL(ρ ‖ ρ̂) and its slope c in the mean activations."""
        f, rho = self._f, self.sparsity_target
        share = (mean_activations - f.low) / (f.high - f.low)
        share = np.clip(share, _KL_EDGE, 1 - _KL_EDGE)
        divergence = rho * np.log(rho / share) + (1 - rho) * np.log((1 - rho) / (1 - share))
        slope = (-rho / share + (1 - rho) / (1 - share)) / (f.high - f.low)
        return self.sparsity_weight * float(divergence.sum()), self.sparsity_weight * slope


def _affine(X: Array, W: Array, b: Array, activation: Activation) -> Array:
    scale = W.dtype.type(activation.scale)  # a power of two: nothing is rounded
    out = X @ np.ascontiguousarray((scale * W).T)
    out += scale * b
    activation.apply(np, out)
    return out
