"""What displays ask of an estimator."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from sklearn.utils.validation import check_is_fitted

from stackedae.containers import Container, as_array
from stackedae.errors import ArgumentError
from stackedae.layers import Head, Layer
from stackedae.layout import Array
from stackedae.progress import Record, part_of
from stackedae.samples import FittedStack, check_samples
from stackedae.solvers import Status


def layer_of(estimator: FittedStack, layer: int) -> Layer:
    """Return a layer by its number; raises `ArgumentError` if there is none."""
    check_is_fitted(estimator)
    n_layers = len(estimator.layers_)
    if not 0 <= layer < n_layers:
        raise ArgumentError(
            "layer", layer, f"is none of the {n_layers} layers", f"pass 0 to {n_layers - 1}"
        )
    return estimator.layers_[layer]


class Part(NamedTuple):
    """What was trained at a time, and how it ended.

    Parameters
    ----------
    name : str
        "layer 0", "layer 1", …, "head" or "all layers".
    last : dict
        Its last record.
    status : Status
        How it ended.
    """

    name: str
    last: Record
    status: Status


def parts_of(estimator: FittedStack) -> list[Part]:
    """Return what was trained: layers, and a head and all layers together, if they were."""
    head, tuned = head_of(estimator), estimator.tuning_status_
    statuses = [layer.status for layer in estimator.layers_]
    statuses += [] if head is None else [head.status]
    statuses += [] if tuned is None else [tuned]
    lasts = {record["layer"]: record for record in estimator.history_}.values()
    n_layers = len(estimator.layers_)
    return [
        Part(part_of(last, n_layers), last, status)
        for last, status in zip(lasts, statuses, strict=True)
    ]


def head_of(estimator: FittedStack) -> Head | None:
    """Return what predicts, of estimators that do."""
    head: Head | None = getattr(estimator, "head_", None)
    return head


def first_samples(estimator: FittedStack, X: Container, n_samples: int) -> Array:
    """Return the first samples of X, read now."""
    if n_samples < 1:
        raise ArgumentError("n_samples", n_samples, "leaves nothing to draw", "pass 1 or more")
    check_is_fitted(estimator)
    return np.asarray(as_array(check_samples(estimator, X, reset=False))[:n_samples])


def random_samples(
    estimator: FittedStack, X: Container, n_samples: int, rng: np.random.Generator
) -> Array:
    """Return samples drawn at random from a few chunks of X, which alone are read.

    Parameters
    ----------
    estimator : FittedStack
        Whose samples X has.
    X : container of shape (n_samples, …)
        Where to draw.
    n_samples : int
        How many, at most.
    rng : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    ndarray of shape (at most n_samples, …)
    """
    check_is_fitted(estimator)
    array: Any = as_array(check_samples(estimator, X, reset=False))
    if not isinstance(array, da.Array):
        return np.asarray(array[_drawn(len(array), n_samples, rng)])
    chunks = _drawn(array.numblocks[0], _CHUNKS_READ, rng)
    share = -(-n_samples // len(chunks))
    blocks = [array.blocks[int(chunk)] for chunk in chunks]
    return np.asarray(da.concatenate([block[_drawn(len(block), share, rng)] for block in blocks]))


_CHUNKS_READ = 8


def _drawn(n: int, size: int, rng: np.random.Generator) -> Array:
    return np.sort(rng.choice(n, min(n, size), replace=False))
