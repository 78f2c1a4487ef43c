from types import SimpleNamespace

import numpy as np
import pytest

from stackedae.containers import cut_into_shards
from stackedae.costs import AutoEncoderCost
from stackedae.evaluation import Evaluation
from stackedae.growth import NormTest, grow_samples
from stackedae.objective import HalvedObjective, Visits
from stackedae.solvers import LBFGS


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


def test_samples_grow_to_all_they_are_given(rows):
    cost = AutoEncoderCost(6, 3)
    sample, visits, sizes = cut_into_shards(rows).hold(here=True), Visits(), []
    state = grow_samples(
        cost,
        sample,
        LBFGS(),
        cost.initial_params(np.random.default_rng(0)),
        max_iter=30,
        tol=0,
        visits=visits,
        on_step=lambda state: sizes.append(state.evaluation.n_rows),
    )
    assert sorted(set(sizes)) == [1024, 2048, 4000]
    assert sizes == sorted(sizes)
    assert max(sizes.count(size) for size in sizes) <= 30
    assert state.evaluation.n_rows == 4000
    assert visits.rows >= sum(sizes)
