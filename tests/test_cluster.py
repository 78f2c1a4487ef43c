import numpy as np
import pytest

from stackedae.cluster import TREE_ARITY, Shards, literal


@pytest.mark.parametrize("n_shards", [1, 2, TREE_ARITY, TREE_ARITY + 1, 300])
def test_sums_here_and_on_a_scheduler_are_the_same_tree(n_shards):
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(3, 2)) * 10.0 ** rng.integers(-8, 8) for _ in range(n_shards)]
    here = Shards(blocks, (3,) * n_shards, 2, np.dtype(float))
    there = Shards([literal("block", b) for b in blocks], (3,) * n_shards, 2, np.dtype(float))

    def kernel(scale, rows):
        return scale * rows.sum(axis=0)

    total = here.sum(kernel, 0.1, name="stackedae-test")
    assert (total == there.sum(kernel, 0.1, name="stackedae-test")).all()
    assert total == pytest.approx(0.1 * np.concatenate(blocks).sum(axis=0), rel=1e-9)


def test_a_sum_does_not_change_what_it_adds_up():
    blocks = [np.ones((1, 2)), np.ones((1, 2))]
    shards = Shards(blocks, (1, 1), 2, np.dtype(float))
    shards.sum(lambda rows: rows[0], name="stackedae-test")
    assert (blocks[0] == 1).all()


def test_map_and_gather_keep_the_order():
    blocks = [literal("block", np.full((2, 1), float(i))) for i in range(5)]
    shards = Shards(blocks, (2,) * 5, 1, np.dtype(float))
    doubled = shards.map(
        lambda factor, rows: factor * rows, 2, n_features=1, dtype=float, name="stackedae-test"
    ).hold()
    assert doubled.gather(lambda rows: float(rows[0, 0]), "stackedae-test") == (0, 2, 4, 6, 8)
