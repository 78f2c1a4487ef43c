"""What is known of samples: classes, numbers to predict, weights; cut like the samples' shards."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from stackedae.cluster import Here, OnCluster, Runner
from stackedae.containers import Container
from stackedae.costs.supervised import SupervisedCost
from stackedae.errors import ArgumentError, DataError
from stackedae.layout import Array
from stackedae.shards import Shards
from stackedae.storage import read_lazily

TARGET = "y"
"""Name of the column of targets beside rows; NaN in it: there is none."""

TARGET_WEIGHT = "target_weight"
"""Name of the column of what they count."""

UNLABELLED = -1
"""What stands for no label, as elsewhere in scikit-learn."""


@dataclass(frozen=True)
class Column:
    """Values for the rows of every shard, kept where work on them is done.

    Parameters
    ----------
    name : str
        The argument that they came as.
    blocks : list of ndarray or Delayed
        Of each shard, (n_rows,) or (n_rows, k).
    run : Runner
        Works on them.
    """

    name: str
    blocks: list[Any]
    run: Runner

    def gather(self, function: Callable[..., Any], *each: Sequence[Any]) -> tuple[Any, ...]:
        """Return ``function(*of_each, values)`` of every shard."""
        return self.run.compute(*self._calls(function, each))

    def map(self, function: Callable[..., Array], *each: Sequence[Any]) -> Column:
        """Return ``function(*of_each, values)`` as values."""
        return replace(self, blocks=list(self.run.persist(*self._calls(function, each))))

    def times(self, other: Column) -> Column:
        """Return products with other values."""
        both = self if isinstance(other.run, Here) else replace(self, run=other.run)
        return both.map(np.multiply, other.blocks)

    def beside(self, shards: Shards, name: str) -> Shards:
        """Return shards with the values beside their rows, under this name."""
        if shards.here:
            blocks = self.run.compute(*self.blocks)
        else:  # as tasks that are computed: else each evaluation would send them along
            there = OnCluster()
            sent = (there.send("stackedae-labels", block) for block in self.blocks)
            blocks = there.persist(*(self.blocks if isinstance(self.run, OnCluster) else sent))
        return shards.beside(**{name: list(blocks)})

    def _calls(self, function: Callable[..., Any], each: Sequence[Sequence[Any]]) -> list[Any]:
        calls = list(zip(*each, self.blocks, strict=True))
        return self.run.calls("stackedae-labels", function, calls)


@dataclass(frozen=True)
class Targets:
    """What a head is to predict of samples.

    Parameters
    ----------
    y : Column
        Numbers of classes, or what else; NaN for samples without.
    weights : Column or None
        Of all samples, where no targets have a part.
    target_weights : Column or None
        Of those with a target, where it has a part, if they are others.
    cost : callable
        ``cost(layer_sizes, **settings)`` is what is to be minimised over those with a target.
    """

    y: Column
    weights: Column | None
    target_weights: Column | None
    cost: Callable[..., SupervisedCost]

    def beside(self, shards: Shards) -> Shards:
        """Put targets, and weights, beside the rows of shards."""
        shards = self.y.beside(shards, TARGET)
        if self.weights is not None:
            shards = self.weights.beside(shards, "weight")
        if self.target_weights is not None:
            shards = self.target_weights.beside(shards, TARGET_WEIGHT)
        return shards

    @cached_property
    def checksum(self) -> int:
        """What tells them from others."""
        columns = (self.y, self.weights, self.target_weights)
        every = [column.gather(_checksum) for column in columns if column is not None]
        return zlib.crc32(repr(every).encode())


def column_of(name: str, values: Container, rows: Sequence[int], *, flat: bool = True) -> Column:
    """Return values, one for each sample, cut into shards of so many rows.

    Parameters
    ----------
    name : str
        The argument that they come as.
    values : array-like, Dask array, DataArray or zarr.Array of shape (n_samples,)
        Or (n_samples, k), unless `flat`; in any chunks.
    rows : sequence of int
        Of the shards.
    flat : bool
        Whether there is one value for each sample.

    Raises
    ------
    DataError
        If there are more or fewer than samples, or the shape is another.
    """
    if isinstance(values, xr.DataArray):
        values = values.data
    if isinstance(values, zarr.Array):
        values = read_lazily(values)
    if not isinstance(values, da.Array):
        values = column_or_1d(values, warn=True) if flat else np.asarray(values)
    if values.ndim == 2 and flat and values.shape[1] == 1:
        values = values[:, 0]
    if not 1 <= values.ndim <= (1 if flat else 2):
        raise DataError(f"{name} has shape {values.shape}; pass one value for each sample.")
    if values.shape[0] != sum(rows):
        raise DataError(
            f"Found input variables with inconsistent numbers of samples: X has {sum(rows)}, and "
            f"{name} has {values.shape[0]}; pass one value for each sample."
        )
    if not isinstance(values, da.Array):
        borders = pairwise(np.cumsum((0, *rows)).tolist())
        return Column(name, [values[start:stop] for start, stop in borders], Here())
    run, width = OnCluster(), values.shape[1:]
    whole = values.rechunk((tuple(rows), *((size,) for size in width)))
    return Column(name, list(run.persist(*whole.to_delayed().ravel())), run)


@dataclass(frozen=True)
class Classes:
    """Classes that occur among labels, and how many samples each has.

    Parameters
    ----------
    labels : ndarray of shape (n_classes,)
        The classes, sorted.
    counts : ndarray of shape (n_classes,)
        Sums of the weights of their samples.
    """

    labels: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]

    @classmethod
    def among(cls, y: Column, weights: Column | None = None) -> Classes:
        """Look which there are.

        Where −1 stands beside two classes or more, it means "not labelled"; beside one class it is
        the other one. Classes all of whose samples have the weight 0 are as if they were not there.

        Raises
        ------
        DataError
            If there is but one class, or labels are no classes.
        """
        ones: Sequence[Any] = [None] * len(y.blocks) if weights is None else weights.blocks
        both = (
            y if weights is None or isinstance(weights.run, Here) else replace(y, run=weights.run)
        )
        total: Counter[Any] = Counter()
        for sums in both.gather(_counted, ones):
            total.update(sums)
        labels = [label for label, weight in total.items() if weight > 0]
        check_classification_targets(np.array(labels))
        if UNLABELLED in labels and len(labels) > 2:
            labels.remove(UNLABELLED)
        if len(labels) < 2:
            raise DataError(
                f"y has the one class {labels[0]!r} among its labels; a classifier needs samples "
                "of at least 2 classes."
            )
        labels.sort()
        return cls(np.array(labels), np.array([total[each] for each in labels]))

    def encode(self, y: Column) -> Column:
        """Return the number of the class of every sample, NaN for those without."""
        return y.map(_encoded, [self.labels] * len(y.blocks))

    def weigh(self, codes: Column, class_weight: Any) -> Column | None:
        """Return the weight of the class of every sample; None: all are 1.

        Parameters
        ----------
        codes : Column
            What `encode` returned.
        class_weight : dict, "balanced" or None
            As elsewhere in scikit-learn.
        """
        if class_weight is None:
            return None
        if isinstance(class_weight, str):
            if class_weight != "balanced":
                raise ArgumentError(
                    "class_weight", class_weight, "is unknown", 'pass "balanced", a dict or None'
                )
            factors = self.counts.sum() / (len(self.counts) * self.counts)
        else:
            factors = compute_class_weight(class_weight, classes=self.labels, y=self.labels)
        return codes.map(_looked_up, [np.asarray(factors, float)] * len(codes.blocks))


def weights_of(sample_weight: Container | None, rows: Sequence[int]) -> Column | None:
    """Return the weights of samples, if they have any.

    Raises
    ------
    DataError
        If there is a negative one, or NaN or infinity, or none is positive.
    """
    if sample_weight is None:
        return None
    weights = column_of("sample_weight", sample_weight, rows).map(_as_float)
    lows, totals = zip(*weights.gather(_low_and_total), strict=True)
    if not (min(lows) >= 0 and 0 < sum(totals) < np.inf):
        raise DataError(
            "sample_weight has entries that are negative, NaN or infinite, or all are zero; pass "
            "finite weights, and 0 for samples to be left out."
        )
    return weights


def numbers_of(y: Container, rows: Sequence[int]) -> tuple[Column, int | None]:
    """Return numbers to be predicted, and how many of each sample: None if y is flat.

    Raises
    ------
    DataError
        If there is NaN or infinity among them.
    """
    column = column_of("y", y, rows, flat=False).map(_as_float)
    widths, finite = zip(*column.gather(_width_and_finite), strict=True)
    if not all(finite):
        raise DataError("y contains NaN or infinity; drop such samples.")
    return column, widths[0]


def _counted(weight: Array | None, labels: Array) -> dict[Any, float]:
    """Return the sum of the weights of the rows of each label; their number, without weights."""
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError("Input y contains NaN or infinity; drop such samples, or label them -1.")
    if labels.dtype.kind == "O":  # perhaps of several types, which cannot be sorted
        number = {label: code for code, label in enumerate(dict.fromkeys(labels.tolist()))}
        there, codes = list(number), np.array([number[label] for label in labels.tolist()], int)
    else:
        unique, codes = np.unique(labels, return_inverse=True)
        there = unique.tolist()
    sums = np.bincount(codes, weight, len(there))
    return dict(zip(there, sums.tolist(), strict=True))


def _encoded(classes: Array, labels: Array) -> Array:
    if labels.dtype.kind == "O":
        number = {label: code for code, label in enumerate(classes.tolist())}
        return np.array([number.get(label, np.nan) for label in labels.tolist()])
    codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[codes] == labels, codes, np.nan)


def _looked_up(factors: Array, codes: Array) -> Array:
    return np.where(np.isnan(codes), 0.0, factors[np.nan_to_num(codes).astype(int)])


def _checksum(values: Array) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)


def _as_float(values: Array) -> Array:
    return np.asarray(values, np.float64)


def _low_and_total(weights: Array) -> tuple[float, float]:
    return float(weights.min()), float(weights.sum())


def _width_and_finite(values: Array) -> tuple[int | None, bool]:
    return values.shape[1] if values.ndim == 2 else None, bool(np.isfinite(values).all())
