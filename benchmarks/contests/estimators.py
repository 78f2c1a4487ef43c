"""Whole estimators: the auto-encoder of H2O-3, and scikit-learn's MLPRegressor from X to X."""

from __future__ import annotations

import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPRegressor

from contests.data import natural_patches
from contests.measure import (
    Options,
    cores,
    installed,
    median_and_range,
    number,
    say,
    skipped,
    table,
)
from stackedae import StackedAutoEncoder
from stackedae.costs import AutoEncoderCost

MOST_REPEATS = 3
N_HIDDEN, ALPHA = 25, 1e-4

Fit = Callable[[int], tuple[float, np.ndarray]]
"""Fits with a seed; returns the seconds of the fit alone, and reconstructions of X."""


def report(options: Options) -> str:
    """Measure, and write the section."""
    patches = natural_patches(500 if options.quick else 10_000, options.natural)
    repeats = min(options.repeats, MOST_REPEATS)
    return "\n\n".join(
        [
            "## Estimators",
            _against_h2o(patches, 2 if options.quick else 10, repeats),
            _against_mlp(patches, 20 if options.quick else 400, repeats),
        ]
    )


# Reconstruction: H2O-3, PCA


def _against_h2o(X: np.ndarray, epochs: int, repeats: int) -> str:
    parts = [f"### Reconstruction of {len(X):,} patches, 64-{N_HIDDEN}"]
    with h2o_fit(X, epochs) as (h2o, reason):
        contenders: dict[str, Fit] = {
            "ours": lambda seed: _fit_ours(X, seed, {}),
            "ours, without sparsity": lambda seed: _fit_ours(X, seed, {"sparsity_weight": 0.0}),
            "scikit-learn PCA": lambda seed: _fit_pca(X, seed),
        }
        if h2o is not None:
            contenders[f"H2O-3 auto-encoder, Tanh, {epochs} epochs"] = h2o
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for name, fit in list(contenders.items()) * repeats:
            seconds, reconstructions = fit(len(runs[name]))
            error = float(((reconstructions - X) ** 2).sum(axis=1).mean())
            runs[name].append((seconds, error))
            say(f"{name}: {seconds:.2f} s, error {error:.4f}")
    ours = np.median([seconds for seconds, _ in runs["ours"]])
    rows = []
    for name, pairs in runs.items():
        seconds, errors = zip(*pairs, strict=True)
        times = number(np.median(seconds) / ours)
        rows.append((name, median_and_range(seconds), times, median_and_range(errors)))
    parts.append(table(("contender", "seconds to fit", "times ours", "mean Σ(x−x̂)²"), rows))
    parts.append(
        "Logistic hidden units for ours, sparsity target 0.01 where there is sparsity, other "
        "settings as they come. Sparsity is what ours is for, and costs reconstruction; H2O and "
        "PCA have none. PCA has the lowest error that a linear method can have. Starting the JVM "
        "and uploading the rows are not in the seconds of H2O."
    )
    if reason:
        parts.append(skipped("h2o", reason))
    return "\n\n".join(parts)


def _fit_ours(X: np.ndarray, seed: int, settings: dict[str, float]) -> tuple[float, np.ndarray]:
    model = StackedAutoEncoder(
        N_HIDDEN, alpha=ALPHA, sparsity_target=0.01, tol=0, random_state=seed
    )
    started = time.perf_counter()
    model.set_params(**settings).fit(X)
    return time.perf_counter() - started, model.reconstruct(X)


def _fit_pca(X: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
    model = PCA(N_HIDDEN, random_state=seed)
    started = time.perf_counter()
    model.fit(X)
    return time.perf_counter() - started, model.inverse_transform(model.transform(X))


@contextmanager
def h2o_fit(X: np.ndarray, epochs: int) -> Iterator[tuple[Fit | None, str]]:
    """Start H2O; yield how to fit with it, or None and why not."""
    if not installed("h2o"):
        yield None, "not installed"
        return
    if shutil.which("java") is None:
        yield None, "no java"
        return
    import h2o
    from h2o.estimators import H2OAutoEncoderEstimator
    from h2o.exceptions import H2OError

    try:
        h2o.init(
            port=_free_port(),  # where no H2O of somebody else's can answer, and be shut down
            nthreads=cores(),
            max_mem_size="2G",
            strict_version_check=False,
            verbose=False,
        )
    except (H2OError, OSError) as error:
        yield None, f"no cluster: {error}"
        return
    h2o.no_progress()
    try:
        frame = h2o.H2OFrame(X.tolist())

        def fit(seed: int) -> tuple[float, np.ndarray]:
            model = H2OAutoEncoderEstimator(
                hidden=[N_HIDDEN], activation="Tanh", epochs=epochs, seed=seed + 1
            )
            started = time.perf_counter()
            model.train(x=frame.columns, training_frame=frame)
            seconds = time.perf_counter() - started
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about faster ways to make a DataFrame
                reconstructions = model.predict(frame).as_data_frame()
            return seconds, reconstructions.to_numpy()

        yield fit, ""
    finally:
        h2o.cluster().shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Seconds to a cost: MLPRegressor


def _against_mlp(X: np.ndarray, max_iter: int, repeats: int) -> str:
    n, d = X.shape
    cost = AutoEncoderCost(
        d, N_HIDDEN, output_activation="identity", alpha=ALPHA, sparsity_weight=0.0
    )
    rows = []
    for dtype in ("float32", "float64"):
        theirs, ours, costs, iterations = [], [], [], []
        for seed in range(repeats):
            seconds, J, n_iter = _fit_mlp(cost, X.astype(dtype), max_iter, seed)
            theirs.append(seconds)
            costs.append(J)
            iterations.append(n_iter)
            ours.append(seconds_of_ours(X, J, dtype, seed))
            say(f"MLPRegressor {dtype}: {seconds:.2f} s to J {J:.6f}, ours {ours[-1]:.2f} s")
        rows.append(
            (
                dtype,
                median_and_range(costs),
                f"{np.median(iterations):.0f}",
                median_and_range(theirs),
                median_and_range(ours),
                number(np.median(theirs) / np.median(ours)),
            )
        )
    header = ("dtype", "J", "its iterations", "its seconds", "ours to this J", "its, times ours")
    notes = (
        f"MLPRegressor with {N_HIDDEN} logistic units and L-BFGS, from X to X, at most {max_iter} "
        "iterations, against ours with identity output and without sparsity, each from a start of "
        "its own. MLPRegressor has no sparsity term and no loss but a mean over rows and outputs "
        "of a linear output, so that its alpha is ours times n/d. It ends early where SciPy's ftol "
        "(2.2e-9), which it does not let one set, says so."
    )
    title = f"### X to X, {n:,} patches, {d}-{N_HIDDEN}, identity output, no sparsity"
    return "\n\n".join([title, table(header, rows), notes])


def _fit_mlp(
    cost: AutoEncoderCost, X: np.ndarray, max_iter: int, seed: int
) -> tuple[float, float, int]:
    """Return seconds, the J of our definition that it came to, and iterations."""
    n, d = X.shape
    model = MLPRegressor(
        hidden_layer_sizes=(cost.n_hidden,),
        activation=cost.activation,
        solver="lbfgs",
        alpha=cost.alpha * n / d,
        max_iter=max_iter,
        max_fun=10**6,
        tol=0,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that max_iter was reached
        started = time.perf_counter()
        model.fit(X, X)
        seconds = time.perf_counter() - started
    (W1, W2), (b1, b2) = model.coefs_, model.intercepts_
    params = cost.layout.pack({"W1": W1.T, "b1": b1, "W2": W2.T, "b2": b2}).astype(np.float64)
    J = cost.finish(params, cost.chunk_sums(params, X.astype(np.float64))).cost
    if not np.isclose(model.loss_ * d, J, rtol=1e-4):
        raise AssertionError(f"MLPRegressor minimised {model.loss_ * d}, and J is {J}")
    return seconds, J, model.n_iter_


def seconds_of_ours(X: np.ndarray, target: float, dtype: str, seed: int) -> float:
    """Seconds from calling fit to a cost over all rows of at most `target`; inf if never."""

    def stop(record):
        if record["n_rows"] == len(X) and record["cost"] <= target:
            raise TargetReached

    model = StackedAutoEncoder(
        N_HIDDEN,
        output_activation="identity",
        alpha=ALPHA,
        sparsity_weight=0.0,
        max_iter=2000,
        tol=0,
        dtype=dtype,
        random_state=seed,
    )
    X = X.astype(dtype)
    started = time.perf_counter()
    try:
        model.fit(X, callback=stop)
    except TargetReached:
        return time.perf_counter() - started
    return np.inf


class TargetReached(Exception):  # noqa: N818 (no error)
    """The cost is low enough."""
