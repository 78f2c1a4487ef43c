"""Checkpoints: where training stands, written down on the way, so that no work is lost.

A checkpoint is a Zarr group with a numbered group for every time that it was written. A new one is
complete before one of the last two is removed: on local paths it is on the disk under a hidden name
and then renamed; elsewhere its last write is the mark that it is complete. One that is damaged is
passed over for the one before.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import zarr
from dask.utils import parse_timedelta

from stackedae.costs import AutoEncoderCost
from stackedae.documents import (
    Document,
    guarded,
    made_of,
    names_in,
    plain,
    read_document,
    refusing_nonsense,
    write_document,
)
from stackedae.errors import ArgumentError, CheckpointError, StoreError
from stackedae.evaluation import Cost, Evaluation
from stackedae.layers import Layer
from stackedae.objective import Visits
from stackedae.persistence import (
    AnyCost,
    Learned,
    Named,
    cost_as_values,
    fill_as_array,
    learned_as_document,
    take_cost,
    take_learned,
)
from stackedae.progress import STAGES, Best, Progress, Stage
from stackedae.solvers import AdamState, SolverState, Status
from stackedae.solvers.state import Pair
from stackedae.stores import (
    MARKER,
    UNFINISHED,
    StoreLike,
    exists,
    inside,
    local_path,
    new_store,
    open_store,
    shown,
)

KIND, OF_ONE = "checkpoint", "progress"

KEPT = 2
"""Generations that are kept: the newest, and one in case it comes to harm."""

MOST_OVERHEAD = 0.01
"""Share of the time that writing may take, if checkpoints are wanted by time."""

_LOGGER = logging.getLogger("stackedae")
_GENERATION = re.compile(r"[0-9]{8}")


class Checkpoint:
    """Writes progress down on the way, and reads it back.

    Parameters
    ----------
    store : path, URL or Zarr store
        Where.
    every : int or str
        How often: iterations, or a time such as "30s".
    settings : mapping of str to object
        What has to be the same for work to go on, as JSON values by name.

    Raises
    ------
    ArgumentError
        If `every` is neither.
    """

    def __init__(self, store: StoreLike, every: int | str, settings: Mapping[str, Any]) -> None:
        self.store, self.name, self.settings = store, shown(store), dict(settings)
        self.iterations, self.seconds = _interval(every)
        self.number = 0
        self.n_records, self.written, self.took = 0, time.monotonic(), 0.0

    def read(self) -> Progress | None:
        """Return the progress that was written last, or None if there is none.

        Raises
        ------
        StoreError
            If what is there is no checkpoint.
        CheckpointError
            If it has other settings, naming the first that differs, or is damaged.
        """
        if not _is_begun(self.store):
            return None
        newest = read_checkpoint(self.store)
        self.number = max(_numbers(self.store), default=0)
        if newest is None:
            return None
        settings, progress = newest
        _compare(self.name, settings, self.settings)
        self.n_records = len(progress.history)
        return progress

    def compare_data(self, begun: Progress, data: Mapping[str, Any]) -> None:
        """Raise a `CheckpointError` if the data are others than those that work began with."""
        if begun.data:
            _compare(f"{self.name}, on data", begun.data, data)

    def offer(self, progress: Progress) -> None:
        """Write progress down, if it is time.

        What goes wrong with that does not end training: the last checkpoint still stands.
        """
        now, n_records = time.monotonic(), len(progress.history)
        if self.iterations is not None:
            due = n_records - self.n_records >= self.iterations
        else:
            due = now - self.written >= max(self.seconds, self.took / MOST_OVERHEAD)
        if due:
            self.try_to_write(progress)

    def try_to_write(self, progress: Progress) -> None:
        """Write progress down; what goes wrong with that is logged."""
        try:
            self.write(progress)
        except Exception as error:  # each store has errors of its own
            self.written, self.n_records = time.monotonic(), len(progress.history)
            _LOGGER.warning("%s: the checkpoint could not be written (%s)", self.name, error)

    def write(self, progress: Progress) -> None:
        """Write progress down now."""
        began = time.monotonic()
        left = self.number == 0 and exists(self.store)
        if self.number == 0 and not (left and _is_begun(self.store)):
            # What a killed writer left is replaced; what came meanwhile is not.
            with new_store(self.store, KIND, overwrite=left, durable=True):
                pass
        generation = _generation(self.store, self.number + 1)
        if exists(generation):
            raise CheckpointError(
                f"{shown(generation)} is there already: somebody else writes to this checkpoint; "
                "pass another one to one of the two."
            )
        values, arrays = _written(progress)
        values["settings"] = self.settings
        write_document(generation, OF_ONE, values, arrays, overwrite=False)
        self.number += 1
        self._remove_old()
        self.n_records, self.written = len(progress.history), time.monotonic()
        self.took = self.written - began

    def _remove_old(self) -> None:
        path, old = local_path(self.store), _numbers(self.store)[:-KEPT]
        if path is None:
            group = zarr.open_group(self.store, mode="r+")
            for number in old:
                del group[f"{number:08d}"]
            return
        for number in old:
            shutil.rmtree(path / f"{number:08d}", ignore_errors=True)
        for left in path.glob(f".*{UNFINISHED}"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)


def read_checkpoint(store: StoreLike) -> tuple[dict[str, Any], Progress] | None:
    """Return the settings and the progress that a checkpoint holds, or None if it is empty.

    Raises
    ------
    StoreError
        If it is no checkpoint.
    CheckpointError
        If what was written last is damaged, and what was written before as well.
    """
    damage, numbers = list[StoreError](), _numbers(store)
    if numbers == [1] and _is_unfinished(_generation(store, 1), OF_ONE):
        return None
    for number in reversed(numbers):
        try:
            return _taken(read_document(_generation(store, number), OF_ONE))
        except StoreError as error:
            _LOGGER.warning("%s", error)
            damage.append(error)
    if damage:
        raise CheckpointError(
            f"{damage[0]} There is no older one that can be read; remove {shown(store)} to begin "
            "anew."
        ) from damage[0]
    return None


def _generation(store: StoreLike, number: int) -> StoreLike:
    return inside(store, f"{number:08d}")


def _numbers(store: StoreLike) -> list[int]:
    """Return the numbers of what was written, ascending."""
    path = local_path(store)
    with refusing_nonsense(shown(store), KIND):
        group = open_store(guarded(store, KIND), KIND)
        # A damaged group has a number, too.
        names = names_in(group) if path is None else os.listdir(path)
    return sorted(int(name) for name in names if _GENERATION.fullmatch(name))


def _is_begun(store: StoreLike) -> bool:
    """Say whether anything is there but the empty group that a killed writer left in place."""
    return exists(store) and not _is_unfinished(store, KIND, empty=True)


def _is_unfinished(store: StoreLike, kind: str, *, empty: bool = False) -> bool:
    """Say whether what is written in place was never marked as complete; a rename is complete."""
    if local_path(store) is not None:
        return False
    try:
        group = zarr.open_group(guarded(store, kind), mode="r")
        return not (MARKER in group.attrs or (empty and (names_in(group) or dict(group.attrs))))
    except Exception:  # damaged, which reading it will tell
        return False


def _compare(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            raise CheckpointError(
                f"{what}: the checkpoint was written with {name}={then.get(name)!r}, and it is "
                f"{now.get(name)!r} now; go on with what it was, or pass another checkpoint."
            )


def _interval(every: Any) -> tuple[int | None, float]:
    """Return iterations, or None and seconds."""
    if isinstance(every, (int, np.integer)) and not isinstance(every, bool) and every >= 1:
        return int(every), 0.0
    if isinstance(every, str):
        try:
            seconds = float(parse_timedelta(every, default=False))
        except (ValueError, KeyError, TypeError):
            seconds = -1.0
        if seconds >= 0:
            return None, seconds
    raise ArgumentError(
        "checkpoint_every",
        every,
        "is neither a number of iterations nor a time",
        'pass 10, say, or "30s" or "5m"',
    )


def _written(progress: Progress) -> tuple[dict[str, Any], Named]:
    """Return progress as JSON values and arrays."""
    learned = Learned(progress.layers, progress.head, progress.tuned, progress.history)
    of_learned, arrays = learned_as_document(learned)
    values = {
        "seed": progress.seed,
        "data": dict(progress.data),
        "runs": list(progress.runs),
        **of_learned,
        "now": None,
    }
    if progress.cost is not None and progress.stage is not None and progress.state is not None:
        state, of_state = _written_state(progress.state, "state")
        values["now"] = {
            "cost": cost_as_values(progress.cost),
            "stage": asdict(progress.stage),
            "visits": asdict(progress.visits),
            "state": state,
            "best": None,
        }
        arrays |= of_state | fill_as_array(progress.cost, "now")
        if progress.best is not None:
            best = progress.best
            state, of_state = _written_state(best.state, "best")
            values["now"]["best"] = {"loss": best.loss, "n_worse": best.n_worse, "state": state}
            arrays |= of_state
    return values, arrays


def _taken(document: Document) -> tuple[dict[str, Any], Progress]:
    """Return the settings and the progress that a document holds."""
    with refusing_nonsense(document.store, KIND):
        values = document.values
        settings, now = dict(values["settings"]), values["now"]
        learned = take_learned(document, n_begun=now is not None)
        progress = Progress(
            seed=plain(int, values["seed"]),
            data=dict(values["data"]),
            runs=tuple(map(dict, values["runs"])),
            layers=tuple(learned.layers),
            head=learned.head,
            tuned=learned.tuned,
            history=learned.history,
        )
        costs: list[Cost] = [layer.cost for layer in learned.layers]
        if now is not None:
            cost = take_cost(document, "now", now["cost"])
            progress = replace(
                progress,
                visits=made_of(Visits, now["visits"]),
                cost=cost,
                stage=_taken_stage(**now["stage"]),
                state=_taken_state(document, "state", cost, now["state"]),
                best=None if now["best"] is None else _taken_best(document, cost, **now["best"]),
            )
            _compare_with_layers(cost, learned.layers)
            costs += [cost] if isinstance(cost, AutoEncoderCost) else []
        document.refuse_others()
        _compare_sizes(costs, progress.data, settings["hidden_layer_sizes"])
        return settings, progress


def _compare_with_layers(cost: AnyCost, layers: Sequence[Layer]) -> None:
    """Raise a `ValueError` if what is being minimised is not of these layers."""
    if isinstance(cost, AutoEncoderCost):
        return
    widths = (*(layer.cost.n_features for layer in layers[:1]), *(e.cost.n_hidden for e in layers))
    if cost.layer_sizes not in (widths, widths[-1:]):
        raise ValueError("what is being minimised does not fit the layers")


def _compare_sizes(costs: Sequence[Cost], data: Mapping[str, Any], hidden: Any) -> None:
    """Raise a `ValueError` if layers do not fit on the data, on each other, and what is asked."""
    sizes = [data["n_features"] if costs else 0, *(cost.n_hidden for cost in costs)]
    asked = sizes[1:] if hidden is None else np.ravel(hidden).tolist()  # None: JSON could not say
    if [cost.n_features for cost in costs] != sizes[:-1] or asked[: len(costs)] != sizes[1:]:
        raise ValueError("the layers have other sizes than they should")


def _taken_stage(name: str, until: int, n_rows: int, norms: Sequence[Sequence[float]]) -> Stage:
    if name not in STAGES:
        raise ValueError(f"there is no stage {name!r}")
    seen = tuple((plain(float, a), plain(float, b)) for a, b in norms)
    return Stage(name, plain(int, until), plain(int, n_rows), seen)


_NUMBERS: dict[str, Any] = {
    "iteration": int,
    "n_evaluations": int,
    "failures": int,
    "step_length": float,
    "damping": float,
    "curvature": float,
}


_OF_BATCHES: dict[str, Any] = {"n_steps": int, "epoch": int, "n_averaged": float}


def _written_state(state: SolverState, path: str) -> tuple[dict[str, Any], Named]:
    evaluation = state.evaluation
    assert evaluation is not None
    values = {
        **{name: getattr(state, name) for name in _NUMBERS},
        "costs": list(state.costs),
        "curvatures": [pair.curvature for pair in state.pairs],
        "status": state.status.name,
        "cost": evaluation.cost,
        "terms": dict(evaluation.terms),
        "n_rows": evaluation.n_rows,
        "gradient_variance": evaluation.gradient_variance,
        "means": list(evaluation.means),
    }
    n_pairs, size = len(state.pairs), state.params.size
    pairs = {
        name: np.array([getattr(pair, name) for pair in state.pairs]).reshape(n_pairs, size)
        for name in ("s", "y")
    }
    arrays: Named = {
        f"{path}/params": (state.params, ("parameter",)),
        f"{path}/gradient": (evaluation.gradient, ("parameter",)),
        **{f"{path}/{name}": (array, ("pair", "parameter")) for name, array in pairs.items()},
        **{f"{path}/mean/{k}": (v, ("hidden",)) for k, v in evaluation.means.items()},
    }
    if state.batches is not None:
        values["batches"] = {name: getattr(state.batches, name) for name in _OF_BATCHES}
        for name in ("first", "second", "means"):
            arrays[f"{path}/batches/{name}"] = (getattr(state.batches, name), ("parameter",))
    return values, arrays


def _taken_best(
    document: Document, cost: AnyCost, loss: float, n_worse: int, state: Mapping[str, Any]
) -> Best:
    best = _taken_state(document, "best", cost, state)
    return Best(best, plain(float, loss), plain(int, n_worse))


def _taken_state(
    document: Document, path: str, cost: AnyCost, values: Mapping[str, Any]
) -> SolverState:
    n_units = cost.n_hidden if isinstance(cost, AutoEncoderCost) else sum(cost.layer_sizes[1:])
    size, curvatures = cost.layout.size, values["curvatures"]
    s, y = (document.take(f"{path}/{name}", (len(curvatures), size)) for name in ("s", "y"))
    evaluation = Evaluation(
        cost=plain(float, values["cost"]),
        gradient=document.take(f"{path}/gradient", (size,)),
        terms={name: plain(float, term) for name, term in values["terms"].items()},
        means={k: document.take(f"{path}/mean/{k}", (n_units,)) for k in values["means"]},
        n_rows=plain(int, values["n_rows"]),
        gradient_variance=plain(float, values["gradient_variance"]),
    )
    params, batches = document.take(f"{path}/params", (size,)), values.get("batches")
    if batches is not None:
        first, second = (document.take(f"{path}/batches/{k}", (size,)) for k in ("first", "second"))
        means = document.take(f"{path}/batches/means", (None,))
        if means.size not in (0, n_units):
            raise ValueError("the means of batches are of other units")
        numbers = {name: plain(kind, batches[name]) for name, kind in _OF_BATCHES.items()}
        batches = AdamState(params=params, first=first, second=second, means=means, **numbers)
    return SolverState(
        params=params,
        batches=batches,
        evaluation=evaluation,
        costs=tuple(plain(float, each) for each in values["costs"]),
        pairs=tuple(
            Pair(of_s, of_y, plain(float, curvature))
            for of_s, of_y, curvature in zip(s, y, curvatures, strict=True)
        ),
        status=Status[values["status"]],
        **{name: plain(kind, values[name]) for name, kind in _NUMBERS.items()},
    )
