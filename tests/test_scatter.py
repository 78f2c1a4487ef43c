import os
from pathlib import Path

import numpy as np
import pytest

import stackedae.memory
from stackedae.scatter import Scattered, scattered


@pytest.mark.parametrize("room", [10**9, 2000, 1])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool"])
def test_rows_come_in_any_order_and_in_parts(monkeypatch, room, dtype):
    monkeypatch.setattr(stackedae.memory, "BUFFER_BYTES", room)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2 if dtype == "bool" else 100, (300, 2, 3)).astype(dtype)
    left, right = rows.copy(), rows.copy()
    left[..., 1:], right[..., :1] = 0, 0
    pieces = [(n, part[n]) for part in (left, right) for n in np.split(rng.permutation(300), 6)]
    with scattered((2, 3), np.dtype(dtype), ".") as room_for_rows:
        for index in rng.permutation(len(pieces)):
            room_for_rows.add(*pieces[index])
        for start, stop in ((0, 300), (0, 1), (17, 120), (299, 300)):
            assert (room_for_rows.rows(start, stop) == rows[start:stop]).all()
    assert os.listdir() == []


def test_the_same_row_may_come_twice_at_once():
    room = Scattered((2,), np.dtype("float64"), Path("."))
    room.add(np.array([3, 1, 3, 3]), np.arange(8.0).reshape(4, 2))
    assert room.rows(1, 4).tolist() == [[2, 3], [0, 0], [10, 13]]
