"""One fit, from the first look at the data to the last layer, and what is left of one cut short."""

from __future__ import annotations

import math
import platform
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from stackedae._version import __version__
from stackedae.blas import blas_versions
from stackedae.checkpoint import Checkpoint
from stackedae.clock import NO_TIME, Seconds
from stackedae.cluster import describe_scheduler
from stackedae.containers import Container
from stackedae.errors import ClusterError, WaitingWarning
from stackedae.minimisation import TrainingSettings
from stackedae.persistence import Learned
from stackedae.progress import SECONDS, Progress, Record
from stackedae.sharing import n_sharing
from stackedae.solvers import Status
from stackedae.targets import Targets
from stackedae.training import StackSettings, train_stack

_PACKAGES = ("dask", "distributed", "numpy", "scikit-learn", "xarray", "zarr")


def fit_stack(
    X: Container,
    settings: StackSettings,
    training: TrainingSettings,
    *,
    targets: Targets | None = None,
    pretrained: Learned | None = None,
    draw_seed: Callable[[], int],
    checkpoint: Checkpoint | None,
    on_iteration: Callable[[Record], None],
    keep: Callable[[Progress], None],
) -> None:
    """Train layers, or go on with them, and leave nothing behind but what was learned.

    Parameters
    ----------
    X, settings, training, targets
        As for `train_stack`.
    pretrained : Learned or None
        Layers that are learned already.
    draw_seed : callable
        Returns a seed, for work that was not begun before.
    checkpoint : Checkpoint or None
        Where to go on from, and where to write progress down.
    on_iteration : callable
        Called with the record of every iteration.
    keep : callable
        Called with what was learned: all layers, or after Ctrl-C those that there are, the last of
        which has the status INTERRUPTED.

    Raises
    ------
    CheckpointError
        If the checkpoint is not of this data, these settings and this version.
    ClusterError
        If workers or the scheduler are gone; says where training stood.
    """
    begun = None if checkpoint is None else checkpoint.read()
    if begun is None:
        begun = Progress(draw_seed())
        if pretrained is not None:
            history = [r for r in pretrained.history if r["layer"] < len(pretrained.layers)]
            begun = replace(begun, layers=tuple(pretrained.layers), history=history)
    begun = replace(begun, runs=(*begun.runs, this_run()))
    watch = _Watch(begun, checkpoint, on_iteration)
    try:
        finished = train_stack(X, settings, training, begun, watch, targets)
    except (KeyboardInterrupt, SystemExit) as interrupt:
        # Some packages make Ctrl-C raise the latter: dask-jobqueue, by being imported.
        watch.save()
        _forget(interrupt)
        partial = watch.progress.finished(training.dtype, Status.INTERRUPTED)
        if partial.layers:
            keep(partial)
        raise
    except ClusterError as error:
        watch.save()
        _forget(error)
        raise error.during(watch.whereabouts) from error
    except Exception:
        watch.save()
        raise
    keep(finished)


class _Watch:
    """Follows training: tells whoever listens, and has checkpoints written."""

    def __init__(
        self, begun: Progress, checkpoint: Checkpoint | None, tell: Callable[[Record], None]
    ) -> None:
        self.progress, self.checkpoint, self.tell = begun, checkpoint, tell
        self.waiting = _Waiting()

    def on_data(self, data: Mapping[str, Any]) -> None:
        """Compare the data with those that work began with; see that checkpoints can be written."""
        if self.checkpoint is not None:
            self.checkpoint.compare_data(self.progress, data)
            self.checkpoint.write(replace(self.progress, data=data))

    def on_step(self, progress: Progress) -> None:
        """Follow a step."""
        self.progress = progress
        self.tell(progress.history[-1])
        self.waiting.look_at(progress.history[-1])
        if self.checkpoint is not None:
            self.checkpoint.offer(progress)

    def on_layer(self, progress: Progress) -> None:
        """Follow the end of a layer."""
        self.progress = progress
        if self.checkpoint is not None:
            self.checkpoint.try_to_write(progress)

    def save(self) -> None:
        """Write down what is newer than the checkpoint."""
        if self.checkpoint is not None and len(self.progress.history) > self.checkpoint.n_records:
            self.checkpoint.try_to_write(self.progress)

    @property
    def whereabouts(self) -> str:
        """Where training stands, and how to go on."""
        history = self.progress.history
        if self.progress.stage is None:
            where = f"before the first iteration of layer {self.progress.done}"
        else:
            last = history[-1]
            where = (
                f"in layer {last['layer']}, phase {last['phase']!r}, after iteration "
                f"{last['iteration']}"
            )
        if self.checkpoint is None:
            return f"{where}; there is no checkpoint (pass checkpoint= to have one)"
        return f"{where}; fit again to go on from the checkpoint {self.checkpoint.name}"


class _Waiting:
    """Warns, once, if workers wait or read for longer than they compute."""

    def __init__(self) -> None:
        threads = describe_scheduler()
        # Who shares reads takes turns: to wait for others is no harm.
        self.told = threads["kind"] != "distributed" or n_sharing() > 1
        self.seconds, self.n_evaluations = NO_TIME, 0

    def look_at(self, record: Record) -> None:
        """Take note of an iteration, and warn if it is time."""
        self.seconds += Seconds(*(record[name] for name in SECONDS))
        self.n_evaluations += record["n_evaluations"]
        seconds = self.seconds
        if self.told or seconds.total < LOOK_AFTER or seconds.compute > seconds.total / 2:
            return
        self.told = True
        warnings.warn(
            f"Workers computed for {seconds.compute:.0f} of the {seconds.total:.0f} s that "
            f"evaluations took, read for {seconds.read:.0f} and waited for {seconds.wait:.0f}: "
            f"{self._cure()}. See the page on clusters in the documentation.",
            WaitingWarning,
            stacklevel=2,
        )

    def _cure(self) -> str:
        seconds = self.seconds
        if seconds.read > seconds.wait:
            return (
                "reading is the limit; start workers with more memory, or more of them, so that "
                "rows can be held, or move the store nearer to them"
            )
        threads, each = describe_scheduler()["threads"], seconds.total / self.n_evaluations
        if each < LONG_EVALUATION:
            few = math.ceil(threads * (1 - seconds.wait / seconds.total))
            return (
                f"an evaluation takes {each:.2g} s, most of which is the way to the workers and "
                f"back; fewer of their {threads} threads would do ({few}), or none"
            )
        return (
            "some have more to do than others, or are slower; look at the dashboard for which, "
            "and see that there are more shards than threads"
        )


LOOK_AFTER = 60.0
"""Seconds of evaluations after which there is something to be said of them."""

LONG_EVALUATION = 1.0
"""Seconds of which a round trip is next to nothing."""


def this_run() -> dict[str, Any]:
    """Return what is to be known of this process, to trace a result."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "stackedae": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
            "blas": blas_versions(),
        },
        "machine": platform.platform(),
        "scheduler": describe_scheduler(),
    }


@cache  # metadata are parsed from a file, which takes longer than an iteration on few samples
def _version(package: str) -> str:
    return version(package)


def _forget(error: BaseException) -> None:
    """Drop what the frames of an error hold: rows that workers would keep as long as it lives."""
    traceback.clear_frames(error.__traceback__)
