"""An approximate inverse Hessian of the auto-encoder, from the moments of its input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stackedae.layout import Array, Layout, Vector

RIDGE = 0.1
"""Share of the mean variance added to every variance before it is inverted."""


@dataclass(frozen=True)
class AutoEncoderPreconditioner:
    r"""Multiply a gradient by an approximate inverse Hessian.

    The Hessian of an affine layer :math:`W x + b` is about a Kronecker product, one factor of which
    is the second moment of its extended input :math:`(x, 1)`. With mean μ and covariance C of x,
    its inverse is

    .. math::

        \\begin{pmatrix} C^{-1} & -C^{-1}\\mu \\\\
        -\\mu^T C^{-1} & 1 + \\mu^T C^{-1} \\mu \\end{pmatrix}

    which acts on the rows of (W \\| b) and undoes what correlated, shifted and unequally scaled
    inputs do to the shape of the objective. The encoder's input is the data; the decoder's is the
    code, taken to be uncorrelated.

    Parameters
    ----------
    layout : Layout
        Of the parameters: W1, b1, W2, b2.
    input_mean : ndarray of shape (n_features,)
        μ of the data.
    input_covariance : ndarray of shape (n_features, n_features) or (n_features,)
        (Regularised) covariance C of the data, or its diagonal.
    code_mean, code_variance : float
        Mean and variance of the hidden activations.

    References
    ----------
    Martens, J., Grosse, R., "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML 2015, sections 2 and 3: the input factor is used, the output factor is not.
    """

    layout: Layout
    input_mean: Vector
    input_covariance: Vector
    code_mean: float
    code_variance: float

    @cached_property
    def _input_precision(self) -> Vector:
        if self.input_covariance.ndim == 1:
            return 1 / self.input_covariance
        inverse = np.linalg.inv(self.input_covariance)
        return (inverse + inverse.T) / 2

    def __call__(self, vector: Vector) -> Vector:
        """Return M·vector, where M is symmetric and positive definite."""
        G = self.layout.unpack(vector)
        encoder = _times(G["W1"] - np.outer(G["b1"], self.input_mean), self._input_precision)
        decoder = (G["W2"] - self.code_mean * G["b2"][:, None]) / self.code_variance
        return self.layout.pack(
            {
                "W1": encoder,
                "b1": G["b1"] - encoder @ self.input_mean,
                "W2": decoder,
                "b2": G["b2"] - self.code_mean * decoder.sum(axis=1),
            }
        )

    def inverse(self, vector: Vector) -> Vector:
        """Return M⁻¹·vector: how the approximate Hessian itself acts."""
        P = self.layout.unpack(vector)
        b1 = P["W1"] @ self.input_mean + P["b1"]
        b2 = self.code_mean * P["W2"].sum(axis=1) + P["b2"]
        return self.layout.pack(
            {
                "W1": _times(P["W1"], self.input_covariance) + np.outer(b1, self.input_mean),
                "b1": b1,
                "W2": self.code_variance * P["W2"] + self.code_mean * b2[:, None],
                "b2": b2,
            }
        )


def _times(rows: Array, covariance: Vector) -> Array:
    return rows @ covariance if covariance.ndim == 2 else rows * covariance


def regularised(covariance: Vector) -> Vector:
    """Return a covariance (or its diagonal) with a share of the mean variance added to it.

    Rows that do not vary at all give the identity.
    """
    variances = covariance if covariance.ndim == 1 else np.diag(covariance)
    ridge = RIDGE * float(variances.mean()) or 1.0
    return covariance + (ridge if covariance.ndim == 1 else ridge * np.eye(len(covariance)))
