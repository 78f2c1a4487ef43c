"""Training, on threads."""

from __future__ import annotations

from stackedae import StackedAutoEncoder
from suite.rows import random_rows


class Fit:
    """Twenty iterations a layer, with all that comes before and after them."""

    params = (((25,), (100, 25)), (10_000, 100_000), ("progressive", "full"))
    param_names = ("hidden", "rows", "batching")
    number, warmup_time = 1, 0
    repeat = (1, 5, 60)
    timeout = 300

    def setup(self, hidden, n_rows, batching):
        self.X = random_rows(n_rows, 64)
        self.model = StackedAutoEncoder(
            hidden, batching=batching, max_iter=20, tol=0, random_state=0
        )

    def time_fit(self, hidden, n_rows, batching):
        self.model.fit(self.X)

    def peakmem_fit(self, hidden, n_rows, batching):
        self.model.fit(self.X)
