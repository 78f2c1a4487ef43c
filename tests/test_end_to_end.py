"""The classic exercise: edges from natural images, and how much memory it takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from stackedae import ContrastNormalizer, StackedAutoEncoder, datasets, extract_patches
from stackedae.costs import AutoEncoderCost
from stackedae.moments import Moments, scatter_sums
from stackedae.solvers import LBFGS, minimize

SHARED = Path(__file__).parents[2] / "shared"


def coherences_and_orientations(filters):
    """How much the gradients of each filter agree on a direction, and on which."""
    found = []
    for w in filters:
        gy, gx = np.gradient(w)
        a, b, c = (gx * gx).sum(), (gx * gy).sum(), (gy * gy).sum()
        found.append((np.hypot(a - c, 2 * b) / (a + c), 0.5 * np.arctan2(2 * b, a - c)))
    return np.array(found).T


def assert_edges(filters):
    coherence, orientation = coherences_and_orientations(filters)
    assert (coherence > 0.4).sum() >= 20
    quarters = np.histogram(orientation, np.linspace(-np.pi / 2, np.pi / 2, 5))[0]
    assert (quarters > 0).all()


def test_edges_from_photographs():
    images = datasets.natural_images()
    patches = extract_patches(images, (8, 8), 20_000, store="patches.zarr", rng=0)
    patches = ContrastNormalizer().fit_transform(patches)
    sae = StackedAutoEncoder((25,), sparsity_target=0.01, max_iter=150, tol=0, random_state=0)
    features = sae.fit(patches).transform(patches)
    assert_edges(sae.components_.reshape(-1, 8, 8))
    assert features.dims == ("patch", "feature")
    assert features.mean().compute() == pytest.approx(0.01, rel=0.2)


@pytest.fixture(scope="module")
def reference():
    if not SHARED.exists():
        pytest.skip("the reference patches are not here")
    return np.load(SHARED / "oracle" / "natural_8x8.npz")["patches"]


@pytest.mark.long
@pytest.mark.parametrize("random_state", range(5))
def test_the_reference_patches_from_any_start(reference, random_state):
    settings = {"sparsity_target": 0.01, "sparsity_weight": 3.0, "alpha": 1e-4}
    sae = StackedAutoEncoder((25,), max_iter=400, tol=0, random_state=random_state, **settings)
    sae.fit(reference)
    assert sae.cost_ <= 0.447
    assert_edges(sae.components_.reshape(-1, 8, 8))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_lbfgs_needs_no_more_evaluations_than_scipy(reference, seed):
    cost = AutoEncoderCost(64, 25, sparsity_target=0.01)
    mean = reference.mean(axis=0)
    moments = Moments.from_sums(mean, scatter_sums(mean, reference), len(reference))
    start = cost.initial_params(np.random.default_rng(seed), moments)
    count = 0

    def objective(params):
        nonlocal count
        count += 1
        return cost.finish(params, cost.chunk_sums(params, reference))

    def pair(params):
        evaluation = objective(params)
        costs.append(evaluation.cost)
        return evaluation.cost, evaluation.gradient

    costs = []
    options = {"maxcor": 10, "maxiter": 200, "ftol": 0, "gtol": 0}
    scipy_minimize(pair, start, jac=True, method="L-BFGS-B", options=options)
    reached, needed = min(costs), int(np.argmin(costs)) + 1

    count = 0
    solver = LBFGS(preconditioner=cost.preconditioner(moments))
    state = solver.init(start)
    while state.evaluation is None or state.evaluation.cost > reached:
        state = solver.step(state, objective)
    assert count <= needed
    plain = minimize(LBFGS(), objective, start, max_iter=200, tol=0)
    assert plain.evaluation.cost <= 1.02 * reached


@pytest.mark.long
def test_a_million_patches_take_little_memory():
    script = """
import resource
from stackedae import StackedAutoEncoder, datasets, extract_patches

images = datasets.natural_images()
patches = extract_patches(images, (8, 8), 1_000_000, store="patches.zarr", rng=0)
sae = StackedAutoEncoder((25,), max_iter=5, tol=0, random_state=0).fit(patches)
assert sae.history_[-1]["n_rows"] == 1_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 1.2e9
