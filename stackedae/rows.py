"""Where the rows of a layer are: held in memory, read again, computed again, or spilled."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import dask

from stackedae.cluster import active_client, capacity
from stackedae.containers import (
    Container,
    bytes_of_a_read,
    cut_into_shards,
    refuse_bad_rows,
)
from stackedae.costs import AutoEncoderCost
from stackedae.errors import DataError
from stackedae.layers import Layer, Stack
from stackedae.layout import Vector
from stackedae.memory import (
    MIB,
    SAMPLE_SHARE,
    hold_or_stream,
    is_worth_sampling,
    place_features,
)
from stackedae.moments import first_bad_row, survey_sums
from stackedae.objective import belongs_here
from stackedae.shards import Draw, Shards, each_alone
from stackedae.storage import spill


@dataclass(frozen=True)
class Rows:
    """Rows that a layer is trained on, and where they are.

    Parameters
    ----------
    shards : Shards
        The rows.
    cost : AutoEncoderCost
        What is to be minimised over them, but for the output activation.
    place : {"held", "streamed", "recomputed", "spilled"}
        In memory; read again, computed again, or read from a scratch store for every evaluation.
    reason : str
        Why they are there.
    bytes_to_hold, bytes_per_read : int
        What is read once, to hold them, and by every evaluation over all of them.
    refuse : callable
        Raises the error for NaN or infinity in them.
    """

    shards: Shards
    cost: AutoEncoderCost
    place: str
    reason: str
    bytes_to_hold: int
    bytes_per_read: int
    refuse: Callable[[], None]

    def survey(self, seed: int) -> Survey:
        """Look at all rows, and draw a sample of them, in one read; few rows are all the sample."""
        shards, name = self.shards, "stackedae-survey"
        if not is_worth_sampling(shards.n_rows):
            return Survey.of(shards.sum(each_alone(survey_sums), name=name), shards)
        draw = Draw(0.0, SAMPLE_SHARE, seed)
        here = belongs_here(self.cost, shards, SAMPLE_SHARE)
        return Survey.of(
            *shards.sum_and_draw(each_alone(survey_sums), draw=draw, here=here, name=name)
        )


@dataclass(frozen=True)
class Survey:
    """What is to be known of rows before they are used.

    Parameters
    ----------
    n_outside : int
        Entries outside [0, 1].
    n_bad : int
        Blocks with NaN or infinity.
    checksum : int
        Of the bytes of all rows: CRC-32s of the shards, added up.
    sample : Shards
        Some of the rows.
    """

    n_outside: int
    n_bad: int
    checksum: int
    sample: Shards

    @classmethod
    def of(cls, sums: Vector, sample: Shards) -> Survey:
        """Read what `survey_sums` returned."""
        n_outside, n_bad, checksum = map(int, sums)
        return cls(n_outside, n_bad, checksum, sample)


def rows_of(X: Container, cost: AutoEncoderCost, dtype: str) -> Rows:
    """Return the samples of a container as rows: held if they fit, else to be read again.

    Parameters
    ----------
    X : container of shape (n_samples, …)
        Samples.
    cost : AutoEncoderCost
        What is to be minimised over them.
    dtype : {"float32", "float64"}
        Precision of the arithmetic.
    """
    shards, n_bytes = cut_into_shards(X, dtype), bytes_of_a_read(X)
    if belongs_here(cost, shards):
        held, reason = True, f"{shards.n_bytes / MIB:.1f} MiB of rows are held by the client"
    elif not n_bytes and active_client() is None:
        held, reason = True, f"{shards.n_bytes / MIB:.0f} MiB of rows are in memory already"
    else:
        decision = hold_or_stream(shards.n_bytes, capacity())
        held, reason = decision.held, decision.reason
    if held:
        shards = shards.hold(here=belongs_here(cost, shards))

    def refuse() -> None:
        bad = shards.gather(first_bad_row, name="stackedae-check")
        refuse_bad_rows(X, shards.rows, bad)

    return Rows(
        shards,
        cost,
        place="held" if held else "streamed",
        reason=f"{reason}: {'held' if held else 'streamed, read again by every evaluation'}",
        bytes_to_hold=n_bytes if held else 0,
        bytes_per_read=0 if held else n_bytes,
        refuse=refuse,
    )


def features_of(
    rows: Rows, layer: Layer, cost: AutoEncoderCost, n_evaluations: int, scratch: ExitStack
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
    """
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
        folder = _scratch_folder()
        decision = place_features(
            features.n_bytes,
            held_bytes=rows.shards.n_bytes if rows.shards.held else 0,
            read_bytes=rows.bytes_per_read,
            flops=2.0 * layer.cost.n_features * layer.cost.n_hidden * features.n_rows,
            n_evaluations=n_evaluations,
            capacity=capacity(),
            may_spill=folder is not None,
        )
        place, reason = decision.place, decision.reason
    if place == "held":
        features = features.hold(here=belongs_here(cost, features))
    elif place == "spilled":
        path = scratch.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="stackedae-"))
        features = spill(features, path)
    return Rows(
        features,
        cost,
        place=place,
        reason=f"{reason}: {place}",
        bytes_to_hold=rows.bytes_per_read if place != "recomputed" else 0,
        bytes_per_read={
            "held": 0,
            "recomputed": rows.bytes_per_read,
            "spilled": features.n_bytes,
        }[place],
        refuse=partial(_refuse_features, layer),
    )


def _scratch_folder() -> str | None:
    """Return where to spill; None if no folder is known that all workers see."""
    told = dask.config.get("stackedae.scratch", None)
    if told is not None:
        return str(told)
    if active_client() is not None:
        return None
    return str(dask.config.get("temporary-directory", None) or tempfile.gettempdir())


def _refuse_features(layer: Layer) -> None:
    raise DataError(
        f"The {layer.cost.n_hidden} features of a layer with activation="
        f"{layer.cost.activation!r} became NaN or infinite; scale the data to about [0, 1] or unit "
        "variance, or pass a bounded activation."
    )
