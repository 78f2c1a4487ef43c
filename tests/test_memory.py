import hypothesis.strategies as st
import pytest
from hypothesis import given

from stackedae.memory import (
    BUFFER_BYTES,
    CHUNK_BYTES,
    MAX_SHARD_BYTES,
    MAX_SHARDS,
    MIB,
    MIN_SHARD_BYTES,
    blocks_per_stack,
    halvings,
    n_tasks,
    row_stacks,
    rows_per_block,
    rows_per_chunk,
    rows_per_portion,
    rows_per_shard,
    shard_rows,
)


@pytest.mark.parametrize(
    ("total_mib", "shard_mib"),
    [(0.1, 0.1), (1, 1 / 2), (100, 6.25), (10_000, 39), (10**6, 244), (10**7, 10**7 / 4096)],
)
def test_shards_grow_with_the_data(total_mib, shard_mib):
    row_bytes = 1024
    rows = rows_per_shard(int(total_mib * MIB) // row_bytes, row_bytes)
    assert rows * row_bytes == pytest.approx(shard_mib * MIB, rel=0.01)
    n_shards = -(-int(total_mib * MIB) // (rows * row_bytes))
    assert n_shards & (n_shards - 1) == 0  # so that they halve evenly


@given(st.integers(1, 10**12), st.integers(1, 10**8))
def test_tasks_and_memory_are_bounded(n_rows, row_bytes):
    rows = rows_per_shard(n_rows, row_bytes)
    assert rows >= 1
    most = max(MAX_SHARD_BYTES, n_rows * row_bytes / MAX_SHARDS)
    assert (rows - 1) * row_bytes < most
    if rows * row_bytes > MIN_SHARD_BYTES and rows > 1:
        assert n_rows / rows < 2 * MAX_SHARDS


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 60))
def test_shards_hold_every_row_once_and_break_at_chunks(chunks, target):
    shards = shard_rows(chunks, target)
    assert sum(shards) == sum(chunks)
    assert max(shards) <= target
    assert min(shards) >= 1
    if max(chunks) <= target:
        borders = {sum(chunks[:i]) for i in range(len(chunks) + 1)}
        assert {sum(shards[:i]) for i in range(len(shards) + 1)} <= borders


@given(st.integers(1, 10**9))
def test_chunks_and_portions(row_bytes):
    chunk = rows_per_chunk(row_bytes)
    assert chunk & (chunk - 1) == 0
    assert chunk == 1 or chunk * row_bytes < 2 * CHUNK_BYTES
    portion = rows_per_portion(row_bytes, chunk)
    assert portion % chunk == 0
    assert portion == chunk or portion * row_bytes <= BUFFER_BYTES


@given(st.integers(1, 3000), st.integers(1, 300))
def test_halvings_are_whole_branches_of_one_tree(n, parts):
    ranges = halvings(n, parts)
    assert len(ranges) >= min(n, parts)
    assert [stop for _, stop in ranges[:-1]] == [start for start, _ in ranges[1:]]
    assert (ranges[0][0], ranges[-1][1]) == (0, n)
    sizes = [stop - start for start, stop in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert set(halvings(n, 1)) == {(0, n)}
    finer = halvings(n, 2 * parts)
    assert {start for start, _ in ranges} <= {start for start, _ in finer}


@given(st.integers(1, 10_000), st.integers(0, 2**45))
def test_tasks_keep_threads_busy_and_are_few(n_threads, n_bytes):
    tasks = n_tasks(n_bytes, n_threads)
    rounds = -(-tasks // n_threads)
    assert tasks >= 0.85 * n_threads * rounds
    assert tasks < 32 * n_threads


@given(st.integers(0, 10**5), st.integers(1, 5000), st.integers(1, 5000))
def test_stacks_are_blocks_of_one_size_in_order(n_rows, n_features, n_hidden):
    done = 0
    for rows, n_blocks in row_stacks(n_rows, n_features, n_hidden):
        assert rows.start == done < rows.stop
        assert n_blocks <= blocks_per_stack(n_features, n_hidden)
        m, rest = divmod(rows.stop - rows.start, n_blocks)
        assert rest == 0
        assert m == rows_per_block(n_features) or rows.stop == n_rows
        done = rows.stop
    assert done == n_rows
