"""How the cost went down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from stackedae.errors import ArgumentError
from stackedae.layout import Array
from stackedae.plotting.axes import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    axes_or_new,
    counted,
    divided,
    legend_above,
    name_above,
)
from stackedae.progress import Record, part_of
from stackedae.samples import FittedStack

_STYLES: dict[str, dict[str, Any]] = {
    "cost": {"color": BLACK, "linewidth": 2.0},
    "validation": {"color": ORANGE, "linestyle": (0, (3, 1)), "linewidth": 2.0},
    "reconstruction": {"color": BLUE, "linestyle": (0, (5, 1.5))},
    "cross_entropy": {"color": SKY},
    "squared_error": {"color": SKY},
    "decay": {"color": VERMILION, "linestyle": (0, (1, 1))},
    "sparsity": {"color": GREEN, "linestyle": (0, (5, 1.5, 1, 1.5))},
}
_ABOVE = ("cost", "validation")
_LABELS = {"iteration": "iteration", "rows": "rows visited", "seconds": "seconds"}
_CHARACTER = 0.021
"""What a letter takes of the width of a figure, more or less."""

_LOGARITHMIC_FROM = 5
_DECADES = 4
"""Terms further below the largest value are not worth a longer axis."""


class HistoryDisplay:
    """The cost and its terms in the course of training.

    The cost is above, and with it what samples that were held out cost (but for decay); the terms
    of the cost are below. Layers follow one another, with a line between them and a break in the
    curves: each has a cost of its own. So have a head, and all layers together, which follow if
    they were trained. Where the cost is over a growing sample, and not over all samples, the
    background is grey. Axes are logarithmic where values spread over more than a factor of 5.

    Parameters
    ----------
    history : sequence of dict
        Records of all iterations, as in `StackedAutoEncoder.history_`.
    x : {"iteration", "rows", "seconds"}
        What the horizontal axis counts, from the start of the first layer: iterations, rows that
        passed through the evaluations, or time.
    n_layers : int or None
        How many layers there are: what follows is called "head" and "all layers". If None, what was
        trained is called by its number alone.

    Attributes
    ----------
    axes_ : list of matplotlib.axes.Axes
        Axes of the cost, and of its terms.
    figure_ : matplotlib.figure.Figure
        Figure that contains them.
    lines_ : dict of str to list of matplotlib.lines.Line2D
        For each term, one line per layer that has it, and per head or all layers together.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import HistoryDisplay, StackedAutoEncoder
    >>> X = np.random.default_rng(0).random((100, 8, 8))
    >>> sae = StackedAutoEncoder(9, max_iter=3, tol=0, random_state=0).fit(X)
    >>> display = HistoryDisplay.from_estimator(sae)
    >>> display.values["cost"].shape
    (3,)
    >>> print(display.description)  # doctest: +ELLIPSIS
    Layer 0: the cost falls from ... to ... over 3 iterations.
    """

    axes_: list[Any]
    figure_: Any
    lines_: dict[str, list[Any]]

    def __init__(
        self,
        history: Sequence[Record],
        *,
        x: Literal["iteration", "rows", "seconds"] = "iteration",
        n_layers: int | None = None,
    ) -> None:
        if x not in _LABELS:
            raise ArgumentError("x", x, "is unknown", f"choose from {', '.join(_LABELS)}")
        if not history:
            raise ArgumentError("history", history, "has no iterations", "pass history_")
        self.history, self.x, self.n_layers = history, x, n_layers

    @classmethod
    def from_estimator(
        cls,
        estimator: FittedStack,
        *,
        x: Literal["iteration", "rows", "seconds"] = "iteration",
        ax: Any = None,
    ) -> Self:
        """Show the history of a fitted estimator.

        Parameters
        ----------
        estimator : StackedAutoEncoder
            Fitted.
        x : {"iteration", "rows", "seconds"}
            What the horizontal axis counts.
        ax : matplotlib.axes.Axes or None
            What to divide among cost and terms; a new figure if None.

        Returns
        -------
        HistoryDisplay
        """
        return cls.computed(estimator, x=x).plot(ax=ax)

    @classmethod
    def computed(
        cls, estimator: FittedStack, *, x: Literal["iteration", "rows", "seconds"] = "iteration"
    ) -> Self:
        """Return what `from_estimator` would draw, without drawing it.

        Parameters
        ----------
        estimator, x
            As for `from_estimator`.

        Returns
        -------
        HistoryDisplay
        """
        check_is_fitted(estimator)
        return cls(estimator.history_, x=x, n_layers=len(estimator.layers_))

    @property
    def position(self) -> NDArray[Any]:
        """Where each iteration lies on the horizontal axis, (n_iterations,)."""
        if self.x == "iteration":
            return np.arange(1, len(self.history) + 1)
        key = {"rows": "rows_visited", "seconds": "seconds"}[self.x]
        return np.cumsum([record[key] for record in self.history])

    @property
    def values(self) -> dict[str, Array]:
        """Cost and terms after each iteration; without terms that are zero throughout.

        Where there was no such term, it is NaN.
        """
        columns = {
            name: np.array([each.get(name, np.nan) for each in self.history]) for name in _STYLES
        }
        return {
            name: column
            for name, column in columns.items()
            if np.nan_to_num(column).any() or name == "cost"
        }

    @property
    def description(self) -> str:
        """The picture in words."""
        return " ".join(map(self._of_layer, self._stretches("layer")))

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None
            What to divide among cost and terms; a new figure if None.

        Returns
        -------
        HistoryDisplay
            Itself.
        """
        ax = axes_or_new(ax, (6, 4.5))
        from matplotlib.ticker import EngFormatter

        self.axes_ = divided(ax, 2, height_ratios=(3, 2))
        upper, lower = self.axes_
        values = self.values
        self.lines_ = {
            name: self._draw(upper if name in _ABOVE else lower, name, column)
            for name, column in values.items()
        }
        _scale(upper, [column for name, column in values.items() if name in _ABOVE])
        _scale(lower, [column for name, column in values.items() if name not in _ABOVE])
        for axes in self.axes_:
            self._shade_samples(axes)
            axes.set_xlim(0, max(self.position[-1], 1e-9))
            axes.xaxis.set_major_formatter(EngFormatter())
        self._mark_layers()
        upper.tick_params(labelbottom=False)
        upper.set_ylabel("cost")
        lower.set(xlabel=_LABELS[self.x], ylabel="its terms")
        handles = [lines[0] for lines in self.lines_.values() if lines]
        legend_above(upper, 3, handles=handles + upper.patches[:1])
        self.figure_ = ax.figure
        return self

    def _draw(self, ax: Any, name: str, column: Array) -> list[Any]:
        """Draw a line for each layer that has this term; a point, if in a single iteration."""
        lines = []
        for part in self._stretches("layer"):
            x, y = self.position[part], column[part]
            n_known = np.count_nonzero(~np.isnan(y))
            if n_known:
                marker, label = "o" if n_known == 1 else "", name.replace("_", " ")
                lines += ax.plot(x, y, label=label, marker=marker, **_STYLES[name])
        return lines

    def _stretches(self, key: str) -> Iterator[slice]:
        """Yield stretches of iterations of one layer, or of one phase of one layer."""
        keys = ("layer",) if key == "layer" else ("layer", "phase")
        start = 0
        for _, group in groupby(self.history, lambda record: [record[each] for each in keys]):
            stop = start + sum(1 for _ in group)
            yield slice(start, stop)
            start = stop

    def _of_layer(self, part: slice) -> str:
        records = self.history[part]
        first, last = records[0]["cost"], records[-1]["cost"]
        way = "falls" if last < first else "goes"
        held_out = records[-1].get("validation")
        return (
            f"{self._name_of(part).capitalize()}: the cost {way} from {first:.4g} to {last:.4g} "
            f"over {counted(len(records), 'iteration')}"
            + (f"; samples held out cost {held_out:.4g}." if held_out is not None else ".")
        )

    def _name_of(self, part: slice) -> str:
        """Return what was trained in a stretch of iterations."""
        record = self.history[part.start]
        if self.n_layers is None:
            return f"layer {record['layer']}"
        return part_of(record, self.n_layers)

    def _borders(self, part: slice) -> tuple[float, float]:
        ends = (0, *self.position)
        return float(ends[part.start]), float(ends[part.stop])

    def _mark_layers(self) -> None:
        layers = list(self._stretches("layer"))
        whole = self._borders(slice(0, len(self.history)))[1] or 1.0
        for part in layers if len(layers) > 1 else ():
            start, stop = self._borders(part)
            for axes in self.axes_ if part.start else ():
                axes.axvline(start, color=GREY, linewidth=1)
            name, room = self._name_of(part), (stop - start) / whole
            for text in (name, name.removeprefix("layer ").removesuffix(" layers")):
                if _CHARACTER * len(text) < room:
                    name_above(self.axes_[0], (start + stop) / 2, text)
                    break

    def _shade_samples(self, ax: Any) -> None:
        sampled = [
            part
            for part in self._stretches("phase")
            if self.history[part.start]["phase"] == "sample"
        ]
        for part in sampled:
            style = {"color": "#e6e6e6", "linewidth": 0, "zorder": 0, "label": "on a sample"}
            ax.axvspan(*self._borders(part), **style)


def _scale(ax: Any, columns: Sequence[Array]) -> None:
    every = np.concatenate([np.zeros(0), *columns])
    positive = every[np.isfinite(every) & (every > 0)]
    if not positive.size:
        return
    top, bottom = positive.max(), positive.min()
    if top > _LOGARITHMIC_FROM * bottom:
        ax.set_yscale("log")
        ax.set_ylim(max(bottom / 1.3, top / 10**_DECADES), top * 1.3)
