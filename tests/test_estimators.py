import math
import pickle
import warnings

import dask
import dask.array as da
import joblib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from stackedae import ContrastNormalizer, StackedAutoEncoder
from stackedae.costs import AutoEncoderCost
from stackedae.errors import ArgumentError, DataError


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [StackedAutoEncoder(max_iter=8), StackedAutoEncoder(missing="mask", max_iter=8, tol=0)]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    return load_digits().images / 16


def quick(hidden=(9,), **settings):
    return StackedAutoEncoder(hidden, **{"max_iter": 15, "tol": 0, "random_state": 0, **settings})


@pytest.fixture(scope="module")
def fitted(digits):
    return quick((9, 4)).fit(digits)


def test_fitted_attributes(digits, fitted):
    first, second = fitted.layers_
    assert (first.W1.shape, first.b1.shape) == ((9, 64), (9,))
    assert (first.W2.shape, first.b2.shape) == ((64, 9), (64,))
    assert second.W1.shape == (4, 9)
    assert [coef.shape for coef in fitted.coefs_] == [(64, 9), (9, 4)]
    assert [intercept.shape for intercept in fitted.intercepts_] == [(9,), (4,)]
    assert fitted.components_.shape == (9, 64)
    assert (fitted.components_ == first.W1).all()
    assert [means.shape for means in fitted.mean_activations_] == [(9,), (4,)]
    assert fitted.n_features_in_ == 64
    assert fitted.sample_shape_ == (8, 8)
    assert fitted.n_iter_ == 30
    assert fitted.components_.dtype == np.float32


def test_history_has_one_record_per_iteration(fitted, digits):
    keys = {"layer", "phase", "iteration", "n_rows", "cost", "reconstruction", "decay", "sparsity"}
    keys |= {"gradient_norm", "step", "n_evaluations", "rows_visited", "bytes_read", "seconds"}
    keys |= {f"seconds_{phase}" for phase in ("read", "compute", "reduce", "wait")}
    assert all(set(record) == keys for record in fitted.history_)
    steps = [(record["layer"], record["iteration"]) for record in fitted.history_]
    assert steps == [(layer, i) for layer in (0, 1) for i in range(1, 16)]
    costs = [record["cost"] for record in fitted.history_ if record["layer"] == 0]
    assert costs == sorted(costs, reverse=True)
    for record in fitted.history_:
        parts = record["reconstruction"] + record["decay"] + record["sparsity"]
        assert record["cost"] == pytest.approx(parts)
        assert record["rows_visited"] == record["n_evaluations"] * len(digits)
    assert fitted.cost_ == fitted.history_[-1]["cost"]


def test_bytes_are_counted_when_they_are_read(digits):
    lazy = da.from_array(digits, chunks=(300, -1, -1))
    history = quick().fit(lazy).history_
    assert [record["bytes_read"] for record in history] == [digits.nbytes] + [0] * 14


def test_cost_is_that_of_the_parameters_over_all_samples(digits, fitted):
    layer = fitted.layers_[0]
    X = digits.reshape(-1, 64).astype(np.float32)
    evaluation = layer.cost.finish(layer.params, layer.cost.chunk_sums(layer.params, X))
    last = [record for record in fitted.history_ if record["layer"] == 0][-1]
    assert evaluation.cost == pytest.approx(last["cost"], rel=1e-5)
    activations = layer.cost.encode(layer.params, X)
    assert fitted.mean_activations_[0] == pytest.approx(activations.mean(axis=0), rel=1e-4)


def test_each_layer_learns_from_the_features_of_the_one_below(digits):
    stack = quick((9, 4), dtype="float64").fit(digits)
    below = quick((9,), dtype="float64").fit(digits)
    assert (stack.layers_[0].params == below.layers_[0].params).all()
    X = digits.reshape(-1, 64)
    features = below.transform(X)
    expected = 1 / (1 + np.exp(-X @ below.coefs_[0] - below.intercepts_[0]))
    assert_allclose(features, expected, rtol=1e-6)
    layer = stack.layers_[1]
    evaluation = layer.cost.finish(layer.params, layer.cost.chunk_sums(layer.params, features))
    assert evaluation.cost == pytest.approx(stack.cost_, rel=1e-10)


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (np.array([[0.0, 1.0], [0.5, 0.2]]), "logistic"),
        (np.array([[0.0, 1.01], [0.5, 0.2]]), "identity"),
        (np.array([[-0.01, 1.0], [0.5, 0.2]]), "identity"),
        (np.array([[0, 255]], np.uint8), "identity"),
    ],
)
def test_auto_output_follows_the_data(X, expected):
    assert quick().fit(X).output_activation_ == expected
    assert quick(output_activation="tanh").fit(X).output_activation_ == "tanh"


def test_values_per_layer(digits):
    settings = {
        "activation": ("tanh", "relu"),
        "alpha": (1e-3, 1e-5),
        "sparsity_target": (0.2, 0.1),
        "sparsity_weight": (1.0, 0.0),
        "output_activation": ["logistic", "auto"],
    }
    first, second = (layer.cost for layer in quick((9, 4), **settings).fit(digits).layers_)
    assert first == AutoEncoderCost(64, 9, "tanh", "logistic", 1e-3, 0.2, 1.0)
    assert second == AutoEncoderCost(9, 4, "relu", "identity", 1e-5, 0.1, 0.0)


@pytest.mark.parametrize("solver", ["lbfgs", "gd"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_solvers_and_precisions(digits, solver, dtype):
    sae = quick(solver=solver, dtype=dtype).fit(digits)
    costs = [record["cost"] for record in sae.history_]
    assert costs == sorted(costs, reverse=True)
    assert sae.transform(digits).dtype == sae.components_.dtype == dtype


METHODS = ["transform", "reconstruct", "reconstruction_error", "score_samples"]


@pytest.mark.parametrize("method", METHODS)
def test_every_container_comes_back_as_it_came(digits, fitted, method):
    expected = getattr(fitted, method)(digits)
    assert isinstance(expected, np.ndarray)

    lazy = da.from_array(digits, chunks=(500, 3, 8))
    out = getattr(fitted, method)(lazy)
    assert isinstance(out, da.Array)
    assert out.chunks[0] == lazy.chunks[0]
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
    assert_allclose(out, expected, rtol=1e-5)

    coords = {"image": ("patch", np.arange(len(digits))), "y": np.arange(8)}
    labelled = xr.DataArray(lazy, dims=("patch", "y", "x"), coords=coords, name="digits")
    out = getattr(fitted, method)(labelled)
    assert isinstance(out, xr.DataArray)
    dims = {"transform": ("patch", "feature"), "reconstruct": ("patch", "y", "x")}
    assert out.dims == dims.get(method, ("patch",))
    assert out.name == ("digits" if method == "reconstruct" else None)
    assert (out.image == labelled.image).all()
    assert ("y" in out.coords) == (method == "reconstruct")
    assert isinstance(out.data, da.Array)
    assert_allclose(out, expected, rtol=1e-5)
    assert isinstance(getattr(fitted, method)(labelled.compute()).data, np.ndarray)

    stored = zarr.create_array({}, data=digits, chunks=(400, 8, 8))
    assert_allclose(getattr(fitted, method)(stored), expected, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_shapes_that_dask_is_told_are_true(digits, fitted, method):
    out = getattr(fitted, method)(da.from_array(digits, chunks=(500, -1, -1)))
    da.utils.assert_eq(out, out.compute())


def test_parameters_are_one_task_of_a_lazy_transform(digits, fitted):
    graph = dict(fitted.transform(da.from_array(digits, chunks=(100, -1, -1))).__dask_graph__())
    keys = [key for key in graph if "stackedae-encode-function" in str(key)]
    assert len(keys) == 1


def test_inverse_transform_undoes_transform_as_well_as_reconstruct_does(digits, fitted):
    features = fitted.transform(digits)
    assert_allclose(fitted.inverse_transform(features), fitted.reconstruct(digits), rtol=1e-5)
    labelled = xr.DataArray(
        features, dims=("patch", "feature"), coords={"n": ("patch", range(1797))}
    )
    back = fitted.inverse_transform(labelled)
    assert back.dims == ("patch", "y", "x")
    assert "n" in back.coords
    deep = quick().fit(digits.reshape(-1, 2, 2, 4, 4))
    assert deep.inverse_transform(np.zeros((2, 9))).shape == (2, 2, 2, 4, 4)
    lazy = xr.DataArray(da.zeros((2, 9)), dims=("volume", "feature"))
    assert deep.inverse_transform(lazy).dims == ("volume", "dim_1", "dim_2", "dim_3", "dim_4")
    flat = quick().fit(digits.reshape(-1, 64))
    assert flat.inverse_transform(flat.transform(digits.reshape(-1, 64))).shape == (1797, 64)
    with pytest.raises(DataError, match=r"shape \(3, 5\), and the last layer has 4 features"):
        fitted.inverse_transform(np.zeros((3, 5)))


def test_errors_and_scores(digits):
    sae = quick(alpha=0.0, sparsity_weight=0.0, dtype="float64").fit(digits)
    errors = sae.reconstruction_error(digits)
    difference = (sae.reconstruct(digits) - digits).reshape(-1, 64)
    assert_allclose(errors, 0.5 * (difference**2).sum(axis=1), rtol=1e-6)
    assert errors.mean() == pytest.approx(sae.cost_)
    assert sae.score(digits) == pytest.approx(-sae.cost_)
    assert sae.score(da.from_array(digits)) == pytest.approx(-sae.cost_)
    noise = np.random.default_rng(0).random((50, 8, 8))
    assert sae.score(noise) < sae.score(digits)


def test_same_bits_whatever_the_cluster(digits, cluster):
    big = np.tile(digits, (2, 1, 1)) + np.random.default_rng(0).random((3594, 8, 8)) / 100
    lazy = da.from_array(big, chunks=(500, -1, -1))
    with dask.config.set(scheduler="synchronous"):
        expected = quick((9, 4)).fit(lazy)
    with cluster.as_current():
        found = quick((9, 4)).fit(lazy)
    for one, other in zip(expected.layers_, found.layers_, strict=True):
        assert (one.params == other.params).all()
    assert found.cost_ == expected.cost_


def test_the_client_never_holds_the_features_of_a_layer(cluster, digits, monkeypatch):
    lazy = da.from_array(np.tile(digits, (4, 1, 1)), chunks=(500, -1, -1))
    with cluster.as_current():
        with monkeypatch.context() as context:
            context.setattr("stackedae.memory.CLIENT_FLOPS", 0)
            sae = quick((40, 4), max_iter=2).fit(lazy)
        prefixes = cluster.run_on_scheduler(
            lambda dask_scheduler: set(dask_scheduler.task_prefixes)
        )
    assert "stackedae-encode" in prefixes  # computed by tasks, on the workers
    assert sae.layers_[1].W1.shape == (4, 40)


def test_pipeline_with_grid_search():
    X, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(
        ContrastNormalizer(),
        quick((16,), max_iter=60, sparsity_target=0.1),
        LogisticRegression(max_iter=1000),
    )
    grid = {"stackedautoencoder__hidden_layer_sizes": [(8,), (36,)]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.best_params_["stackedautoencoder__hidden_layer_sizes"] == (36,)
    assert search.best_score_ > 0.9
    assert search.predict(X[:5]).shape == (5,)


def test_names_and_pandas(digits):
    frame = pd.DataFrame(digits.reshape(-1, 64), columns=[f"pixel{i}" for i in range(64)])
    sae = quick((3,)).set_output(transform="pandas").fit(frame)
    names = ["stackedautoencoder0", "stackedautoencoder1", "stackedautoencoder2"]
    assert list(sae.get_feature_names_out()) == names
    out = sae.transform(frame)
    assert list(out.columns) == names
    assert (out.index == frame.index).all()
    assert list(sae.feature_names_in_) == list(frame.columns)
    assert not hasattr(clone(sae), "layers_")


@pytest.mark.parametrize("dump", [pickle.dumps, None], ids=["pickle", "joblib"])
def test_pickles(digits, fitted, dump):
    if dump is None:
        joblib.dump(fitted, "model.joblib")
        again = joblib.load("model.joblib")
    else:
        again = pickle.loads(dump(fitted))
    assert (again.transform(digits) == fitted.transform(digits)).all()


def test_callback_and_verbose(digits, capsys):
    seen = []
    sae = quick(verbose=1).fit(digits, callback=seen.append)
    assert seen == sae.history_
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith(f"layer 0  {len(digits)} rows  iteration   10  cost ")
    quick(verbose=2, max_iter=3).fit(digits)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_stopping_early_warns_with_advice(digits):
    with pytest.warns(ConvergenceWarning, match="Layer 0 ended as MAX_ITER.*raise max_iter"):
        quick(tol=1e-9).fit(digits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae = quick(tol=1e-2, max_iter=400).fit(digits)
    assert sae.layers_[0].status.name == "CONVERGED"
    assert sae.n_iter_ < 400


def test_degenerate_data():
    for X in (np.full((5, 3), 0.5), np.zeros((1, 4)), np.ones((3, 1)), np.eye(3)):
        sae = quick(tol=0).fit(X)
        assert np.isfinite(sae.cost_)
        assert np.isfinite(sae.transform(X)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_layer_sizes": ()}, r"hidden_layer_sizes=\(\) does not give one or more"),
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes=\(5, 0\)"),
        ({"hidden_layer_sizes": 2.5}, r"hidden_layer_sizes=2\.5"),
        ({"alpha": -1e-4}, "alpha=-0.0001 is not a finite weight; pass 0 or more"),
        ({"alpha": (1e-4, 1e-4)}, "has 2 values for 1 layers"),
        ({"sparsity_weight": -3}, r"sparsity_weight=-3\.0 is not a finite weight"),
        ({"alpha": "small"}, "alpha='small' is no number; pass a float"),
        ({"alpha": None}, "alpha=None is no number; pass a float"),
        ({"sparsity_target": 0}, r"sparsity_target=0\.0 is no mean activation"),
        ({"sparsity_target": 1.5}, r"sparsity_target=1\.5 is no mean activation"),
        ({"activation": "relu"}, "sparsity_weight=3.0 needs a bounded activation"),
        ({"activation": "softplus"}, "activation='softplus' is unknown; choose from logistic"),
        ({"output_activation": "linear"}, "output_activation='linear' is unknown"),
        ({"solver": "sgd"}, "solver='sgd' is unknown; choose from lbfgs, gd"),
        ({"dtype": "float16"}, "dtype='float16' is unknown"),
        ({"missing": "drop"}, "missing='drop' is unknown; choose from raise, mask"),
        ({"missing": None}, "missing=None is unknown"),
        ({"missing": ["mask"]}, r"missing=\['mask'\] is unknown"),
        ({"max_iter": 0}, "max_iter=0 is no number"),
        ({"tol": -1}, "tol=-1 is no tolerance"),
    ],
)
def test_parameters_are_checked(digits, settings, message):
    with pytest.raises(ArgumentError, match=message):
        StackedAutoEncoder(**settings).fit(digits)


def lazy_with(value, at):
    X = np.random.default_rng(0).random((60, 4))
    X[at] = value
    return da.from_array(X, chunks=(25, 4))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (lazy_with(np.nan, (30, 2)), r"NaN or infinity, first in row 30 \(chunk 1, its row 5\)"),
        (lazy_with(np.inf, (0, 0)), r"NaN or infinity, first in row 0 \(chunk 0, its row 0\)"),
        (lazy_with(np.nan, (7, 1)).compute(), "NaN or infinity, first in row 7; drop or fill"),
        (da.zeros((5, 4), dtype=complex), "X has dtype complex128, not of real numbers"),
        (xr.DataArray(np.array([["a"]])), "X has dtype <U1, not of real numbers"),
        (da.zeros((0, 4)), r"0 sample\(s\) and 4 feature\(s\)"),
        (np.zeros((0, 4, 4)), r"0 sample\(s\) and 16 feature\(s\)"),
        (da.zeros(4), r"X has shape \(4,\).*Reshape your data"),
        (da.ones((9, 4))[da.ones(9) > 0], "X has unknown chunk sizes.*compute_chunk_sizes"),
    ],
)
def test_bad_data_are_named(X, message):
    with pytest.raises(DataError, match=message):
        quick().fit(X)


# --- missing pixels ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gaps(digits):
    gaps = digits.copy()
    gaps[np.random.default_rng(0).random(digits.shape) < 0.2] = np.nan
    gaps[:, 3, 4], gaps[7] = np.nan, np.nan
    return gaps


@pytest.fixture(scope="module")
def masking(gaps):
    return quick((9, 4), missing="mask").fit(gaps)


def test_missing_pixels_are_filled_with_the_mean_of_the_others(gaps, masking, fitted):
    flat = gaps.astype(np.float32).reshape(-1, 64).astype(float)
    n_present = (~np.isnan(flat)).sum(axis=0)
    exact = [math.fsum(column[~np.isnan(column)]) for column in flat.T]
    assert masking.fill_values_ == pytest.approx(exact / np.maximum(n_present, 1), rel=1e-14)
    assert masking.fill_values_[3 * 8 + 4] == 0.0  # never seen
    assert masking.layers_[1].cost.fill == ()
    assert fitted.fill_values_ is None


def test_fill_values_are_over_all_samples_though_training_starts_on_some():
    X = np.random.default_rng(0).random((20_000, 12))
    X[X < 0.1] = np.nan
    sae = quick((3,), missing="mask", dtype="float64", max_iter=2).fit(X)
    assert {record["phase"] for record in sae.history_} == {"sample", "full"}
    assert sae.fill_values_ == pytest.approx(np.nanmean(X, axis=0), rel=1e-14)


def test_missing_pixels_have_no_part_in_the_cost(gaps, masking):
    layer, X = masking.layers_[0], gaps.reshape(-1, 64).astype(np.float32)
    evaluation = layer.cost.finish(layer.params, layer.cost.chunk_sums(layer.params, X))
    last = [record for record in masking.history_ if record["layer"] == 0][-1]
    assert evaluation.cost == pytest.approx(last["cost"], rel=1e-5)
    gradient = layer.cost.layout.unpack(evaluation.gradient)
    never_seen = 3 * 8 + 4
    assert gradient["b2"][never_seen] == 0
    decay = layer.cost.alpha * layer.W2[never_seen]
    assert gradient["W2"][never_seen].tolist() == decay.astype(np.float64).tolist()


def test_what_is_missing_is_filled_before_it_is_encoded(gaps, masking):
    filled = np.where(np.isnan(gaps), masking.fill_values_.reshape(8, 8), gaps)
    assert_allclose(masking.transform(gaps), masking.transform(filled), rtol=1e-5)
    r = masking.reconstruct(gaps)
    assert_allclose(r, masking.reconstruct(filled), rtol=1e-5)
    errors = 0.5 * np.nansum((r - gaps) ** 2, axis=(1, 2))
    assert masking.reconstruction_error(gaps) == pytest.approx(errors, rel=1e-4)
    assert masking.reconstruction_error(gaps)[7] == 0  # nothing of it is present


@pytest.mark.parametrize("solver", ["lbfgs", "gd"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_nothing_is_missing_masking_changes_no_bit(digits, solver, dtype):
    settings = {"solver": solver, "dtype": dtype}
    plain, masked = (quick((9, 4), missing=m, **settings).fit(digits) for m in ("raise", "mask"))
    for one, other in zip(plain.layers_, masked.layers_, strict=True):
        assert one.params.tobytes() == other.params.tobytes()
    for method in METHODS:
        expected = getattr(plain, method)(digits)
        assert getattr(masked, method)(digits).tobytes() == expected.tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_gaps_may_come_in_every_container(gaps, masking, method):
    expected = getattr(masking, method)(gaps)
    assert np.isfinite(expected).all()
    lazy = da.from_array(gaps, chunks=(500, 3, 8))
    labelled = xr.DataArray(lazy, dims=("patch", "y", "x"))
    stored = zarr.create_array({}, data=gaps, chunks=(400, 8, 8))
    for container in (lazy, labelled, stored):
        out = getattr(masking, method)(container)
        assert_allclose(out, expected, rtol=1e-5)
    frame = pd.DataFrame(gaps.reshape(-1, 64))
    assert_allclose(np.ravel(getattr(masking, method)(frame)), expected.ravel(), rtol=1e-6)


def test_same_bits_whatever_the_cluster_with_gaps(gaps, cluster):
    lazy = da.from_array(np.tile(gaps, (2, 1, 1)), chunks=(500, -1, -1))
    with dask.config.set(scheduler="synchronous"):
        expected = quick((9, 4), missing="mask").fit(lazy)
    with cluster.as_current():
        found = quick((9, 4), missing="mask").fit(lazy)
    assert found.fill_values_.tobytes() == expected.fill_values_.tobytes()
    for one, other in zip(expected.layers_, found.layers_, strict=True):
        assert one.params.tobytes() == other.params.tobytes()


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (np.array([[0.0, np.nan], [np.nan, 0.2]]), "logistic"),
        (np.array([[0.0, 1.01], [np.nan, 0.2]]), "identity"),
        (np.array([[np.nan, 1.0], [-0.01, 0.2]]), "identity"),
    ],
)
def test_auto_output_follows_what_is_present(X, expected):
    assert quick(missing="mask").fit(X).output_activation_ == expected


def test_missing_pixels_are_predicted(digits):
    sae = quick((36,), missing="mask", sparsity_target=0.1, max_iter=200).fit(digits[:1500])
    seen = digits[1500:]
    hidden = np.zeros((8, 8), bool)
    hidden[2:6:2, 3:5] = True
    out = sae.reconstruct(np.where(hidden, np.nan, seen))
    predicted = ((out - seen)[:, hidden] ** 2).mean()
    by_the_mean = ((sae.fill_values_.reshape(8, 8) - seen)[:, hidden] ** 2).mean()
    assert predicted < 0.6 * by_the_mean


@pytest.mark.parametrize(
    ("X", "where"),
    [
        (lazy_with(np.inf, (30, 2)), r"row 30 \(chunk 1, its row 5\)"),
        (lazy_with(-np.inf, (7, 1)).compute(), "row 7"),
    ],
)
def test_infinity_is_refused_though_gaps_are_not(X, where):
    X[0, 0] = X[50] = np.nan
    with pytest.raises(DataError, match=f"X contains infinity, first in {where}; drop such"):
        quick(missing="mask").fit(X)


def test_what_a_fit_was_told_about_gaps_counts(gaps, fitted, masking):
    with pytest.raises(DataError, match="NaN or infinity, first in row 0"):
        fitted.transform(gaps)
    with pytest.raises(DataError, match="X contains infinity, first in row 3"):
        masking.transform(np.where(np.arange(5)[:, None, None] == 3, np.inf, gaps[:5]))
    later = clone(masking).fit(gaps).set_params(missing="raise")
    assert (later.transform(gaps) == masking.transform(gaps)).all()
    with pytest.raises(DataError, match="NaN or infinity, first in row 1"):
        masking.inverse_transform(np.array([[0.1] * 4, [np.nan] * 4]))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_samples_of_nothing_but_gaps():
    sae = quick(missing="mask").fit(np.full((5, 3), np.nan))
    assert sae.fill_values_.tolist() == [0, 0, 0]
    assert sae.history_[-1]["reconstruction"] == 0
    assert np.isfinite(sae.transform(np.full((2, 3), np.nan))).all()


def test_transform_checks_what_it_gets(digits, fitted):
    with pytest.raises(DataError, match=r"X has 49 features, but .* is expecting 64"):
        fitted.transform(digits[:, :7, :7])
    with pytest.raises(DataError, match="first in row 5 of chunk 1"):
        fitted.transform(lazy_with(np.nan, (30, 2)).repeat(16, axis=1)).compute()
    for method in (*METHODS, "inverse_transform", "score", "save"):
        with pytest.raises(NotFittedError):
            getattr(quick(), method)(digits)


def test_a_grid_search_reads_the_data_once_per_setting_and_phase(digits):
    rows_read = []

    def read(block):
        rows_read.append(len(block))
        return block

    lazy = da.from_array(digits, chunks=(500, -1, -1)).map_blocks(read, meta=np.empty((0, 0, 0)))
    grid = {"sparsity_target": [0.05, 0.1], "alpha": [0, 1e-4], "hidden_layer_sizes": [(4,), (5,)]}
    fold = np.split(np.arange(len(digits)), [1000])
    search = GridSearchCV(quick(max_iter=2), grid, cv=[fold], refit=False).fit(lazy)
    assert len(search.cv_results_["params"]) == 8
    assert sum(rows_read) == 8 * len(digits)  # some rows to train on, the others to score
