import dask
import dask.array as da
import numpy as np
import pytest
from sklearn.datasets import load_digits

from stackedae import StackedAutoEncoder, StackedAutoEncoderClassifier
from stackedae.errors import ArgumentError


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def in_batches(hidden=(16, 5), **settings):
    settings = {"epochs": 6, "batch_size": 64, "random_state": 0, **settings}
    return StackedAutoEncoder(hidden, solver="adam", **settings)


def bits(model):
    return [layer.params.tobytes() for layer in model.layers_]


def test_adam_gets_about_as_far_as_lbfgs(digits):
    X = digits[0]
    exact = StackedAutoEncoder((16,), max_iter=300, tol=0, random_state=0).fit(X)
    model = in_batches((16,), epochs=40).fit(X)
    assert model.cost_ < 1.1 * exact.cost_
    assert [record["iteration"] for record in model.history_] == list(range(1, 41))
    assert {record["phase"] for record in model.history_} == {"batches"}
    assert model.layers_[0].status.name == "SCHEDULE_ENDED"
    last = model.layers_[0]
    evaluation = last.cost.evaluate(last.params.astype(float), X.astype(float))
    assert model.cost_ == pytest.approx(evaluation.cost, rel=1e-5)
    np.testing.assert_allclose(last.mean_activations, evaluation.means["activations"], atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"tied": True, "fine_tune": True, "corruption": 0.2}])
def test_batches_give_the_same_bits_on_every_scheduler(digits, cluster, monkeypatch, settings):
    monkeypatch.setattr("stackedae.memory.MIN_SHARD_BYTES", 2**12)  # several replicas
    lazy = da.from_array(digits[0], chunks=(450, 64))

    def fit():
        return bits(in_batches(epochs=2, local_steps=2, **settings).fit(lazy))

    here = fit()
    monkeypatch.setattr("stackedae.memory.CLIENT_FLOPS", 0)
    with cluster.as_current():
        assert fit() == here
        monkeypatch.setattr("stackedae.memory.HELD_SHARE", 0.0)
        assert fit() == here  # computed again for every epoch
    with dask.config.set(scheduler="threads"):
        assert fit() == here


class Stop(Exception):
    """What ends a training here."""


@pytest.mark.parametrize("layer", [0, 2])
def test_epochs_go_on_from_a_checkpoint(digits, tmp_path, layer):
    settings = {"fine_tune": True, "validation": 0.2, "n_iter_no_change": 3}

    def stop(record):
        if (record["layer"], record["iteration"]) == (layer, 3):
            raise Stop

    expected = in_batches(**settings).fit(digits[0])
    settings |= {"checkpoint": str(tmp_path / "c"), "checkpoint_every": 1}
    with pytest.raises(Stop):
        in_batches(**settings).fit(digits[0], callback=stop)
    resumed = in_batches(**settings).fit(digits[0])
    assert bits(resumed) == bits(expected)
    assert [r["cost"] for r in resumed.history_] == [r["cost"] for r in expected.history_]


def test_classes_are_learned_in_batches(digits):
    X, y = digits
    weights = np.where(y == 3, 0.0, 1.0)
    model = StackedAutoEncoderClassifier(
        (32,), solver="adam", epochs=20, batch_size=64, random_state=0
    )
    assert model.fit(X[:1400], y[:1400]).score(X[1400:], y[1400:]) > 0.88
    model.fit(X[:1400], y[:1400], weights[:1400])
    assert 3 not in model.classes_


@pytest.mark.parametrize("name", ["epochs", "batch_size", "learning_rate_init", "local_steps"])
def test_numbers_of_batches_are_checked(digits, name):
    with pytest.raises(ArgumentError, match=f"{name}=0"):
        in_batches(**{name: 0}).fit(digits[0])
