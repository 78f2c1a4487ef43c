"""Cost and gradient without any engine, on one core."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from stackedae.costs import AutoEncoderCost
from suite.rows import random_rows, random_start


class Kernel:
    """One pass over the rows of a chunk, and its cost and gradient."""

    params = (((64, 25, 50_000), (192, 400, 5_000), (784, 196, 5_000), (784, 1024, 2_000)),)
    param_names = ("features, hidden, rows",)

    def setup(self, shape):
        d, h, n = shape
        self.limits = threadpool_limits(1)
        self.cost = AutoEncoderCost(d, h, sparsity_target=0.01)
        self.start = random_start(self.cost)
        self.X = random_rows(n, d)

    def teardown(self, shape):
        self.limits.restore_original_limits()

    def time_one_pass(self, shape):
        self.cost.finish(self.start, self.cost.chunk_sums(self.start, self.X))

    def peakmem_one_pass(self, shape):
        self.cost.finish(self.start, self.cost.chunk_sums(self.start, self.X))


class Evaluate(Kernel):
    """All rows in one process: fewer products than one pass takes."""

    def setup(self, shape):
        super().setup(shape)
        if not hasattr(self.cost, "evaluate"):
            raise NotImplementedError  # asv writes n/a

    time_one_pass = peakmem_one_pass = None

    def time_evaluate(self, shape):
        self.cost.evaluate(self.start, self.X)

    def peakmem_evaluate(self, shape):
        self.cost.evaluate(self.start, self.X)
