"""How much at a time: plain arithmetic on rows and bytes, never on what machine there is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

MIB = 2**20

CACHE_BYTES = MIB // 2
"""Part of a second-level cache that a block of rows, its reconstruction and its error may take."""

MIN_BLOCK_ROWS, BLOCK_ROWS, MAX_BLOCK_ROWS = 512, 1024, 4096
"""Rows of a block: where it fits the cache, where it cannot, and at most."""

MIN_SHARD_BYTES = MIB
"""Below this, the overhead of a task (about a millisecond) outweighs its work."""

MAX_SHARD_BYTES = 256 * MIB
"""Above this, a task takes too much of a worker's memory, and too long to do again."""

MAX_SHARDS = 4096
"""Tasks of one evaluation that a scheduler hands out without becoming the limit."""

CHUNK_BYTES = 8 * MIB
"""Size of the chunks that are written: large against a request, small against a shard."""

BUFFER_BYTES = 128 * MIB
"""What the client holds of an array that it writes."""


def rows_per_block(n_features: int) -> int:
    """Return the rows that pass through a kernel at a time: a power of two.

    As many as stay in cache together with what is computed of them, if these are enough to make the
    overhead of a block small; wide rows do not fit, and go by `BLOCK_ROWS`. The machine has no say:
    a block is summed up in the precision of the arithmetic, so the bits depend on its size.

    Examples
    --------
    >>> from stackedae.memory import rows_per_block
    >>> rows_per_block(64), rows_per_block(784), rows_per_block(1)
    (512, 1024, 4096)
    """
    fitting = 2 ** int(math.log2(max(1, CACHE_BYTES // (3 * 4 * n_features))))
    return min(fitting, MAX_BLOCK_ROWS) if fitting >= MIN_BLOCK_ROWS else BLOCK_ROWS


def row_blocks(n_rows: int, n_features: int) -> Iterator[slice]:
    """Cut rows into blocks of `rows_per_block`, the last one shorter.

    Examples
    --------
    >>> from stackedae.memory import row_blocks
    >>> list(row_blocks(1500, 784))
    [slice(0, 1024, None), slice(1024, 1500, None)]
    """
    step = rows_per_block(n_features)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def rows_per_shard(n_rows: int, row_bytes: int) -> int:
    """Return how many rows a task should take.

    Shards grow with the square root of the data (as many shards as each holds MiB), between 1 MiB
    and 256 MiB; beyond `MAX_SHARDS` of the largest, they grow with the data.

    Examples
    --------
    64 MiB of data in 8 shards of 8 MiB:

    >>> from stackedae.memory import MIB, rows_per_shard
    >>> rows_per_shard(64, MIB)
    8
    """
    total = n_rows * row_bytes
    shard = min(max(math.isqrt(total * MIB), MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    return max(1, max(shard, total // MAX_SHARDS) // max(row_bytes, 1))


def runs_on_client(n_bytes: int) -> bool:
    """Say whether data are so small that the client works on them itself.

    Examples
    --------
    >>> from stackedae.memory import MIB, runs_on_client
    >>> runs_on_client(MIB), runs_on_client(2 * MIB)
    (True, False)
    """
    return n_bytes <= MIN_SHARD_BYTES


def shard_rows(chunk_rows: Sequence[int], target: int) -> tuple[int, ...]:
    """Cut rows into shards of about `target` rows, at the borders of chunks where possible.

    Small chunks that follow each other are put together, large ones divided evenly, so that no
    chunk smaller than a shard is read twice.

    Parameters
    ----------
    chunk_rows : sequence of int
        Rows of the stored chunks, in order.
    target : int
        Rows wanted.

    Returns
    -------
    tuple of int
        Rows of the shards, in order; none is empty.

    Examples
    --------
    >>> from stackedae.memory import shard_rows
    >>> shard_rows((3, 3, 3, 3, 3), 6)
    (6, 6, 3)
    >>> shard_rows((10,), 4)
    (4, 3, 3)
    """
    shards: list[int] = []
    gathered = 0
    for rows in chunk_rows:
        if gathered and gathered + rows > target:
            shards.append(gathered)
            gathered = 0
        if rows > target:
            shards.extend(_even_parts(rows, math.ceil(rows / target)))
        else:
            gathered += rows
    if gathered:
        shards.append(gathered)
    return tuple(shards)


def rows_per_chunk(row_bytes: int) -> int:
    """Return how many rows a written chunk should hold: a power of two, about `CHUNK_BYTES`.

    Examples
    --------
    >>> from stackedae.memory import rows_per_chunk
    >>> rows_per_chunk(8 * 8 * 4)
    32768
    """
    return int(2 ** round(math.log2(max(1.0, CHUNK_BYTES / max(row_bytes, 1)))))


def rows_per_portion(row_bytes: int, chunk_rows: int) -> int:
    """Return how many rows to write at a time: whole chunks, about `BUFFER_BYTES`, at least one.

    Examples
    --------
    >>> from stackedae.memory import MIB, rows_per_portion
    >>> rows_per_portion(MIB, 10)
    120
    """
    return max(1, BUFFER_BYTES // (row_bytes * chunk_rows)) * chunk_rows


def _even_parts(n: int, parts: int) -> list[int]:
    return [n // parts + (i < n % parts) for i in range(parts)]
