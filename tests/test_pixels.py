import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import zarr

from stackedae import open_image
from stackedae.images import images_in

GREY = np.random.default_rng(0).random((23, 31))


@pytest.fixture
def kept():
    image = open_image(zarr.create_array({}, data=GREY, chunks=(8, 8)))
    return images_in(image, (4, 4)).kept()


def test_chunks_are_forgotten_when_they_are_too_many(kept):
    kept.most_bytes = 3 * 8 * 8 * 8
    for y, x in product(range(0, 20, 3), range(0, 25, 5)):
        box = (slice(y, y + 3), slice(x, x + 6))
        assert (kept.read(box) == GREY[box]).all()
        assert kept.kept_bytes == sum(each.result().nbytes for each in kept.kept.values())
        assert kept.kept_bytes <= kept.most_bytes


def test_who_comes_while_a_chunk_is_read_waits_for_it(kept):
    reads, begun, go_on = [], threading.Event(), threading.Event()

    class Slow:
        dtype = GREY.dtype

        def __getitem__(self, index):
            reads.append(index)
            begun.set()
            assert go_on.wait(10)
            return GREY[index]

    kept.reader = Slow()
    box = (slice(1, 3), slice(2, 7))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(kept.read, box)
        assert begun.wait(10)
        second = threads.submit(kept.read, box)
        go_on.set()
        assert (first.result() == GREY[box]).all()
        assert (second.result() == GREY[box]).all()
    assert len(reads) == 1


def test_a_chunk_that_cannot_be_read_is_tried_again(kept):
    class Broken:
        dtype = GREY.dtype

        def __getitem__(self, index):
            raise OSError("the network is down")

    good, kept.reader = kept.reader, Broken()
    box = (slice(1, 3), slice(2, 7))
    with pytest.raises(OSError, match="network"):
        kept.read(box)
    kept.reader = good
    assert (kept.read(box) == GREY[box]).all()


def test_what_is_kept_stays_where_it_is(kept):
    kept.read((slice(0, 23), slice(0, 31)))
    assert kept.kept
    again = pickle.loads(pickle.dumps(kept))
    assert not again.kept
    assert (again.read((slice(0, 3), slice(0, 3))) == GREY[:3, :3]).all()
