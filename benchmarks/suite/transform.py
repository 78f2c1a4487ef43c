"""Features of rows, from every kind of container, on threads."""

from __future__ import annotations

import dask.array as da
import numpy as np

from stackedae import StackedAutoEncoder
from suite.rows import random_rows


class Transform:
    """Features of a fitted layer, computed."""

    params = (("ndarray", "dask"), (10_000, 500_000))
    param_names = ("container", "rows")

    def setup(self, container, n_rows):
        X = random_rows(n_rows, 64)
        self.model = StackedAutoEncoder(25, max_iter=1, tol=0, random_state=0).fit(X[:1000])
        self.X = X if container == "ndarray" else da.from_array(X, chunks=(n_rows // 8, 64))

    def time_transform(self, container, n_rows):
        np.asarray(self.model.transform(self.X))

    def peakmem_transform(self, container, n_rows):
        np.asarray(self.model.transform(self.X))
