import _thread
import re
import time
import warnings
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from records import timeless
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, ParameterGrid
from zarr.storage import MemoryStore

from stackedae import (
    StackedAutoEncoder,
    StackedAutoEncoderClassifier,
    StackedAutoEncoderOutlierDetector,
    StackedAutoEncoderRegressor,
    fit_many,
)
from stackedae.cluster import OnCluster
from stackedae.errors import ArgumentError, ClusterError, DataError, MemoryPlanError
from stackedae.minimisation import BATCHING

N, D = 3000, 16
SAE = StackedAutoEncoder((6, 4), max_iter=3, tol=0, random_state=0)
LABELS = np.random.default_rng(2).integers(0, 3, N)


class Counting(MemoryStore):
    """A store that counts what is read of chunks."""

    n_bytes = 0

    async def get(self, key, *arguments, **options):
        value = await super().get(key, *arguments, **options)
        if "c/" in key and value is not None:
            self.n_bytes += len(value)
        return value


@pytest.fixture
def stored():
    X = np.random.default_rng(0).random((N, D)).astype(np.float32)
    X[:, D // 2 :] = X[:, : D // 2] ** 2
    return zarr.create_array(Counting(), data=X, chunks=(500, D), compressors=None)


@pytest.fixture(autouse=True)
def little_is_much(monkeypatch):
    """So few rows are sampled, in several shards; all of them are for the workers."""
    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", 3e6)
    monkeypatch.setattr("stackedae.memory.FEWEST_SAMPLED_ROWS", 1000)
    monkeypatch.setattr("stackedae.minimisation.FIRST_SAMPLE_ROWS", 256)
    monkeypatch.setattr("stackedae.minimisation.FEWEST_STEPS", 4)
    monkeypatch.setattr("stackedae.memory.MIN_SHARD_BYTES", 2**14)


@pytest.fixture
def streamed(monkeypatch):
    """No rows fit into memory, and no codes."""
    monkeypatch.setattr("stackedae.memory.TWO_STAGE_BYTES", 0)
    with dask.config.set({"stackedae.memory": "100kB"}):
        yield


def told(model):
    """All that a fit told but what depends on others: seconds, and who paid for reads."""
    parameters = [layer.params.tobytes() for layer in model.layers_]
    return parameters, timeless(model.history_, "bytes_read")


def bytes_read(model):
    return sum(record["bytes_read"] for record in model.history_)


SETTINGS = [
    {},
    {"alpha": 1e-2, "batching": "full"},
    {"hidden_layer_sizes": (5,), "max_iter": 7},
    {"hidden_layer_sizes": (8, 3, 2), "activation": "tanh", "random_state": 1},
    {"dtype": "float64", "sparsity_weight": 0.0},
    {"missing": "mask"},
]


@pytest.mark.usefixtures("streamed")
def test_the_same_bits_as_one_by_one(stored):
    alone = [told(clone(SAE).set_params(**s).fit(stored)) for s in SETTINGS]
    assert [told(model) for model in fit_many(SAE, SETTINGS, stored)] == alone


@pytest.mark.usefixtures("streamed")
def test_mini_batches_are_read_together(stored, monkeypatch):
    monkeypatch.setattr("stackedae.memory.MIN_SHARD_BYTES", 2**9)  # several replicas
    sae = StackedAutoEncoder(
        7, solver="adam", epochs=1, local_steps=10, batch_size=64, random_state=0
    )
    settings = [{}, {"learning_rate_init": 1e-3}]
    alone = []
    for each in settings:
        stored.store.n_bytes = 0
        alone.append(told(clone(sae).set_params(**each).fit(stored)))
    of_one, stored.store.n_bytes = stored.store.n_bytes, 0
    models = fit_many(sae, settings, stored)
    assert [told(model) for model in models] == alone
    assert sum(map(bytes_read, models)) == stored.store.n_bytes == of_one
    others = [{"local_steps": 3, "batch_size": 50}, {"solver": "lbfgs", "max_iter": 2, "tol": 0}]
    alone[1:] = [told(clone(sae).set_params(**each).fit(stored)) for each in others]
    assert [told(model) for model in fit_many(sae, [{}, *others], stored)] == alone


@pytest.mark.usefixtures("streamed")
def test_eight_settings_take_the_reads_of_one(stored):
    sae = StackedAutoEncoder(6, max_iter=4, tol=0, random_state=0)
    grid = ParameterGrid(
        {"alpha": [1e-4, 1e-3], "sparsity_target": [0.05, 0.1], "hidden_layer_sizes": [5, 6]}
    )
    alone = fit_many(sae, [{}], stored)
    of_one, stored.store.n_bytes = stored.store.n_bytes, 0
    assert of_one > 5 * stored.nbytes
    models = fit_many(sae, grid, stored)
    assert stored.store.n_bytes <= 1.1 * of_one
    assert sum(map(bytes_read, models)) == stored.store.n_bytes
    assert bytes_read(alone[0]) == of_one
    assert [
        {**model.get_params(), **setting} for model, setting in zip(models, grid, strict=True)
    ] == [model.get_params() for model in models]


@pytest.mark.parametrize("memory", ["10MB", "200kB"], ids=["held", "streamed"])
@pytest.mark.parametrize("change", [{"fine_tune": True}, {"solver": "adam", "epochs": 2}])
def test_what_is_held_out_is_read_as_often_as_is_told(stored, monkeypatch, memory, change):
    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", 0)
    monkeypatch.setattr("stackedae.memory.TWO_STAGE_BYTES", 0)
    sae = clone(SAE).set_params(hidden_layer_sizes=6, validation=0.2, **change)
    with dask.config.set({"stackedae.memory": memory}):
        alone = sae.fit(stored)
        of_one, stored.store.n_bytes = stored.store.n_bytes, 0
        models = fit_many(sae, [{"alpha": 1e-4}, {"alpha": 1e-3}], stored)
    assert bytes_read(alone) == of_one
    assert (of_one == stored.nbytes) == (memory == "10MB")
    assert sum(map(bytes_read, models)) == stored.store.n_bytes
    assert told(models[0]) == told(alone)
    if memory == "10MB":
        assert stored.store.n_bytes == of_one


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize(
    ("of_class", "y", "settings"),
    [
        (StackedAutoEncoderClassifier, LABELS, [{}, {"alpha": 0.1}, {"fine_tune": False}]),
        (StackedAutoEncoderClassifier, np.where(np.arange(N) % 4, -1, LABELS), [{}, {"alpha": 1}]),
        (
            StackedAutoEncoderClassifier,
            np.where(np.arange(N) % 4, -1, LABELS),
            [{"fine_tune": False}] * 2,
        ),
        (StackedAutoEncoderClassifier, LABELS, [{}, {"class_weight": "balanced"}]),
        (StackedAutoEncoderRegressor, LABELS, [{}, {"corruption": 0.2}, {"solver": "adam"}]),
        (StackedAutoEncoderOutlierDetector, None, [{}, {"contamination": 0.2}]),
    ],
    ids=["labels", "few labels", "few labels, head alone", "weights of classes", "numbers", "none"],
)
def test_the_same_bits_whatever_is_learned(stored, of_class, y, settings):
    estimator = of_class(6, max_iter=2, epochs=2, tol=0, random_state=0)
    weight = () if y is None else (np.linspace(0.5, 1, N),)
    alone, reads = [], []
    for setting in settings:
        stored.store.n_bytes = 0
        alone.append(clone(estimator).set_params(**setting).fit(stored, y, *weight))
        reads.append(stored.store.n_bytes)
        assert bytes_read(alone[-1]) == reads[-1] - (y is None) * stored.nbytes  # the threshold
    stored.store.n_bytes = 0
    models = fit_many(estimator, settings, stored, y, *weight)
    assert [told(model) for model in models] == [told(model) for model in alone]
    if y is not None:
        assert sum(map(bytes_read, models)) == stored.store.n_bytes
    for model, expected in zip(models, alone, strict=True):
        if y is None:
            assert model.offset_ == expected.offset_
        else:
            assert model.head_.params.tobytes() == expected.head_.params.tobytes()
    share = 1 if "class_weight" in settings[-1] else 0.75
    assert stored.store.n_bytes <= share * sum(reads)


@pytest.mark.parametrize("client_flops", [3e6, 1e12])
def test_what_fits_into_memory_is_loaded_once(stored, monkeypatch, client_flops):
    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", client_flops)
    settings = [{"alpha": alpha} for alpha in (1e-4, 1e-3, 1e-2)]
    alone = [told(clone(SAE).set_params(**s).fit(stored)) for s in settings]
    stored.store.n_bytes = 0
    models = fit_many(SAE, settings, stored)
    assert stored.store.n_bytes == stored.nbytes == bytes_read(models[0])
    assert bytes_read(models[1]) == bytes_read(models[2]) == 0
    assert [told(model) for model in models] == alone


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (SAE, None),
        (
            StackedAutoEncoderClassifier(max_iter=2, tol=0, random_state=0),
            np.where(np.arange(N) % 4, -1, LABELS),
        ),
    ],
    ids=["features", "classes"],
)
def test_the_same_bits_on_a_cluster(stored, cluster, estimator, y):
    X = da.from_array(stored[:], chunks=(500, -1))
    settings = [{"hidden_layer_sizes": 5, "batching": batching} for batching in BATCHING]
    alone = [told(clone(estimator).set_params(**s).fit(X, y)) for s in settings]
    with cluster.as_current():
        assert [told(model) for model in fit_many(estimator, settings, X, y)] == alone
    while cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        time.sleep(0.01)  # what is not needed any more goes a moment later


def test_an_array_is_enough():
    X = np.random.default_rng(0).random((200, 5, 5))
    models = fit_many(SAE, iter([{"alpha": 0.0}, {"sparsity_target": 0.2}]), X)
    assert [told(m) for m in models] == [told(clone(m).fit(X)) for m in models]
    assert not hasattr(SAE, "layers_")


@pytest.mark.usefixtures("streamed")
def test_an_error_names_the_setting(stored):
    with pytest.raises(ArgumentError, match="alpha=-1") as caught:
        fit_many(SAE, [{}, {"alpha": -1}, {}], stored)
    assert caught.value.__notes__ == ["This was with settings[1], {'alpha': -1}."]
    with pytest.raises(ValueError, match="Invalid parameter 'beta'") as caught:
        fit_many(SAE, [{}, {"beta": 3}], stored)
    assert caught.value.__notes__ == ["This was with settings[1], {'beta': 3}."]
    stored[7, 3] = np.nan
    with pytest.raises(DataError, match="row 7 "):
        fit_many(SAE, SETTINGS, stored)


def test_what_cannot_be_worked_with_is_refused(stored):
    with pytest.raises(ArgumentError, match=r"settings=\[\] is empty"):
        fit_many(SAE, [], stored)
    with pytest.raises(ArgumentError, match=r"estimator=PCA\(\) is no estimator of stacked layers"):
        fit_many(PCA(), [{}], stored)
    settings = [{}, {"checkpoint": "a"}, {"checkpoint": "b"}, {"checkpoint": "./b"}]
    with pytest.raises(ArgumentError, match=r"is that of settings\[2\] and of settings\[3\]"):
        fit_many(SAE, settings, stored)
    with pytest.raises(ArgumentError, match="put a checkpoint of its own into each setting"):
        fit_many(StackedAutoEncoder(checkpoint=MemoryStore()), [{}, {}], stored)


@pytest.mark.usefixtures("streamed")
def test_many_settings_need_memory_for_each(stored):
    sae = StackedAutoEncoder(6, max_iter=4, tol=0, batching="full")
    with pytest.raises(MemoryPlanError, match=r"of 1000000 fits at a time.*fit fewer settings"):
        with_so_many(sae, 1_000_000, stored)


def with_so_many(sae, n, X):
    """Fit as if so many settings were fitted; no test needs so many threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stackedae.rows.n_sharing", lambda: n)
        patch.setattr("stackedae.rows.bytes_of_solver", lambda n_params: 0)
        return fit_many(sae, [{}], X)


def stop(number, record):
    if number == 1 and record["iteration"] == 3 and record["phase"] == "full":
        raise InterruptedError("enough")


def press(number, record):
    if number == 1 and record["iteration"] == 3:
        _thread.interrupt_main()


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize(("act", "error"), [(stop, InterruptedError), (press, KeyboardInterrupt)])
def test_each_setting_goes_on_from_its_checkpoint(stored, act, error):
    settings = [{"checkpoint": f"{n}.zarr", "alpha": alpha} for n, alpha in enumerate((0, 1e-3))]
    sae = StackedAutoEncoder(6, max_iter=6, tol=0, batching="full", random_state=0)
    expected = [
        told(model) for model in fit_many(sae, [{"alpha": s["alpha"]} for s in settings], stored)
    ]
    with pytest.raises(error):
        fit_many(sae, settings, stored, callback=act)
    again = []
    models = fit_many(sae, settings, stored, callback=lambda number, _: again.append(number))
    assert [told(model) for model in models] == expected
    assert 0 < again.count(0) < 6
    assert 0 < again.count(1) < 6


@pytest.mark.usefixtures("streamed")
def test_a_cluster_that_is_gone_ends_all_with_their_checkpoints(stored, monkeypatch):
    persist, calls = OnCluster.persist, []

    def dies(self, *tasks):
        calls.append(tasks)
        if len(calls) == 5:
            raise ClusterError("no scheduler")
        return persist(self, *tasks)

    settings = [{"alpha": 0.0, "checkpoint": "0.zarr"}, {"checkpoint": "1.zarr"}]
    sae = StackedAutoEncoder(6, max_iter=6, tol=0, batching="full", random_state=0)
    with monkeypatch.context() as patch:
        patch.setattr(OnCluster, "persist", dies)
        with pytest.raises(ClusterError, match=r"no scheduler\. Training stood in layer 0, phase"):
            fit_many(sae, settings, stored)
    again = []
    fit_many(sae, settings, stored, callback=lambda number, _: again.append(number))
    assert 0 < again.count(0) < 6
    assert 0 < again.count(1) < 6


def test_a_callback_is_told_which_setting_it_is(stored):
    seen = [[], []]
    models = fit_many(
        SAE, [{}, {"alpha": 1e-2}], stored, callback=lambda n, record: seen[n].append(record)
    )
    assert [model.history_ for model in models] == seen


def test_a_warning_names_the_setting(stored):
    settings = [{"tol": 0, "hidden_layer_sizes": 3}, {"tol": 1e-9, "hidden_layer_sizes": 3}]
    with pytest.warns(ConvergenceWarning, match=r"settings\[1\]: Layer 0 ended as") as caught:
        fit_many(SAE, settings, stored)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit_many(SAE, settings, stored)


def test_the_page_runs():
    page = Path(__file__).parent.parent / "docs" / "selecting.md"
    (code,) = re.findall("```python\n(.*?)```", page.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    assert names["errors"] == tuple(-model.score(names["held_out"]) for model in names["models"])
    assert len(names["best"].components_) == 25


@pytest.mark.parametrize(
    "search",
    [
        GridSearchCV,
        partial(HalvingGridSearchCV, resource="n_samples", min_resources=60, random_state=0),
        partial(HalvingGridSearchCV, resource="max_iter", max_resources=9, min_resources=3),
    ],
)
@pytest.mark.parametrize(
    "of_class",
    [
        StackedAutoEncoder,
        StackedAutoEncoderClassifier,
        StackedAutoEncoderRegressor,
        StackedAutoEncoderOutlierDetector,
    ],
)
def test_searches_of_scikit_learn(search, of_class):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 180)
    X = 0.2 * rng.random((180, 8)) + 0.8 * rng.random((2, 8))[y]
    estimator = of_class(3, max_iter=9, tol=0, random_state=0)
    found = search(estimator, {"alpha": [1e-4, 10.0]}, cv=3).fit(X, y)
    assert found.best_params_["alpha"] == 1e-4
    assert found.best_estimator_.transform(X).shape == (180, 3)


def test_noise_and_held_out_samples_go_with_others(stored, streamed):
    changes = [{}, {"corruption": 0.2}, {"validation": 0.2}, {"tied": True, "fine_tune": True}]
    for change, model in zip(changes, fit_many(SAE, changes, stored), strict=True):
        assert told(model) == told(clone(SAE).set_params(**change).fit(stored))
