import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from records import timeless
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale
from sklearn.utils.estimator_checks import parametrize_with_checks

from stackedae import StackedAutoEncoder, StackedAutoEncoderClassifier, StackedAutoEncoderRegressor
from stackedae.errors import ArgumentError, StoreError


# float64: weights and repeated samples give the same only to rounding.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        StackedAutoEncoderClassifier(dtype="float64", max_iter=8, tol=0),
        StackedAutoEncoderRegressor(dtype="float64", max_iter=8, tol=0, missing="mask"),
    ]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, 8, 8) / 16, y


def classifier(hidden=(16, 9), **settings):
    settings = {"max_iter": 12, "tol": 0, "random_state": 0, **settings}
    return StackedAutoEncoderClassifier(hidden, **settings)


@pytest.fixture(scope="module")
def fitted(digits):
    return classifier().fit(*digits)


def probabilities_of(model, X):
    """The definition, in NumPy."""
    A = X.reshape(len(X), -1)
    for layer in model.layers_:
        A = 1 / (1 + np.exp(-(A @ layer.W1.T + layer.b1)))
    Z = A @ model.head_.S.T + model.head_.s
    raised = np.exp(Z - Z.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def test_predictions_are_those_of_the_definition(digits, fitted):
    X, y = digits
    expected = probabilities_of(fitted, X)
    np.testing.assert_allclose(fitted.predict_proba(X), expected, atol=1e-6)
    np.testing.assert_allclose(fitted.predict_log_proba(X), np.log(expected), atol=1e-4)
    assert (fitted.predict(X) == expected.argmax(axis=1)).all()
    assert fitted.score(X, y) == (expected.argmax(axis=1) == y).mean()
    assert fitted.transform(X).shape == (len(X), 9)
    assert fitted.get_feature_names_out()[0] == "stackedautoencoderclassifier0"


def test_history_has_layers_head_and_all_together(digits, fitted):
    parts = {record["layer"]: record for record in fitted.history_}
    assert list(parts) == [0, 1, 2, 3]
    for number in (0, 1):
        assert {"reconstruction", "sparsity"} <= set(parts[number])
    for number in (2, 3):
        assert {"cross_entropy", "decay"} <= set(parts[number])
    X, y = digits
    log_loss = -np.log(probabilities_of(fitted, X)[np.arange(len(y)), y]).mean()
    assert parts[3]["cross_entropy"] == pytest.approx(log_loss, rel=1e-4)
    assert parts[3]["cost"] < parts[2]["cost"]  # tuning goes on from the head


def test_a_head_on_layers_as_they_are_is_a_logistic_regression(digits):
    X, y = digits
    model = classifier((16,), fine_tune=False, fine_tune_alpha=1e-3, max_iter=300, dtype="float64")
    alone = StackedAutoEncoder((16,), max_iter=300, tol=0, dtype="float64", random_state=0).fit(X)
    features = alone.transform(X)
    witness = LogisticRegression(C=1 / (1e-3 * len(X)), tol=1e-8, max_iter=5000).fit(features, y)
    model.fit(X, y)
    np.testing.assert_array_equal(model.transform(X), features)
    np.testing.assert_allclose(model.predict_proba(X), witness.predict_proba(features), atol=2e-4)


def test_the_head_may_be_decayed_alone(digits):
    model = classifier(fine_tune_alpha=(0, 0, 0.1)).fit(*digits)
    for part in (2, 3):
        last = [record for record in model.history_ if record["layer"] == part][-1]
        norm = last["decay"] / 0.05
        assert norm > 0
    assert norm == pytest.approx(np.square(model.head_.S).sum(), rel=1e-5)


def test_samples_without_labels_take_part_in_the_layers_alone(digits):
    X, y = digits
    rng = np.random.default_rng(0)
    few = np.where(rng.random(len(y)) < 0.1, y, -1)
    model = classifier(fine_tune=False, random_state=0).fit(X, few)
    layers = StackedAutoEncoder((16, 9), max_iter=12, tol=0, random_state=0).fit(X)
    np.testing.assert_array_equal(model.transform(X), layers.transform(X))
    assert model.classes_.tolist() == list(range(10))
    head = [record for record in model.history_ if record["layer"] == 2]
    assert {record["n_rows"] for record in head} == {(few >= 0).sum()}


def test_minus_one_beside_one_class_is_a_class(digits):
    X, y = digits
    model = classifier((4,)).fit(X, np.where(y == 3, 1, -1))
    assert model.classes_.tolist() == [-1, 1]
    assert model.decision_function(X).shape == (len(X),)


@pytest.mark.parametrize("names", [np.array(list("abcdefghij")), 3.0 * np.arange(10)])
def test_classes_may_be_anything(digits, fitted, names):
    X, y = digits
    named = np.asarray(names)[y]
    model = classifier().fit(X, named)
    assert (model.predict(X) == np.asarray(names)[fitted.predict(X)]).all()
    unlabelled = named.astype(object)
    unlabelled[::2] = -1
    assert classifier((4,)).fit(X, unlabelled).classes_.tolist() == list(names)


def containers(values):
    yield da.from_array(values, chunks=(500, *values.shape[1:]))
    yield xr.DataArray(da.from_array(values, chunks=(300, *values.shape[1:])))
    stored = zarr.create_array(
        {}, shape=values.shape, chunks=(400, *values.shape[1:]), dtype=values.dtype
    )
    stored[...] = values
    yield stored


def bits(model):
    return [layer.params.tobytes() for layer in model.layers_] + [model.head_.params.tobytes()]


def test_labels_come_in_any_container_and_chunks(digits):
    X, y = digits
    X, y = X.astype(np.float32), np.where(np.arange(len(y)) % 3, y, -1)
    X = da.from_array(X, chunks=(700, 8, 8))
    expected = bits(classifier((6,)).fit(X, y))
    for labels in containers(y):
        assert bits(classifier((6,)).fit(X, labels)) == expected


def test_same_bits_whatever_the_cluster(digits, cluster, monkeypatch):
    X, y = digits
    few = np.where(np.arange(len(y)) % 3, y, -1)
    weights = np.linspace(0, 2, len(y))
    lazy = da.from_array(X, chunks=(450, 8, 8))

    def fit():
        settings = {"corruption": 0.2, "class_weight": "balanced", "validation": 0.25}
        return bits(classifier((6,), **settings).fit(lazy, few, weights))

    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", 0)
    with cluster.as_current():
        on_cluster = fit()
        monkeypatch.setattr("stackedae.memory.HELD_SHARE", 0.0)
        assert fit() == on_cluster  # computed again by every evaluation
    with dask.config.set(scheduler="threads"):
        assert fit() == on_cluster
        monkeypatch.undo()
        assert fit() == on_cluster  # by the client itself


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function", "transform"])
def test_lazy_samples_give_lazy_predictions(digits, fitted, method):
    X = digits[0]
    predict = getattr(fitted, method)
    expected = predict(X)
    lazy = predict(da.from_array(X, chunks=(500, 8, 8)))
    assert isinstance(lazy, da.Array)
    assert lazy.chunks[0] == (500, 500, 500, 297)
    assert lazy.dtype == expected.dtype
    # Products of other shapes round differently.
    np.testing.assert_allclose(lazy.compute(), expected, atol=3e-6 * np.abs(expected).max())


def test_labelled_samples_give_labelled_predictions(digits, fitted):
    named = xr.DataArray(digits[0][:5], dims=("sample", "y", "x"), coords={"sample": list("vwxyz")})
    proba = fitted.predict_proba(named)
    assert proba.dims == ("sample", "class")
    assert proba["class"].values.tolist() == list(range(10))
    assert fitted.predict(named).sample.values.tolist() == list("vwxyz")


def test_weights_of_classes(digits):
    X, y = digits
    rare = np.flatnonzero((y == 8) & (np.arange(len(y)) % 10 > 0))
    keep = np.setdiff1d(np.arange(len(y)), rare)
    X, y = X[keep], y[keep]

    def recall(**settings):
        model = classifier((9,), **settings).fit(X, y)
        return (model.predict(X)[y == 8] == 8).mean()

    assert recall(class_weight="balanced") > recall() + 0.2
    assert recall(class_weight={8: 50.0}) > recall() + 0.2


def test_weights_of_samples_are_as_good_as_more_of_them():
    rng = np.random.default_rng(0)
    X, weights = rng.random((60, 5)), rng.integers(0, 4, 60)
    y = np.digitize(X.sum(axis=1), [2.2, 2.7])
    settings = {"dtype": "float64", "max_iter": 8, "class_weight": "balanced"}
    weighted = classifier((4, 3), **settings).fit(X, y, weights)
    repeated = classifier((4, 3), **settings).fit(X.repeat(weights, 0), y.repeat(weights))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6)


def test_saved_and_loaded(tmp_path, digits, fitted):
    X = digits[0]
    fitted.save(tmp_path / "model")
    again = StackedAutoEncoderClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert again.history_ == fitted.history_
    assert again.classes_.tolist() == fitted.classes_.tolist()
    assert again.get_params() == fitted.get_params()
    with pytest.raises(StoreError, match="class"):
        StackedAutoEncoder.load(tmp_path / "model")


class Stop(Exception):
    """What ends a training here."""


def test_a_checkpoint_goes_on_to_the_same_bits(tmp_path, digits):
    X, y = digits
    few = np.where(np.arange(len(y)) % 3, y, -1)
    settings = {"corruption": 0.2, "validation": 0.2, "n_iter_no_change": 3, "max_iter": 5}
    expected = classifier((6,), **settings).fit(X, few)
    for layer in (0, 1, 2):

        def stop(record, layer=layer):
            if (record["layer"], record["iteration"]) == (layer, 3):
                raise Stop

        begun = classifier((6,), **settings, checkpoint=tmp_path / str(layer), checkpoint_every=1)
        with pytest.raises(Stop):
            begun.fit(X, few, callback=stop)
        resumed = clone(begun).fit(X, few)
        assert bits(resumed) == bits(expected)
        assert timeless(resumed.history_) == timeless(expected.history_)
        assert len(resumed.info["earlier_runs"]) == 1


def test_training_stops_where_what_was_held_out_gets_no_better(digits):
    X, y = digits
    few = np.where(np.arange(len(y)) % 12 == 0, y, -1)
    model = classifier((64,), max_iter=400, validation=0.3, n_iter_no_change=5, alpha=0.0)
    model.fit(X, few)
    assert model.tuning_status_.name == "STOPPED_EARLY"
    tuning = [record for record in model.history_ if record["layer"] == 2]
    seen = [record["validation"] for record in tuning]
    assert len(tuning) < 400
    assert seen[-1] == min(seen)  # the best was taken back
    assert min(seen[-7:-1]) > seen[-1] or seen[-7] == seen[-1]
    assert model.cost_ == tuning[-1]["cost"]


def test_grid_search_and_clone(digits):
    X, y = digits[0][:300], digits[1][:300]
    search = GridSearchCV(
        classifier((9,)), {"alpha": [1e-4, 10.0], "fine_tune": [True, False]}, cv=2
    )
    search.fit(X, y)
    assert search.best_params_["alpha"] == 1e-4
    assert clone(classifier(class_weight="balanced")).class_weight == "balanced"


@pytest.mark.parametrize(
    ("y", "sample_weight", "message"),
    [
        (np.zeros(20), None, "one class 0.0"),
        (np.arange(19), None, "inconsistent numbers of samples"),
        (np.linspace(0, 1, 20), None, "Unknown label type"),
        (np.where(np.arange(20) % 2, np.nan, 1), None, "NaN"),
        (np.arange(20) % 2, -np.ones(20), "negative"),
        (np.arange(20) % 2, np.zeros(20), "all are zero"),
        (np.arange(20) % 2, np.ones(3), "sample_weight has 3"),
        (None, None, "requires y"),
    ],
)
def test_bad_labels_and_weights_are_named(y, sample_weight, message):
    with pytest.raises(ValueError, match=message):
        classifier((3,)).fit(np.random.default_rng(0).random((20, 4)), y, sample_weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weight": "even"}, "class_weight='even'"),
        ({"fine_tune_alpha": -1.0}, "fine_tune_alpha"),
        ({"fine_tune_alpha": (0, 0, 1)}, "fine_tune_alpha=.* has 3 values for 2 matrices"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"n_iter_no_change": 0}, "n_iter_no_change=0"),
        ({"corruption": 1.0}, "corruption=1.0"),
        ({"corruption": ("salt", 0.1)}, "corruption='salt'"),
    ],
)
def test_parameters_are_checked(settings, message):
    X, y = np.random.default_rng(0).random((20, 4)), np.arange(20) % 2
    with pytest.raises(ArgumentError, match=message):
        classifier((3,), **settings).fit(X, y)


def test_nothing_is_predicted_before_fit(digits):
    with pytest.raises(NotFittedError):
        classifier().predict(digits[0])


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return scale(X), scale(y)


def regressor(**settings):
    settings = {"max_iter": 30, "tol": 0, "random_state": 0, **settings}
    return StackedAutoEncoderRegressor((6,), **settings)


def test_a_linear_head_is_a_ridge_regression(diabetes):
    X, y = diabetes
    model = regressor(fine_tune=False, fine_tune_alpha=1e-2, max_iter=200, dtype="float64")
    features = model.fit(X, y).transform(X)
    witness = Ridge(alpha=1e-2 * len(X)).fit(features, y)
    np.testing.assert_allclose(model.predict(X), witness.predict(features), atol=1e-6)
    assert model.score(X, y) == pytest.approx(witness.score(features, y))


def test_several_numbers_are_predicted_at_once(diabetes, tmp_path):
    X, y = diabetes
    both = np.stack((y, -y), axis=1)
    model = regressor().fit(da.from_array(X, chunks=(100, -1)), da.from_array(both, chunks=(70, 1)))
    predicted = model.predict(X)
    assert predicted.shape == both.shape
    np.testing.assert_allclose(predicted[:, 0], -predicted[:, 1], atol=0.1)
    model.save(tmp_path / "model")
    again = StackedAutoEncoderRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(X), predicted)
    assert model.score(X, both) > 0.4


def test_layers_of_a_saved_model_are_taken_as_they_are(tmp_path, digits):
    X, y = digits
    layers = StackedAutoEncoder((16, 9), max_iter=12, tol=0, random_state=0).fit(X)
    layers.save(tmp_path / "layers")
    model = classifier(fine_tune=False, pretrained=tmp_path / "layers").fit(X[:500], y[:500])
    np.testing.assert_array_equal(model.transform(X), layers.transform(X))
    assert {record["layer"] for record in model.history_} == {0, 1, 2}
    model.set_params(fine_tune=True).fit(X[:500], y[:500]).save(tmp_path / "tuned")
    assert (model.transform(X) != layers.transform(X)).any()
    again = classifier(pretrained=tmp_path / "tuned", fine_tune=False).fit(X[:500], y[:500])
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    with pytest.raises(ArgumentError, match=r"pretrained=.*\(64, 16, 9\) units.*\(64, 7\)"):
        classifier((7,), pretrained=tmp_path / "layers").fit(X, y)
