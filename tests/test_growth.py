from types import SimpleNamespace

import numpy as np
import pytest

from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.evaluation import Evaluation
from stackedae.growth import NormTest, halves_of, is_whole, next_size
from stackedae.memory import FIRST_SAMPLE_ROWS
from stackedae.objective import HalvedObjective, Visits


def seen(norm, variance):
    return SimpleNamespace(evaluation=Evaluation(0.0, np.array([norm]), gradient_variance=variance))


def test_enough_is_when_chance_outweighs_the_gradient():
    test = NormTest()
    assert not any(test(seen(0.01, 1.0)) for _ in range(NormTest.window - 1))
    assert test(seen(0.01, 1.0))
    assert not test(seen(10.0, 1.0))  # one step with a large gradient is enough to go on


@pytest.fixture
def rows():
    return np.random.default_rng(0).random((4000, 6)).astype(np.float32)


def test_halves_tell_the_variance_of_the_gradient(rows):
    cost = AutoEncoderCost(6, 3)
    params = cost.initial_params(np.random.default_rng(0))
    rng, estimates, errors = np.random.default_rng(1), [], []
    exact = cost.evaluate(params, rows).gradient
    for _ in range(40):
        first, second = rng.choice(rows, (2, 200))
        halves = (cut_into_shards(half).hold(here=True) for half in (first, second))
        evaluation = HalvedObjective(cost, *halves, Visits())(params)
        estimates.append(evaluation.gradient_variance)
        errors.append(np.sum((evaluation.gradient - exact) ** 2))
    assert np.mean(estimates) == pytest.approx(np.mean(errors), rel=0.3)


def test_it_goes_on_from_what_it_saw():
    whole, first = NormTest(), NormTest()
    for norm in (0.3, 0.2):
        assert whole(seen(norm, 1.0)) == first(seen(norm, 1.0))
    second = NormTest(first.norms)
    for norm in (0.2, 0.1, 0.05, 0.04):
        assert whole(seen(norm, 1.0)) == second(seen(norm, 1.0))
    assert whole.norms == second.norms


def test_halves_share_out_what_is_asked_for(rows):
    sample, n_rows, sizes = cut_into_shards(rows).hold(here=True), FIRST_SAMPLE_ROWS, []
    while True:
        first, second = halves_of(sample, n_rows)
        sizes.append(first.n_rows + second.n_rows)
        assert first.n_rows == pytest.approx(second.n_rows, abs=1)
        if is_whole(sample, n_rows):
            break
        n_rows = next_size(n_rows)
    assert sizes == [1024, 2048, 4000]
