"""What a report shows: displays, as pictures that lie within the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from stackedae.errors import ArgumentError
from stackedae.layout import Array
from stackedae.plotting import (
    ActivationDisplay,
    ErrorDisplay,
    FilterDisplay,
    HistoryDisplay,
    ReconstructionDisplay,
)
from stackedae.plotting.activations import UnitActivity
from stackedae.plotting.axes import counted
from stackedae.samples import FittedStack, Reconstructing

_MOST_UNITS = 400
_N_PAIRS = 6

_WIDTH = 4.4
"""Inches: what a narrow screen shows without making letters smaller."""

_STYLE = {"font.size": 9.0, "svg.fonttype": "path", "svg.hashsalt": "stackedae"}

_HISTORIES: tuple[tuple[Literal["iteration", "rows"], str], ...] = (
    ("iteration", "Cost and its terms after each iteration."),
    ("rows", "The same, against how many rows (samples) evaluations had visited."),
)


@dataclass(frozen=True)
class Figure:
    """A picture, and what it shows.

    Parameters
    ----------
    source : str
        Data URI.
    alt : str
        The picture in words.
    caption : str
        What it is.
    width, height : int
        Pixels of CSS.
    """

    source: str
    alt: str
    caption: str
    width: int
    height: int


def of_filters(estimator: FittedStack) -> list[Figure]:
    """Return the filters of every layer; none if samples are no pictures."""
    try:
        return [_of_layer(estimator, number) for number in range(len(estimator.layers_))]
    except ArgumentError:
        return []


def _of_layer(estimator: FittedStack, number: int) -> Figure:
    n_units = estimator.layers_[number].cost.n_hidden
    units = range(min(n_units, _MOST_UNITS))
    display = FilterDisplay.computed(estimator, layer=number, units=units)
    shown = "" if len(units) == n_units else f"the first {len(units)} of "
    kind = "weights" if number == 0 else "sums of the filters below, weighted by its own"
    caption = f"Layer {number}: {kind}; {shown}{counted(n_units, 'unit')}, row by row."
    height, width = display.montage().shape[:2]
    return _figure(display, caption, _WIDTH * height / width, "png")


def of_convergence(estimator: FittedStack) -> list[Figure]:
    """Return the history by iterations, and by samples visited."""
    return [
        _figure(HistoryDisplay.computed(estimator, x=x), caption, 3.8, "svg")
        for x, caption in _HISTORIES
    ]


def of_activations(estimator: FittedStack) -> list[Figure]:
    """Return the mean activations."""
    display = ActivationDisplay(list(map(UnitActivity.of, estimator.layers_)))
    caption = "Mean activation of every unit over the samples of the fit."
    return [_figure(display, caption, 3.4, "svg")]


def of_samples(estimator: Reconstructing, samples: Array) -> list[Figure]:
    """Return some reconstructions, if samples are pictures, and how errors are distributed."""
    errors = ErrorDisplay(np.asarray(estimator.reconstruction_error(samples)))
    caption = f"Errors of {counted(len(samples), 'sample')} drawn at random."
    distribution = _figure(errors, caption, 3.0, "svg")
    try:
        pairs = ReconstructionDisplay.computed(estimator, samples, n_samples=_N_PAIRS)
    except ArgumentError:
        return [distribution]
    caption = "Some of them, and what comes back; each pair has a scale of its own."
    height, width = pairs.montage().shape[:2]
    return [distribution, _figure(pairs, caption, 0.8 + 0.8 * _WIDTH * height / width, "png")]


class _Display(Protocol):
    @property
    def description(self) -> str: ...

    @property
    def plot(self) -> Callable[..., Any]: ...


def _figure(display: _Display, caption: str, height: float, kind: Literal["png", "svg"]) -> Figure:
    # A figure of our own, not one of pyplot's: there is no window, and it goes when it is done.
    import matplotlib.style
    from matplotlib.figure import Figure as Canvas

    written = io.BytesIO()
    with matplotlib.style.context(["default", _STYLE]):
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        display.plot(ax=canvas.subplots())
        metadata = {"Date": None} if kind == "svg" else None
        canvas.savefig(written, format=kind, dpi=200, metadata=metadata)
    mime = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    return Figure(
        source=f"data:{mime};base64,{base64.b64encode(written.getvalue()).decode()}",
        alt=display.description,
        caption=caption,
        width=math.ceil(96 * _WIDTH),
        height=math.ceil(96 * height),
    )
