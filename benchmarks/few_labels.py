"""What labels are worth that only a few samples have: ours, and classifiers of scikit-learn.

    python benchmarks/few_labels.py MNIST.npz [--labels 1000] [--draws 10] [--markdown FILE]

A thousand of 60,000 digits have a label, drawn at random, ten times. Those who need labels have
these; PCA has all digits, and so have our layers. Everybody chooses settings, from about as many,
by cross-validation in three folds of the labelled digits, and is then tested on 10,000 others.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from contests.measure import cores, number, say, table, tell
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from stackedae import StackedAutoEncoder, StackedAutoEncoderClassifier

LAYERS: dict[str, dict[str, Any]] = {
    "400 units": {"hidden_layer_sizes": (400,)},
    "400 units, from damaged digits": {"hidden_layer_sizes": (400,), "corruption": 0.3},
    "800 units, from damaged digits": {"hidden_layer_sizes": (800,), "corruption": 0.3},
}
COMMON: dict[str, Any] = {
    "sparsity_target": 0.05,
    "alpha": 1e-3,
    "solver": "adam",
    "epochs": 4,
    "learning_rate_init": 0.02,
    "random_state": 0,
}
NOISY: dict[str, Any] = {
    "solver": "adam",
    "corruption": 0.3,
    "epochs": 30,
    "batch_size": 64,
    "learning_rate_init": 0.003,
}
"""How layers are trained on with labels: on digits that are damaged anew in every epoch."""

DECAYS = [1e-4, 1e-3, 1e-2]
C = [0.01, 0.1, 1.0, 10.0]
N_COMPONENTS = (30, 60, 120)
PCA_FIRST = "PCA and logistic regression"


def digits(path: str, rows: slice) -> tuple[np.ndarray, ...]:
    """Digits to learn from, and to test with."""
    with np.load(path) as file:
        X, X_test = (
            file[name].reshape(-1, 784) / np.float32(255) for name in ("x_train", "x_test")
        )
        return X[rows], file["y_train"][rows], X_test, file["y_test"]


class Features:
    """What was learned from all digits, none of which had a label."""

    def __init__(self, X: np.ndarray, settings: Mapping[str, Any], folder: str) -> None:
        began = time.perf_counter()
        layers = StackedAutoEncoder(**{**COMMON, **settings}).fit(X)
        self.seconds = time.perf_counter() - began
        self.path, self.sizes = f"{folder}/{id(self)}", settings["hidden_layer_sizes"]
        layers.save(self.path)

    def classifier(self, **settings: Any) -> StackedAutoEncoderClassifier:
        """Return a classifier that begins with these layers."""
        settings = {"pretrained": self.path, "tol": 1e-4, "random_state": 0, **settings}
        return StackedAutoEncoderClassifier(self.sizes, **settings)


def first(X: np.ndarray, n: int) -> np.ndarray:
    """Return the first columns."""
    return X[:, :n]


def contenders(features: Mapping[str, Features]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, estimator, and settings to choose from."""
    logistic = LogisticRegression(max_iter=1000)
    yield "logistic regression", logistic, {"C": C}
    some = [{"n": n} for n in N_COMPONENTS]
    grid = {"functiontransformer__kw_args": some, "logisticregression__C": C}
    yield PCA_FIRST, make_pipeline(FunctionTransformer(first), logistic), grid
    network = MLPClassifier(max_iter=200, random_state=0)
    sizes = [(200,), (400, 200)]
    yield "MLPClassifier", network, {"hidden_layer_sizes": sizes, "alpha": [1e-4, 1e-2, 1.0]}
    for name, each in features.items():
        yield f"{name}: softmax", each.classifier(fine_tune=False), {"fine_tune_alpha": DECAYS}
        noisy = {"fine_tune_alpha": [1e-5, 1e-4]}
        yield f"{name}: tuned, with noise", each.classifier(**NOISY), noisy
    plain = next(iter(features.values())).classifier(max_iter=100)
    yield f"{next(iter(features))}: tuned by L-BFGS", plain, {"fine_tune_alpha": [1e-4, 1e-3]}


def measured(
    X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray, options: Any
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Accuracy and seconds of each, for every draw of labels; and seconds of layers."""
    found: dict[str, list[tuple[float, float]]] = {}
    basis = PCA(max(N_COMPONENTS), random_state=0).fit(X)
    with tempfile.TemporaryDirectory() as folder:
        features = {name: Features(X, each, folder) for name, each in LAYERS.items()}
        for draw in range(options.draws):
            rows = np.random.default_rng(draw).choice(len(X), options.labels, replace=False)
            for name, estimator, grid in contenders(features):
                prepare = basis.transform if name == PCA_FIRST else np.asarray
                search = GridSearchCV(estimator, grid, cv=3, n_jobs=cores())
                began = time.perf_counter()
                search.fit(prepare(X[rows]), y[rows])
                seconds = time.perf_counter() - began
                right = search.score(prepare(X_test), y_test)
                say(f"{draw}: {name}: {right:.4f} {search.best_params_} {seconds:.1f} s")
                found.setdefault(name, []).append((right, seconds))
        return (
            {name: np.array(values) for name, values in found.items()},
            {name: each.seconds for name, each in features.items()},
        )


def lines(
    found: Mapping[str, np.ndarray], of_layers: Mapping[str, float]
) -> Iterator[tuple[str, ...]]:
    """Lines of the table."""
    for name, values in found.items():
        right, seconds = values.T
        before = of_layers.get(name.split(":")[0])
        spread = right.std(ddof=1) if len(right) > 1 else 0.0
        yield (
            name,
            f"{100 * right.mean():.2f} ± {100 * spread:.2f}",
            f"{100 * right.min():.2f}–{100 * right.max():.2f}",
            "–" if before is None else number(before),
            number(np.median(seconds)),
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("digits", help="path of mnist.npz")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--rows", type=int, help="so many digits, not all of them")
    parser.add_argument("--markdown", help="write the table here too")
    options = parser.parse_args()
    # That some of the settings in a grid do not converge is their affair.
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"
    data = digits(options.digits, slice(options.rows))
    header = (
        "learned from labels by",
        "right, %",
        "range",
        "seconds for layers, once",
        "seconds to choose and learn",
    )
    told = [
        table(header, lines(*measured(*data, options))),
        f"{options.labels:,} labels for {len(data[0]):,} digits of MNIST, tested on 10,000 others; "
        f"mean ± standard deviation, and range, of {options.draws} draws of the labels.",
    ]
    tell(told, options.markdown)


if __name__ == "__main__":
    main()
