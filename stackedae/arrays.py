"""Arrays of whatever library holds the rows: NumPy, CuPy, or any other with the array API."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import DTypeLike

AnyArray = Any
"""An array of any library with the array API standard."""


def namespace_of(x: AnyArray) -> Any:
    """Return the array namespace of x; NumPy itself for an ndarray."""
    return np if isinstance(x, np.ndarray) else array_api_compat.array_namespace(x)


def into(out: AnyArray, function: Callable[..., AnyArray], *arguments: Any) -> AnyArray:
    """Write ``function(*arguments)`` to `out`, without a temporary where the library knows how.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.arrays import into
    >>> z = np.zeros(2)
    >>> into(z, np.cos, z)
    array([1., 1.])
    """
    # CuPy's universal functions know how; what array-api-compat adds to them does not.
    if isinstance(out, np.ndarray) or hasattr(function, "nout"):
        return function(*arguments, out=out)
    out[...] = function(*arguments)
    return out


def is_on_gpu(x: AnyArray) -> bool:
    """Say whether x is an array of CuPy."""
    return bool(array_api_compat.is_cupy_array(x))


def arithmetic_dtype(x: AnyArray) -> str:
    """Return "float64" for arrays of float64 or integers of 32 bits and more, else "float32"."""
    xp = namespace_of(x)
    if isinstance(x, np.ndarray):
        return str(np.result_type(x.dtype, np.float32))
    if xp.isdtype(x.dtype, "real floating"):
        bits = xp.finfo(x.dtype).bits
        return "float64" if bits > 32 else "float32"
    wide = xp.isdtype(x.dtype, "integral") and xp.iinfo(x.dtype).bits > 16
    return "float64" if wide else "float32"


def is_floating(x: AnyArray) -> bool:
    """Say whether entries of x can be NaN."""
    if isinstance(x, np.ndarray):
        return bool(x.dtype.kind == "f")
    floating: bool = namespace_of(x).isdtype(x.dtype, "real floating")
    return floating


def cast(x: AnyArray, dtype: str) -> AnyArray:
    """Return x in another dtype and aligned, itself if it is that already."""
    if isinstance(x, np.ndarray):
        # At an odd address, where networks leave it, each product would copy it.
        return x.astype(dtype, copy=not x.flags.aligned)
    xp = namespace_of(x)
    return xp.astype(x, getattr(xp, dtype), copy=False)


def beside(x: AnyArray, values: np.ndarray[Any, Any], dtype: DTypeLike) -> AnyArray:
    """Return NumPy `values` in the library and on the device of x; as they are if they fit."""
    converted = np.asarray(values, dtype)
    if isinstance(x, np.ndarray):
        return converted
    return namespace_of(x).asarray(converted, device=array_api_compat.device(x))


def empty_beside(x: AnyArray, shape: tuple[int, ...], dtype: str) -> AnyArray:
    """Return an array of any values in the library and on the device of x."""
    if isinstance(x, np.ndarray):
        return np.empty(shape, dtype)
    xp = namespace_of(x)
    return xp.empty(shape, dtype=getattr(xp, dtype), device=array_api_compat.device(x))


def filled(
    x: np.ndarray[Any, Any], fill: Sequence[float]
) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
    """Return rows with `fill` for entries that are missing (NaN); as they are if none is.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.arrays import filled
    >>> filled(np.array([[np.nan, 1.0], [2.0, np.nan]]), (5.0, 6.0))
    array([[5., 1.],
           [2., 6.]])
    """
    if not fill or not is_floating(x):
        return x
    missing = np.isnan(x)
    if not missing.any():
        return x
    return np.where(missing, np.asarray(fill, np.result_type(x.dtype, np.float32)), x)


def fill_in(x: AnyArray, fill: AnyArray, out: AnyArray, present: AnyArray) -> None:
    """Write x to `out`, with `fill` for NaN, and to `present` 0 for NaN and 1 for all else.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.arrays import fill_in
    >>> out, present = np.zeros((2, 3))
    >>> fill_in(np.array([1.0, np.nan, 3.0]), np.array([7.0, 8.0, 9.0]), out, present)
    >>> out, present
    (array([1., 8., 3.]), array([1., 0., 1.]))
    """
    if not isinstance(x, np.ndarray):
        xp = namespace_of(x)
        missing = xp.isnan(x)
        present[...] = xp.astype(xp.logical_not(missing), x.dtype)
        out[...] = xp.where(missing, fill, x)
        return
    # NumPy's `where` branches, and takes four times as long as this: the larger of x and the
    # fill, which is far below all x where one is present. (x beyond that have no finite cost.)
    np.equal(x, x, out=present)
    np.multiply(present, -np.finfo(x.dtype).max / 4, out=out)
    out += fill
    np.fmax(x, out, out=out)


class Scratch(threading.local):
    """Memory that a thread uses again: fresh pages cost as much time as what is done in them."""

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray[Any, Any]] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
        """Return an array of any values, in the memory of this name."""
        value_type = np.dtype(dtype)
        n_bytes = math.prod(shape) * value_type.itemsize
        kept = self.kept.get(name)
        if kept is None or kept.nbytes < n_bytes:
            kept = self.kept[name] = np.empty(n_bytes, np.uint8)
        return kept[:n_bytes].view(value_type).reshape(shape)


class Pool:
    """Memory that comes back when the array in it is gone, to be lent again.

    For results, which live longer than what computed them. Fresh memory is given page by page, at
    some microseconds each, and returned at once where Dask's workers run.

    Examples
    --------
    >>> from stackedae.arrays import Pool
    >>> pool = Pool()
    >>> first = pool.empty((2, 3), "float64")
    >>> there = first.ctypes.data
    >>> del first
    >>> pool.empty((2, 3), "float64").ctypes.data == there
    True
    """

    most_bytes = 2**28
    """Not lent, and kept all the same."""

    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray[Any, Any]]] = {}
        self.free_bytes = 0
        self.lock = threading.RLock()  # memory may come back at any moment, inside of `empty` too

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
        """Return an array of any values."""
        value_type = np.dtype(dtype)
        n_bytes = math.prod(shape) * value_type.itemsize
        # In steps of an eighth, so that arrays of about one size share memory.
        step = 2 ** max(0, n_bytes.bit_length() - 4)
        size = -(-n_bytes // step) * step
        with self.lock:
            memory = None
            if self.free.get(size):
                memory = self.free[size].pop()
                self.free_bytes -= size
        if memory is None:
            memory = np.empty(size, np.uint8)
        lent = np.asarray(_Lent(memory, self))
        return lent[:n_bytes].view(value_type).reshape(shape)

    def take_back(self, memory: np.ndarray[Any, Any]) -> None:
        """Keep memory to lend it again, unless there is enough."""
        with self.lock:
            if self.free_bytes + memory.nbytes <= self.most_bytes:
                self.free.setdefault(memory.nbytes, []).append(memory)
                self.free_bytes += memory.nbytes


POOL = Pool()
"""What this process lends."""


def add_scaled(
    out: np.ndarray[Any, Any], values: np.ndarray[Any, Any], factor: float | np.ndarray[Any, Any]
) -> None:
    """Add ``factor * values`` to `out`, the product in memory that is lent.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.arrays import add_scaled
    >>> out = np.ones(2)
    >>> add_scaled(out, np.array([1.0, 2.0]), 10.0)
    >>> out
    array([11., 21.])
    """
    out += np.multiply(values, factor, out=POOL.empty(values.shape, out.dtype))


class _Lent:
    """What an array in lent memory refers to, and all its views do."""

    def __init__(self, memory: np.ndarray[Any, Any], pool: Pool) -> None:
        self.memory, self.pool = memory, pool
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self.pool.take_back(self.memory)


def to_numpy(x: AnyArray) -> np.ndarray[Any, Any]:
    """Return x as an ndarray, from whatever device it is on."""
    if isinstance(x, np.ndarray):
        return x
    if array_api_compat.is_cupy_array(x):
        return np.asarray(x.get())
    home = namespace_of(x).__array_namespace_info__().default_device()
    return np.asarray(array_api_compat.to_device(x, home))
