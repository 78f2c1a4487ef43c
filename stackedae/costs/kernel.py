"""The arithmetic of the sparse auto-encoder on blocks of rows, in any array library."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from stackedae.arrays import (
    POOL,
    AnyArray,
    Scratch,
    arithmetic_dtype,
    beside,
    cast,
    empty_beside,
    into,
    namespace_of,
    to_numpy,
)
from stackedae.costs.activations import Activation
from stackedae.layout import Array, Layout, Vector
from stackedae.memory import row_blocks, rows_per_block


class Kernel:
    """Sums over rows at given parameters, block by block, in buffers that all blocks share.

    The last of the codes is a unit that is always 1, whose weights in the decoder are b2: so the
    product with W2 adds the bias, and the sum for W2 brings the one for b2. Its column in the
    encoder is zero, and what is computed for that is dropped in the end.

    A kernel works in memory that belongs to its thread: it is good until the next one is made.

    Parameters
    ----------
    f, g : Activation
        Of hidden units, and of reconstructions.
    sums_layout : Layout
        What to sum up.
    P : dict of str to ndarray
        Parameters W1, b1, W2 and b2.
    like : array of shape (n_rows, n_features)
        Rows whose library, device and precision all rows have: there the work is done.
    slope : ndarray of shape (n_hidden,) or None
        Slope c of the divergence if it is known; else f'(z) is summed up, to apply it later.
    """

    def __init__(
        self,
        f: Activation,
        g: Activation,
        sums_layout: Layout,
        P: dict[str, Array],
        like: AnyArray,
        slope: Array | None = None,
    ) -> None:
        self.f, self.g, self.sums_layout, self.P = f, g, sums_layout, P
        self.xp, self.like, self.dtype = namespace_of(like), like, arithmetic_dtype(like)
        self.slope = None if slope is None else self.send(np.append(slope, 0.0))
        self.sums_slope = slope is None and "slope" in sums_layout.slices
        self.layout = _with_unit(sums_layout, self.sums_slope)
        self.current: _Buffers | None = None
        _SCRATCH.user = id(self)

    def chunk_sums(self, X: AnyArray, out: Vector | None = None) -> Vector:
        """See `AutoEncoderCost.chunk_sums`."""
        self.begin(out)
        for _, x in self.blocks_of(X):
            a = self.buffers_for(x.shape[0]).codes
            self.encode(x, a)
            self.backpropagate(x, a)
        return self.sums(out)

    def forward(self, X: AnyArray, out: Vector | None = None) -> tuple[AnyArray, Vector]:
        """See `AutoEncoderCost.forward`."""
        n_hidden = self.P["b1"].size
        shape = (X.shape[0], n_hidden + 1)
        if self.xp is np:
            codes = POOL.empty(shape, self.dtype)
        else:
            codes = empty_beside(X, shape, self.dtype)
        begin = np.zeros(n_hidden) if out is None else out
        activation = beside(X, np.append(begin, 0.0), "float64")
        for rows, x in self.blocks_of(X):
            self.encode(x, codes[rows, :])
            activation += self.part["activation"]
        return codes, to_numpy(activation)[:-1]

    def backward(
        self, X: AnyArray, out: Vector | None = None, *, codes: AnyArray | None = None
    ) -> Vector:
        """See `AutoEncoderCost.backward`."""
        if codes is None:
            return self.chunk_sums(X, out)
        self.begin(out)
        for rows, x in self.blocks_of(X):
            self.backpropagate(x, codes[rows, :])
        return self.sums(out)

    def blocks_of(self, X: AnyArray) -> Iterator[tuple[slice, AnyArray]]:
        """Yield rows of X, and which they are, in the precision of the arithmetic."""
        assert _SCRATCH.user == id(self), "another kernel was made meanwhile"
        for rows in row_blocks(X.shape[0], X.shape[1]):
            yield rows, cast(X[rows, :], self.dtype)

    def begin(self, sums: Vector | None) -> None:
        """Start from sums over rows that came before, if there are any."""
        self.total = beside(self.like, self.widened(sums), "float64")

    # What not every use of a kernel needs is made when it is.

    @cached_property
    def W1(self) -> AnyArray:
        """Encoder weights (d, k), for scaled z."""
        return self.send(self.padded("W1", self.P["W1"].T, self.f.scale))

    @cached_property
    def b1(self) -> AnyArray:
        """Encoder biases for every row of a block, for scaled z: broadcasting takes longer."""
        biases = _SCRATCH.empty("b1", self.buffers[0].shape, self.dtype)
        biases[...] = np.append(self.f.scale * self.P["b1"], self.f.unit)
        return self.send(biases)

    @cached_property
    def W2(self) -> AnyArray:
        """Decoder weights and biases (k, d), for scaled z."""
        d, h = self.P["W2"].shape
        weights = _SCRATCH.empty("W2", (h + 1, d), self.dtype)
        np.multiply(self.P["W2"].T, self.g.scale, out=weights[:h], casting="same_kind")
        weights[h] = self.g.scale * self.P["b2"]
        return self.send(weights)

    @cached_property
    def W2_back(self) -> AnyArray:
        """Decoder weights (d, k), for errors on their way back."""
        return self.send(self.padded("W2_back", self.P["W2"], 1.0))

    @cached_property
    def block(self) -> AnyArray:
        """Sums over one block, in one vector: one addition brings all of them to the total."""
        return self.send(self.zeros("block", self.layout.size, self.dtype))

    @cached_property
    def part(self) -> dict[str, AnyArray]:
        """The segments of `block`."""
        return {
            name: self.xp.reshape(self.block[self.layout.slices[name]], shape)
            for name, shape in self.layout.shapes
        }

    @cached_property
    def buffers(self) -> tuple[AnyArray, ...]:
        """Codes, errors, and what reconstructions and slopes share, for a whole block."""
        d, k = self.P["W2"].shape[0], self.P["W2"].shape[1] + 1
        n_rows = rows_per_block(d)
        # The reconstruction is spent when δ2 and f'(z) are computed: one
        # memory for both, so that more of it stays in cache.
        return (
            self.empty("codes", n_rows, k),
            self.empty("error", n_rows, d),
            self.empty("shared", n_rows * max(d, 2 * k)),
        )

    def send(self, values: Array) -> AnyArray:
        """Return values where X is, in the precision of the arithmetic."""
        return beside(self.like, values, self.dtype)

    def empty(self, name: str, *shape: int) -> AnyArray:
        """Return scratch memory like `send` does, of any values."""
        if self.xp is np:
            return _SCRATCH.empty(name, shape, self.dtype)
        return empty_beside(self.like, shape, self.dtype)

    def zeros(self, name: str, size: int, dtype: str) -> Array:
        """Return scratch memory of zeros."""
        values = _SCRATCH.empty(name, (size,), dtype)
        values[...] = 0.0
        return values

    def padded(self, name: str, weights: Array, scale: float) -> Array:
        """Return weights (d, h), scaled, with a column of zeros."""
        d, h = weights.shape
        out = _SCRATCH.empty(name, (d, h + 1), self.dtype)
        np.multiply(weights, scale, out=out[:, :h], casting="same_kind")
        out[:, h] = 0.0
        return out

    def buffers_for(self, m: int) -> _Buffers:
        """Return the buffers for a block of m rows."""
        if self.current is None or self.current.n_rows != m:
            self.current = _Buffers(self, m)
        return self.current

    def widened(self, sums: Vector | None) -> Array:
        """Return sums with entries for the unit that is always 1."""
        wide = self.zeros("total", self.layout.size, "float64")
        if sums is not None:
            to = self.layout.unpack(wide)
            to["b2"] = to["W2"][:, -1]
            for name, values in self.sums_layout.unpack(sums).items():
                if name in to:
                    _begin(to[name], values.shape)[...] = values
        return wide

    def sums(self, out: Vector | None = None) -> Vector:
        """Return the sums over all blocks, without those of the unit that is always 1."""
        total = out
        if total is None:
            total = POOL.empty((self.sums_layout.size,), "float64")
            total[...] = 0.0
        wide = self.layout.unpack(to_numpy(self.total))
        wide["b2"] = wide["W2"][:, -1]
        for name, values in self.sums_layout.unpack(total).items():
            if name in wide:
                values[...] = _begin(wide[name], values.shape)
        return total

    def encode(self, x: AnyArray, a: AnyArray) -> None:
        """Write the codes of rows x to a, and sum them up."""
        into(a, self.xp.matmul, x, self.W1)
        a += self.b1[: a.shape[0], :]
        self.f.apply(self.xp, a)
        ones = self.buffers_for(x.shape[0]).ones
        into(self.part["activation"], self.xp.matmul, ones, a)

    def backpropagate(self, x: AnyArray, a: AnyArray) -> None:
        """Compute the other sums over rows x, whose codes are a, and add all up."""
        xp, matmul, part = self.xp, self.xp.matmul, self.part
        block = self.buffers_for(x.shape[0])
        r, e, delta, slope = block.output, block.error, block.delta, block.slope
        into(r, matmul, a, self.W2)
        self.g.apply(xp, r)

        into(e, xp.subtract, r, x)
        part["n_rows"][...] = block.n_rows
        part["squared_error"][...] = block.flat_error @ block.flat_error
        self.g.times_derivative(xp, e, r)
        into(part["W2"], matmul, e.T, a)

        into(delta, matmul, e, self.W2_back)
        self.f.derivative(xp, a, slope)
        if self.slope is not None:
            delta += self.slope
        delta *= slope
        if self.sums_slope:
            into(part["slope_x"], matmul, slope.T, x)
            into(part["slope"], matmul, block.ones, slope)
        into(part["W1"], matmul, delta.T, x)
        into(part["b1"], matmul, block.ones, delta)
        self.total += self.block


def _with_unit(layout: Layout, with_slope: bool) -> Layout:
    """Lay out sums for one hidden unit more, whose sum for W2 is that for b2."""
    shapes = dict(layout.shapes)
    h, d = shapes["W1"]
    k = h + 1
    wide = {
        "activation": (k,),
        "W1": (k, d),
        "b1": (k,),
        "W2": (d, k),
        "slope_x": (k, d),
        "slope": (k,),
    }
    left_out = {"b2"} if with_slope else {"b2", "slope_x", "slope"}
    return Layout.of(
        **{name: wide.get(name, shape) for name, shape in shapes.items() if name not in left_out}
    )


def _begin(values: Array, shape: tuple[int, ...]) -> Array:
    """Return the part of an array that has this shape and begins where it does."""
    corner: tuple[Any, ...] = (*(slice(0, size) for size in shape), ...)  # a view, if 0-d too
    part: Array = values[corner]
    return part


class _Buffers:
    """Where a kernel computes on blocks of so many rows."""

    def __init__(self, kernel: Kernel, n_rows: int) -> None:
        codes, error, shared = kernel.buffers
        self.n_rows = n_rows
        self.ones = kernel.send(np.ones(n_rows))
        self.codes, self.error = codes[:n_rows, :], error[:n_rows, :]
        self.flat_error = kernel.xp.reshape(self.error, (-1,))
        (_, k), (_, d) = codes.shape, error.shape

        def view(start: int, columns: int) -> AnyArray:
            stop = start + n_rows * columns
            return kernel.xp.reshape(shared[start:stop], (n_rows, columns))

        self.output, self.delta, self.slope = view(0, d), view(0, k), view(n_rows * k, k)


class _OfThread(Scratch):
    """Memory for the kernels of a thread, and which of them uses it."""

    user = 0


_SCRATCH = _OfThread()
