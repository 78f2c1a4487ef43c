import threading
from functools import partial

import numpy as np
import pytest

from stackedae.deferred import Work, in_one_read
from stackedae.shards import MappedRows, RowSource, portions_of_each


class Counted(RowSource):
    """Rows that come in portions, and count how often."""

    def __init__(self, *parts):
        self.parts, self.reads = parts, 0

    def portions(self):
        self.reads += 1
        yield from self.parts


def rows_of(scale, offset, blocks):
    """What was seen of each block, portion by portion, and in which thread."""
    seen = [[scale * rows + offset for rows in portions] for portions in portions_of_each(blocks)]
    return seen, threading.current_thread()


@pytest.fixture
def blocks():
    parts = np.arange(24.0).reshape(6, 2, 2)
    return [Counted(*parts[:3]), parts[3], Counted(*parts[4:])]


def test_calls_of_some_of_the_rows_each_see_what_they_would_see_alone(blocks):
    halved = [(MappedRows, lambda rows: rows / 2)]
    works = [Work(rows_of, (3.0,), [], False), Work(rows_of, (1.0,), halved, False)]
    calls = [(0, range(3), [0.5]), (1, range(3), [0.0]), (0, range(1, 3), [7.0])]
    found = in_one_read(works, calls, blocks)
    expected = [in_one_read(works, [call], [blocks[i] for i in call[1]])[0] for call in calls]
    for (one, _), (other, _) in zip(found, expected, strict=True):
        np.testing.assert_equal(one, other)
    assert len({thread for _, thread in found}) == 3  # each has a kernel's memory to itself
    assert all(thread is threading.current_thread() for _, thread in expected)
    assert blocks[0].reads == 1 + 2
    assert blocks[2].reads == 1 + 3


def test_a_call_of_one_block_has_it_alone(blocks):
    works = [Work(lambda rows: sum(p.sum() for p in rows.portions()), (), [], True)]
    first, last = in_one_read(works, [(0, range(1), []), (0, range(2, 3), [])], blocks)
    assert (first, last) == (sum(range(12)), sum(range(16, 24)))


def broken(at, blocks):
    for number, rows in enumerate(portions_of_each(blocks)):
        if number == at:
            raise ValueError(f"cannot go on at {number}")
        list(rows)


class Unreadable(RowSource):
    def portions(self):
        yield np.zeros((1, 2))
        raise OSError("the disk is gone")


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_error_ends_all_calls(blocks, at):
    works = [Work(rows_of, (1.0, 0.0), [], False), Work(partial(broken, at), (), [], False)]
    with pytest.raises(ValueError, match=f"cannot go on at {at}"):
        in_one_read(works, [(0, range(3), []), (1, range(3), [])], blocks)
    blocks[1] = Unreadable()
    with pytest.raises(OSError, match="the disk is gone"):
        in_one_read(works, [(0, range(3), []), (0, range(3), [])], blocks)
    assert not [each for each in threading.enumerate() if each.name == "stackedae-listener"]
