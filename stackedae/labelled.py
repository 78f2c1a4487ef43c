"""Rows with what is known of each beside them: labels, weights, their numbers in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.arrays import AnyArray
from stackedae.evaluation import Cost


@dataclass(frozen=True)
class Labelled:
    """Rows, and columns of what is known of them, which go wherever the rows go.

    Parameters
    ----------
    X : array of shape (n_rows, n_features)
        Rows.
    aside : mapping of str to ndarray of shape (n_rows,) or (n_rows, k)
        Under the names by which kernels take them: "y" (targets), "weight", "row" (number of the
        row in the data).

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.labelled import Labelled
    >>> rows = Labelled(np.eye(3), {"row": np.arange(3)})
    >>> rows[np.array([2, 0])].aside["row"]
    array([2, 0])
    """

    X: AnyArray
    aside: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.X.shape[0])

    def __getitem__(self, rows: Any) -> Labelled:
        """Return some of the rows."""
        return Labelled(self.X[rows], {name: known[rows] for name, known in self.aside.items()})


SomeRows = Any
"""Rows, (n_rows, n_features), or `Labelled` ones."""


def features_in(rows: SomeRows) -> AnyArray:
    """Return the rows themselves, without what is beside them."""
    return rows.X if isinstance(rows, Labelled) else rows


def aside_of(rows: SomeRows) -> Mapping[str, NDArray[Any]]:
    """Return what is beside rows; nothing, of an array."""
    return rows.aside if isinstance(rows, Labelled) else {}


def known_to(cost: Cost, rows: SomeRows) -> dict[str, NDArray[Any]]:
    """Return what a cost has to know of rows beside them, and their weights if they have any."""
    aside = aside_of(rows)
    return {name: aside[name] for name in (*cost.aside, "weight") if name in aside}


def with_features(rows: SomeRows, X: AnyArray) -> SomeRows:
    """Return other rows X with what is beside these."""
    return Labelled(X, rows.aside) if isinstance(rows, Labelled) else X


def concatenated(parts: Sequence[SomeRows]) -> SomeRows:
    """Return rows one after the other; a single part as it is."""
    if len(parts) == 1:
        return parts[0]
    X = np.concatenate([features_in(part) for part in parts])
    if not isinstance(parts[0], Labelled):
        return X
    aside = {name: np.concatenate([part.aside[name] for part in parts]) for name in parts[0].aside}
    return Labelled(X, aside)
