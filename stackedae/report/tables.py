"""What a report says in words and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any, Protocol

import xarray as xr
from dask.utils import format_bytes

from stackedae.containers import Container, as_array
from stackedae.layers import Head, Layer
from stackedae.plotting.activations import UnitActivity
from stackedae.plotting.axes import counted
from stackedae.plotting.fitted import Part, head_of, parts_of
from stackedae.progress import TERMS, Record, part_of
from stackedae.samples import FittedStack
from stackedae.solvers import Status

_LONGEST_TEXT = 300
_MOST_ROWS = 200
_DEEPEST = 6
"""A model may come from anybody, and say as much as it likes."""

_COLUMNS = ("cost", *TERMS, "validation")
_SUBJECTS = {"head": "the head", "all layers": "all layers together"}
_TOTALS = ("n_evaluations", "rows_visited", "bytes_read", "seconds")
_PHASES = {"sample": "growing samples", "full": "all samples", "batches": "mini-batches"}


class Reportable(FittedStack, Protocol):
    """What a report asks of an estimator."""

    @property
    def info(self) -> dict[str, Any]:
        """Where the model comes from."""

    def get_params(self) -> dict[str, Any]:
        """Return the parameters by name."""


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first cell of a row is what it is about.

    Parameters
    ----------
    caption : str
        What it tells.
    header : sequence of str
        Names of the columns.
    rows : sequence of sequence of str
        Cells.
    numeric : bool
        Whether cells are numbers, but for the first of a row.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: bool = False


def architecture(estimator: Reportable) -> str:
    """Return the sizes of the layers, from the data up, and of a head: "784-196-10"."""
    sizes = [estimator.n_features_in_, *(layer.cost.n_hidden for layer in estimator.layers_)]
    head = head_of(estimator)
    return "-".join(map(str, sizes if head is None else [*sizes, len(head.s)]))


def lead(estimator: Reportable) -> str:
    """Return what a reader should know first."""
    history, parts, head = estimator.history_, parts_of(estimator), head_of(estimator)
    seconds = sum(record["seconds"] for record in history)
    shape = " × ".join(map(str, estimator.sample_shape_))
    outputs = "" if head is None else f" and a head of {counted(len(head.s), 'output')}"
    last = _SUBJECTS.get(parts[-1].name, "the last layer")
    of_what = f" of {last}" if len(parts) > 1 else ""
    offset = getattr(estimator, "offset_", None)
    outliers = "" if offset is None else f" Outliers have an error above {-offset:.4g}."
    return (
        f"{counted(len(estimator.layers_), 'layer')}{outputs} on samples of {shape}. Training took "
        f"{counted(len(history), 'iteration')} and {_duration(seconds)}; the cost{of_what} is "
        f"{history[-1]['cost']:.4g}.{outliers}"
    )


@dataclass(frozen=True)
class Outcome:
    """How a layer, a head, or all layers together ended.

    Parameters
    ----------
    good : bool
        Whether as it should.
    word : str
        In a word.
    text : str
        With what to do about it.
    """

    good: bool
    word: str
    text: str


def outcomes(estimator: Reportable) -> list[Outcome]:
    """Return how all that was trained ended."""
    all_iterations = estimator.get_params().get("tol") == 0
    return [_outcome(part, all_iterations) for part in parts_of(estimator)]


def _outcome(part: Part, all_iterations: bool) -> Outcome:
    what, status = _SUBJECTS.get(part.name, part.name).capitalize(), part.status
    if status is Status.MAX_ITER and all_iterations:
        return Outcome(True, "As asked.", f"{what} took all iterations, as tol=0 has it.")
    word = {Status.CONVERGED: "Converged.", Status.STOPPED_EARLY: "Stopped early."}
    text = f"{what} ended as {status.name}: {status.advice}."
    return Outcome(status.is_good, word.get(status, "Not converged."), text)


def of_layers(estimator: Reportable) -> Table:
    """Return a row for each layer, and for a head and all layers together."""
    parts = parts_of(estimator)
    terms = [name for name in _COLUMNS if any(name in part.last for part in parts)]
    rows = []
    for part, layer in zip_longest(parts, estimator.layers_):
        name, activations, dead, saturated = _around_terms(part, layer, head_of(estimator))
        rows.append((name, activations, *_cells(part.last, terms), dead, saturated))
    names = [name.replace("_", " ").capitalize() for name in terms]
    header = ("Layer", "Activations", *names, "Dead", "Saturated")
    return Table("Layers, from the data up", header, rows, numeric=True)


def _around_terms(part: Part, layer: Layer | None, head: Head | None) -> tuple[str, ...]:
    """Return the cells of a row that are not of terms."""
    if layer is not None:
        cost, activity = layer.cost, UnitActivity.of(layer)
        name = f"{part.last['layer']}: {cost.n_features} → {cost.n_hidden}"
        activations = f"{cost.activation}, {cost.output_activation}"
        return name, activations, f"{activity.dead.sum():,}", f"{activity.saturated.sum():,}"
    if head is not None and part.name == "head":
        n_outputs, n_inputs = head.S.shape
        return f"Head: {n_inputs} → {n_outputs}", head.activation, "", ""
    return part.name.capitalize(), "", "", ""


def _cells(record: Record, terms: Sequence[str]) -> list[str]:
    return [f"{record[name]:.4g}" if name in record else "" for name in terms]


def of_timing(estimator: Reportable) -> Table:
    """Return what each phase of each layer, of a head, and of all layers together took."""
    n_layers, history = len(estimator.layers_), estimator.history_
    stretches = groupby(history, lambda each: (part_of(each, n_layers), each["phase"]))
    rows = [
        _totals(f"{part.capitalize()}, {_PHASES.get(phase, phase)}", list(group))
        for (part, phase), group in stretches
    ]
    rows.append(_totals("All", history))
    header = ("Stretch", "Iterations", "Evaluations", "Rows visited", "Read", "Seconds")
    return Table("What training took", header, rows, numeric=True)


def _totals(name: str, records: Sequence[Record]) -> tuple[str, ...]:
    totals = (sum(record[each] for record in records) for each in _TOTALS)
    evaluations, visited, n_bytes, seconds = totals
    counts = f"{len(records):,}", f"{evaluations:,}", f"{visited:,}"
    return name, *counts, format_bytes(int(n_bytes)), f"{seconds:,.2f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} seconds" if seconds < 120 else f"{seconds / 60:,.3g} minutes"


def of_data(estimator: Reportable, X: Container | None) -> list[Table]:
    """Return what is known of the samples of `fit`, and of those that were passed now."""
    found = [pairs("Samples that the model was fitted on", estimator.info.get("data"), "property")]
    if X is not None:
        found.append(pairs("Samples that this page was made with", _described(X), "property"))
    if isinstance(X, xr.DataArray):
        found.append(pairs("Attributes of these", X.attrs, "attribute"))
    return [table for table in found if table.rows]


def _described(X: Container) -> dict[str, Any]:
    array = as_array(X)
    sizes = zip(getattr(X, "dims", ("",) * array.ndim), array.shape, strict=True)
    described = {
        "shape": ", ".join(f"{dim} {size:,}".strip() for dim, size in sizes),
        "dtype": str(array.dtype),
        "size": format_bytes(int(array.nbytes)),
    }
    chunks = getattr(array, "chunks", None)
    if chunks is not None:
        described["chunks"] = f"{len(chunks[0]):,}, of up to {max(chunks[0]):,} samples"
    return described


def of_parameters(estimator: Reportable) -> Table:
    """Return what the estimator was made with."""
    caption = f"As the {type(estimator).__name__} was made"
    return pairs(caption, estimator.get_params(), "parameter")


def of_origin(info: Mapping[str, Any]) -> list[Table]:
    """Return versions, and how the model came about."""
    rest = {name: value for name, value in info.items() if name not in ("versions", "data")}
    found = pairs("Versions", info.get("versions"), "package"), pairs("Run", rest, "property")
    return [table for table in found if table.rows]


def pairs(caption: str, values: Any, noun: str) -> Table:
    """Return names and values, those of nested mappings by dotted names."""
    rows = [(_shortened(name), _words(value)) for name, value in _flat(values)]
    if len(rows) > _MOST_ROWS:
        rows[_MOST_ROWS:] = [("…", f"{counted(len(rows) - _MOST_ROWS, 'more row')}")]
    return Table(caption, (noun.capitalize(), "Value"), rows)


def _flat(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    items: Any = None
    if len(path) < _DEEPEST:
        items = _items(values)
    if items is not None:
        for key, value in items:
            yield from _flat(value, (*path, str(key)))
    elif path and values is not None:
        yield ".".join(path), values


def _items(values: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return what is within a mapping, or a sequence of mappings; None of anything else."""
    if isinstance(values, Mapping):
        return values.items()
    if isinstance(values, (list, tuple)) and all(isinstance(each, Mapping) for each in values):
        return enumerate(values)
    return None


def _words(value: Any, depth: int = 0) -> str:
    if isinstance(value, Mapping) or depth > _DEEPEST:
        return "…"
    if isinstance(value, (list, tuple)):
        return _shortened(", ".join(_words(each, depth + 1) for each in value[:_MOST_ROWS]))
    return f"{value:.6g}" if isinstance(value, float) else _shortened(str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"
