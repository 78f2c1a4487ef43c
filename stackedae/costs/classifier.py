"""A stack of encoders with a softmax head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stackedae.costs.network import Known, Loss, cross_entropy
from stackedae.costs.network_cost import check_hyper_parameters
from stackedae.costs.supervised import SupervisedCost
from stackedae.errors import ArgumentError
from stackedae.layout import Array
from stackedae.noise import Corruption


@dataclass(frozen=True)
class ClassifierCost(SupervisedCost):
    r"""Cost and gradient of k encoders and a softmax head, for rows of known classes.

    For rows :math:`x_1 … x_n` of the classes :math:`y_1 … y_n` and weights :math:`w_i` (1, if none
    are given)

    .. math::

        h_0 &= x, \qquad h_l = f_l(W_l h_{l-1} + b_l), \qquad l = 1 … k \\
        J &= \underbrace{-\frac{1}{\sum_i w_i} \sum_i w_i
             \log \operatorname{softmax}(S h_{k,i} + s)_{y_i}}_{cross\ entropy}
           + \underbrace{\frac\alpha2 \Bigl(\sum_l \lVert W_l \rVert^2
             + \lVert S \rVert^2\Bigr)}_{decay}

    Parameters
    ----------
    layer_sizes : tuple of int
        Entries of a row, and units of the k hidden layers: (d, h1, …, hk). With (d,) there are no
        hidden layers, and J is that of softmax regression.
    n_classes : int
        Classes, c; the targets y are numbers from 0 to c − 1, which is not checked.
    activation : str or tuple of str
        The functions :math:`f_1 … f_k`, or one for all: "logistic", "tanh", "relu" or "identity".
    alpha : float or tuple of float
        Weight decay α, or one for each of W1, …, Wk, S; biases are not decayed, and alpha is not
        divided by the number of rows.
    corruption : Corruption or None
        What is done to rows before they go in, the missing entries filled.
    fill : tuple of float
        What stands in for entries that are missing (NaN), one per feature; empty: none may be
        missing.

    Attributes
    ----------
    layout : Layout
        Where W1 (h1, d), b1, …, Wk, bk, S (c, hk) and s (c,) lie in the vector of parameters,
        row-major.
    sums_layout : Layout
        Where the sums over rows lie in the vector that `chunk_sums` returns.

    Raises
    ------
    ArgumentError
        If a hyper-parameter cannot be worked with.

    Examples
    --------
    A start that knows nothing of four classes costs log 4:

    >>> import numpy as np
    >>> from stackedae.costs import ClassifierCost
    >>> cost = ClassifierCost((3, 2), n_classes=4)
    >>> X, y, params = np.ones((5, 3)), np.array([0, 1, 2, 3, 0]), cost.layout.zeros()
    >>> evaluation = cost.finish(params, cost.chunk_sums(params, X, y))
    >>> float(np.exp(evaluation.cost).round(12))
    4.0
    """

    layer_sizes: tuple[int, ...]
    n_classes: int
    activation: str | tuple[str, ...] = "logistic"
    alpha: float | tuple[float, ...] = 1e-4
    corruption: Corruption | None = None
    fill: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_hyper_parameters(self, fewest_sizes=1)
        if self.n_classes < 2:
            raise ArgumentError("n_classes", self.n_classes, "leaves no choice", "pass 2 or more")

    @property
    def _n_outputs(self) -> int:
        return self.n_classes

    @property
    def _loss(self) -> Loss:
        return cross_entropy

    @property
    def _targets(self) -> Callable[[Known], Known]:
        return lambda y: y[..., None] == np.arange(self.n_classes)

    def _terms(self, loss: float, decay: float) -> dict[str, float]:
        return {"cross_entropy": loss, "decay": decay}

    def decision(self, params: Array, X: Array) -> Array:
        """Return S h_k + s of rows, whose softmax gives probabilities.

        Entries that are missing are filled, if there is a `fill`; nothing is corrupted.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters.
        X : ndarray of shape (n_rows, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
        """
        return self._outputs(params, X)
