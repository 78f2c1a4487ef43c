import copy
import json
import pickle
from dataclasses import asdict

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

from stackedae.errors import ArgumentError
from stackedae.solvers import Adam, AdamState

SETTINGS = [{}, {"learning_rate": 0.3, "beta_1": 0.5, "beta_2": 0.7, "epsilon": 0.1}, {"beta_1": 0}]


def gradients(n, size=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, size)) * 10.0 ** rng.integers(-3, 3, size)


def steps(adam, every, start=None):
    state = adam.init(np.zeros(every.shape[1]) if start is None else start)
    states = [state]
    for number, gradient in enumerate(every):
        state = adam.step(state, gradient, adam.rate(number / len(every)))
        states.append(state)
    return states


def test_steps_are_those_of_scikit_learn():
    every, theirs = gradients(50), [np.arange(7.0)]
    optimizer = AdamOptimizer(theirs, learning_rate_init=0.02, epsilon=1e-30)
    adam = Adam(learning_rate=0.02, epsilon=1e-30)  # theirs is not divided by the correction
    state = adam.init(np.arange(7.0))
    for gradient in every:
        optimizer.update_params(theirs, [gradient])
        state = adam.step(state, gradient, adam.learning_rate)
        np.testing.assert_allclose(state.params, theirs[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("settings", SETTINGS)
def test_steps_are_those_of_the_paper(settings):
    adam, every = Adam(**settings), gradients(40)
    *_, state = steps(adam, every, np.ones(7))
    params, m, v = np.ones(7), np.zeros(7), np.zeros(7)
    for number, g in enumerate(every):
        m = adam.beta_1 * m + (1 - adam.beta_1) * g
        v = adam.beta_2 * v + (1 - adam.beta_2) * g**2
        means = m / (1 - adam.beta_1 ** (number + 1)), v / (1 - adam.beta_2 ** (number + 1))
        rate = adam.learning_rate * min(1, 2 - 2 * number / len(every))
        params = params - rate * means[0] / (np.sqrt(means[1]) + adam.epsilon)
    np.testing.assert_allclose(state.params, params, rtol=1e-12)
    np.testing.assert_allclose(state.first, m, rtol=1e-12)
    np.testing.assert_allclose(state.second, v, rtol=1e-12)
    assert (state.n_steps, state.epoch) == (40, 0)


@given(st.integers(-150, 150), st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 0.999]))
def test_the_first_step_is_that_of_the_rate_whatever_the_scale(exponent, beta_1, beta_2):
    adam = Adam(beta_1=beta_1, beta_2=beta_2, epsilon=1e-300)
    gradient = np.array([-3.0, 0.0, 1e-3]) * 10.0**exponent
    params = adam.step(adam.init(np.zeros(3)), gradient, 0.5).params
    np.testing.assert_allclose(params, [0.5, 0.0, -0.5], rtol=1e-9)


def test_where_there_was_no_slope_nothing_moves():
    state = Adam().step(Adam().init(np.ones(3)), np.zeros(3), 1.0)
    assert state.params.tolist() == [1, 1, 1]


def test_states_are_left_as_they_were():
    adam, every = Adam(), gradients(30, size=5000)  # large enough for memory that is lent
    state, states, written = adam.init(np.zeros(5000)), [], []
    for gradient in every:
        before = gradient.copy()
        states.append(state)
        written.append(pickle.dumps(state))
        state = adam.step(state, gradient, 0.1)
        assert (gradient == before).all()
    assert [pickle.dumps(state) for state in states] == written


def test_a_step_can_be_had_before_it_is_taken():
    adam, every = Adam(), gradients(5)
    *_, state = steps(adam, every)
    moved, step = adam.moments(state, every[0], 0.1)
    taken = adam.step(state, every[0], 0.1)
    assert moved.params is state.params
    assert (state.params + step).tobytes() == taken.params.tobytes()
    assert (moved.first.tobytes(), moved.n_steps) == (taken.first.tobytes(), taken.n_steps)


def test_a_state_is_all_that_a_step_needs():
    adam, every = Adam(), gradients(9)
    states = steps(adam, every)
    assert pickle.dumps(steps(adam, every)) == pickle.dumps(states)
    half = json.loads(json.dumps({k: np.asarray(v).tolist() for k, v in asdict(states[4]).items()}))
    arrays = {name: np.array(half.pop(name)) for name in ("params", "first", "second", "means")}
    state = AdamState(**arrays, **half)
    for number in range(4, 9):
        state = adam.step(copy.copy(state), every[number], adam.rate(number / 9))
    assert state.params.tobytes() == states[-1].params.tobytes()
    assert state.second.tobytes() == states[-1].second.tobytes()


def test_what_the_state_knows_of_the_cost_stays():
    state = AdamState(np.zeros(2), np.zeros(2), np.zeros(2), 3, 5, np.array([0.1, 0.2]), 640.0)
    after = Adam().step(state, np.ones(2), 0.1)
    assert (after.n_steps, after.epoch, after.means.tolist()) == (4, 5, [0.1, 0.2])
    assert after.n_averaged == 640.0


def test_moments_are_in_double_precision_whatever_the_gradient_is_in():
    every = gradients(20).astype(np.float32)
    ours = steps(Adam(), every, np.ones(7, np.float32))
    for state in ours:
        for array in (state.params, state.first, state.second):
            assert array.dtype == np.float64
    wide = steps(Adam(), every.astype(float), np.ones(7))
    assert ours[-1].params.tobytes() == wide[-1].params.tobytes()
    assert ours[-1].second.tobytes() == wide[-1].second.tobytes()
    huge = Adam().step(Adam().init(np.zeros(1)), np.float32([1e30]), 0.5)  # its square is inf there
    assert huge.params == pytest.approx([-0.5])


def test_steps_too_small_for_single_precision_count():
    adam, state = Adam(), Adam().init(np.ones(1))
    for _ in range(1000):
        state = adam.step(state, np.ones(1), 1e-9)
    assert 1 - state.params[0] == pytest.approx(1e-6, rel=1e-6)


def test_the_rate_falls_from_half_of_the_way_on():
    done = np.linspace(0, 1, 101)
    rates = [Adam(learning_rate=0.2).rate(share) for share in done.tolist()]
    np.testing.assert_allclose(rates, np.interp(done, [0, 0.5, 1], [0.2, 0.2, 0]), atol=1e-15)


def test_a_quadratic_is_minimised_through_noise():
    rng, scales = np.random.default_rng(0), np.logspace(-0.5, 1, 5)
    adam = Adam(learning_rate=0.1)
    state = adam.init(np.ones(5))
    for number in range(2000):
        noisy = scales * (state.params - 0.3) + 0.1 * rng.normal(size=5)
        state = adam.step(state, noisy, adam.rate(number / 2000))
    assert state.params == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("name", ["learning_rate", "epsilon"])
def test_sizes_must_be_positive(name, value):
    with pytest.raises(ArgumentError, match=rf"{name}={value} .*above 0"):
        Adam(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, np.nan])
@pytest.mark.parametrize("name", ["beta_1", "beta_2"])
def test_shares_must_be_below_one(name, value):
    with pytest.raises(ArgumentError, match=rf"{name}={value} .*below 1"):
        Adam(**{name: value})
