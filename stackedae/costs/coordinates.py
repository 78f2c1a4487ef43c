"""Coordinates in which steps of one size suit all parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stackedae.arrays import POOL
from stackedae.layout import Layout, Vector
from stackedae.moments import Moments

WIDTH = 8.0
"""Width of rows in standard deviations: four on either side of the mean."""


def width_of(moments: Moments) -> float:
    """Return the width of the range of rows with these moments; 1 if they do not vary."""
    return WIDTH * moments.standard_deviation or 1.0


@dataclass(frozen=True)
class AffineMap:
    r"""What is known of a map :math:`z = W x + b` before it is learned.

    Parameters
    ----------
    weights, bias : str
        Names of W and b in the layout of the parameters.
    mean : ndarray of shape (n_inputs,)
        Of x.
    input_width, output_width : float
        Of the ranges that x, and z, are about to have.
    """

    weights: str
    bias: str
    mean: Vector
    input_width: float = 1.0
    output_width: float = 1.0


@dataclass(frozen=True)
class CentredCoordinates:
    r"""Parameters of maps whose input is shifted by its mean, and measured in its width.

    An affine map of input with mean μ and width u, and output of width v, is

    .. math::

        W x + b = v \, \left(W' \, \frac{x - \mu}{u} + b'\right),
        \qquad W = \tfrac vu W', \quad b = v\,b' - W \mu

    Without the shift, a change of W moves all of z by about as much as it turns W, and steps have
    to be small for it: what one step of Adam does to a mean activation is in proportion to μ.
    The units make steps of one size suit rows of any scale. Covariances are left out, which
    products of full matrices in every step would take.

    Parameters
    ----------
    layout : Layout
        Of the parameters.
    maps : sequence of AffineMap
        The maps; parameters of no map stay as they are.

    References
    ----------
    LeCun, Y., Bottou, L., Orr, G., Müller, K.-R., "Efficient BackProp", in: Neural networks: tricks
    of the trade, 1998, section 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.costs.coordinates import AffineMap, CentredCoordinates
    >>> from stackedae.layout import Layout
    >>> layout = Layout.of(W=(1, 2), b=(1,))
    >>> coordinates = CentredCoordinates(layout, [AffineMap("W", "b", np.array([0.0, 10.0]))])
    >>> coordinates.step(np.array([1.0, 1.0, 0.0]))
    array([  1.,   1., -10.])
    """

    layout: Layout
    maps: Sequence[AffineMap]

    def gradient(self, gradient: Vector) -> Vector:
        """Return the gradient in these coordinates, of one in the parameters."""
        ours, theirs = self._begun(gradient), self.layout.unpack(gradient)
        G = self.layout.unpack(ours)
        for each in self.maps:
            W, slope = G[each.weights], theirs[each.bias]
            np.multiply.outer(slope, each.mean, out=W)
            np.subtract(theirs[each.weights], W, out=W)
            W *= each.output_width / each.input_width
            np.multiply(slope, each.output_width, out=G[each.bias])
        return ours

    def step(self, step: Vector) -> Vector:
        """Return what a step in these coordinates is in the parameters."""
        theirs, ours = self._begun(step), self.layout.unpack(step)
        P = self.layout.unpack(theirs)
        for each in self.maps:
            W, b = P[each.weights], P[each.bias]
            np.multiply(ours[each.weights], each.output_width / each.input_width, out=W)
            np.multiply(ours[each.bias], each.output_width, out=b)
            b -= W @ each.mean
        return theirs

    def _begun(self, vector: Vector) -> Vector:
        """Return memory that is lent for a vector, where parameters of no map are as in this."""
        begun: Vector = POOL.empty(vector.shape, np.float64)
        mapped = {name for each in self.maps for name in (each.weights, each.bias)}
        for name, of in self.layout.slices.items():
            if name not in mapped:
                begun[of] = vector[of]
        return begun
