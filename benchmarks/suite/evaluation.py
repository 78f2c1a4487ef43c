"""Cost and gradient over a data set, on every kind of scheduler."""

from __future__ import annotations

from contextlib import ExitStack

import dask
from distributed import Client, LocalCluster

from stackedae.costs import AutoEncoderCost
from stackedae.objective import DaskObjective
from suite.rows import random_rows, random_start

SCHEDULERS = ("synchronous", "threads", "cluster")


def activate(scheduler: str) -> ExitStack:
    """Make a scheduler the active one, until the result is closed.

    "cluster" is a LocalCluster of two processes with one thread each.
    """
    active = ExitStack()
    if scheduler == "cluster":
        cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        )
        active.enter_context(cluster)
        active.enter_context(Client(cluster))
    else:
        active.enter_context(dask.config.set(scheduler=scheduler))
    return active


class Evaluation:
    """One evaluation, of rows that the workers hold already: what an iteration costs."""

    params = (SCHEDULERS, (10_000, 200_000))
    param_names = ("scheduler", "rows")
    timeout = 120

    def setup(self, scheduler, n_rows):
        self.active = activate(scheduler)
        cost = AutoEncoderCost(64, 25, sparsity_target=0.01)
        self.start = random_start(cost)
        self.objective = DaskObjective(cost, random_rows(n_rows, 64))
        self.objective(self.start)  # the rows are there now

    def teardown(self, scheduler, n_rows):
        del self.objective
        self.active.close()

    def time_evaluation(self, scheduler, n_rows):
        self.objective(self.start)

    def peakmem_evaluation(self, scheduler, n_rows):
        self.objective(self.start)
