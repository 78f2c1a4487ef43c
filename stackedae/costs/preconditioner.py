"""An approximate inverse Hessian of chains of affine layers, from the moments of their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stackedae.layout import Array, Layout, Vector

RIDGE = 0.1
"""Share of the mean variance added to every variance before it is inverted."""


@dataclass(frozen=True)
class Role:
    """An affine map that a matrix W takes part in.

    Parameters
    ----------
    bias : str
        Segment of the bias.
    mean : ndarray of shape (n_inputs,)
        Mean μ of the input.
    transposed : bool
        Whether it is Wᵀ that is applied.
    """

    bias: str
    mean: Vector
    transposed: bool = False

    def image(self, W: Array) -> Array:
        """Return what the mean input is mapped to, without the bias."""
        return (W.T if self.transposed else W) @ self.mean

    def outer(self, bias: Array) -> Array:
        """Return the outer product of a bias and the mean input, in the shape of W."""
        product = np.outer(bias, self.mean)
        return product.T if self.transposed else product


@dataclass(frozen=True)
class Factor:
    """What is known of the input of one matrix W.

    Parameters
    ----------
    matrix : str
        Segment of W.
    covariance : ndarray of shape (n_inputs, n_inputs) or (n_inputs,)
        (Regularised) covariance of the input, or its diagonal.
    roles : tuple of Role
        The affine maps that W takes part in: one, or two if weights are tied.
    """

    matrix: str
    covariance: Vector
    roles: tuple[Role, ...]

    @cached_property
    def precision(self) -> Vector:
        """The inverse of the covariance."""
        if self.covariance.ndim == 1:
            return 1 / self.covariance
        inverse = np.linalg.inv(self.covariance)
        return (inverse + inverse.T) / 2


@dataclass(frozen=True)
class AffinePreconditioner:
    r"""Multiply a gradient by an approximate inverse Hessian.

    The Hessian of an affine layer :math:`W x + b` is about a Kronecker product, one factor of which
    is the second moment of its extended input :math:`(x, 1)`. With mean μ and covariance C of x,
    its inverse is

    .. math::

        \begin{pmatrix} C^{-1} & -C^{-1}\mu \\
        -\mu^T C^{-1} & 1 + \mu^T C^{-1} \mu \end{pmatrix}

    which acts on the rows of (W \| b) and undoes what correlated, shifted and unequally scaled
    inputs do to the shape of the objective. Layers are taken one by one, as if nothing else moved.

    A matrix that is tied, and applied as :math:`W x + b` and as :math:`W^T a + c`, has both
    Hessians, that is the quadratic form

    .. math::

        \operatorname{tr} W C W^T + \operatorname{tr} W^T C_a W
        + \lVert W \mu + b \rVert^2 + \lVert W^T \mu_a + c \rVert^2 .

    With :math:`v I`, v the mean variance of a, for :math:`C_a`, the first two terms are one with
    the covariance :math:`C + v I`, and the inverse of the whole is as cheap as without the second
    role: :math:`b + W\mu` and :math:`c + W^T\mu_a` take the places of b and c. (With the whole
    of :math:`C_a`, in the eigenvectors of both, L-BFGS took as many evaluations.)

    Parameters
    ----------
    layout : Layout
        Of the parameters.
    factors : sequence of Factor
        One for each matrix. Their roles name all the other segments, once each.

    References
    ----------
    Martens, J., Grosse, R., "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML 2015, sections 2 and 3: the input factor is used, the output factor is not.

    Examples
    --------
    Inputs far from zero, in another unit:

    >>> import numpy as np
    >>> from stackedae.costs.preconditioner import AffinePreconditioner, Factor, Role
    >>> from stackedae.layout import Layout
    >>> of_input = Factor("W", np.array([4.0]), (Role("b", np.array([3.0])),))
    >>> M = AffinePreconditioner(Layout.of(W=(1, 1), b=(1,)), (of_input,))
    >>> M(np.array([13.0, 3.0]))  # the second moment of (x, 1) is [[13, 3], [3, 1]]
    array([1., 0.])
    """

    layout: Layout
    factors: Sequence[Factor]

    def __call__(self, vector: Vector) -> Vector:
        """Return M·vector, where M is symmetric and positive definite."""
        G, out = self.layout.unpack(vector), {}
        for factor in self.factors:
            W = G[factor.matrix]
            for role in factor.roles:
                W = W - role.outer(G[role.bias])
            out[factor.matrix] = W = _times(W, factor.precision)
            for role in factor.roles:
                out[role.bias] = G[role.bias] - role.image(W)
        return self.layout.pack(out)

    def inverse(self, vector: Vector) -> Vector:
        """Return M⁻¹·vector: how the approximate Hessian itself acts."""
        P, out = self.layout.unpack(vector), {}
        for factor in self.factors:
            W = P[factor.matrix]
            out[factor.matrix] = _times(W, factor.covariance)
            for role in factor.roles:
                out[role.bias] = role.image(W) + P[role.bias]
                out[factor.matrix] += role.outer(out[role.bias])
        return self.layout.pack(out)


class AutoEncoderPreconditioner(AffinePreconditioner):
    """The preconditioner of one auto-encoder, whose code is taken to be uncorrelated.

    Parameters
    ----------
    layout : Layout
        Of the parameters: W1, b1, W2, b2; without W2 if weights are tied.
    input_mean : ndarray of shape (n_features,)
        μ of the data.
    input_covariance : ndarray of shape (n_features, n_features) or (n_features,)
        (Regularised) covariance C of the data, or its diagonal.
    code_mean, code_variance : float
        Mean and variance of the hidden activations.
    """

    def __init__(
        self,
        layout: Layout,
        input_mean: Vector,
        input_covariance: Vector,
        code_mean: float,
        code_variance: float,
    ) -> None:
        shapes = dict(layout.shapes)
        mean_code, data = np.full(shapes["b1"], code_mean), Role("b1", input_mean)
        if "W2" in shapes:
            encoder = Factor("W1", input_covariance, (data,))
            decoder = Factor("W2", np.full(shapes["b1"], code_variance), (Role("b2", mean_code),))
            super().__init__(layout, (encoder, decoder))
            return
        both = data, Role("b2", mean_code, transposed=True)
        super().__init__(layout, (Factor("W1", widened(input_covariance, code_variance), both),))


def _times(rows: Array, covariance: Vector) -> Array:
    return rows @ covariance if covariance.ndim == 2 else rows * covariance


def variances_of(covariance: Vector) -> Vector:
    """Return the diagonal of a covariance, or of what is one already."""
    return covariance if covariance.ndim == 1 else np.diag(covariance)


def regularised(covariance: Vector) -> Vector:
    """Return a covariance (or its diagonal) with a share of the mean variance added to it.

    Rows that do not vary at all give the identity.
    """
    return widened(covariance, RIDGE * float(variances_of(covariance).mean()) or 1.0)


def widened(covariance: Vector, variance: float) -> Vector:
    """Return a covariance (or its diagonal) with a variance added in every direction.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.costs.preconditioner import widened
    >>> widened(np.array([[2.0, 1.0], [1.0, 2.0]]), 0.5)
    array([[2.5, 1. ],
           [1. , 2.5]])
    """
    if covariance.ndim == 1:
        return covariance + variance
    return covariance + variance * np.eye(len(covariance))
