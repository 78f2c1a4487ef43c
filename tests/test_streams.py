import pickle

import dask.array as da
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks

from stackedae import StackedAutoEncoder
from stackedae.errors import DataError


@parametrize_with_checks([StackedAutoEncoder(solver="adam", epochs=2)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X = load_digits().images / 16
    return X[np.random.default_rng(0).permutation(len(X))]


def streaming(hidden=(16,), **settings):
    settings = {"solver": "adam", "batch_size": 64, "random_state": 0, **settings}
    return StackedAutoEncoder(hidden, **settings)


def bits(model):
    return [layer.params.tobytes() for layer in model.layers_]


def test_a_stream_is_learned_from_as_it_comes(digits):
    model = streaming()
    costs = []
    for _ in range(8):
        for start in range(0, 1600, 400):
            model.partial_fit(digits[start : start + 400])
        costs.append(
            float(
                model.layers_[0]
                .cost.evaluate(model.layers_[0].params.astype(float), digits.reshape(-1, 64))
                .cost
            )
        )
    at_once = StackedAutoEncoder((16,), max_iter=200, tol=0, random_state=0).fit(digits)
    assert costs[-1] < 1.2 * at_once.cost_
    assert costs[-1] < 0.6 * costs[0]
    assert model.layers_[0].status.name == "RUNNING"
    # The running means are those of the parameters as they are.
    means = model.transform(digits).mean(axis=0)
    np.testing.assert_allclose(model.mean_activations_[0], means, atol=0.02)


def test_layers_learn_from_those_below_at_the_same_time(digits):
    model = streaming((16, 6), corruption=0.1)
    for _ in range(3):
        model.partial_fit(digits)
    assert model.transform(digits).shape == (len(digits), 6)
    assert [record["layer"] for record in model.history_] == [0, 1] * 3
    assert [record["iteration"] for record in model.history_] == [1, 1, 2, 2, 3, 3]
    assert {record["phase"] for record in model.history_} == {"batches"}
    assert all(layer.cost.corruption is not None for layer in model.layers_)


def test_the_same_stream_gives_the_same_bits(digits, tmp_path):
    first, second = streaming((9, 4)), streaming((9, 4))
    for model in (first, second):
        model.partial_fit(digits[:900])
    second = pickle.loads(pickle.dumps(second))
    for model, rest in ((first, digits[900:]), (second, da.from_array(digits[900:], (1000, 8, 8)))):
        model.partial_fit(rest)
    assert bits(first) == bits(second)
    first.save(tmp_path / "model")
    again = StackedAutoEncoder.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(digits), first.transform(digits))
    assert bits(clone(first).partial_fit(digits[:900])) != bits(first)


def test_only_adam_takes_streams(digits):
    assert not hasattr(StackedAutoEncoder(), "partial_fit")
    with pytest.raises(AttributeError) as caught:
        StackedAutoEncoder().partial_fit(digits)
    assert 'needs solver="adam"' in str(caught.value.__cause__)


def test_what_comes_is_checked(digits):
    model = streaming().partial_fit(digits)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(digits[:, :4])
    spoilt = digits.copy()
    spoilt[3, 2, 2] = np.inf
    with pytest.raises(DataError, match="first in row 3"):
        model.partial_fit(spoilt)
    assert model.n_iter_ == 1


def test_gaps_in_a_stream_are_filled_with_the_means_of_what_came_first(digits):
    gaps = np.where(np.random.default_rng(0).random(digits.shape) < 0.2, np.nan, digits)
    model = streaming(missing="mask").partial_fit(gaps)
    np.testing.assert_allclose(model.fill_values_, np.nanmean(gaps, axis=0).ravel(), rtol=1e-5)
    assert np.isfinite(model.partial_fit(gaps).transform(gaps)).all()


def test_a_fit_forgets_the_stream(digits):
    model = streaming(epochs=2).partial_fit(digits).fit(digits)
    assert bits(model) == bits(streaming(epochs=2).fit(digits))
    assert bits(model.partial_fit(digits)) == bits(streaming().partial_fit(digits))
