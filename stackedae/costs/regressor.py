"""A stack of encoders with a linear head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stackedae.costs.network import Known, Loss, squared_error
from stackedae.costs.network_cost import check_hyper_parameters
from stackedae.costs.supervised import SupervisedCost
from stackedae.errors import ArgumentError
from stackedae.layout import Array
from stackedae.noise import Corruption


@dataclass(frozen=True)
class RegressorCost(SupervisedCost):
    r"""Cost and gradient of k encoders and a linear head, for rows with numbers to predict.

    For rows :math:`x_1 … x_n` with targets :math:`y_1 … y_n` and weights :math:`w_i` (1, if none
    are given)

    .. math::

        h_0 &= x, \qquad h_l = f_l(W_l h_{l-1} + b_l), \qquad l = 1 … k \\
        J &= \underbrace{\frac{1}{\sum_i w_i} \sum_i w_i\,
             \tfrac12 \lVert S h_{k,i} + s - y_i \rVert^2}_{squared\ error}
           + \underbrace{\frac\alpha2 \Bigl(\sum_l \lVert W_l \rVert^2
             + \lVert S \rVert^2\Bigr)}_{decay}

    Parameters
    ----------
    layer_sizes : tuple of int
        Entries of a row, and units of the k hidden layers: (d, h1, …, hk). With (d,) there are no
        hidden layers, and J is that of ridge regression.
    n_outputs : int
        Numbers to predict, c.
    activation : str or tuple of str
        The functions :math:`f_1 … f_k`, or one for all: "logistic", "tanh", "relu" or "identity".
    alpha : float or tuple of float
        Weight decay α, or one for each of W1, …, Wk, S; biases are not decayed, and alpha is not
        divided by the number of rows.
    corruption : Corruption or None
        What is done to rows before they go in, the missing entries filled.
    fill : tuple of float
        What stands in for entries of rows that are missing (NaN), one per feature; empty: none may
        be missing.

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
    >>> import numpy as np
    >>> from stackedae.costs import RegressorCost
    >>> cost = RegressorCost((3, 2), n_outputs=1)
    >>> X, y, params = np.ones((5, 3)), np.full(5, 4.0), cost.layout.zeros()
    >>> cost.finish(params, cost.chunk_sums(params, X, y)).cost
    8.0
    """

    layer_sizes: tuple[int, ...]
    n_outputs: int
    activation: str | tuple[str, ...] = "logistic"
    alpha: float | tuple[float, ...] = 1e-4
    corruption: Corruption | None = None
    fill: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_hyper_parameters(self, fewest_sizes=1)
        if self.n_outputs < 1:
            raise ArgumentError("n_outputs", self.n_outputs, "is no size", "pass 1 or more")

    @property
    def _n_outputs(self) -> int:
        return self.n_outputs

    @property
    def _loss(self) -> Loss:
        return squared_error

    @property
    def _targets(self) -> Callable[[Known], Known]:
        return lambda y: y[..., None] if y.ndim == 2 else y  # blocks of numbers, or of vectors

    def _terms(self, loss: float, decay: float) -> dict[str, float]:
        return {"squared_error": loss, "decay": decay}

    def predict(self, params: Array, X: Array) -> Array:
        """Return S h_k + s of rows.

        Entries that are missing are filled, if there is a `fill`; nothing is corrupted.

        Parameters
        ----------
        params : ndarray of shape (layout.size,)
            Parameters.
        X : ndarray of shape (n_rows, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
        """
        return self._outputs(params, X)
