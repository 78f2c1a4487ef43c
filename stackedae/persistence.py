"""Models as Zarr groups of arrays and JSON: data, never code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import zarr

from stackedae.costs import AutoEncoderCost
from stackedae.errors import StackedAEError, StoreError
from stackedae.layers import Layer
from stackedae.solvers import Status
from stackedae.storage import StoreLike, create_array, new_store, open_store, read_array

KIND = "model"


def save_model(
    store: StoreLike, layers: Sequence[Layer], document: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Write layers, and a document of JSON values beside them.

    The group has a group ``layers/0``, ``layers/1``, … for each layer, with the arrays W1, b1, W2,
    b2 and mean_activations, and the attributes ``cost`` and ``status``; the document is the
    attribute ``model`` of the root.
    """
    with new_store(store, KIND, overwrite=overwrite) as root:
        root.attrs["model"] = dict(document)
        for index, layer in enumerate(layers):
            group = root.create_group(
                f"layers/{index}",
                attributes={"cost": asdict(layer.cost), "status": layer.status.name},
            )
            for name, dims in _DIMS.items():
                _write(group, name, getattr(layer, name), dims)


def load_model(store: StoreLike) -> tuple[list[Layer], dict[str, Any]]:
    """Read the layers and the document back.

    Raises
    ------
    StoreError
        If the store is not a model that this version can read.
    """
    root: Any = open_store(store, KIND)
    try:
        n_layers = len(list(root["layers"].group_keys()))
        layers = [_read_layer(root[f"layers/{index}"]) for index in range(n_layers)]
        return layers, dict(root.attrs["model"])
    except (StoreError, MemoryError):
        raise
    except (KeyError, TypeError, ValueError, StackedAEError) as error:
        raise StoreError(f"{store}: the model is not as it was written: {error}.") from error


_DIMS = {
    "W1": ("hidden", "feature"),
    "b1": ("hidden",),
    "W2": ("feature", "hidden"),
    "b2": ("feature",),
    "mean_activations": ("hidden",),
}


def _write(
    group: zarr.Group, name: str, value: np.ndarray[Any, Any], dims: tuple[str, ...]
) -> None:
    array = create_array(
        group, name, shape=value.shape, chunks=value.shape, dtype=value.dtype, dims=dims
    )
    array[...] = value


def _read_layer(group: zarr.Group) -> Layer:
    attributes: dict[str, Any] = dict(group.attrs)
    cost = AutoEncoderCost(**attributes["cost"])
    segments = {name: read_array(group, name) for name, _ in cost.layout.shapes}
    dtype = segments["W1"].dtype
    return Layer(
        cost=cost,
        params=cost.layout.pack(segments).astype(dtype),
        mean_activations=read_array(group, "mean_activations"),
        status=Status[attributes["status"]],
    )
