"""What costs with targets have in common: an encoder with a linear head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property

from stackedae.arrays import AnyArray, filled
from stackedae.costs.activations import ACTIVATIONS
from stackedae.costs.network import Affine, Known
from stackedae.costs.network_cost import NetworkCost, encoder_of
from stackedae.layout import Array, Vector


class SupervisedCost(NetworkCost):
    """Cost and gradient of an encoder whose features go through one more affine layer, S and s.

    Subclasses say how many outputs there are, and how they are compared with targets.
    """

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """Outputs of the head."""

    @property
    @abstractmethod
    def _targets(self) -> Callable[[Known], Known]:
        """What turns targets into what the output should be."""

    @cached_property
    def chain(self) -> tuple[Affine, ...]:
        """Layers in the order in which they are applied."""
        return (*encoder_of(self), Affine("S", "s", ACTIVATIONS["identity"]))

    @property
    def _widths(self) -> tuple[int, ...]:
        return (*self.layer_sizes, self._n_outputs)

    @property
    def aside(self) -> tuple[str, ...]:
        """What has to be known of every row beside its entries, as `chunk_sums` calls it."""
        return ("y", *super().aside)

    def _outputs(self, params: Array, X: Array) -> Array:
        """Return the outputs of the head for rows X."""
        return self._through(params, filled(X, self.fill), slice(None))

    def chunk_sums(
        self,
        params: Vector,
        X: AnyArray,
        y: Known,
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
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Targets, in NumPy, of any real dtype: they are cast to the precision of the arithmetic.
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
            missing or of another shape.
        """
        return self.kernel(params, X).chunk_sums(X, out, y=y, weight=weight, row=row)
