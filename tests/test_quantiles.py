import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis.extra.numpy import arrays

from stackedae.containers import cut_into_shards
from stackedae.quantiles import count_digits, order_statistics, quantile
from stackedae.shards import Shards

SHARES = [0.0, 0.1, 1 / 3, 0.5, 0.7, 0.999, 1.0]


def here(*blocks):
    """Shards that the client has."""
    blocks = [np.asarray(block).reshape(-1, 1) for block in blocks]
    dtype = blocks[0].dtype
    return Shards(blocks, tuple(map(len, blocks)), 1, dtype, held=True, here=True)


def bits(value):
    return np.float64(value).tobytes()


def finite(dtype):
    """Finite values of both signs, many of them equal."""
    width = 8 * np.dtype(dtype).itemsize
    anything = st.floats(allow_nan=False, allow_infinity=False, width=width)
    few = st.sampled_from([-0.0, 0.0, 1.0, -1.0, 1e-40, -1e-40])
    return arrays(dtype, st.integers(1, 40), elements=few | anything)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(st.data())
def test_order_statistics_are_what_sorting_gives(dtype, data):
    values = data.draw(finite(dtype))
    expected = np.sort(values.astype(float)) + 0.0
    found = order_statistics(here(values), range(len(values)))
    assert list(map(bits, found)) == list(map(bits, expected))


@given(finite("float32"), st.floats(0, 1))
@example(np.float32([-0.0, -0.0, -0.0, -0.0]), 0.3)
@example(np.float32([2.5]), 0.1)
def test_quantiles_are_those_of_numpy_to_the_bit(values, q):
    expected = np.quantile(values.astype(float) + 0.0, q)
    assert bits(quantile(here(values), q)) == bits(expected)


def test_neighbours_far_apart_have_nothing_in_common():
    values = np.array([-1e30, -1.0, 1e-30, 1e30], "float32")
    for q in SHARES:
        assert quantile(here(values[:3], values[3:]), q) == np.quantile(values.astype(float), q)


def test_infinity_is_larger_than_all_else():
    values = np.array([1.0, -np.inf, np.finfo("float32").max, np.inf], "float32")
    assert order_statistics(here(values), range(4)) == sorted(values.astype(float))


def test_counts_of_parts_add_up():
    values = np.random.default_rng(0).normal(size=1000).astype("float32")
    whole = count_digits([0], 0, values)
    assert whole.sum() == 1000
    assert (count_digits([0], 0, values[400:], count_digits([0], 0, values[:400])) == whole).all()
    first = int(np.argmax(whole))
    nothing, following = count_digits([3, first], 1, values).reshape(2, -1)
    assert (nothing.sum(), following.sum()) == (0, whole[first])


@pytest.fixture(scope="module")
def column():
    rng = np.random.default_rng(0)
    return np.round(rng.normal(size=(30_000, 1)), 3).astype("float32")  # with ties


def test_whatever_the_cluster_and_the_shards(column, cluster):
    expected = [np.quantile(column.astype(float), q) for q in SHARES]
    lazy = da.from_array(column, chunks=(7000, 1))
    with dask.config.set(scheduler="threads"):
        on_threads = [quantile(cut_into_shards(lazy), q) for q in SHARES]
    with cluster.as_current():
        held = cut_into_shards(lazy).hold()
        on_cluster = [quantile(held, q) for q in SHARES]
    assert on_threads == on_cluster == expected
    assert quantile(here(*np.array_split(column, 7)), 0.1) == expected[1]
