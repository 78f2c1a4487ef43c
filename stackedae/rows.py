"""Where the rows of a layer are: held in memory, read again, computed again, or spilled."""

from __future__ import annotations

import logging
import math
import tempfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import dask
import numpy as np
import psutil

from stackedae.cluster import Memory, active_client, memory_of_workers, scratch_folder
from stackedae.containers import (
    Container,
    as_array,
    bytes_of_a_chunk,
    bytes_of_a_read,
    cut_into_shards,
    refuse_bad_rows,
)
from stackedae.costs import AutoEncoderCost
from stackedae.errors import DataError, MemoryPlanError
from stackedae.evaluation import Cost
from stackedae.layers import Layer, Stack
from stackedae.layout import Vector
from stackedae.memory import (
    HELD_OUT_SHARE,
    HELD_SHARE,
    MIB,
    TASK_SHARE,
    Holding,
    bytes_of_solver,
    bytes_per_task,
    hold_or_stream,
    is_worth_sampling,
    n_shards_held_out,
    place_features,
    rows_per_portion_read,
    sample_share,
)
from stackedae.moments import checksum_of_rows, first_bad_row, survey_sums
from stackedae.objective import belongs_here, needs_two_stages
from stackedae.shards import Draw, Shards, each_alone
from stackedae.sharing import leave, n_sharing, reads_paid, shared, unshared
from stackedae.storage import spill
from stackedae.targets import TARGET, TARGET_WEIGHT

_LOGGER = logging.getLogger("stackedae")


Beside = Callable[[Shards], Shards]
"""Puts columns beside the rows of shards."""


def _nothing_beside(shards: Shards) -> Shards:
    return shards


@dataclass(frozen=True)
class Rows:
    """Rows that a layer is trained on, and where they are.

    Parameters
    ----------
    shards : Shards
        The rows.
    cost : Cost
        What is to be minimised over them, but for the output activation.
    place : {"held", "streamed", "recomputed", "spilled"}
        In memory; read again, computed again, or read from a scratch store for every evaluation.
    reason : str
        Why they are there.
    bytes_to_hold, bytes_per_read : int
        What is read once, to hold them, and by every evaluation over all of them.
    missing : bool
        Whether NaN stands for entries that are missing.
    refuse : callable
        Raises the error for what else is not finite in them, or in what is held out.
    held_out : Rows or None
        Others, to stop training by.
    """

    shards: Shards
    cost: Cost
    place: str
    reason: str
    bytes_to_hold: int
    bytes_per_read: int
    missing: bool
    refuse: Callable[[], None]
    held_out: Rows | None = None

    def made_to(self, shards: Shards, cost: Cost) -> Rows:
        """Return what was made of these rows: now, if it is held, or by every use."""
        to_hold, per_read = 0, self.bytes_per_read
        if shards.held:
            to_hold, per_read = round(reads_paid(self.shards, 1) * per_read), 0
        return replace(
            self, shards=shards, cost=cost, bytes_to_hold=to_hold, bytes_per_read=per_read
        )

    def survey(self, seed: int) -> Survey:
        """Look at all rows, and draw a sample of them, in one read; few rows are all the sample."""
        shards, name = self.shards, "stackedae-survey"
        begin = each_alone(partial(survey_sums, missing=self.missing))
        if not is_worth_sampling(shards.n_rows):
            return Survey.of(shards.sum(begin, name=name), shards)
        share = sample_share(shards.n_bytes)
        draw, here = Draw(0.0, share, seed), belongs_here(self.cost, shards, share)
        return Survey.of(*shards.sum_and_draw(begin, draw=draw, here=here, name=name))


@dataclass(frozen=True)
class Survey:
    """What is to be known of rows before they are used.

    Parameters
    ----------
    n_outside : int
        Entries outside [0, 1].
    n_bad : int
        Blocks with NaN or infinity; with infinity, if entries may be missing.
    checksum : int
        Of the bytes of all rows: CRC-32s of the shards, added up.
    sample : Shards
        Some of the rows of every shard, or all of them.
    fill : tuple of float
        If entries may be missing, the mean of those that are present, one per feature; 0 where none
        is.
    """

    n_outside: int
    n_bad: int
    checksum: int
    sample: Shards
    fill: tuple[float, ...]

    @classmethod
    def of(cls, sums: Vector, sample: Shards) -> Survey:
        """Read what `survey_sums` returned."""
        n_outside, n_bad, checksum = map(int, sums[:3])
        n_present, present = sums[3:].reshape(2, -1)
        fill = present / np.where(n_present > 0, n_present, 1)
        return cls(n_outside, n_bad, checksum, sample, tuple(fill.tolist()))

    def checksums(self) -> dict[str, int]:
        """Return the checksum, and one of the sample: it notices shards that changed places."""
        of_sample = self.sample.gather(checksum_of_rows, name="stackedae-checksum")
        return {"crc32": self.checksum, "sample": zlib.crc32(repr(of_sample).encode())}


def rows_of(
    X: Container,
    cost: AutoEncoderCost,
    dtype: str,
    *,
    missing: bool = False,
    beside: Beside = _nothing_beside,
    known: int = 0,
    validation: float = 0.0,
    seed: int = 0,
) -> Rows:
    """Return the samples of a container as rows: held if they fit, else to be read again.

    Parameters
    ----------
    X : container of shape (n_samples, …)
        Samples.
    cost : AutoEncoderCost
        What is to be minimised over them.
    dtype : {"float32", "float64"}
        Precision of the arithmetic.
    missing : bool
        Whether NaN stands for entries that are missing.
    beside : callable
        Puts beside shards what is known of their rows.
    known : int
        What tells that from what others who share reads put there.
    validation : float
        Share of the rows to be held out: whole shards, or a share of each if they are few.
    seed : int
        Which.
    """
    refuse_too_many_parameters(cost)
    X = as_array(X)  # once: a stored array is opened for it
    whole, n_bytes = beside(cut_into_shards(X, dtype)), bytes_of_a_read(X)
    n_out = n_shards_held_out(validation, len(whole.rows))
    rest, out = (whole, None) if n_out == 0 else in_whole_shards(whole, n_out, seed)
    # Others who share reads may hold out other shards, of the same sizes.
    label = f"{whole.aside} {known} {(n_out, seed) if n_out else ''}"
    shards = source = shared(rest, label=label)
    holding, most_held_out = _holding_of(whole, source, cost, X, n_bytes)
    out_paid, reads = 0.0, int(holding.held)
    if out is not None and out.n_bytes <= most_held_out:
        # Else everybody reads them alone: who waited for others here would read all else alone.
        common = shared(out, label=f"{label} held out")
        out = common.hold(here=belongs_here(cost, out))
        out_paid = reads_paid(common, 1)
    if holding.held:
        shards = source.hold(here=belongs_here(cost, source))
        leave()
    if validation and out is None:
        reads += 0 if shards.held else 2
        shards, out = from_every_shard(shards, validation, seed)
    how = "held" if shards.held else "streamed, read again by every evaluation"

    def refuse() -> None:
        all_rows = shards if out is None else whole
        bad = all_rows.gather(partial(first_bad_row, missing=missing), name="stackedae-check")
        refuse_bad_rows(X, all_rows.rows, bad, missing=missing)

    def bytes_of(part: Shards) -> int:
        return n_bytes * part.n_rows // whole.n_rows

    rows = Rows(
        shards,
        cost,
        place="held" if shards.held else "streamed",
        reason=f"{holding.reason}: {how}",
        bytes_to_hold=round(reads_paid(source, reads) * bytes_of(source)),
        bytes_per_read=0 if shards.held else bytes_of(shards),
        missing=missing,
        refuse=refuse,
    )
    if out is None:
        return rows
    to_hold, per_read = round(out_paid * bytes_of(out)), 0 if out.held else bytes_of(out)
    held_out = replace(rows, shards=out, bytes_to_hold=to_hold, bytes_per_read=per_read)
    return replace(rows, held_out=held_out)


def _holding_of(
    whole: Shards, source: Shards, cost: AutoEncoderCost, X: Container, bytes_of_reading: int
) -> tuple[Holding, float]:
    """Decide whether rows are held, and how many bytes of what is held out of them may be."""
    size = source.n_bytes / MIB
    if belongs_here(cost, source):
        return Holding(True, f"{size:.1f} MiB of rows are held by the client"), math.inf
    if not bytes_of_reading and active_client() is None:
        return Holding(True, f"{size:.0f} MiB of rows are in memory already"), math.inf
    memory = memory_of_workers()
    holding = hold_or_stream(whole.n_bytes, memory.capacity)
    refuse_unless_it_fits(source, cost, bytes_of_a_chunk(X), memory, held=holding.held)
    return holding, math.inf if holding.held else HELD_OUT_SHARE * memory.capacity


@dataclass(frozen=True)
class TaskMemory:
    """What the largest task takes.

    Parameters
    ----------
    needed, there : float
        Bytes that it needs, and that a thread of a worker has for it.
    n_shards : int
        Shards of it.
    """

    needed: float
    there: float
    n_shards: int


def refuse_unless_it_fits(
    shards: Shards, cost: AutoEncoderCost, chunk_bytes: int, memory: Memory, *, held: bool
) -> TaskMemory:
    """Raise a `MemoryPlanError` if a task takes more memory than a worker has for it.

    Parameters
    ----------
    shards : Shards
        Rows, not held yet.
    cost : AutoEncoderCost
        What is to be minimised over them.
    chunk_bytes : int
        Of the largest chunk that they come from.
    memory : Memory
        What there is.
    held : bool
        Whether they will be held.

    Returns
    -------
    TaskMemory
    """
    largest, row_bytes = max(shards.rows), shards.n_features * shards.dtype.itemsize
    per_task = shards.shards_of_a_task(memory.n_threads)
    if held:
        at_a_time, copies, share = largest, 3, 1 - HELD_SHARE
    elif shards.whole:
        at_a_time, copies, share = largest * per_task, 2, TASK_SHARE
    else:
        at_a_time, copies, share = min(largest, rows_per_portion_read(row_bytes)), 4, TASK_SHARE
    codes = cost.n_hidden * np.dtype(np.float32).itemsize * largest * per_task
    of_a_fit = codes if needs_two_stages(cost, shards) else 0, cost.sums_layout.size, per_task
    needed = bytes_per_task(at_a_time, copies, row_bytes, chunk_bytes, *of_a_fit)
    others = 0 if held else n_sharing() - 1
    needed += others * bytes_per_task(at_a_time, 1, row_bytes, 0, *of_a_fit)
    there = share * memory.per_thread
    _LOGGER.info(
        "%d shards of %d rows at most, %d to a task; a task takes up to %.0f MiB of %.0f",
        len(shards.rows),
        largest,
        per_task,
        needed / MIB,
        there / MIB,
    )
    if needed > there:
        together = f", of {others + 1} fits at a time" if others else ""
        fewer = ", or fit fewer settings at a time" if others else ""
        raise MemoryPlanError(
            f"A task would take up to {needed / MIB:.0f} MiB ({at_a_time} rows of {row_bytes} "
            f"bytes {copies} times, chunks of {chunk_bytes / MIB:.0f} MiB, "
            f"{cost.sums_layout.size} sums{together}), and {memory.where} has "
            f"{there / MIB:.0f} MiB for each of its threads; start workers with more memory or "
            f"fewer threads, or write smaller chunks{fewer}."
        )
    return TaskMemory(needed, there, per_task)


def features_of(
    rows: Rows,
    layer: Layer,
    cost: AutoEncoderCost,
    n_evaluations: int,
    scratch: ExitStack,
    *,
    held_besides: int = 0,
) -> Rows:
    """Return the activations of a layer as rows for the next, where they cost least.

    Parameters
    ----------
    rows : Rows
        What the layer was trained on.
    layer : Layer
        The layer.
    cost : AutoEncoderCost
        What is to be minimised over its activations.
    n_evaluations : int
        How often all of them will be needed.
    scratch : ExitStack
        Removes what is spilled when it is closed.
    held_besides : int
        Bytes of other rows that stay in memory.
    """
    refuse_too_many_parameters(cost)
    dtype = layer.params.dtype
    features = rows.shards.map(
        Stack.encode,
        Stack([layer]),
        n_features=layer.cost.n_hidden,
        dtype=dtype,
        name="stackedae-encode",
    )
    place, reason, folder = "held", "they are held by the client as their input is", None
    if not rows.shards.here:
        folder, memory = _scratch_folder(), memory_of_workers()
        refuse_unless_it_fits(features, cost, 0, memory, held=False)
        decision = place_features(
            features.n_bytes,
            held_bytes=held_besides + (rows.shards.n_bytes if rows.shards.held else 0),
            read_bytes=rows.bytes_per_read,
            flops=2.0 * layer.cost.n_features * layer.cost.n_hidden * features.n_rows,
            n_evaluations=n_evaluations,
            capacity=memory.capacity / n_sharing(),
            may_spill=folder is not None,
        )
        place, reason = decision.place, decision.reason
    if place == "held":
        features = features.hold(here=belongs_here(cost, features))
    elif place == "spilled":
        path = scratch.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="stackedae-"))
        features = spill(features, path)
    kept = place != "recomputed"
    if kept:
        leave()
    return Rows(
        features,
        cost,
        place=place,
        reason=f"{reason}: {place}",
        bytes_to_hold=round(reads_paid(rows.shards, 1) * rows.bytes_per_read) if kept else 0,
        bytes_per_read={
            "held": 0,
            "recomputed": rows.bytes_per_read,
            "spilled": features.n_bytes,
        }[place],
        missing=False,
        refuse=partial(_refuse_features, layer),
    )


def labelled(rows: Rows, cost: Cost) -> Rows:
    """Return those rows that have a target beside them.

    Parameters
    ----------
    rows : Rows
        All rows, with what is known of them.
    cost : Cost
        What is to be minimised over those with a target.
    """
    refuse_too_many_parameters(cost)
    shards, alone = rows.shards, unshared(rows.shards)
    sizes = alone.n_known(TARGET)
    if TARGET_WEIGHT in shards.aside:
        shards, alone = (each.weighted_by(TARGET_WEIGHT) for each in (shards, alone))
    if sizes == list(shards.rows):
        return replace(rows, shards=shards, cost=cost)
    later = alone.known_later(TARGET, sizes)
    here = belongs_here(cost, later)
    if not (here or shards.held or max(sizes) == 0):
        leave()  # what others read are all rows
        return held_if_they_fit(replace(rows, shards=later), cost)
    return _now_held(rows, shards.known(TARGET, sizes, here=here), cost)


def held_if_they_fit(rows: Rows, cost: Cost) -> Rows:
    """Return rows that are computed, or read, held if memory allows it."""
    shards, here = rows.shards, rows.shards.here or belongs_here(cost, rows.shards)
    if not here:
        holding = hold_or_stream(shards.n_bytes, memory_of_workers().capacity)
        if not holding.held:
            return replace(rows, cost=cost, bytes_to_hold=0)
    return _now_held(rows, shards.hold(here=here), cost)


def _now_held(rows: Rows, shards: Shards, cost: Cost) -> Rows:
    return replace(rows.made_to(shards, cost), place="held")


def in_whole_shards(shards: Shards, n_out: int, seed: int) -> tuple[Shards, Shards]:
    """Return all but so many shards, and these, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(shards.rows))
    return shards.some(sorted(order[n_out:])), shards.some(sorted(order[:n_out]))


def from_every_shard(shards: Shards, share: float, seed: int) -> tuple[Shards, Shards]:
    """Return all but a share of the rows of every shard, and these, drawn at random."""
    held_out, rest = (shards.draw(Draw(*ends, seed)) for ends in ((0.0, share), (share, 1.0)))
    return rest, held_out


def refuse_too_many_parameters(cost: Cost) -> None:
    """Raise a `MemoryPlanError` if the solver takes more memory than the client has."""
    n, there = n_sharing(), psutil.virtual_memory().available
    needed = n * bytes_of_solver(cost.layout.size)
    if needed > there:
        solvers = "its solver takes" if n == 1 else f"the solvers of {n} fits take"
        raise MemoryPlanError(
            f"A layer of {cost.n_hidden} hidden units on {cost.n_features} features has "
            f"{cost.layout.size} parameters, and {solvers} {needed / MIB:.0f} MiB on the "
            f"client, which has {there / MIB:.0f}; pass fewer hidden units, or smaller patches."
        )


def _scratch_folder() -> str | None:
    """Return where to spill; None if no folder is known that all workers see."""
    told = dask.config.get("stackedae.scratch", None)
    return scratch_folder() if told is not None or active_client() is None else None


def _refuse_features(layer: Layer) -> None:
    raise DataError(
        f"The {layer.cost.n_hidden} features of a layer with activation="
        f"{layer.cost.activation!r} became NaN or infinite; scale the data to about [0, 1] or unit "
        "variance, or pass a bounded activation."
    )
