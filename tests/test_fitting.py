import warnings

import numpy as np
import pytest

from stackedae import StackedAutoEncoder
from stackedae.errors import WaitingWarning
from stackedae.fitting import _Waiting
from stackedae.progress import SECONDS


@pytest.fixture
def everything_on_workers(monkeypatch):
    monkeypatch.setattr("stackedae.memory.CLIENT_BYTES", 0)
    monkeypatch.setattr("stackedae.fitting.LOOK_AFTER", 0.1)


@pytest.mark.usefixtures("everything_on_workers")
def test_workers_that_wait_are_told_of_once(cluster):
    X = np.random.default_rng(0).random((2_000, 6), dtype=np.float32)
    sae = StackedAutoEncoder(3, max_iter=20, tol=0, random_state=0)
    with cluster.as_current(), pytest.warns(WaitingWarning) as told:
        sae.fit(X)
    (warning,) = told
    assert "the way to the workers and back; fewer of their" in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae.fit(X)  # on threads of this process


@pytest.mark.parametrize(
    ("phases", "n_evaluations", "words"),
    [
        ((60.0, 20.0, 1.0, 9.0), 10, "reading is the limit; start workers with more memory"),
        ((0.0, 20.0, 1.0, 69.0), 900, r"an evaluation takes 0\.1 s, .* threads would do \(1\)"),
        ((0.0, 20.0, 1.0, 69.0), 9, "some have more to do than others"),
        ((0.0, 50.0, 1.0, 39.0), 9, None),
        ((0.0, 10.0, 1.0, 29.0), 9, None),  # too soon to say
    ],
)
def test_what_to_change(cluster, phases, n_evaluations, words):
    with cluster.as_current():
        waiting = _Waiting()
        record = {**dict(zip(SECONDS, phases, strict=True)), "n_evaluations": n_evaluations}
        if words is None:
            waiting.look_at(record)
            return
        with pytest.warns(WaitingWarning, match=words):
            waiting.look_at(record)
