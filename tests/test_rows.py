import logging
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client

from stackedae import StackedAutoEncoder
from stackedae.containers import cut_into_shards
from stackedae.errors import MemoryPlanError
from stackedae.memory import MIB, hold_or_stream, place_features


@pytest.fixture
def stored(tmp_path):
    X = np.random.default_rng(0).random((20_000, 64)).astype(np.float32)
    return zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(3000, 64))


def fit(X, **settings):
    options = {"hidden_layer_sizes": (24, 20), "max_iter": 3, "tol": 0, "random_state": 0}
    return StackedAutoEncoder(**{**options, **settings}).fit(X)


def parameters(model):
    return [layer.params.tobytes() for layer in model.layers_]


@pytest.fixture
def on_workers(monkeypatch):
    """Data are for the workers, samples of them are not."""
    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", 6e7)


@pytest.mark.parametrize(
    ("batching", "max_iter", "missing"),
    [
        ("full", 3, "raise"),
        pytest.param("progressive", 1, "raise", marks=pytest.mark.long),
        ("full", 3, "mask"),
    ],
)
@pytest.mark.usefixtures("on_workers")
def test_the_same_bits_held_streamed_recomputed_and_spilled(
    stored, cluster, batching, max_iter, missing, tmp_path
):
    fitted = partial(fit, batching=batching, max_iter=max_iter, missing=missing)
    if missing == "mask":
        X = stored[:]
        stored[:] = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.float32(np.nan), X)
    held = fitted(stored)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with cluster.as_current():
        with dask.config.set({"stackedae.memory": "1MB"}):
            recomputed = fitted(stored)
        settings = {"stackedae.memory": "1MB", "stackedae.scratch": str(scratch)}
        with dask.config.set(settings):
            spilled = fitted(stored)
    assert parameters(recomputed) == parameters(spilled) == parameters(held)
    fills = [model.layers_[0].cost.fill for model in (held, recomputed, spilled)]
    assert fills[0] == fills[1] == fills[2]
    assert len(fills[0]) == (64 if missing == "mask" else 0)
    assert not list(scratch.iterdir())

    n_bytes = 20_000 * 64 * 4
    first = [record for record in held.history_ if record["layer"] == 0]
    assert sum(record["bytes_read"] for record in first) == n_bytes
    by_layer = [
        [
            sum(record["bytes_read"] for record in model.history_ if record["layer"] == layer)
            for layer in (0, 1)
        ]
        for model in (held, recomputed, spilled)
    ]
    assert by_layer[0] == [n_bytes, 0]
    assert min(by_layer[1]) >= 3 * n_bytes
    assert by_layer[2][0] == by_layer[1][0]
    assert n_bytes < by_layer[2][1] < by_layer[1][1]


@pytest.mark.usefixtures("on_workers")
def test_what_was_decided_is_logged(stored, caplog):
    lazy = da.from_array(stored[:], chunks=(3000, -1))
    with caplog.at_level(logging.INFO, "stackedae"), dask.config.set({"stackedae.memory": "1MB"}):
        fit(lazy, hidden_layer_sizes=(6, 5))
    messages = [record.getMessage() for record in caplog.records]
    first, second = (message for message in messages if message.startswith("layer"))
    assert " rows at most, " in messages[0]
    assert first == (
        "layer 0: 5 MiB of rows do not fit into half of 1 MiB of memory: "
        "streamed, read again by every evaluation"
    )
    assert second.startswith("layer 1: 0 MiB of rows fit into half of 1 MiB of memory")


def test_rows_are_held_up_to_half_of_the_memory():
    assert hold_or_stream(50 * MIB, 100 * MIB).held
    assert not hold_or_stream(50 * MIB + 1, 100 * MIB).held


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"n_bytes": 4 * 10**9}, "held"),
        ({"held_bytes": 5 * 10**9}, "recomputed"),
        ({"read_bytes": 10**11}, "spilled"),
        ({"read_bytes": 10**11, "may_spill": False}, "recomputed"),
        ({"read_bytes": 10**11, "n_evaluations": 1}, "recomputed"),
        ({"flops": 1e13}, "spilled"),
    ],
)
def test_features_go_where_they_cost_least(settings, place):
    usual = {
        "n_bytes": 10**10,
        "held_bytes": 0,
        "read_bytes": 0,
        "flops": 1e11,
        "n_evaluations": 50,
        "capacity": 10**10,
        "may_spill": True,
    }
    placement = place_features(**{**usual, **settings})
    assert placement.place == place
    assert "MiB" in placement.reason


@pytest.mark.usefixtures("on_workers")
def test_what_no_worker_can_hold_is_refused_before_work_begins():
    told = []
    rows = da.zeros((40_000, 1000), dtype=np.float32, chunks=(20_000, -1))
    # Its memory is on paper, and nobody is to be paused for being above it.
    keys = ("target", "spill", "pause", "terminate")
    unwatched = {f"distributed.worker.memory.{key}": False for key in keys}
    with (
        dask.config.set(unwatched),
        Client(processes=False, n_workers=1, memory_limit="100MB", dashboard_address="127.0.0.1:0"),
    ):
        with pytest.raises(
            MemoryPlanError,
            match=r"A task would take up to \d+ MiB \(\d+ rows of 4000 bytes .* more memory",
        ):
            StackedAutoEncoder(5, max_iter=1).fit(rows, callback=told.append)
        with pytest.raises(MemoryPlanError, match=r"1000000000 hidden units on 1000 features"):
            StackedAutoEncoder(10**9, max_iter=1).fit(rows)
    assert not told


def test_rows_that_come_whole_come_in_small_tasks(monkeypatch):
    computed = cut_into_shards(da.random.random((400_000, 4), chunks=(500, 4)) + 1)
    assert computed.whole
    with dask.config.set(num_workers=1):
        assert computed.shards_per_task == len(computed.rows) > 4
        monkeypatch.setattr("stackedae.shards.MAX_SHARD_BYTES", computed.n_bytes // 4)
        assert computed.shards_per_task <= len(computed.rows) / 4 + 1
