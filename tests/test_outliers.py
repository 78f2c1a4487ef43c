import inspect
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from stackedae import StackedAutoEncoder, StackedAutoEncoderOutlierDetector
from stackedae.errors import ArgumentError, StoreError
from stackedae.persistence import load_model, save_model

SCORES = ["score_samples", "decision_function", "predict"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([StackedAutoEncoderOutlierDetector(max_iter=20, tol=0)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def quick(**settings):
    settings = {"max_iter": 15, "tol": 0, "random_state": 0, **settings}
    return StackedAutoEncoderOutlierDetector((9, 4), **settings)


@pytest.fixture(scope="module")
def digits():
    return load_digits().images / 16


@pytest.fixture(scope="module")
def detector(digits):
    return quick().fit(digits)


def test_noise_is_no_digit():
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    known, unseen = np.split(rng.permutation(images[labels < 9]) / 16, [1200])
    noise = rng.permuted(unseen, axis=1)  # the same pixels, elsewhere
    detector = StackedAutoEncoderOutlierDetector(
        10, contamination=0.05, sparsity_weight=0, max_iter=60, tol=0, random_state=0
    )
    assert (detector.fit_predict(known) == -1).sum() == 60
    assert (detector.predict(unseen) == -1).mean() == pytest.approx(0.05, abs=0.03)
    assert (detector.predict(noise) == -1).mean() > 0.9
    scores = detector.decision_function(np.concatenate([unseen, noise]))
    assert roc_auc_score(np.repeat([1, 0], len(unseen)), scores) > 0.97


def test_it_is_a_stacked_auto_encoder(digits, detector):
    sae = StackedAutoEncoder((9, 4), max_iter=15, tol=0, random_state=0).fit(digits)
    assert (detector.transform(digits) == sae.transform(digits)).all()
    assert (detector.reconstruction_error(digits) == sae.reconstruction_error(digits)).all()
    both = StackedAutoEncoderOutlierDetector, StackedAutoEncoder
    ours, theirs = (dict(inspect.signature(each).parameters) for each in both)
    assert ours.pop("contamination").default == 0.1
    assert ours == theirs
    assert clone(quick(contamination=0.2, alpha=0.5)).get_params()["contamination"] == 0.2


@pytest.mark.parametrize("contamination", [0.5, np.float32(0.01), 0.1])
def test_the_threshold_is_a_quantile_of_the_scores(digits, contamination):
    detector = quick(contamination=contamination, dtype="float64").fit(digits)
    scores = detector.score_samples(digits)
    assert scores == pytest.approx(-detector.reconstruction_error(digits))
    expected = np.quantile(scores, float(contamination))
    assert detector.offset_ == pytest.approx(expected, rel=1e-12)
    assert (detector.decision_function(digits) == scores - detector.offset_).all()
    outliers = detector.predict(digits) == -1
    assert (outliers == (scores < detector.offset_)).all()
    assert outliers.mean() == pytest.approx(contamination, abs=1 / len(digits))


@pytest.mark.parametrize("method", SCORES)
def test_every_container_comes_back_as_it_came(digits, detector, method):
    expected = getattr(detector, method)(digits)
    assert isinstance(expected, np.ndarray)
    assert expected.dtype == ("int64" if method == "predict" else "float64")
    lazy = da.from_array(digits, chunks=(500, 8, 8))
    labelled = xr.DataArray(lazy, dims=("patch", "y", "x"), coords={"n": ("patch", range(1797))})
    for X in (lazy, labelled, zarr.create_array({}, data=digits, chunks=(400, 8, 8))):
        out = getattr(detector, method)(X)
        assert isinstance(out, xr.DataArray if X is labelled else da.Array)
        assert dask.is_dask_collection(out)
        assert out.dtype == expected.dtype
        assert np.asarray(out) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert (getattr(detector, method)(labelled).n == labelled.n).all()


def test_the_threshold_takes_one_more_read(digits):
    read = []

    def counted(block):
        read.append(len(block))
        return block

    lazy = da.from_array(digits, chunks=(600, 8, 8)).map_blocks(counted, meta=np.empty((0, 0, 0)))
    StackedAutoEncoder(4, max_iter=2, tol=0, random_state=0).fit(lazy)
    once = sum(read)
    StackedAutoEncoderOutlierDetector(4, max_iter=2, tol=0, random_state=0).fit(lazy)
    assert sum(read) == 2 * once + len(digits)


def test_same_bits_whatever_the_cluster(digits, cluster, monkeypatch):
    lazy = da.from_array(digits, chunks=(600, 8, 8))
    expected = quick(max_iter=2).fit(lazy).offset_
    monkeypatch.setattr("stackedae.outliers.belongs_here", lambda *_: False)
    with cluster.as_current():
        assert quick(max_iter=2).fit(lazy).offset_ == expected
        loaded = cluster.run(lambda: "stackedae.outliers" in sys.modules)
    assert not any(loaded.values())  # nor scikit-learn, which it needs


def test_with_gaps(digits):
    X = np.where(np.random.default_rng(0).random(digits.shape) < 0.1, np.nan, digits)
    detector = quick(missing="mask").fit(X)
    assert (detector.predict(X) == -1).mean() == pytest.approx(0.1, abs=0.002)


def test_the_threshold_is_saved_with_the_model(digits, detector):
    detector.save("model.zarr")
    again = StackedAutoEncoderOutlierDetector.load("model.zarr")
    assert again.offset_ == detector.offset_
    assert again.get_params() == detector.get_params()
    assert (again.decision_function(digits) == detector.decision_function(digits)).all()
    with pytest.raises(StoreError, match="of class 'StackedAutoEncoderOutlierDetector'"):
        StackedAutoEncoder.load("model.zarr")


@pytest.mark.parametrize("offset", ["low", float("nan"), [1.0], True])
def test_what_is_no_threshold_is_refused(detector, offset):
    detector.save("model.zarr")
    learned, document = load_model("model.zarr")
    document["offset"] = offset
    save_model("model.zarr", learned, document, overwrite=True)
    with pytest.raises(StoreError, match="should be float"):
        StackedAutoEncoderOutlierDetector.load("model.zarr")
    del document["offset"]
    save_model("model.zarr", learned, document, overwrite=True)
    with pytest.raises(StoreError, match="offset"):
        StackedAutoEncoderOutlierDetector.load("model.zarr")


def test_after_ctrl_c_there_are_layers_and_no_threshold(digits):
    def interrupt(record):
        if record["iteration"] == 2:
            raise KeyboardInterrupt

    detector = quick().fit(digits)
    with pytest.raises(KeyboardInterrupt):
        detector.fit(digits, callback=interrupt)
    detector.save("model.zarr")
    for each in (detector, StackedAutoEncoderOutlierDetector.load("model.zarr")):
        assert each.transform(digits).shape == (1797, 9)
        with pytest.raises(NotFittedError):
            each.predict(digits)


@pytest.mark.parametrize("contamination", [0, 0.51, -0.1, "auto", None, float("nan")])
def test_contamination_is_a_share(digits, contamination):
    with pytest.raises(ArgumentError, match=r"contamination=.* is no share of outliers"):
        quick(contamination=contamination).fit(digits)
