"""Rows that contenders work on."""

from __future__ import annotations

import numpy as np
import zarr

from stackedae import ContrastNormalizer, datasets, extract_patches
from stackedae.memory import rows_per_chunk
from stackedae.moments import Moments, scatter_sums
from stackedae.storage import new_samples


def natural_patches(n_patches: int, path: str | None) -> np.ndarray:
    """Return 8×8 patches of natural images, contrast-normalised, (n_patches, 64) float32.

    `path` is an npz file whose "images" are (10, 512, 512), whitened; without it, photographs that
    come with scikit-image and scikit-learn.
    """
    images = datasets.natural_images() if path is None else list(np.load(path)["images"])
    patches = extract_patches(images, (8, 8), n_patches, rng=0, dtype="float32").values
    normalized = ContrastNormalizer().fit_transform(patches)
    return np.ascontiguousarray(normalized.reshape(n_patches, -1), dtype=np.float32)


def mnist_rows(path: str) -> np.ndarray:
    """Return the training digits of an npz file, (60000, 784) float32 in [0, 1]."""
    digits = np.load(path)["x_train"]
    return (digits.reshape(len(digits), -1) / 255).astype(np.float32)


def moments_of(X: np.ndarray) -> Moments:
    """Return mean and covariance of rows."""
    mean = X.mean(axis=0, dtype=np.float64)
    return Moments.from_sums(mean, scatter_sums(mean, X), len(X))


def write_patches(path: str, n: int, d: int) -> zarr.Array:
    """Write rows that compress as contrast-normalised patches do."""
    chunk_rows, rng = rows_per_chunk(4 * d), np.random.default_rng(0)
    with new_samples(
        path,
        "patch",
        shape=(n, d),
        chunk_rows=chunk_rows,
        dtype=np.float32,
        dims=("patch", "feature"),
        coords={},
        attrs={},
        overwrite=False,
    ) as array:
        for start in range(0, n, chunk_rows):
            size = min(chunk_rows, n - start)
            part = 0.5 + 0.13 * rng.standard_normal((size, d), dtype=np.float32)
            array[start : start + size] = part
    return zarr.open_array(f"{path}/patch", mode="r")
