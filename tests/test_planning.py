import logging

import numpy as np
import pytest

from stackedae import StackedAutoEncoder, extract_patches, open_patches
from stackedae.cluster import memory_of_workers
from stackedae.errors import MemoryPlanError
from stackedae.minimisation import TrainingSettings
from stackedae.planning import Workers, plan_layers

TRAINING = TrainingSettings("lbfgs", "progressive", 3, 0.0, "float32", missing=False)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """60,000 patches of 8×8 pixels, 15 MB."""
    images = np.random.default_rng(0).random((8, 150, 150), dtype=np.float32)
    store = tmp_path_factory.mktemp("patches") / "patches.zarr"
    extract_patches(images, (8, 8), 60_000, store=store, chunks=4_000, rng=0)
    return open_patches(store)


def planned(patches, hidden, n=2, memory=2e9, **settings):
    return list(plan_layers(patches, hidden, Workers(n, 1, memory), TRAINING, **settings))


def test_what_a_fit_does(cluster, patches, caplog):
    """Places, their reasons, bytes and tasks are those of the fit."""
    hidden = (150, 30)
    with cluster.as_current():
        there = memory_of_workers()
        with caplog.at_level(logging.INFO, "stackedae"):
            sae = StackedAutoEncoder(hidden, batching="full", max_iter=3, tol=0).fit(patches)
    plans = planned(patches, hidden, there.n_threads, there.per_thread)
    assert [plan.place for plan in plans] == ["held", "here"]
    assert f"layer 0: {plans[0].reason}: held" in caplog.text
    assert plans[0].bytes_to_hold == patches.nbytes == sae.history_[0]["bytes_read"]
    assert (plans[0].forecast.bytes_read, plans[1].bytes_to_hold) == (0.0, 0)
    told = plans[0].task
    assert f"{told.n_shards} to a task; a task takes up to {told.needed / 2**20:.0f} MiB of" in (
        caplog.text
    )
    assert plans[1].task is None
    assert plans[1].forecast.n_tasks == 0
    assert [(plan.n_features, plan.n_hidden) for plan in plans] == [(64, 150), (150, 30)]


@pytest.mark.parametrize(("may_spill", "place"), [(False, "recomputed"), (True, "spilled")])
def test_rows_that_are_read_by_every_evaluation(patches, monkeypatch, may_spill, place):
    """Features of them are computed again, or spilled where there is a folder for them."""
    for limit in ("CLIENT_BYTES", "CLIENT_FLOPS"):  # as if they were many
        monkeypatch.setattr(f"stackedae.memory.{limit}", 0)
    monkeypatch.setattr("stackedae.memory.HELD_SHARE", 0.05)
    first, second = planned(patches, (10, 5), memory=16e6, may_spill=may_spill)
    assert (first.place, second.place) == ("streamed", place)
    assert first.forecast.bytes_read == 2 * patches.nbytes  # in two stages
    assert first.bytes_to_hold == 0
    of_second = second.forecast
    if place == "recomputed":
        assert second.bytes_to_hold == 0
        assert of_second.bytes_read == 2 * patches.nbytes
        assert of_second.flops == 60_000 * (10.0 * 10 * 5 + 2 * 2.0 * 64 * 10)
    else:
        assert second.bytes_to_hold == patches.nbytes
        assert of_second.bytes_read == 2 * 60_000 * 10 * 4
        assert of_second.flops == 60_000 * 10.0 * 10 * 5


def test_what_does_not_fit_is_refused(patches):
    with pytest.raises(MemoryPlanError, match=r"a worker has 2 MiB for each of its threads"):
        planned(patches, (400,), memory=3e6)
    with pytest.raises(MemoryPlanError, match="400000000 hidden units"):
        planned(patches, (400_000_000,))


def test_seconds_are_made_of_what_is_measured_here(patches, monkeypatch):
    """Kernels twice as fast make the computing of an evaluation half as long."""
    monkeypatch.setattr("stackedae.planning._kernel_rate", lambda shards, cost: 1e9)
    (slow,) = planned(patches, (400,))
    monkeypatch.setattr("stackedae.planning._kernel_rate", lambda shards, cost: 2e9)
    (fast,) = planned(patches, (400,))
    assert slow.forecast.seconds["compute"] == pytest.approx(
        2 * fast.forecast.seconds["compute"], rel=0.01
    )
