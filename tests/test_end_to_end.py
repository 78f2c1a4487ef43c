"""The classic exercise: edges from natural images, and how much memory it takes."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from skimage.data import astronaut, coffee
from sklearn.datasets import load_digits

from stackedae import ContrastNormalizer, StackedAutoEncoder, datasets, extract_patches
from stackedae.blas import one_blas_thread
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


@pytest.mark.long
def test_learning_without_a_fifth_of_the_pixels():
    images, n = datasets.natural_images(), 20_000
    patches = extract_patches(images, (8, 8), n + 5_000, rng=0, dtype="float32").values
    raw, held_out = np.split(patches.reshape(len(patches), -1), [n])
    missing = np.random.default_rng(0).random(raw.shape) < 0.2
    whole = ContrastNormalizer().fit(raw)
    masked = ContrastNormalizer(missing="mask").fit_transform(np.where(missing, np.nan, raw))
    counted = np.where(missing, np.nanmean(masked, axis=0), masked)
    held_out = whole.transform(held_out)

    def error(X):
        settings = {"sparsity_target": 0.01, "max_iter": 150, "tol": 0, "random_state": 0}
        sae = StackedAutoEncoder((25,), missing="mask", **settings).fit(X)
        return sae.reconstruction_error(held_out).mean()

    least, reached = error(whole.transform(raw)), error(masked)
    assert reached < 1.08 * least  # 1.01 to 1.07 in five runs
    assert reached < error(counted)


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
        with one_blas_thread():  # others wait for work, on cores that somebody else may need
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


def kinds_of_data(n=20_000):
    """Name and rows of data of ten kinds."""
    rng = np.random.default_rng(0)
    digits = load_digits().images / 16
    shifts = [np.roll(digits, (i, j), (1, 2)) for i in range(-2, 3) for j in range(-2, 3)]
    yield "digits", np.concatenate(shifts)[:n]
    for name, whiten in (("whitened", True), ("raw", False)):
        images = datasets.natural_images(whiten=whiten)
        patches = extract_patches(images, (8, 8), n, rng=0, dtype="float32").values
        yield f"{name} patches", ContrastNormalizer().fit_transform(patches) if whiten else patches
    yield (
        "sorted by image",
        np.concatenate(
            [extract_patches(i, (8, 8), n // len(images), rng=0, dtype="float32") for i in images]
        ),
    )
    colour = extract_patches([astronaut(), coffee()], (6, 6), n, rng=0).values
    yield "colour patches", (colour / 255).astype("float32")
    yield "Gaussian noise", rng.normal(size=(n, 64))
    yield "heavy-tailed", rng.standard_t(2, size=(n, 32))
    nearly_constant = np.full((n, 32), 0.5) + 1e-6 * rng.normal(size=(n, 32))
    nearly_constant[:, :4] = rng.random((n, 4))
    yield "nearly constant features", nearly_constant
    yield "1,000 rows", digits[:1000]
    yield "3 rows", rng.random((3, 16))
    yield "all rows equal", np.tile(rng.random(16), (n, 1))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("max_iter", [100, 400])
@pytest.mark.parametrize("number", range(11))
def test_few_passes_lead_as_far_as_many(number, max_iter):
    name, X = next(itertools.islice(kinds_of_data(), number, None))

    def fitted(batching):
        model = StackedAutoEncoder(16, batching=batching, max_iter=max_iter, random_state=0)
        return model.fit(X)

    full, progressive = fitted("full"), fitted("progressive")
    most = 1.005 * full.cost_
    if (name, max_iter) == ("all rows equal", 400):  # both are at zero, but for rounding
        most = np.finfo(np.float32).eps * full.history_[0]["cost"]
    assert progressive.cost_ <= most
    if name not in ("heavy-tailed", "1,000 rows", "3 rows", "all rows equal"):
        assert passes_to(1.005 * full.cost_, progressive) < 0.5 * passes_to(full.cost_, full)


def passes_to(cost, model):
    """Return how often each row was visited until the cost over all rows was as low as this."""
    visited, n_rows = 0, model.history_[-1]["n_rows"]
    for record in model.history_:
        visited += record["rows_visited"]
        if record["n_rows"] == n_rows and record["cost"] <= cost:
            return visited / n_rows
    return np.inf
