"""What displays ask of an estimator."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from sklearn.utils.validation import check_is_fitted

from stackedae.containers import Container, as_array
from stackedae.errors import ArgumentError
from stackedae.layers import Layer
from stackedae.layout import Array
from stackedae.samples import FittedStack, check_samples


def layer_of(estimator: FittedStack, layer: int) -> Layer:
    """Return a layer by its number; raises `ArgumentError` if there is none."""
    check_is_fitted(estimator)
    n_layers = len(estimator.layers_)
    if not 0 <= layer < n_layers:
        raise ArgumentError(
            "layer", layer, f"is none of the {n_layers} layers", f"pass 0 to {n_layers - 1}"
        )
    return estimator.layers_[layer]


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
