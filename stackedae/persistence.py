"""Models as Zarr groups of arrays and JSON: data, never code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from stackedae.costs import AutoEncoderCost, ClassifierCost, DeepCost, RegressorCost
from stackedae.documents import (
    Document,
    made_of,
    read_document,
    refusing_nonsense,
    write_document,
)
from stackedae.evaluation import Cost
from stackedae.layers import Head, Layer
from stackedae.progress import SECONDS, Record
from stackedae.solvers import Status
from stackedae.stores import StoreLike

KIND = "model"

Named = dict[str, tuple[np.ndarray[Any, Any], tuple[str, ...]]]
"""Arrays and the names of their dimensions, by the path under which they are written."""


@dataclass(frozen=True)
class Learned:
    """What a model consists of.

    Parameters
    ----------
    layers : sequence of Layer
        From the data up.
    head : Head or None
        What predicts from the features of the last.
    tuned : Status or None
        How the training of all together ended, if there was one.
    history : sequence of dict
        Records of all iterations.
    """

    layers: Sequence[Layer]
    head: Head | None
    tuned: Status | None
    history: list[Record]

    @property
    def n_trained(self) -> int:
        """Layers, head, and all together: what the history has records of."""
        return len(self.layers) + (self.head is not None) + (self.tuned is not None)


def save_model(
    store: StoreLike, learned: Learned, document: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Write what was learned, and a document of JSON values.

    The group has a group ``layers/0``, ``layers/1``, … for each layer, with the arrays W1, b1, W2
    (unless tied), b2 and mean_activations (and fill, if entries may be missing), a group ``head``
    with S and s if there is one, and an array ``history`` with a column for each number that a
    record has; the attribute ``model`` has the document, with what was minimised and how it ended
    for each layer, and the names of the columns.
    """
    values, arrays = learned_as_document(learned)
    write_document(store, KIND, {**document, **values}, arrays, overwrite=overwrite)


def load_model(store: StoreLike) -> tuple[Learned, dict[str, Any]]:
    """Read what was learned, and the document, back.

    Raises
    ------
    StoreError
        If the store is not a model that this version can read.
    """
    document = read_document(store, KIND)
    with refusing_nonsense(document.store, KIND):
        learned = take_learned(document)
        document.refuse_others()
        if not learned.layers:
            raise ValueError("it has no layers")
    return learned, document.values


def learned_as_document(learned: Learned) -> tuple[dict[str, Any], Named]:
    """Return what JSON can say of what was learned, and the arrays."""
    columns, history = history_as_array(learned.history)
    arrays: Named = {"history": history}
    layers = []
    for index, layer in enumerate(learned.layers):
        layers.append({"cost": cost_as_values(layer.cost), "status": layer.status.name})
        names = (*(name for name, _ in layer.cost.layout.shapes), "mean_activations")
        arrays |= {f"layers/{index}/{k}": (getattr(layer, k), _DIMS[k]) for k in names}
        arrays |= fill_as_array(layer.cost, f"layers/{index}")
    values: dict[str, Any] = {"layers": layers, **columns}
    if learned.head is not None:
        head = learned.head
        values["head"] = {"cost": cost_as_values(head.cost), "status": head.status.name}
        arrays |= {"head/S": (head.S, ("output", "hidden")), "head/s": (head.s, ("output",))}
    if learned.tuned is not None:
        values["tuned"] = learned.tuned.name
    return values, arrays


def take_learned(document: Document, *, n_begun: int = 0) -> Learned:
    """Return what was learned from a document.

    Parameters
    ----------
    document : Document
        Where it is.
    n_begun : int
        Minimisations of which there are records, but no results yet.
    """
    every, head = document.values.pop("layers"), document.values.pop("head", None)
    tuned = document.values.pop("tuned", None)
    layers = [_take_layer(document, f"layers/{i}", **each) for i, each in enumerate(every)]
    for below, above in pairwise(layers):
        if below.cost.n_hidden != above.cost.n_features:
            raise ValueError("layers do not fit on each other")
        if above.cost.fill:
            raise ValueError("features are never missing, but a layer fills them")
    learned = Learned(
        layers,
        None if head is None else _take_head(document, layers, **head),
        None if tuned is None else Status[tuned],
        [],
    )
    return replace(learned, history=take_history(document, learned.n_trained + n_begun))


def cost_as_values(cost: Cost) -> dict[str, Any]:
    """Return what JSON can say of a cost: all but what stands in for missing entries."""
    assert isinstance(cost, AutoEncoderCost | DeepCost | ClassifierCost | RegressorCost)
    values = {name: value for name, value in asdict(cost).items() if name != _FILL}
    return {"class": type(cost).__name__, **values}


def fill_as_array(cost: Cost, path: str) -> Named:
    """Return what stands in for missing entries, if anything does."""
    fill = getattr(cost, _FILL, ())
    return {f"{path}/{_FILL}": (np.array(fill), ("feature",))} if fill else {}


def take_cost(document: Document, path: str, values: Mapping[str, Any]) -> AnyCost:
    """Return a cost of which JSON said these values."""
    fill = document.take(f"{path}/{_FILL}", (None,)) if f"{path}/{_FILL}" in document.arrays else ()
    named = dict(values)
    of_class = _COSTS[named.pop("class", AutoEncoderCost.__name__)]  # older models had one class
    cost: AnyCost = made_of(of_class, named, fill=tuple(map(float, fill)))
    return cost


AnyCost = AutoEncoderCost | DeepCost | ClassifierCost | RegressorCost

_COSTS: dict[str, Any] = {
    each.__name__: each for each in (AutoEncoderCost, DeepCost, ClassifierCost, RegressorCost)
}


def history_as_array(
    history: Sequence[Record],
) -> tuple[dict[str, Any], tuple[np.ndarray[Any, Any], tuple[str, ...]]]:
    """Return the names of the columns, and one row of numbers for each record."""
    # Not all that was minimised has the same terms: those of others are NaN.
    names = list(dict.fromkeys(name for record in history for name in record))
    rows = [[_as_number(name, record.get(name, np.nan)) for name in names] for record in history]
    array = np.array(rows, dtype=float).reshape(len(history), len(names))
    return {"history": names}, (array, ("iteration", "quantity"))


def take_history(document: Document, n_trained: int) -> list[Record]:
    """Return the records of a document, which must have some of each minimisation."""
    names: list[str] = document.values.pop("history")
    rows = document.take("history", (None, len(names)), finite=False)
    if not set(_COLUMNS) <= set(names) <= {*_COLUMNS, *_NOT_IN_ALL} and (names or len(rows)):
        raise ValueError(f"the history has the columns {names}")
    # Row by row: all of them as lists would take more memory than the records.
    records = (zip(names, row.tolist(), strict=True) for row in rows)
    history = [
        {k: _of_record(k, v) for k, v in record if not (k in _NOT_IN_ALL and np.isnan(v))}
        for record in records
    ]
    if {record["layer"] for record in history} != set(range(n_trained)):
        raise ValueError("the history is not of these layers")
    return history


def _as_number(name: str, value: Any) -> float:
    return float(_PHASES.index(value) if name == "phase" else value)


def _of_record(name: str, value: float) -> Any:
    if name == "phase":
        return dict(enumerate(_PHASES))[int(value)]
    return int(value) if name in _COUNTS else value


_PHASES = ("sample", "full", "batches")

_COUNTS = ("layer", "iteration", "n_rows", "n_evaluations", "rows_visited", "bytes_read")

_NOT_IN_ALL = (
    "reconstruction",
    "decay",
    "sparsity",
    "cross_entropy",
    "squared_error",
    "validation",
    *SECONDS,
)

_COLUMNS = ("phase", *_COUNTS, "cost", "gradient_norm", "step", "seconds")

_FILL = "fill"

_DIMS = {
    "W1": ("hidden", "feature"),
    "b1": ("hidden",),
    "W2": ("feature", "hidden"),
    "b2": ("feature",),
    "mean_activations": ("hidden",),
}


def _take_head(
    document: Document, layers: Sequence[Layer], cost: Mapping[str, Any], status: str
) -> Head:
    of = take_cost(document, "head", cost)
    if not isinstance(of, ClassifierCost | RegressorCost) or len(of.layer_sizes) != 1:
        raise ValueError("its head is none")
    if not layers or of.n_features != layers[-1].cost.n_hidden:
        raise ValueError("its head does not fit on its layers")
    segments = {
        name: document.take(f"head/{name}", shape, dtype=str(layers[-1].params.dtype))
        for name, shape in of.layout.shapes
    }
    params = of.layout.pack(segments).astype(layers[-1].params.dtype)
    return Head(of, params, Status[status])


def _take_layer(document: Document, path: str, cost: Mapping[str, Any], status: str) -> Layer:
    of = take_cost(document, path, cost)
    if not isinstance(of, AutoEncoderCost):
        raise ValueError(f"{path} is no layer")
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
