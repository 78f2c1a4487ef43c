"""Quantiles of values that are held in shards: exact, from sums of counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from stackedae.layout import Array, Vector
from stackedae.shards import Shards, each_alone

_DIGIT_BITS = 16
"""Of the order of a value that a pass over the values settles: 512 KiB of counts."""

_NAME = "stackedae-quantile"


def quantile(values: Shards, q: float) -> float:
    """Return a quantile of all values, interpolated linearly between two of them.

    Parameters
    ----------
    values : Shards
        A column of float32 or float64, none of them NaN; it is read once for every 16 bits of
        these.
    q : float
        Which: between 0 and 1.

    Returns
    -------
    float
        To the bit what ``numpy.quantile(values, q)`` is of the values in float64, with 0 for −0:
        whatever the shards and the scheduler.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.containers import cut_into_shards
    >>> from stackedae.quantiles import quantile
    >>> quantile(cut_into_shards(np.array([[4.0], [1.0], [3.0], [2.0]])), 0.5)
    2.5
    """
    index = q * (values.n_rows - 1)
    below = math.floor(index)
    neighbours = order_statistics(values, (below, min(below + 1, values.n_rows - 1)))
    return float(np.quantile(neighbours, index - below))


def order_statistics(values: Shards, ranks: Sequence[int]) -> list[float]:
    """Return the values that have these ranks, counted from 0, in ascending order of all.

    They are found by radix selection: the highest digits of all values are counted, then the next
    digits of those values that begin as a wanted one does, and so on. Counts are sums over shards.

    Parameters
    ----------
    values : Shards
        A column of float32 or float64, none of them NaN.
    ranks : sequence of int
        Which; each between 0 and ``values.n_rows - 1``.

    Returns
    -------
    list of float
        With 0 for −0.
    """
    n_digits = 8 * values.dtype.itemsize // _DIGIT_BITS
    begins, left = [0] * len(ranks), list(ranks)  # of the wanted values, and ranks among such
    for n_known in range(n_digits):
        prefixes = sorted(set(begins))
        begin = each_alone(partial(count_digits, prefixes, n_known))
        counts = values.sum(begin, name=_NAME).reshape(len(prefixes), -1).astype(np.int64)
        up_to = dict(zip(prefixes, counts.cumsum(axis=1), strict=True))
        for i, prefix in enumerate(begins):
            digit = int(np.searchsorted(up_to[prefix], left[i], side="right"))
            left[i] -= int(up_to[prefix][digit - 1]) if digit else 0
            begins[i] = prefix << _DIGIT_BITS | digit
    return [_value_of(bits, values.dtype) for bits in begins]


def count_digits(
    prefixes: Sequence[int], n_known: int, values: Array, out: Vector | None = None
) -> Vector:
    """Return how often each digit comes next in values that begin with certain others.

    Parameters
    ----------
    prefixes : sequence of int
        How values begin: their first digits, as one number.
    n_known : int
        How many digits that is.
    values : ndarray of float32 or float64
        Values.
    out : ndarray of shape (len(prefixes) · 65536,), float64, or None
        Counts of values that came before: added to, and returned.

    Returns
    -------
    ndarray of shape (len(prefixes) · 65536,), float64
        Counts of every digit for the first prefix, for the second, … Additive over values, and
        exact up to 2⁵³.

    Examples
    --------
    Digits of negative values come before those of positive ones:

    >>> import numpy as np
    >>> from stackedae.quantiles import count_digits
    >>> counts = count_digits([0], 0, np.array([-1.0, 1.0, 1.0, 2.0]))
    >>> counts[: 2**15].sum(), counts[2**15 :].sum()
    (np.float64(1.0), np.float64(3.0))
    """
    size = 2**_DIGIT_BITS
    total = np.zeros(len(prefixes) * size) if out is None else out
    bits = _ordered_bits(values.ravel())
    rest = 8 * bits.itemsize - _DIGIT_BITS * (n_known + 1)
    digits = bits >> rest  # all that are known, and the next
    for counts, prefix in zip(total.reshape(-1, size), prefixes, strict=True):
        first = prefix << _DIGIT_BITS
        chosen = digits[(digits >= first) & (digits - first < size)] - first
        counts += np.bincount(chosen.astype(np.intp), minlength=size)
    return total


def _ordered_bits(values: Array) -> np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]:
    """Return unsigned integers that are in the order of floating-point numbers.

    The sign is turned, so that negative numbers come first; of these, all other bits are turned as
    well, for the order of their magnitudes is the reverse.
    """
    unsigned, sign = _integers(values.dtype)
    bits = (values + values.dtype.type(0)).view(unsigned)  # −0 + 0 is 0
    return np.where(bits & sign, ~bits, bits | sign)


def _value_of(ordered: int, dtype: np.dtype[Any]) -> float:
    """Return the number that has these ordered bits."""
    unsigned, sign = _integers(dtype)
    bits = unsigned.type(ordered)
    bits = bits ^ sign if bits & sign else ~bits
    return float(bits.view(dtype))


def _integers(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], Any]:
    """Return the unsigned integers with as many bits as floating-point numbers, and the sign."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    return unsigned, unsigned.type(1 << 8 * dtype.itemsize - 1)
