import array_api_strict
import numpy as np
import pytest

from stackedae.arrays import Pool, arithmetic_dtype, beside, cast, into, to_numpy

ELSEWHERE = array_api_strict.Device("device1")


@pytest.mark.parametrize("name", ["uint8", "int16", "int32", "float32", "float64"])
def test_arithmetic_is_the_same_in_every_library(name):
    here = np.ones(2, name)
    there = array_api_strict.asarray(here, device=ELSEWHERE)
    assert arithmetic_dtype(there) == arithmetic_dtype(here) == np.result_type(name, np.float32)


def test_values_travel_and_come_back():
    there = array_api_strict.zeros(1, device=ELSEWHERE)
    values = beside(there, np.arange(3.0), "float32")
    assert values.device == ELSEWHERE
    assert values.dtype == array_api_strict.float32
    assert to_numpy(cast(values, "float64")).tolist() == [0, 1, 2]


def test_into_needs_no_out():
    z = array_api_strict.asarray([0.0, 1.0])
    assert into(z, array_api_strict.exp, z) is z
    assert to_numpy(z) == pytest.approx(np.exp([0.0, 1.0]))


def test_lent_memory_is_not_lent_twice():
    pool = Pool()
    first = pool.empty((3, 5), "float32")
    part, there = first[1:, 2:], first.ctypes.data
    first[...] = 1.0
    del first
    other = pool.empty((3, 5), "float32")
    other[...] = 2.0
    assert (part == 1.0).all()
    del part
    assert pool.empty((15,), "float32").ctypes.data == there


def test_a_pool_keeps_so_much_and_no_more():
    pool = Pool()
    pool.most_bytes = 1000
    arrays = [pool.empty((60,), "float64") for _ in range(5)]
    del arrays
    assert 0 < pool.free_bytes <= 1000
    for n in (0, 1, 7, 1000):
        assert pool.empty((n,), "uint8").shape == (n,)
