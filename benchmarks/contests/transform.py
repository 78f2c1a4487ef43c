"""Features of many rows: rows a second."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning

from contests.data import natural_patches
from contests.measure import Options, alternate, median_and_range, number, say, table
from stackedae import StackedAutoEncoder

N_HIDDEN = 25
OURS = "ours"


def report(options: Options) -> str:
    """Measure, and write the section."""
    n_rows, n_fitted, n_slow = (20_000, 1_000, 200) if options.quick else (1_000_000, 10_000, 2_000)
    patches = natural_patches(n_fitted, options.natural)
    X = np.resize(patches, (n_rows, patches.shape[1]))
    say(f"transform {n_rows} rows")
    contenders = _contenders(patches, X, X[:n_slow])
    rows_of = {name: len(rows) for name, (_, rows) in contenders.items()}
    seconds = alternate(
        {name: lambda f=f, rows=rows: f(rows) for name, (f, rows) in contenders.items()},
        options.repeats,
    )
    rates = {name: [rows_of[name] / s for s in values] for name, values in seconds.items()}
    ours = np.median(rates[OURS])
    header = ("contender", "rows", "rows a second", "ratio to ours")
    rows = [
        (name, f"{rows_of[name]:,}", median_and_range(values), number(np.median(values) / ours))
        for name, values in rates.items()
    ]
    notes = (
        f"Median (lowest–highest) of {options.repeats} alternating calls; {patches.shape[1]}-"
        f"{N_HIDDEN}, float32 ndarrays, as many threads as each takes by itself. All models were "
        "fitted to the same patches. A ratio above 1 is faster than ours."
    )
    return "\n\n".join(["## Transform", table(header, rows), notes])


def _contenders(
    patches: np.ndarray, X: np.ndarray, few: np.ndarray
) -> dict[str, tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]]:
    """Return functions of rows, fitted, and the rows for each."""
    ours = StackedAutoEncoder(N_HIDDEN, max_iter=10, tol=0, random_state=0).fit(patches)
    W = np.ascontiguousarray(ours.coefs_[0])
    return {
        OURS: (ours.transform, X),
        "bare `np.tanh(X @ W)`": (lambda rows: np.tanh(rows @ W), X),
        "scikit-learn PCA": (PCA(N_HIDDEN, random_state=0).fit(patches).transform, X),
        "scikit-learn MiniBatchDictionaryLearning, threshold": (
            _dictionary("threshold", patches).transform,
            X,
        ),
        "scikit-learn MiniBatchDictionaryLearning, lasso_lars": (
            _dictionary("lasso_lars", patches).transform,
            few,
        ),
    }


def _dictionary(algorithm: str, patches: np.ndarray) -> MiniBatchDictionaryLearning:
    model = MiniBatchDictionaryLearning(
        N_HIDDEN, max_iter=5, transform_algorithm=algorithm, transform_alpha=0.1, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(patches)
