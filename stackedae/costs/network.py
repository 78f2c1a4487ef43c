"""The arithmetic of networks on blocks of rows, in any array library."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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

Known = NDArray[Any]
"""What is known of each row: its target, weight, or number in the data."""

Loss = Callable[..., None]
"""``loss(xp, output, target, delta, losses)`` writes the loss of every row, and its slope in z.

z is what the last activation f is applied to; ``delta`` gets the slope in f(z), which is left to be
multiplied by f'(z). A loss may overwrite `output`, if it is made for outputs whose f is the
identity. Arrays have the shape (n_blocks, n_rows, n_outputs), `losses` that without the last axis.
"""


@dataclass(frozen=True)
class Affine:
    """One layer of a network: f(W x + b), whose parameters are known by name.

    Parameters
    ----------
    matrix, bias : str
        Names of W and b.
    f : Activation
        What is applied to the sum.
    activation : str
        Name of the sum of its outputs; empty: it is not wanted.
    """

    matrix: str
    bias: str
    f: Activation
    activation: str = ""


def affine(X: Array, W: Array, b: Array, f: Activation) -> Array:
    """Return f(W x + b) of rows X.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.costs import ACTIVATIONS
    >>> from stackedae.costs.network import affine
    >>> affine(np.eye(2), np.array([[1.0, -1.0]]), np.zeros(1), ACTIVATIONS["relu"])
    array([[1.],
           [0.]])
    """
    scale = W.dtype.type(f.scale)  # a power of two: nothing is rounded
    out = X @ np.ascontiguousarray((scale * W).T)
    out += scale * b
    f.apply(np, out)
    return out


def squared_error(
    xp: Any,
    output: AnyArray,
    target: AnyArray,
    delta: AnyArray,
    losses: AnyArray,
    present: AnyArray | None = None,
) -> None:
    """Write ½‖output − target‖² of every row, over the entries that are present."""
    into(delta, xp.subtract, output, target)
    if present is not None:
        delta *= present
    into(losses, xp.vecdot, delta, delta)
    losses *= 0.5


def cross_entropy(
    xp: Any, output: AnyArray, target: AnyArray, delta: AnyArray, losses: AnyArray
) -> None:
    """Write −log softmax(output) of the class for which the target is 1; it is 0 for others."""
    output -= xp.max(output, axis=-1, keepdims=True)  # so that nothing overflows
    into(delta, xp.exp, output)
    total = xp.sum(delta, axis=-1, keepdims=True)
    into(losses, xp.vecdot, output, target)
    into(losses, xp.subtract, xp.log(total)[..., 0], losses)
    delta /= total
    delta -= target


N_COUNTS = 2
"""Sums that come first and are no sums of products: "n_rows" and "weight"."""


def sums_layout_of(chain: Sequence[Affine], shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Lay out what a kernel sums up over rows.

    Parameters
    ----------
    chain : sequence of Affine
        Layers.
    shapes : mapping of str to tuple of int
        Shapes of their parameters.

    Returns
    -------
    Layout
        The number of rows; the sums of weights, of losses, of activations where they are wanted,
        and of the slopes in every parameter.
    """
    activations = {layer.activation: shapes[layer.bias] for layer in chain if layer.activation}
    return Layout.of(n_rows=(), weight=(), loss=(), **activations, **shapes)


class NetworkKernel:
    """Sums over rows at given parameters, block by block, in buffers that all blocks share.

    Rows go up a chain of affine layers, their loss down again. Blocks that fit the cache of a
    product are computed in stacks, arrays of three dimensions: so there are few calls. Each block
    has its own sums, which are added up in the order of rows. `stackedae.memory.rows_per_block` of
    the widest layer says how many rows it has.

    A kernel works in memory that belongs to its thread: it is good until the next one is made.

    Parameters
    ----------
    chain : sequence of Affine
        Layers, in the order in which they are applied.
    P : mapping of str to ndarray
        Their parameters.
    sums_layout : Layout
        What to sum up: that of `sums_layout_of`.
    loss : Loss
        What to compare the output by.
    like : array of shape (n_rows, n_features)
        Rows whose library, device and precision all rows have: there the work is done.
    targets : callable or None
        ``targets(y)`` gives what the output should be, (n_rows, n_outputs); None: the rows
        themselves.
    fill : sequence of float
        What stands in for entries that are missing, one for each feature; empty: none is.
    corruption : Corruption or None
        What is done to rows before they go in.
    """

    def __init__(
        self,
        chain: Sequence[Affine],
        P: Mapping[str, Array],
        sums_layout: Layout,
        loss: Loss,
        like: AnyArray,
        *,
        targets: Callable[[Known], Known] | None = None,
        fill: Sequence[float] = (),
        corruption: Corruption | None = None,
    ) -> None:
        self.chain, self.sums_layout, self.loss, self.like = chain, sums_layout, loss, like
        self.targets, self.corruption = targets, corruption
        self.xp, self.dtype = namespace_of(like), arithmetic_dtype(like)
        self.sizes = (P[chain[0].matrix].shape[1], *(P[layer.bias].size for layer in chain))
        width = self.width = max(self.sizes)
        self.rows_per_block, self.on_gpu = rows_per_block(width), is_on_gpu(like)
        self.n_blocks = blocks_per_stack(width, width, on_gpu=self.on_gpu)
        self.up = [self.scaled(f"{e.matrix} up", P[e.matrix].T, e.f.scale) for e in chain]
        self.down = [self.scaled(f"{e.matrix} down", P[e.matrix], 1.0) for e in chain[1:]]
        self.biases = [self.in_rows(e.bias, e.f.scale * P[e.bias]) for e in chain]
        self.ones = self.in_rows("ones", np.ones(1))
        self.fill = self.in_rows("fill", np.array(fill)) if fill and is_floating(like) else None
        self.views: dict[tuple[int, int], _Views] = {}
        _SCRATCH.user = id(self)

    def chunk_sums(
        self,
        X: AnyArray,
        out: Vector | None = None,
        *,
        y: Known | None = None,
        weight: Known | None = None,
        row: Known | None = None,
    ) -> Vector:
        """Sum over the rows of X everything that the cost and its gradient need.

        Parameters
        ----------
        X : array of shape (n_rows, n_features)
            Rows.
        out : ndarray of shape (sums_layout.size,), float64, or None
            Sums over rows that came before: added to, and returned.
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs), or None
            What the output should be, if not the rows themselves.
        weight : ndarray of shape (n_rows,) or None
            What each row counts; None: 1.
        row : ndarray of shape (n_rows,) or None
            Numbers of the rows in the data, which a corruption depends on.

        Returns
        -------
        ndarray of shape (sums_layout.size,), float64

        Raises
        ------
        ArgumentError
            If y or row are needed and missing, or what is known is not known of each row.
        """
        assert _SCRATCH.user == id(self), "another kernel was made meanwhile"
        known = self.checked(X.shape[0], y=y, weight=weight, row=row)
        sums = self.zeros() if out is None else out
        total = beside(self.like, sums[N_COUNTS:], "float64")
        stacks = row_stacks(X.shape[0], self.width, self.width, on_gpu=self.on_gpu)
        for rows, n_blocks in stacks:
            views = self.views_of(n_blocks, (rows.stop - rows.start) // n_blocks)
            here = {name: views.stacked(values[rows]) for name, values in known.items()}
            self.pass_through(X[rows, :], views, here)
            for block in range(n_blocks):
                sums[:N_COUNTS] += views.n_rows, _weight(here, block, views.n_rows)
                total += self.block_sums[block, :]
        sums[N_COUNTS:] = to_numpy(total)
        return sums

    def checked(self, n_rows: int, **known: Known | None) -> dict[str, Known]:
        """Return what is known of rows, unless some of it is missing."""
        needed = {"y": self.targets is not None, "row": self.corruption is not None}
        for name, values in known.items():
            if values is None and needed.get(name):
                raise ArgumentError(name, None, "is needed by this cost", "pass one for each row")
            if values is not None and values.shape[:1] != (n_rows,):
                raise ArgumentError(
                    f"{name}.shape",
                    values.shape,
                    f"does not fit {n_rows} rows",
                    "pass one for each row",
                )
        return {name: values for name, values in known.items() if values is not None}

    def pass_through(self, X: AnyArray, views: _Views, known: Mapping[str, Known]) -> None:
        """Compute the sums over every block of rows X, given what is known of them."""
        clean = x = self.rows_in(X, views)
        if self.corruption is not None:
            x = self.corruption.apply(clean, known["row"])
        weight = self.send(known["weight"]) if "weight" in known else None
        self.forward(x, views, weight)
        self.compare(self.target(clean, known), views, weight)
        self.backward(x, views)

    def rows_in(self, X: AnyArray, views: _Views) -> AnyArray:
        """Return blocks of rows X in our precision, entries that are missing filled."""
        x = cast(X, self.dtype)
        x = self.xp.reshape(x, (views.n_blocks, views.n_rows, x.shape[1]))
        if self.fill is None:
            return x
        fill_in(x, self.fill[: views.n_rows, :], views.filled, views.present)
        return views.filled

    def target(self, clean: AnyArray, known: Mapping[str, Known]) -> AnyArray:
        """Return what the output of blocks should be."""
        if self.targets is None:
            return clean
        target = self.targets(known["y"])
        if target.shape[2:] != (self.sizes[-1],):
            raise ArgumentError(
                "y.shape[1:]",
                known["y"].shape[2:],
                f"does not fit {self.sizes[-1]} outputs",
                "pass targets of the shape that the cost asks for",
            )
        return self.send(target)

    def forward(self, x: AnyArray, views: _Views, weight: AnyArray | None) -> None:
        """Compute the outputs of all layers, and the sums of activations."""
        xp, inputs = self.xp, x
        for index, (layer, at) in enumerate(zip(self.chain, views.layers, strict=True)):
            into(at.output, xp.matmul, inputs, self.up[index])
            at.output += self.biases[index][: views.n_rows, :]
            layer.f.apply(xp, at.output)
            if layer.activation:
                into(at.activation, xp.matmul, views.in_row(weight), at.output)
            inputs = at.output

    def compare(self, target: AnyArray, views: _Views, weight: AnyArray | None) -> None:
        """Compute the sum of losses, and their slope in the last output."""
        xp, last = self.xp, views.layers[-1]
        masks = (views.present,) if self.targets is None and self.fill is not None else ()
        self.loss(xp, last.output, target, last.delta, views.losses, *masks)
        into(views.loss, xp.matmul, views.in_row(weight), views.losses[..., None])
        if weight is not None:
            last.delta *= weight[..., None]

    def backward(self, x: AnyArray, views: _Views) -> None:
        """Compute the slopes in all parameters, from the last layer to the first."""
        xp, layers = self.xp, views.layers
        for index in reversed(range(len(layers))):
            at = layers[index]
            self.chain[index].f.times_derivative(xp, at.delta, at.output)
            inputs = layers[index - 1].output if index else x
            into(at.matrix, xp.matmul, xp.matrix_transpose(at.delta), inputs)
            into(at.bias, xp.matmul, views.ones, at.delta)
            if index:
                into(layers[index - 1].delta, xp.matmul, at.delta, self.down[index - 1])

    def views_of(self, n_blocks: int, n_rows: int) -> _Views:
        """Return the buffers for so many blocks of so many rows."""
        views = self.views.get((n_blocks, n_rows))
        if views is None:
            views = self.views[n_blocks, n_rows] = _Views(self, n_blocks, n_rows)
        return views

    # Where all is computed, for a whole stack.

    @cached_property
    def block_sums(self) -> AnyArray:
        """Sums over every block of a stack, each in a vector that is added to the total at once."""
        shape = (self.n_blocks, self.sums_layout.size - N_COUNTS)
        sums = _SCRATCH.empty("sums", shape, self.dtype)
        sums[...] = 0.0
        return self.send(sums)

    @cached_property
    def buffers(self) -> dict[str, AnyArray]:
        """Outputs of all layers, and what is computed from them."""
        n_features, *n_outputs = self.sizes
        widths = {f"output {index}": width for index, width in enumerate(n_outputs)}
        # A slope is spent when that in the layer below is computed: two in turn.
        widths |= {"delta 0": max(n_outputs), "delta 1": max(n_outputs), "losses": 1}
        if self.fill is not None:
            widths |= {"filled": n_features, "present": n_features}
        n_rows = self.n_blocks * self.rows_per_block
        return {name: self.empty(name, n_rows * width) for name, width in widths.items()}

    def buffer(self, name: str, *shape: int) -> AnyArray:
        """Return as much of a buffer as this shape takes."""
        return self.xp.reshape(self.buffers[name][: math.prod(shape)], shape)

    def sums_over(self, name: str, n_blocks: int, *shape: int) -> AnyArray:
        """Return the sums of this name over each of so many blocks."""
        of = self.sums_layout.slices[name]
        sums = self.block_sums[:n_blocks, of.start - N_COUNTS : of.stop - N_COUNTS]
        return self.xp.reshape(sums, (n_blocks, *shape))

    def send(self, values: NDArray[Any]) -> AnyArray:
        """Return values where X is, in the precision of the arithmetic."""
        return beside(self.like, values, self.dtype)

    def scaled(self, name: str, values: Array, scale: float) -> AnyArray:
        """Return values times a power of two, like `send` does, and in order for products."""
        if scale == 1.0 and values.dtype == self.dtype and values.flags.c_contiguous:
            return self.send(values)
        out = _SCRATCH.empty(name, values.shape, self.dtype)
        np.multiply(values, scale, out=out, casting="same_kind")
        return self.send(out)

    def in_rows(self, name: str, values: Array) -> AnyArray:
        """Return values in every row of a block: broadcasting them takes longer."""
        rows = _SCRATCH.empty(name, (self.rows_per_block, values.size), self.dtype)
        rows[...] = values
        return self.send(rows)

    def empty(self, name: str, size: int) -> AnyArray:
        """Return scratch memory like `send` does, of any values."""
        if self.xp is np:
            return _SCRATCH.empty(name, (size,), self.dtype)
        return empty_beside(self.like, (size,), self.dtype)

    def zeros(self) -> Vector:
        """Return sums over no rows."""
        sums = POOL.empty((self.sums_layout.size,), "float64")
        sums[...] = 0.0
        return sums


def _weight(known: Mapping[str, Known], block: int, n_rows: int) -> float:
    """Return the sum of the weights of a block, whose bits do not depend on other blocks."""
    return float(known["weight"][block].sum(dtype=np.float64)) if "weight" in known else n_rows


class _Views:
    """Where a kernel computes on so many blocks of so many rows.

    Sums that are vectors have an axis more, for they come from products of matrices. The kernel is
    not kept: it keeps us, and what is in a circle goes late.
    """

    def __init__(self, kernel: NetworkKernel, n_blocks: int, n_rows: int) -> None:
        self.xp, self.n_blocks, self.n_rows = kernel.xp, n_blocks, n_rows
        self.ones = self.xp.reshape(kernel.ones[:n_rows, :], (1, 1, n_rows))
        self.losses = kernel.buffer("losses", n_blocks, n_rows)
        self.loss = kernel.sums_over("loss", n_blocks, 1, 1)
        if kernel.fill is not None:
            shape = n_blocks, n_rows, kernel.sizes[0]
            self.filled = kernel.buffer("filled", *shape)
            self.present = kernel.buffer("present", *shape)
        self.layers = [
            _LayerViews(kernel, index, n_blocks, n_rows) for index in range(len(kernel.chain))
        ]

    def stacked(self, values: Known) -> Known:
        """Return what is known of the rows in the shape of the blocks."""
        return values.reshape(self.n_blocks, self.n_rows, *values.shape[1:])

    def in_row(self, weight: AnyArray | None) -> AnyArray:
        """Return what each row counts, as matrices of one row."""
        if weight is None:
            return self.ones
        return self.xp.reshape(weight, (self.n_blocks, 1, self.n_rows))


class _LayerViews:
    """Where a kernel computes what concerns one layer: its output, the slope in it, and sums."""

    def __init__(self, kernel: NetworkKernel, index: int, n_blocks: int, n_rows: int) -> None:
        layer, (n_inputs, n_outputs) = kernel.chain[index], kernel.sizes[index : index + 2]
        self.output = kernel.buffer(f"output {index}", n_blocks, n_rows, n_outputs)
        self.delta = kernel.buffer(f"delta {index % 2}", n_blocks, n_rows, n_outputs)
        self.matrix = kernel.sums_over(layer.matrix, n_blocks, n_outputs, n_inputs)
        self.bias = kernel.sums_over(layer.bias, n_blocks, 1, n_outputs)
        if layer.activation:
            self.activation = kernel.sums_over(layer.activation, n_blocks, 1, n_outputs)


class _OfThread(Scratch):
    """Memory for the kernels of a thread, and which of them uses it."""

    user = 0


_SCRATCH = _OfThread()
