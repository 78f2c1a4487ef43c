import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from stackedae import StackedAutoEncoder

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def X():
    return np.random.default_rng(0).random((300, 4, 6))


@pytest.fixture(scope="session")
def sae(X):
    """Two layers, of 7 and 3 units."""
    return StackedAutoEncoder((7, 3), max_iter=4, tol=0, random_state=0).fit(X)
