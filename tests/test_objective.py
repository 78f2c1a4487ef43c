from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from stackedae.blas import one_blas_thread
from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.errors import ArgumentError
from stackedae.objective import DaskObjective
from stackedae.storage import StoredRows

N, D, H = 9000, 64, 12  # 4.6 MB of float64: several shards


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    cost = AutoEncoderCost(D, H)
    return cost, cost.initial_params(rng), rng.random((N, D))


def bits(evaluation):
    return evaluation.cost, evaluation.gradient.tobytes()


def evaluate_directly(cost, params, X):
    with one_blas_thread():
        return cost.finish(params, cost.chunk_sums(params, X))


def close(evaluation, expected, rel=1e-12):
    assert evaluation.cost == pytest.approx(expected.cost, rel=rel)
    norm = np.linalg.norm(expected.gradient)
    assert np.linalg.norm(evaluation.gradient - expected.gradient) <= rel * norm


def by_tasks(cost, X):
    """An objective whose rows the workers hold, few as they are."""
    return DaskObjective(cost, cut_into_shards(X).hold())


@pytest.mark.parametrize("share_missing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_on_every_scheduler(problem, cluster, dtype, share_missing):
    cost, params, X = problem
    if share_missing:
        cost = replace(cost, fill=tuple(np.linspace(0, 1, D)))
        X = np.where(np.random.default_rng(2).random(X.shape) < share_missing, np.nan, X)
    X = da.from_array(X.astype(dtype), chunks=(700, -1))
    with dask.config.set(scheduler="synchronous"):
        expected = bits(by_tasks(cost, X)(params))
    with dask.config.set(scheduler="threads"):
        assert bits(by_tasks(cost, X)(params)) == expected
    with cluster.as_current():
        objective = by_tasks(cost, X)
        assert bits(objective(params)) == expected
        assert bits(objective(params)) == expected


def test_same_bits_on_any_number_of_threads(problem):
    cost, params, X = problem
    with dask.config.set(scheduler="synchronous"):
        expected = bits(DaskObjective(cost, X)(params))
    for n in (1, 2, 7):
        with dask.config.set(num_workers=n):
            objective = DaskObjective(cost, X)
            assert objective.shards.here
            assert bits(objective(params)) == expected
            assert bits(objective(params)) == expected


def test_no_chunk_is_decoded_by_several_shards(tmp_path):
    X = np.zeros((20_000, 64), np.float32)  # the last of these chunks is a small one
    stored = zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(9900, 64))
    shards = cut_into_shards(stored)
    assert max(shards.rows) < 9900
    assert not any(isinstance(block, StoredRows) for block in shards.blocks)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float32 with gaps"])
@pytest.mark.parametrize("chunk_rows", [700, 4096, 6000])
def test_same_bits_whether_held_or_streamed(cluster, chunk_rows, dtype, tmp_path):
    dtype, *gaps = dtype.split(maxsplit=1)
    cost = AutoEncoderCost(8, 3, fill=(100.0,) * 8 if gaps else ())
    params, rng = cost.initial_params(np.random.default_rng(0)), np.random.default_rng(1)
    X = (200 * rng.random((100_000, 8))).astype(dtype)
    if gaps:
        X[rng.random(X.shape) < 0.2] = np.nan
    stored = zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(chunk_rows, 8))
    shards = cut_into_shards(stored)
    assert len(shards.blocks) > 1
    assert all(isinstance(block, StoredRows) for block in shards.blocks)
    expected = bits(DaskObjective(cost, shards.hold())(params))
    assert bits(DaskObjective(cost, shards)(params)) == expected
    with cluster.as_current():
        assert bits(DaskObjective(cost, shards)(params)) == expected


@pytest.mark.parametrize("held", [True, False])
def test_same_bits_however_parameters_reach_the_workers(problem, cluster, held, monkeypatch):
    cost, params, X = problem
    shards = cut_into_shards(da.from_array(X, chunks=(700, -1)))
    expected = bits(DaskObjective(cost, shards)(params))
    with cluster.as_current():
        objective = DaskObjective(cost, shards.hold() if held else shards)
        monkeypatch.setattr("stackedae.memory.IN_TASKS_BYTES", 0)
        assert bits(objective(params)) == expected
        monkeypatch.setattr("stackedae.memory.GROUP", 1)
        assert bits(objective(params)) == expected


def test_visits_are_counted(problem):
    cost, params, X = problem
    shards = cut_into_shards(da.from_array(X, chunks=(1000, -1)))
    streamed, held = DaskObjective(cost, shards), DaskObjective(cost, shards.hold())
    for objective in (streamed, held):
        objective(params)
        objective.evaluate(params, sample=0)
        objective.sample(0)(params)
        objective.sample(1)(params)
    assert streamed.visits.rows == pytest.approx(N * (2 + 2 / 8), abs=40)
    assert streamed.visits.reads == 6  # two for each evaluation, and one for each sample
    assert held.visits.reads == 0


def test_samples_are_the_same_however_they_are_drawn(problem):
    cost, params, X = problem
    objective = by_tasks(cost, X)
    objective.evaluate(params, sample=5)
    drawn = bits(objective.sample(5)(params))
    assert bits(by_tasks(cost, X).sample(5)(params)) == drawn
    assert bits(by_tasks(cost, X).sample(6)(params)) != drawn


def test_samples_of_large_data_are_a_smaller_share(problem, monkeypatch):
    cost, params, X = problem
    monkeypatch.setattr("stackedae.memory.MAX_SAMPLE_BYTES", X.nbytes // 50)
    first, second = (by_tasks(cost, X).sample(number) for number in (0, 1))
    assert X.nbytes / 100 < first.shards.n_bytes < X.nbytes / 50
    assert bits(first(params)) != bits(second(params))


def test_work_is_done_on_the_cluster_under_readable_names(problem, cluster):
    cost, params, X = problem
    with cluster.as_current():
        by_tasks(cost, X)(params)
        stream = cluster.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes))
    assert {"stackedae-load", "stackedae-cost-gradient"} <= stream


def test_nothing_is_left_behind_by_evaluations(problem, cluster):
    cost, params, X = problem

    def n_tasks():
        return cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))

    with cluster.as_current():
        objective = by_tasks(cost, X)
        objective(params)
        before = n_tasks()
        for _ in range(30):
            objective(params)
        # Keys are released with a delay; kept ones would be 30 times as many.
        assert n_tasks() <= before + 2 * (len(objective.shards.rows) + 2)


@pytest.mark.parametrize(
    "rows",
    [(N,), (N - 1, 1), (1, N - 1), (4000, 4000, 1000), (7,) * (N // 7) + (N % 7,)],
    ids=["one", "last of one row", "first of one row", "uneven last", "many"],
)
def test_any_chunking_agrees(problem, rows):
    cost, params, X = problem
    expected = evaluate_directly(cost, params, X)
    close(DaskObjective(cost, da.from_array(X, chunks=(rows, -1)))(params), expected)


def test_chunks_across_features_agree(problem):
    cost, params, X = problem
    chunked = da.from_array(X.reshape(N, 8, 8), chunks=(1000, 3, 5))
    close(DaskObjective(cost, chunked)(params), evaluate_directly(cost, params, X))


def test_small_data_stay_on_the_client(problem):
    cost, params, X = problem
    objective = DaskObjective(cost, da.from_array(X[:100], chunks=(30, -1)))
    assert all(isinstance(block, np.ndarray) for block in objective.shards.blocks)
    close(objective(params), evaluate_directly(cost, params, X[:100]))


def test_every_container_gives_the_same(problem):
    cost, params, X = problem
    stored = zarr.create_array({}, data=X, chunks=(2000, D))
    containers = [X, X.reshape(N, 8, 8), X.tolist(), xr.DataArray(X, dims=("patch", "f")), stored]
    expected = evaluate_directly(cost, params, X)
    for container in containers:
        close(DaskObjective(cost, container)(params), expected)


def test_data_are_read_once(problem):
    cost, params, X = problem
    reads = []

    def read(block):
        reads.append(len(block))
        return block

    source = da.from_array(X, chunks=(3000, -1)).map_blocks(read, meta=np.empty((0, 0)))
    objective = DaskObjective(cost, source)
    for _ in range(3):
        objective(params)
    assert sum(reads) == N


def test_dtype_sets_the_arithmetic(problem):
    cost, params, X = problem
    assert DaskObjective(cost, X).shards.dtype == np.float64
    single = DaskObjective(cost, X, dtype="float32")
    assert single.shards.dtype == np.float32
    close(single(params), evaluate_directly(cost, params, X), rel=1e-5)
    # Bytes are worked with in float32 anyway, so they stay bytes.
    assert DaskObjective(cost, np.ones((10, D), np.uint8), dtype="float32").shards.dtype == np.uint8


def test_samples_of_another_size_are_refused(problem):
    cost, *_ = problem
    with pytest.raises(ArgumentError, match=r"7 features per sample.*does not fit a cost of 64"):
        DaskObjective(cost, np.zeros((5, 7)))
