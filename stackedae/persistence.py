"""Models as Zarr groups of arrays and JSON: data, never code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from stackedae.costs import AutoEncoderCost
from stackedae.documents import (
    Document,
    made_of,
    read_document,
    refusing_nonsense,
    write_document,
)
from stackedae.layers import Layer
from stackedae.progress import Record
from stackedae.solvers import Status
from stackedae.stores import StoreLike

KIND = "model"

Named = dict[str, tuple[np.ndarray[Any, Any], tuple[str, ...]]]
"""Arrays and the names of their dimensions, by the path under which they are written."""


def save_model(
    store: StoreLike,
    layers: Sequence[Layer],
    history: Sequence[Record],
    document: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Write layers, their history, and a document of JSON values.

    The group has a group ``layers/0``, ``layers/1``, … for each layer, with the arrays W1, b1, W2,
    b2 and mean_activations (and fill, if entries may be missing), and an array ``history`` with a
    column for each number that a record has; the attribute ``model`` has the document, with what
    was minimised and how it ended for each layer, and the names of the columns.
    """
    values, arrays = {**document, **layers_as_values(layers)}, layers_as_arrays(layers)
    columns, arrays["history"] = history_as_array(history)
    write_document(store, KIND, {**values, **columns}, arrays, overwrite=overwrite)


def load_model(store: StoreLike) -> tuple[list[Layer], list[Record], dict[str, Any]]:
    """Read the layers, the history and the document back.

    Raises
    ------
    StoreError
        If the store is not a model that this version can read.
    """
    document = read_document(store, KIND)
    with refusing_nonsense(document.store, KIND):
        layers = take_layers(document)
        history = take_history(document, len(layers))
        document.refuse_others()
        if not layers:
            raise ValueError("it has no layers")
    return layers, history, document.values


def layers_as_values(layers: Iterable[Layer]) -> dict[str, Any]:
    """Return what JSON can say of layers."""
    each = [{"cost": cost_as_values(layer.cost), "status": layer.status.name} for layer in layers]
    return {"layers": each}


def cost_as_values(cost: AutoEncoderCost) -> dict[str, Any]:
    """Return what JSON can say of a cost: all but what stands in for missing entries."""
    return {name: value for name, value in asdict(cost).items() if name != _FILL}


def fill_as_array(cost: AutoEncoderCost, path: str) -> Named:
    """Return what stands in for missing entries, if anything does."""
    return {f"{path}/{_FILL}": (np.array(cost.fill), ("feature",))} if cost.fill else {}


def take_cost(document: Document, path: str, values: Mapping[str, Any]) -> AutoEncoderCost:
    """Return a cost of which JSON said these values."""
    fill = document.take(f"{path}/{_FILL}", (None,)) if f"{path}/{_FILL}" in document.arrays else ()
    return made_of(AutoEncoderCost, values, fill=tuple(map(float, fill)))


def layers_as_arrays(layers: Iterable[Layer]) -> Named:
    """Return the arrays of layers."""
    arrays: Named = {}
    for index, layer in enumerate(layers):
        arrays |= {f"layers/{index}/{k}": (getattr(layer, k), dims) for k, dims in _DIMS.items()}
        arrays |= fill_as_array(layer.cost, f"layers/{index}")
    return arrays


def take_layers(document: Document) -> list[Layer]:
    """Return the layers of a document."""
    every = document.values.pop("layers")
    layers = [_take_layer(document, f"layers/{i}", **each) for i, each in enumerate(every)]
    for below, above in pairwise(layers):
        if below.cost.n_hidden != above.cost.n_features:
            raise ValueError("layers do not fit on each other")
        if above.cost.fill:
            raise ValueError("features are never missing, but a layer fills them")
    return layers


def history_as_array(
    history: Sequence[Record],
) -> tuple[dict[str, Any], tuple[np.ndarray[Any, Any], tuple[str, ...]]]:
    """Return the names of the columns, and one row of numbers for each record."""
    names = list(history[0]) if history else []
    rows = [[_PHASES.index(v) if k == "phase" else v for k, v in each.items()] for each in history]
    array = np.array(rows, dtype=float).reshape(len(history), len(names))
    return {"history": names}, (array, ("iteration", "quantity"))


def take_history(document: Document, n_layers: int) -> list[Record]:
    """Return the records of a document, which must have some of each layer."""
    names: list[str] = document.values.pop("history")
    rows = document.take("history", (None, len(names)), finite=False)
    if sorted(names) != sorted(_COLUMNS) and (names or len(rows)):
        raise ValueError(f"the history has the columns {names}")
    # Row by row: all of them as lists would take more memory than the records.
    records = (zip(names, row.tolist(), strict=True) for row in rows)
    history = [{k: _of_record(k, v) for k, v in record} for record in records]
    if {record["layer"] for record in history} != set(range(n_layers)):
        raise ValueError("the history is not of these layers")
    return history


def _of_record(name: str, value: float) -> Any:
    if name == "phase":
        return dict(enumerate(_PHASES))[int(value)]
    return int(value) if name in _COUNTS else value


_PHASES = ("sample", "full")

_COUNTS = ("layer", "iteration", "n_rows", "n_evaluations", "rows_visited", "bytes_read")

_TERMS = ("reconstruction", "decay", "sparsity")

_COLUMNS = ("phase", *_COUNTS, "cost", *_TERMS, "gradient_norm", "step", "seconds")

_FILL = "fill"

_DIMS = {
    "W1": ("hidden", "feature"),
    "b1": ("hidden",),
    "W2": ("feature", "hidden"),
    "b2": ("feature",),
    "mean_activations": ("hidden",),
}


def _take_layer(document: Document, path: str, cost: Mapping[str, Any], status: str) -> Layer:
    of = take_cost(document, path, cost)
    segments = {
        name: document.take(f"{path}/{name}", shape, dtype=None) for name, shape in of.layout.shapes
    }
    dtype = segments["W1"].dtype
    if any(segment.dtype != dtype for segment in segments.values()):
        raise ValueError(f"{path} is of several precisions")
    return Layer(
        cost=of,
        params=of.layout.pack(segments).astype(dtype),
        mean_activations=document.take(f"{path}/mean_activations", (of.n_hidden,)),
        status=Status[status],
    )
