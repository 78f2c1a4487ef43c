"""How much at a time: plain arithmetic on rows and bytes, never on what machine there is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MIB = 2**20

CACHE_BYTES = MIB // 2
"""Part of a second-level cache that a block of rows, its reconstruction and its error may take."""

MIN_BLOCK_ROWS, BLOCK_ROWS, MAX_BLOCK_ROWS = 512, 1024, 4096
"""Rows of a block: where it fits the cache, where it cannot, and at most."""

STACK_BYTES = MIB
"""Blocks that are computed in one call, at most: beyond, a call's overhead is nothing."""

GPU_STACK_BYTES = 64 * MIB
"""The same on a GPU, where a call takes some microseconds to begin, and thousands of cores wait."""

MIN_SHARD_BYTES = MIB // 4
"""Below this, the overhead of a task (about a millisecond) outweighs its work."""

MAX_SHARD_BYTES = 256 * MIB
"""Above this, a task takes too much of a worker's memory, and too long to do again."""

TASK_BYTES = 128 * MIB
"""Of more rows, the overhead of a task is nothing."""

MOST_TASKS = 16
"""For each thread: at the end, others wait for the last one."""

BUSY_SHARE = 0.85
"""Of the threads, if all tasks take the same time."""

MAX_SHARDS = 4096
"""Tasks of one evaluation that a scheduler hands out without becoming the limit."""

PORTION_BYTES = 8 * MIB
"""What a task reads at a time of rows that are not held: large against a request."""

CLIENT_BYTES = 64 * MIB
"""Rows that the client holds, at most."""

CLIENT_FLOPS = 4e9
"""Work that is not worth a round trip: some tens of milliseconds of one core, as the trip is."""

TWO_STAGE_BYTES = 512 * MIB
"""Rows and their codes that any cluster holds, at most, in float32."""

SAMPLE_SHARE = 1 / 8
"""Share of the rows in a sample: eight steps on it then cost what one evaluation does."""

MAX_SAMPLE_BYTES = 2 * 2**30
"""Of a sample: two of them are held, however many rows are streamed."""

FIRST_SAMPLE_ROWS = 1024
"""Rows of the smallest sample."""

FEWEST_SAMPLED_ROWS = 16_384
"""Of fewer rows, no samples are taken: all of them are soon visited."""

HELD_SHARE = 0.5
"""Share of the workers' memory for rows; the rest is for what tasks compute."""

TASK_SHARE = 0.8
"""Share of a worker's memory for what tasks compute where no rows are held: Dask pauses there."""

HELD_OUT_SHARE = 1 / 8
"""Share of the workers' memory for rows to stop by, where others are not held."""

FEWEST_SHARDS = 16
"""Of fewer, a share of each is held out; of more, one at least."""

IN_TASKS_BYTES = 64 * MIB
"""Of an evaluation, for what is in each of its tasks: a tenth of a second of a scheduler."""

GROUP = 48
"""Workers that have one among them for the others to ask: Dask lets fifty ask it at a time."""

MOST_QUEUED = 4
"""Tasks that each of many others needs, if Dask is to hand these out as threads get free."""

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


def row_stacks(
    n_rows: int, n_features: int, n_hidden: int, *, on_gpu: bool = False
) -> Iterator[tuple[slice, int]]:
    """Cut rows into stacks of blocks of equal size, and yield how many blocks each has.

    Blocks are summed up one by one, so that how many are in a stack changes no bit.

    Examples
    --------
    >>> from stackedae.memory import row_stacks
    >>> list(row_stacks(5000, 64, 25))
    [(slice(0, 4096, None), 8), (slice(4096, 4608, None), 1), (slice(4608, 5000, None), 1)]
    """
    step, most = rows_per_block(n_features), blocks_per_stack(n_features, n_hidden, on_gpu=on_gpu)
    n_blocks, rest = divmod(n_rows, step)
    for first in range(0, n_blocks, most):
        n_stacked = min(most, n_blocks - first)
        yield slice(first * step, (first + n_stacked) * step), n_stacked
    if rest:
        yield slice(n_blocks * step, n_rows), 1


def blocks_per_stack(n_features: int, n_hidden: int, *, on_gpu: bool = False) -> int:
    """Return how many blocks pass through a kernel at a time, at most.

    Examples
    --------
    >>> from stackedae.memory import blocks_per_stack
    >>> blocks_per_stack(64, 25), blocks_per_stack(784, 196)
    (8, 1)
    """
    most = GPU_STACK_BYTES if on_gpu else STACK_BYTES
    return max(1, most // (4 * rows_per_block(n_features) * max(n_features, n_hidden)))


def rows_per_shard(n_rows: int, row_bytes: int) -> int:
    """Return how many rows a task should take.

    Shards grow with the square root of the data (about as many shards as each holds quarters of a
    MiB), up to 256 MiB; beyond `MAX_SHARDS` of these, they grow with the data. Their number is a
    power of two, if they can be of equal size: so they halve evenly.

    Examples
    --------
    64 MiB of data in 16 shards of 4 MiB:

    >>> from stackedae.memory import MIB, rows_per_shard
    >>> rows_per_shard(64, MIB)
    4
    """
    total = max(1, n_rows * row_bytes)
    shard = min(max(math.isqrt(total * MIN_SHARD_BYTES), MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    n_shards = 1 << round(math.log2(max(1.0, total / shard)))
    if total > n_shards * MAX_SHARD_BYTES:
        n_shards *= 2
    return max(1, math.ceil(n_rows / min(n_shards, MAX_SHARDS)))


def n_tasks(n_bytes: int, n_threads: int) -> int:
    """Return how many tasks an evaluation should be cut into: a power of two.

    As few as keep nearly all threads busy to the end, for each takes milliseconds; up to sixteen
    for each thread where tasks are long, so that a slow worker can be given less to do.

    Examples
    --------
    100 MiB on two threads, and on three, two of which would wait for a fourth task; 100 GiB:

    >>> from stackedae.memory import MIB, n_tasks
    >>> n_tasks(100 * MIB, 2), n_tasks(100 * MIB, 3), n_tasks(102_400 * MIB, 3)
    (2, 8, 64)
    """
    tasks = 1
    while tasks < n_threads or tasks < BUSY_SHARE * n_threads * -(-tasks // n_threads):
        tasks *= 2
    while n_bytes > tasks * TASK_BYTES and tasks < MOST_TASKS * n_threads:
        tasks *= 2
    return tasks


def halvings(n: int, parts: int) -> list[tuple[int, int]]:
    """Halve n things, and what results, until there are as many parts, or one thing in each.

    Parameters
    ----------
    n : int
        Things.
    parts : int
        Wanted, at least.

    Returns
    -------
    list of (int, int)
        First thing of each part, and the first that is not in it any more.

    Examples
    --------
    >>> from stackedae.memory import halvings
    >>> halvings(7, 2)
    [(0, 3), (3, 7)]
    >>> halvings(3, 100)
    [(0, 1), (1, 2), (2, 3)]
    """
    ranges = [(0, n)]
    while len(ranges) < min(n, parts):
        ranges = [half for span in ranges for half in _halves(*span)]
    return ranges


def n_levels(parts: int) -> int:
    """Return how many levels of a tree there are above so many parts, of which each has two below.

    Examples
    --------
    >>> from stackedae.memory import n_levels
    >>> [n_levels(parts) for parts in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return (parts - 1).bit_length()


def _halves(start: int, stop: int) -> list[tuple[int, int]]:
    middle = (start + stop) // 2
    return [(start, middle), (middle, stop)] if middle > start else [(start, stop)]


def travels_in_tasks(n_bytes: int, n_tasks: int) -> bool:
    """Say whether what so many tasks need is sent in each of them, and not as a task of its own.

    A task of its own is on one worker at first, which all others ask for it: thousands get in each
    other's way.

    Examples
    --------
    Parameters of 64-25 in float32 for four thousand tasks, and of 784-196 for a hundred:

    >>> from stackedae.memory import travels_in_tasks
    >>> travels_in_tasks(4 * 3_289, 4_096), travels_in_tasks(4 * 308_308, 100)
    (True, False)
    """
    return n_bytes * n_tasks <= IN_TASKS_BYTES


def n_relays(n_workers: int, *, placed: bool) -> int:
    """Return how many workers hand on what many tasks need and is too large to travel in them.

    Tasks that have no place of their own, and need few others, are handed out as threads get free.

    Examples
    --------
    >>> from stackedae.memory import n_relays
    >>> n_relays(32, placed=True), n_relays(1000, placed=True), n_relays(1000, placed=False)
    (1, 21, 4)
    """
    groups = max(1, math.ceil(n_workers / GROUP))
    return groups if placed else min(groups, MOST_QUEUED)


def rows_per_portion_read(row_bytes: int) -> int:
    """Return how many rows a task should read at a time: whole blocks of any kernel.

    Examples
    --------
    >>> from stackedae.memory import rows_per_portion_read
    >>> rows_per_portion_read(8 * 8 * 4)
    32768
    """
    blocks = max(1, PORTION_BYTES // (MAX_BLOCK_ROWS * max(row_bytes, 1)))
    return blocks * MAX_BLOCK_ROWS


def runs_on_client(n_bytes: float, flops: float = 0) -> bool:
    """Say whether the client works on data itself: they are small, and so is their evaluation.

    Examples
    --------
    10,000 patches of 8×8 with 25 hidden units, and the same with ten times as many rows and units:

    >>> from stackedae.memory import runs_on_client
    >>> runs_on_client(10_000 * 256, 12.0 * 10_000 * 64 * 25)
    True
    >>> runs_on_client(100_000 * 256, 12.0 * 100_000 * 64 * 250)
    False
    """
    return n_bytes <= CLIENT_BYTES and flops <= CLIENT_FLOPS


def is_worth_two_stages(n_bytes: int) -> bool:
    """Say whether to pass over rows twice, and keep their codes meanwhile: a product less.

    Not of so many that they may have to be read for each pass. Size alone decides, for the two ways
    differ by rounding.

    Parameters
    ----------
    n_bytes : int
        Of rows and codes.

    Examples
    --------
    60,000 digits with 196 hidden units, and ten million of them:

    >>> from stackedae.memory import is_worth_two_stages
    >>> is_worth_two_stages(60_000 * 980 * 4), is_worth_two_stages(10_000_000 * 980 * 4)
    (True, False)
    """
    return n_bytes <= TWO_STAGE_BYTES


def is_worth_sampling(n_rows: int) -> bool:
    """Say whether data are so many that samples of them are large enough to learn from.

    Examples
    --------
    >>> from stackedae.memory import is_worth_sampling
    >>> is_worth_sampling(16_000), is_worth_sampling(17_000)
    (False, True)
    """
    return n_rows >= FEWEST_SAMPLED_ROWS


def sample_share(n_bytes: int) -> float:
    """Return the share of rows of so many bytes that is in a sample: a power of two.

    Examples
    --------
    >>> from stackedae.memory import sample_share
    >>> sample_share(2**30), sample_share(2**40)
    (0.125, 0.001953125)
    """
    too_many = SAMPLE_SHARE * n_bytes / MAX_SAMPLE_BYTES
    return SAMPLE_SHARE * 0.5 ** math.ceil(math.log2(max(1.0, too_many)))


def bytes_per_task(
    rows_at_a_time: int,
    copies: int,
    row_bytes: int,
    chunk_bytes: int,
    kept_bytes: int,
    n_sums: int,
    n_shards: int,
) -> int:
    """Return the memory that a task of an evaluation takes at most, beside rows that are held.

    Parameters
    ----------
    rows_at_a_time, copies, row_bytes : int
        Rows that are in memory at once, how often, and bytes of one.
    chunk_bytes : int
        Of a stored chunk, which is decoded as a whole.
    kept_bytes : int
        What else lives as long as the task, such as codes.
    n_sums : int
        Numbers that are summed up, in float64: for the task, and for each level of its tree.
    n_shards : int
        Shards of the task.

    Examples
    --------
    >>> from stackedae.memory import MIB, bytes_per_task
    >>> round(bytes_per_task(32_768, 4, 256, 0, 0, 8_000, 8) / MIB)
    36
    """
    sums = 8 * n_sums * (2 + max(1, n_shards).bit_length())
    rows = copies * rows_at_a_time * row_bytes + 2 * chunk_bytes
    return rows + kept_bytes + sums + 4 * STACK_BYTES


def bytes_of_solver(n_params: int) -> int:
    """Return the memory that L-BFGS takes at most: 10 pairs of vectors, and 10 more, in float64."""
    return 8 * n_params * 30


@dataclass(frozen=True)
class Holding:
    """Whether rows are held, and why.

    Parameters
    ----------
    held : bool
        Held in memory; else read again (or computed again) for every evaluation.
    reason : str
        The numbers that decided.
    """

    held: bool
    reason: str


def hold_or_stream(n_bytes: int, capacity: float) -> Holding:
    """Decide whether rows of so many bytes are held by workers of so much memory.

    Examples
    --------
    >>> from stackedae.memory import MIB, hold_or_stream
    >>> hold_or_stream(300 * MIB, 1000 * MIB)
    Holding(held=True, reason='300 MiB of rows fit into half of 1000 MiB of memory')
    """
    fits = n_bytes <= HELD_SHARE * capacity
    verb = "fit" if fits else "do not fit"
    reason = (
        f"{n_bytes / MIB:.0f} MiB of rows {verb} into half of {capacity / MIB:.0f} MiB of memory"
    )
    return Holding(fits, reason)


def n_shards_held_out(share: float, n_shards: int) -> int:
    """Return how many of some shards are held out; none if they are too few for this share.

    Examples
    --------
    >>> from stackedae.memory import n_shards_held_out
    >>> n_shards_held_out(0.1, 100), n_shards_held_out(0.01, 20), n_shards_held_out(0.01, 4)
    (10, 1, 0)
    """
    least = share > 0 and n_shards >= FEWEST_SHARDS
    return max(round(share * n_shards), int(least))


READ_RATE = 500e6
"""Bytes a core reads and decompresses in a second: an order of magnitude, to compare costs with."""

FLOP_RATE = 50e9
"""Floating-point operations of a core in a second, likewise."""


@dataclass(frozen=True)
class Placement:
    """Where the features of a layer are to be, and why.

    Parameters
    ----------
    place : {"held", "recomputed", "spilled"}
        In memory; computed again for every evaluation; in a scratch store.
    reason : str
        The numbers that decided.
    """

    place: str
    reason: str


def place_features(
    n_bytes: int,
    *,
    held_bytes: int,
    read_bytes: int,
    flops: float,
    n_evaluations: int,
    capacity: float,
    may_spill: bool,
) -> Placement:
    """Decide where features are that every evaluation of the next layer needs.

    Parameters
    ----------
    n_bytes : int
        Of the features.
    held_bytes : int
        Of their input, if that is held.
    read_bytes : int
        Of their input, if that has to be read to compute them.
    flops : float
        To compute them.
    n_evaluations : int
        Over all of them.
    capacity : float
        Bytes of memory of all workers.
    may_spill : bool
        Whether there is a folder to spill to.

    Examples
    --------
    Features too large to hold, of input that is held: cheaper to compute again than to read.

    >>> from stackedae.memory import place_features
    >>> place_features(
    ...     10**10, held_bytes=10**10, read_bytes=0, flops=1e11, n_evaluations=50,
    ...     capacity=3e10, may_spill=True,
    ... ).place
    'recomputed'
    """
    holding = hold_or_stream(n_bytes + held_bytes, capacity)
    if holding.held:
        return Placement("held", holding.reason)
    again = flops / FLOP_RATE + read_bytes / READ_RATE
    reading = n_bytes / READ_RATE
    spilled = reading + (again + reading) / max(1, n_evaluations)
    reason = f"{holding.reason}, and core seconds an evaluation are {again:.3g} to compute them"
    if not may_spill:
        return Placement("recomputed", f"{reason} (no scratch folder is known)")
    place = "spilled" if spilled < again else "recomputed"
    return Placement(place, f"{reason}, {spilled:.3g} to read them from a scratch store")


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
