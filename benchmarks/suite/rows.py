"""Rows to work on: seeded noise, for speed does not depend on what the pixels show."""

from __future__ import annotations

import numpy as np

from stackedae.costs import AutoEncoderCost


def random_rows(n_rows: int, n_features: int) -> np.ndarray:
    """Return float32 rows between 0.1 and 0.9."""
    rng = np.random.default_rng(0)
    return 0.1 + 0.8 * rng.random((n_rows, n_features), dtype=np.float32)


def random_start(cost: AutoEncoderCost) -> np.ndarray:
    """Return the same parameters every time."""
    return cost.initial_params(np.random.default_rng(0))
