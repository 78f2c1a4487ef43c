"""The arithmetic of the sparse auto-encoder on blocks of rows, in any array library."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stackedae.arrays import (
    POOL,
    AnyArray,
    Scratch,
    arithmetic_dtype,
    beside,
    cast,
    empty_beside,
    fill_in,
    into,
    is_floating,
    is_on_gpu,
    namespace_of,
    to_numpy,
)
from stackedae.costs.activations import Activation
from stackedae.errors import ArgumentError
from stackedae.layout import Array, Layout, Vector
from stackedae.memory import blocks_per_stack, row_stacks, rows_per_block
from stackedae.noise import Corruption


class Blocks(NamedTuple):
    """A stack of blocks of rows, and what is known of these.

    Parameters
    ----------
    rows : slice
        Which rows they are.
    x : array of shape (n_blocks, m, n_features)
        The rows, with what stands in for missing entries.
    seen : array of shape (n_blocks, m, n_features)
        What the encoder gets of them: x, or x with noise in it.
    weight : array of shape (n_blocks, m) or None
        Of each row; None: all are 1.
    """

    rows: slice
    x: AnyArray
    seen: AnyArray
    weight: AnyArray | None


class Kernel:
    """Sums over rows at given parameters, block by block, in buffers that all blocks share.

    Blocks that fit the cache of a product are computed in stacks, arrays of three dimensions: so
    there are few calls. Each block has its own sums, which are added up in the order of rows.

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
    fill : ndarray of shape (n_features,) or None
        What stands in for entries that are missing; None: none is.
    corruption : Corruption or None
        Noise in what the encoder gets; None: there is none.
    """

    def __init__(
        self,
        f: Activation,
        g: Activation,
        sums_layout: Layout,
        P: dict[str, Array],
        like: AnyArray,
        slope: Array | None = None,
        fill: Vector | None = None,
        corruption: Corruption | None = None,
    ) -> None:
        self.f, self.g, self.sums_layout, self.P = f, g, sums_layout, P
        self.xp, self.like, self.dtype = namespace_of(like), like, arithmetic_dtype(like)
        d, h = P["W2"].shape
        self.rows_per_block, self.on_gpu = rows_per_block(d), is_on_gpu(like)
        self.n_blocks = blocks_per_stack(d, h + 1, on_gpu=self.on_gpu)
        self.slope = None if slope is None else self.in_rows("slope", np.append(slope, 0.0))
        self.sums_slope = slope is None and "slope" in sums_layout.slices
        self.fill, self.corruption = None, corruption
        if fill is not None and is_floating(like):
            self.fill = self.in_rows("fill", fill)
        self.layout = _with_unit(sums_layout, self.sums_slope)
        self.views: dict[tuple[int, ...], _Buffers] = {}
        _SCRATCH.user = id(self)

    def chunk_sums(
        self,
        X: AnyArray,
        out: Vector | None = None,
        *,
        row: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
    ) -> Vector:
        """See `AutoEncoderCost.chunk_sums`."""
        self.begin(out)
        for blocks in self.stacks_of(X, row, weight):
            a = self.buffers_for(blocks.x).codes
            self.encode(blocks, a)
            self.backpropagate(blocks, a)
        return self.sums(out)

    def forward(
        self,
        X: AnyArray,
        out: Vector | None = None,
        *,
        row: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
    ) -> tuple[AnyArray, Vector]:
        """See `AutoEncoderCost.forward`."""
        n_hidden = self.P["b1"].size
        shape = (X.shape[0], n_hidden + 1)
        if self.xp is np:
            codes = POOL.empty(shape, self.dtype)
        else:
            codes = empty_beside(X, shape, self.dtype)
        begin = np.zeros(n_hidden) if out is None else out
        activation = beside(X, np.append(begin, 0.0), "float64")
        for blocks in self.stacks_of(X, row, weight):
            self.encode(blocks, self.stacked(codes, blocks))
            for number in range(blocks.x.shape[0]):
                activation += self.part["activation"][number, :]
        return codes, to_numpy(activation)[:-1]

    def backward(
        self,
        X: AnyArray,
        out: Vector | None = None,
        *,
        codes: AnyArray | None = None,
        row: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
    ) -> Vector:
        """See `AutoEncoderCost.backward`."""
        if codes is None:
            return self.chunk_sums(X, out, row=row, weight=weight)
        self.begin(out)
        for blocks in self.stacks_of(X, row, weight):
            self.backpropagate(blocks, self.stacked(codes, blocks))
        return self.sums(out)

    def stacks_of(
        self, X: AnyArray, row: NDArray[Any] | None, weight: NDArray[Any] | None
    ) -> Iterator[Blocks]:
        """Yield blocks of X in our precision, filled, and what the encoder gets of them."""
        assert _SCRATCH.user == id(self), "another kernel was made meanwhile"
        n_rows, d = X.shape
        _refuse_other_sizes(n_rows, row=row, weight=weight)
        if self.corruption is not None and row is None:
            row = np.arange(n_rows)
        stacks = row_stacks(n_rows, d, self.P["b1"].size + 1, on_gpu=self.on_gpu)
        for rows, n_blocks in stacks:
            x = cast(X[rows, :], self.dtype)
            x = self.xp.reshape(x, (n_blocks, x.shape[0] // n_blocks, d))
            x = x if self.fill is None else self.filled(x, self.fill)
            of_each = None if weight is None else self.send(weight[rows].reshape(n_blocks, -1))
            yield Blocks(rows, x, self.seen(x, rows, row), of_each)

    def filled(self, x: AnyArray, fill: AnyArray) -> AnyArray:
        """Return blocks x with what stands in for missing entries; remember which are present."""
        views = self.buffers_for(x)
        fill_in(x, fill[: views.n_rows, :], views.filled, views.present)
        return views.filled

    def seen(self, x: AnyArray, rows: slice, row: NDArray[Any] | None) -> AnyArray:
        """Return what the encoder gets of blocks x."""
        if self.corruption is None or row is None:
            return x
        numbers = row[rows].reshape(x.shape[:2])
        return self.corruption.apply(x, numbers, self.buffers_for(x).noisy)

    def stacked(self, codes: AnyArray, blocks: Blocks) -> AnyArray:
        """Return the codes of these rows, stacked like the rows themselves."""
        return self.xp.reshape(codes[blocks.rows, :], (*blocks.x.shape[:2], codes.shape[1]))

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
        """Encoder biases for every row of a block, for scaled z."""
        return self.in_rows("b1", np.append(self.f.scale * self.P["b1"], self.f.unit))

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
        """Sums over every block of a stack, each in a vector that is added to the total at once."""
        sums = self.zeros("block", self.n_blocks * self.layout.size, self.dtype)
        return self.send(sums.reshape(self.n_blocks, -1))

    @cached_property
    def part(self) -> dict[str, AnyArray]:
        """The segments of `block`."""
        return {
            name: self.xp.reshape(self.block[:, self.layout.slices[name]], (-1, *shape))
            for name, shape in self.layout.shapes
        }

    @cached_property
    def ones(self) -> AnyArray:
        """Ones for every row of a block."""
        return self.send(np.ones(self.rows_per_block))

    @cached_property
    def buffers(self) -> tuple[AnyArray, ...]:
        """Codes, errors, and what reconstructions and slopes share, for a whole stack."""
        d, k = self.P["W2"].shape[0], self.P["W2"].shape[1] + 1
        n_rows = self.n_blocks * self.rows_per_block
        # The reconstruction is spent when δ2 and f'(z) are computed: one
        # memory for both, so that more of it stays in cache.
        return (
            self.empty("codes", n_rows * k),
            self.empty("error", n_rows * d),
            self.empty("shared", n_rows * max(d, 2 * k)),
        )

    @cached_property
    def filling(self) -> tuple[AnyArray, AnyArray]:
        """Rows whose missing entries are filled, and 1 for entries that are present, else 0."""
        size = self.n_blocks * self.rows_per_block * self.P["W2"].shape[0]
        return self.empty("filled", size), self.empty("present", size)

    @cached_property
    def noise(self) -> AnyArray:
        """Rows with noise in them."""
        return self.empty("noisy", self.n_blocks * self.rows_per_block * self.P["W2"].shape[0])

    def send(self, values: NDArray[Any]) -> AnyArray:
        """Return values where X is, in the precision of the arithmetic."""
        return beside(self.like, values, self.dtype)

    def in_rows(self, name: str, values: Vector) -> AnyArray:
        """Return values in every row of a block: broadcasting them takes longer."""
        rows = _SCRATCH.empty(name, (self.rows_per_block, values.size), self.dtype)
        rows[...] = values
        return self.send(rows)

    def empty(self, name: str, size: int) -> AnyArray:
        """Return scratch memory like `send` does, of any values."""
        if self.xp is np:
            return _SCRATCH.empty(name, (size,), self.dtype)
        return empty_beside(self.like, (size,), self.dtype)

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

    def buffers_for(self, x: AnyArray) -> _Buffers:
        """Return the buffers for a stack like x."""
        views = self.views.get(x.shape)
        if views is None:
            views = self.views[x.shape] = _Buffers(self, *x.shape)
        return views

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

    def encode(self, blocks: Blocks, a: AnyArray) -> None:
        """Write the codes of blocks to a, and sum them up."""
        matmul, views = self.xp.matmul, self.buffers_for(blocks.x)
        into(a, matmul, blocks.seen, self.W1)
        a += self.b1[: views.n_rows, :]
        self.f.apply(self.xp, a)
        if blocks.weight is None:
            into(views.part["activation"], matmul, views.ones, a)
        else:
            into(views.activation_row, matmul, self.xp.expand_dims(blocks.weight, axis=1), a)

    def backpropagate(self, blocks: Blocks, a: AnyArray) -> None:
        """Compute the other sums over blocks, whose codes are a, and add all up."""
        xp, matmul, views = self.xp, self.xp.matmul, self.buffers_for(blocks.x)
        r, e, delta, slope, part = views.output, views.error, views.delta, views.slope, views.part
        weight = None if blocks.weight is None else xp.expand_dims(blocks.weight, axis=-1)
        into(r, matmul, a, self.W2)
        self.g.apply(xp, r)

        into(e, xp.subtract, r, blocks.x)
        if self.fill is not None:
            e *= views.present
        self.sum_errors(views, blocks.weight)
        self.g.times_derivative(xp, e, r)
        # The memory of the reconstruction, which is spent, is that of the slopes.
        weighted = a if weight is None else into(slope, xp.multiply, a, weight)
        into(part["W2"], matmul, views.error_T, weighted)

        into(delta, matmul, e, self.W2_back)
        self.f.derivative(xp, a, slope)
        if weight is not None:
            slope *= weight
        if self.slope is not None:
            delta += self.slope[: views.n_rows, :]
        delta *= slope
        if self.sums_slope:
            into(part["slope_x"], matmul, views.slope_T, blocks.seen)
            into(part["slope"], matmul, views.ones, slope)
        into(part["W1"], matmul, views.delta_T, blocks.seen)
        into(part["b1"], matmul, views.ones, delta)
        for number in range(views.n_blocks):
            self.total += self.block[number, :]

    def sum_errors(self, views: _Buffers, weight: AnyArray | None) -> None:
        """Sum up the squares of the errors in `views`, and count their rows."""
        vecdot, e, part = self.xp.vecdot, views.error, views.part
        part["n_rows"][...] = views.n_rows
        if weight is None:
            part["weight"][...] = views.n_rows
            into(part["squared_error"], vecdot, views.flat_error, views.flat_error)
        else:
            part["weight"][...] = self.xp.sum(weight, axis=-1)
            into(part["squared_error"], vecdot, vecdot(e, e), weight)


def _refuse_other_sizes(n_rows: int, **known: NDArray[Any] | None) -> None:
    """Raise an `ArgumentError` unless there is one number for each row, or none at all."""
    for name, values in known.items():
        if values is not None and values.shape != (n_rows,):
            raise ArgumentError(
                f"{name}.shape",
                values.shape,
                f"does not fit {n_rows} rows",
                f"pass ({n_rows},): one number for each",
            )


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
    """Where a kernel computes on so many blocks of so many rows."""

    def __init__(self, kernel: Kernel, n_blocks: int, n_rows: int, d: int) -> None:
        self.n_blocks, self.n_rows = n_blocks, n_rows
        self.ones = kernel.ones[:n_rows]
        self.part = {name: values[:n_blocks, ...] for name, values in kernel.part.items()}
        codes, error, shared = kernel.buffers
        xp, k, m = kernel.xp, kernel.P["b1"].size + 1, n_blocks * n_rows

        def view(of: AnyArray, start: int, *shape: int) -> AnyArray:
            return xp.reshape(of[start : start + n_blocks * math.prod(shape)], (n_blocks, *shape))

        self.codes, self.error = view(codes, 0, n_rows, k), view(error, 0, n_rows, d)
        self.flat_error = view(error, 0, n_rows * d)
        self.output, self.delta = view(shared, 0, n_rows, d), view(shared, 0, n_rows, k)
        self.slope = view(shared, m * k, n_rows, k)
        self.activation_row = xp.expand_dims(self.part["activation"], axis=1)
        if kernel.fill is not None:
            self.filled, self.present = (view(each, 0, n_rows, d) for each in kernel.filling)
        if kernel.corruption is not None:
            self.noisy = view(kernel.noise, 0, n_rows, d)
        self.error_T, self.delta_T, self.slope_T = (
            xp.matrix_transpose(values) for values in (self.error, self.delta, self.slope)
        )


class _OfThread(Scratch):
    """Memory for the kernels of a thread, and which of them uses it."""

    user = 0


_SCRATCH = _OfThread()
