"""An approximate inverse Hessian of the auto-encoder, from the moments of its input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stackedae.layout import Layout, Vector

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
    input_precision : ndarray of shape (n_features, n_features) or (n_features,)
        (Regularised) inverse of the covariance of the data, or of its diagonal.
    code_mean, code_precision : float
        Mean and inverse variance of the hidden activations.

    References
    ----------
    Martens, J., Grosse, R., "Optimizing neural networks with Kronecker-factored approximate
    curvature", ICML 2015, sections 2 and 3: the input factor is used, the output factor is not.
    """

    layout: Layout
    input_mean: Vector
    input_precision: Vector
    code_mean: float
    code_precision: float

    def __call__(self, vector: Vector) -> Vector:
        """Return M·vector, where M is symmetric and positive definite."""
        G = self.layout.unpack(vector)
        encoder = G["W1"] - np.outer(G["b1"], self.input_mean)
        if self.input_precision.ndim == 2:
            encoder = encoder @ self.input_precision
        else:
            encoder = encoder * self.input_precision
        decoder = self.code_precision * (G["W2"] - self.code_mean * G["b2"][:, None])
        return self.layout.pack(
            {
                "W1": encoder,
                "b1": G["b1"] - encoder @ self.input_mean,
                "W2": decoder,
                "b2": G["b2"] - self.code_mean * decoder.sum(axis=1),
            }
        )


def regularised_inverse(covariance: Vector) -> Vector:
    """Invert a covariance (or its diagonal) after adding a share of the mean variance to it.

    Rows that do not vary at all give the identity.
    """
    variances = covariance if covariance.ndim == 1 else np.diag(covariance)
    ridge = RIDGE * float(variances.mean())
    if ridge == 0:
        return np.eye(len(covariance)) if covariance.ndim == 2 else np.ones_like(covariance)
    if covariance.ndim == 1:
        return 1 / (covariance + ridge)
    inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
    return (inverse + inverse.T) / 2
