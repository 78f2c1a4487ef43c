"""How active the units are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from stackedae.costs.activations import ACTIVATIONS
from stackedae.errors import ArgumentError
from stackedae.layers import Layer
from stackedae.layout import Array
from stackedae.plotting.axes import (
    BLACK,
    BLUE,
    GREY,
    VERMILION,
    axes_or_new,
    counted,
    legend_above,
    name_above,
)
from stackedae.samples import FittedStack

_DEAD_SHARE_OF_TARGET = 0.1
_DEAD = 1e-3
_SATURATED = 0.9
_LOGARITHMIC_TO = 1e-5
"""Lower end of a logarithmic axis; what lies below is drawn there."""

_KINDS: dict[str, dict[str, Any]] = {
    "dead": {"color": VERMILION, "marker": "X", "s": 45},
    "saturated": {"color": BLUE, "marker": "^", "s": 45},
    "in between": {"color": BLACK, "marker": "o", "s": 12},
}


@dataclass(frozen=True)
class UnitActivity:
    """Mean activations of the units of a layer, and which of them do not work.

    Parameters
    ----------
    share : ndarray of shape (n_units,)
        Mean activations: as shares of their range if the activation is bounded (of "logistic" the
        mean itself, of "tanh" (1 + a)/2), else as they are.
    target : float or None
        ρ; None if there is no sparsity term.
    dead_below, saturated_above : float
        Shares up to which a unit is dead, and above which it is saturated; −∞ and ∞ if no unit can
        be called that.
    """

    share: Array
    target: float | None
    dead_below: float
    saturated_above: float

    @classmethod
    def of(cls, layer: Layer) -> UnitActivity:
        """Return what a layer says of its units.

        Parameters
        ----------
        layer : Layer
            Trained.

        Returns
        -------
        UnitActivity
        """
        f, cost = ACTIVATIONS[layer.cost.activation], layer.cost
        means = np.asarray(layer.mean_activations, dtype=float)
        if not f.bounded:
            # The mean of an unbounded activation is 0 for all samples at once only where it is
            # bounded below, and then the unit never was active.
            silent = _DEAD * float(np.median(means)) if np.isfinite(f.low) else -np.inf
            return cls(means, None, silent, np.inf)
        target = cost.sparsity_target if cost.sparsity_weight > 0 else None
        dead = _DEAD if target is None else _DEAD_SHARE_OF_TARGET * target
        return cls((means - f.low) / (f.high - f.low), target, dead, _SATURATED)

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Whether each unit is dead, (n_units,)."""
        return np.asarray(self.share <= self.dead_below)

    @property
    def saturated(self) -> NDArray[np.bool_]:
        """Whether each unit is saturated, (n_units,)."""
        return np.asarray(self.share > self.saturated_above)


class ActivationDisplay:
    """Mean activation of every unit, layer by layer, against the target ρ.

    Units of a layer are sorted by their mean activation. A unit is *dead* if its mean is below a
    tenth of ρ (below 0.001 of its range, if there is no sparsity term): hardly any sample activates
    it. It is *saturated* above 0.9: hardly any sample does not. Of the unbounded activations, a
    unit of "relu" is dead if its mean is below a thousandth of the layer's median.

    Parameters
    ----------
    activities : sequence of UnitActivity
        Of each layer.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes that were drawn on.
    figure_ : matplotlib.figure.Figure
        Figure that contains them.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import ActivationDisplay, StackedAutoEncoder
    >>> X = np.random.default_rng(0).random((100, 8, 8))
    >>> sae = StackedAutoEncoder((9, 4), max_iter=30, tol=0, random_state=0).fit(X)
    >>> display = ActivationDisplay.from_estimator(sae)
    >>> display.n_dead, display.n_saturated
    ([0, 0], [0, 0])
    """

    ax_: Any
    figure_: Any

    def __init__(self, activities: Sequence[UnitActivity]) -> None:
        if not activities:
            raise ArgumentError("activities", activities, "has no layer", "pass one or more")
        self.activities = activities

    @classmethod
    def from_estimator(cls, estimator: FittedStack, *, ax: Any = None) -> Self:
        """Show the mean activations over the samples of `fit`.

        Parameters
        ----------
        estimator : StackedAutoEncoder
            Fitted.
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        ActivationDisplay
        """
        check_is_fitted(estimator)
        return cls(list(map(UnitActivity.of, estimator.layers_))).plot(ax=ax)

    @property
    def n_dead(self) -> list[int]:
        """Dead units of each layer."""
        return [int(each.dead.sum()) for each in self.activities]

    @property
    def n_saturated(self) -> list[int]:
        """Saturated units of each layer."""
        return [int(each.saturated.sum()) for each in self.activities]

    @property
    def description(self) -> str:
        """The picture in words."""
        return " ".join(map(self._of_layer, range(len(self.activities))))

    def plot(self, *, ax: Any = None) -> Self:
        """Draw a point for every unit.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        ActivationDisplay
            Itself.
        """
        ax = axes_or_new(ax, (6, 4))
        shares = all(np.isfinite(each.saturated_above) for each in self.activities)
        if shares:
            ax.set(yscale="log", ylim=(self._lowest / 1.6, 1.5))
        start = 0
        for number, each in enumerate(self.activities):
            self._draw_layer(ax, number, each, start)
            start += len(each.share)
        ax.set(
            xlabel="unit, sorted by its mean activation",
            ylabel="mean activation" + (" (share of its range)" if shares else ""),
            xlim=(-0.02 * start - 0.5, 1.02 * start - 0.5),
        )
        self._draw_legend(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _of_layer(self, number: int) -> str:
        each = self.activities[number]
        share, target = each.share, each.target
        wanted = "" if target is None else f", the target is {target:g}"
        dead, saturated = self.n_dead[number], self.n_saturated[number]
        return (
            f"Layer {number}: mean activations of {counted(len(share), 'unit')} lie between "
            f"{share.min():.3g} and {share.max():.3g}{wanted}; {counted(dead, 'unit')} "
            f"{'is' if dead == 1 else 'are'} dead, {saturated} saturated."
        )

    @property
    def _lowest(self) -> float:
        every = [min(each.share.min(), each.dead_below) for each in self.activities]
        return max(_LOGARITHMIC_TO, float(min(every)))

    def _draw_layer(self, ax: Any, number: int, each: UnitActivity, start: int) -> None:
        n_units, bounded = len(each.share), np.isfinite(each.saturated_above)
        order = np.argsort(-each.share, kind="stable")
        x = start + np.argsort(order)
        y = np.maximum(each.share, self._lowest) if bounded else each.share
        groups = (each.dead, each.saturated, ~(each.dead | each.saturated))
        for style, members in zip(_KINDS.values(), groups, strict=True):
            ax.scatter(x[members], y[members], **style, linewidths=0, zorder=3)
        ends = (start - 0.5, start + n_units - 0.5)
        if each.target is not None:
            ax.plot(ends, [each.target] * 2, color=GREY, linestyle="--", linewidth=1.2)
        if number:
            ax.axvline(start - 0.5, color=GREY, linewidth=1)
        if len(self.activities) > 1:
            name = f"layer {number}" if n_units > 0.15 * self._n_units else str(number)
            name_above(ax, sum(ends) / 2, name)

    @property
    def _n_units(self) -> int:
        return sum(len(each.share) for each in self.activities)

    def _draw_legend(self, ax: Any) -> None:
        broken = {"dead": sum(self.n_dead), "saturated": sum(self.n_saturated)}
        counts = {**broken, "in between": self._n_units - sum(broken.values())}
        for kind, style in _KINDS.items():
            ax.scatter([], [], **style, linewidths=0, label=f"{counts[kind]} {kind}")
        targets = sorted({each.target for each in self.activities if each.target is not None})
        if targets:
            values = ", ".join(f"{target:g}" for target in targets)
            ax.plot([], [], color=GREY, linestyle="--", linewidth=1.2, label=f"ρ = {values}")
        legend_above(ax, 2)
