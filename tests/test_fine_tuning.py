"""Layers trained together, tied, on corrupted samples, held-out ones, from where they were."""

import dask
import dask.array as da
import numpy as np
import pytest
from sklearn.datasets import load_digits

from stackedae import StackedAutoEncoder
from stackedae.costs import DeepCost
from stackedae.errors import DataError
from stackedae.layers import parameters_of_all
from stackedae.noise import Corruption


@pytest.fixture(scope="module")
def digits():
    return load_digits().images / 16


def quick(hidden=(16, 5), **settings):
    return StackedAutoEncoder(hidden, **{"max_iter": 20, "tol": 0, "random_state": 0, **settings})


def bits(model):
    return [layer.params.tobytes() for layer in model.layers_]


def evaluate_all(model, X, **settings):
    """The cost of all layers together, as if there were no engine."""
    sizes = (64, *(layer.cost.n_hidden for layer in model.layers_))
    cost = DeepCost(sizes, alpha=1e-4, **settings)
    params = parameters_of_all(cost, model.layers_, None)
    rows = X.reshape(len(X), -1)
    return cost.finish(params, cost.chunk_sums(params, rows))


@pytest.mark.parametrize("tied", [False, True])
def test_layers_are_tuned_from_where_they_are(digits, tied):
    greedy, tuned = (quick(tied=tied, fine_tune=tune).fit(digits) for tune in (False, True))
    before, after = (evaluate_all(model, digits, tied=tied) for model in (greedy, tuned))
    assert tuned.cost_ == pytest.approx(after.cost, rel=1e-5)
    assert after.cost < 0.95 * before.cost
    error = tuned.reconstruction_error(digits).mean()
    assert error == pytest.approx(after.terms["reconstruction"], rel=1e-5)
    means = np.concatenate(tuned.mean_activations_)
    np.testing.assert_allclose(means, after.means["activations"], atol=1e-6)
    assert [record["layer"] for record in tuned.history_] == [0] * 20 + [1] * 20 + [2] * 20
    assert tuned.tuning_status_ is not None
    assert greedy.tuning_status_ is None
    for layer in tuned.layers_:
        assert (layer.W2 == layer.W1.T).all() == tied


def test_decay_of_all_together_is_its_own(digits):
    weak, strong = (quick(fine_tune=True, fine_tune_alpha=a).fit(digits) for a in (0.0, 0.1))
    assert weak.history_[-1]["decay"] == 0
    norms = [sum(np.square(layer.W1).sum() for layer in model.layers_) for model in (weak, strong)]
    assert norms[1] < norms[0] / 2


def test_saved_with_how_all_together_ended(digits, tmp_path):
    model = quick(fine_tune=True, tied=True, corruption=[0.1, ("gaussian", 0.2)]).fit(digits)
    model.save(tmp_path / "model")
    again = StackedAutoEncoder.load(tmp_path / "model")
    assert again.tuning_status_ is model.tuning_status_
    assert again.history_ == model.history_
    assert [layer.cost for layer in again.layers_] == [layer.cost for layer in model.layers_]
    np.testing.assert_array_equal(again.reconstruct(digits), model.reconstruct(digits))


@pytest.mark.parametrize("corruption", [0.3, ("gaussian", 0.3)])
def test_what_is_corrupted_is_restored(digits, corruption):
    kind = Corruption(*(corruption if isinstance(corruption, tuple) else ("masking", corruption)))
    rows = digits.reshape(len(digits), -1)
    noisy = kind.apply(rows, np.arange(len(rows)) + 10**6)  # other noise than that of training

    def error(model):
        restored = model.fit(rows).reconstruct(noisy)
        return np.square(restored - rows).sum(axis=1).mean()

    settings = {"sparsity_weight": 0, "max_iter": 60}
    assert error(quick((32,), corruption=corruption, **settings)) < 0.8 * error(
        quick((32,), **settings)
    )


def test_noise_is_the_same_on_every_scheduler(digits, cluster, monkeypatch):
    lazy = da.from_array(digits.astype(np.float32), chunks=(500, 8, 8))

    def fit():
        settings = {"corruption": 0.3, "validation": 0.25, "fine_tune": True, "max_iter": 8}
        return bits(quick(**settings).fit(lazy))

    here = fit()
    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", 0)
    with cluster.as_current():
        assert fit() == here
        monkeypatch.setattr("stackedae.memory.HELD_SHARE", 0.0)
        assert fit() == here  # computed again by every evaluation
    with dask.config.set(scheduler="threads"):
        assert fit() == here


def test_noise_differs_from_layer_to_layer_and_seed_to_seed(digits):
    first, second = (layer.cost.corruption for layer in quick(corruption=0.2).fit(digits).layers_)
    assert (first.phase, second.phase) == (0, 1)
    assert quick(corruption=0.2, random_state=1).fit(digits).layers_[0].cost.corruption != first


def test_some_layers_may_be_corrupted_and_others_not(digits):
    first, second = quick(corruption=[0.0, 0.2]).fit(digits).layers_
    assert first.cost.corruption is None
    assert second.cost.corruption.amount == 0.2
    clean = quick((16,)).fit(digits)
    assert first.params.tobytes() == clean.layers_[0].params.tobytes()


def test_held_out_samples_take_no_part(digits):
    few = quick((9,), validation=0.3, max_iter=3).fit(digits)
    assert few.history_[0]["n_rows"] == pytest.approx(0.7 * len(digits), rel=0.01)
    # Of samples in many chunks, whole ones are held out.
    many = np.tile(digits, (12, 1, 1)).astype(np.float32)
    chunked = da.from_array(many, chunks=(1000, 8, 8))
    model = quick((9,), validation=0.3, max_iter=3, batching="full").fit(chunked)
    assert model.history_[0]["n_rows"] < 0.85 * len(many)
    assert (len(many) - model.history_[0]["n_rows"]) % 1000 in (0, len(many) % 1000)


def test_held_out_samples_are_looked_at(digits):
    spoilt = digits.copy()
    spoilt[:, 3, 3] = np.inf
    with pytest.raises(DataError, match="first in row 0"):
        quick((9,), validation=0.99).fit(spoilt)
    for row in range(0, len(digits), 300):
        spoilt = digits.copy()
        spoilt[row, 3, 3] = np.nan
        with pytest.raises(DataError, match=f"first in row {row}$|first in row {row};"):
            quick((9,), validation=0.3).fit(spoilt)


def test_best_parameters_are_kept(digits):
    model = quick((64,), alpha=0.0, sparsity_weight=0, max_iter=300, validation=0.5)
    model.fit(digits[:100])
    seen = [record["validation"] for record in model.history_]
    assert model.layers_[0].status.name == "STOPPED_EARLY"
    assert seen[-1] == min(seen)


def test_a_warm_start_goes_on(digits):
    model = quick(warm_start=True).fit(digits)
    first = [record["cost"] for record in model.history_ if record["layer"] == 0]
    model.fit(digits)
    again = [record["cost"] for record in model.history_ if record["layer"] == 0]
    assert again[0] <= first[-1]
    assert again[-1] < first[-1]
    model.set_params(hidden_layer_sizes=(16, 5, 3)).fit(digits)  # one more layer
    third = [record["cost"] for record in model.history_ if record["layer"] == 0]
    assert third[0] <= again[-1]
    assert len(model.layers_) == 3
