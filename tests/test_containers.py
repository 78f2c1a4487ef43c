import dask.array as da
import numpy as np
import pytest

from stackedae.containers import cut_into_shards, map_samples
from stackedae.errors import DataError


def doubled(X):
    return map_samples(
        lambda rows: 2 * rows, X, sample_dims=None, dtype=X.dtype, name="stackedae-t"
    )


def test_rows_at_odd_addresses_are_moved_once():
    odd = np.frombuffer(bytes(1 + 4 * 600), np.uint8)[1:].view(np.float32).reshape(100, 6)
    assert not odd.flags.aligned
    (block,) = cut_into_shards(odd).hold(here=True).blocks
    assert block.flags.aligned
    even = np.zeros((100, 6), np.float32)
    (block,) = cut_into_shards(even).hold(here=True).blocks
    assert np.shares_memory(block, even)


def test_large_arrays_are_mapped_in_parts_and_bad_rows_named_in_the_whole():
    X = np.random.default_rng(0).random((300_000, 4))
    assert (doubled(X) == 2 * X).all()
    X[250_000, 2] = np.inf
    with pytest.raises(DataError, match="row 250000"):
        doubled(X)


@pytest.mark.parametrize("chunks", [None, (25, 2)])
def test_entries_that_may_be_missing_reach_the_function(chunks):
    X = np.random.default_rng(0).random((60, 4))
    X[30, 2] = np.nan

    def counted(X):
        X = X if chunks is None else da.from_array(X, chunks=chunks)
        out = map_samples(
            lambda rows: np.isnan(rows).sum(axis=1),
            X,
            sample_dims={},
            dtype=int,
            name="stackedae-t",
            missing=True,
        )
        return np.asarray(out)

    assert counted(X).nonzero()[0].tolist() == [30]
    X[40, 1] = -np.inf
    where = "row 40" if chunks is None else "row 15 of chunk 1"
    with pytest.raises(DataError, match=f"X contains infinity, first in {where}; drop such"):
        counted(X)
