"""The arithmetic of the sparse auto-encoder on blocks of rows, in any array library."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from stackedae.arrays import (
    AnyArray,
    Scratch,
    arithmetic_dtype,
    beside,
    empty_beside,
    into,
    namespace_of,
    to_numpy,
)
from stackedae.costs.activations import Activation
from stackedae.layout import Array, Layout, Vector
from stackedae.memory import rows_per_block


class Kernel:
    """The products of one block of rows, in buffers that all blocks of a chunk share.

    The last of the codes is a unit that is always 1, whose weights in the decoder are b2: so the
    product with W2 adds the bias, and the sum for W2 brings the one for b2. Its column in the
    encoder is zero, and what is computed for that is dropped in the end.

    Parameters
    ----------
    f, g : Activation
        Of hidden units, and of reconstructions.
    sums_layout : Layout
        What to sum up.
    P : dict of str to ndarray
        Parameters W1, b1, W2 and b2.
    X : array of shape (n_rows, n_features)
        The chunk, whose library and device do the work.
    begin : ndarray of shape (sums_layout.size,) or None
        Sums to go on from.
    slope : ndarray of shape (n_hidden,) or None
        Slope c of the divergence if it is known; else f'(z) is summed up, to apply it later.
    """

    def __init__(
        self,
        f: Activation,
        g: Activation,
        sums_layout: Layout,
        P: dict[str, Array],
        X: AnyArray,
        *,
        begin: Vector | None = None,
        slope: Array | None = None,
    ) -> None:
        self.f, self.g, self.sums_layout, self.P = f, g, sums_layout, P
        self.xp, self.like, self.dtype = namespace_of(X), X, arithmetic_dtype(X)
        self.begin = begin
        self.slope = None if slope is None else self.send(np.append(slope, 0.0))
        self.sums_slope = slope is None and "slope" in sums_layout.slices
        self.layout = _with_unit(sums_layout, self.sums_slope)
        self.current: _Buffers | None = None

    # What not every use of a kernel needs is made when it is.

    @cached_property
    def W1(self) -> AnyArray:
        """Encoder weights (d, k), for scaled z."""
        return self.send(self.padded("W1", self.P["W1"].T, self.f.scale))

    @cached_property
    def b1(self) -> AnyArray:
        """Encoder biases (k,), for scaled z."""
        return self.send(np.append(self.f.scale * self.P["b1"], self.f.unit))

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
    def total(self) -> AnyArray:
        """Sums over all blocks: float64, where X is."""
        return beside(self.like, self.widened(self.begin), "float64")

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
                _begin(to[name], values.shape)[...] = values
        return wide

    def sums(self, out: Vector | None = None) -> Vector:
        """Return the sums over all blocks, without those of the unit that is always 1."""
        total = self.sums_layout.zeros() if out is None else out
        wide = self.layout.unpack(to_numpy(self.total))
        wide["b2"] = wide["W2"][:, -1]
        for name, values in self.sums_layout.unpack(total).items():
            if name in wide:
                values[...] = _begin(wide[name], values.shape)
        return total

    def encode(self, x: AnyArray, a: AnyArray) -> None:
        """Write the codes of rows x to a, and sum them up."""
        into(a, self.xp.matmul, x, self.W1)
        a += self.b1
        self.f.apply(self.xp, a)
        ones = self.buffers_for(x.shape[0]).ones
        into(self.part["activation"], self.xp.matmul, ones, a)

    def backpropagate(self, x: AnyArray, a: AnyArray) -> None:
        """Compute the other sums over rows x, whose codes a are overwritten, and add all up."""
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
        if self.sums_slope:
            self.f.derivative(xp, a, slope)
            delta *= slope
            into(part["slope_x"], matmul, slope.T, x)
            into(part["slope"], matmul, block.ones, slope)
        else:
            if self.slope is not None:
                delta += self.slope
            self.f.times_derivative(xp, delta, a)
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


_SCRATCH = Scratch()
