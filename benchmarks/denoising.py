"""Features of damaged digits: of layers that learned to undo damage, and of those that did not.

    python benchmarks/denoising.py MNIST.npz [--repeats 5] [--markdown FILE]

Layers learn from whole digits; then three in ten pixels of all digits are set to 0. Told is how far
reconstructions of damaged digits are from whole ones, and how many a logistic regression on their
features gets right: learned from 10,000 damaged digits, tested on 10,000 others; the same of the
damaged pixels themselves. Every repetition has other damage, and layers from another start.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from contests.measure import number, say, table, tell
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stackedae import StackedAutoEncoder

DAMAGE, N_LABELLED = 0.3, 10_000
COMMON: dict[str, Any] = {
    "hidden_layer_sizes": (200,),
    "sparsity_target": 0.1,
    "solver": "adam",
    "epochs": 4,
    "learning_rate_init": 0.02,
}
NOISE: dict[str, Any] = {
    "plain": 0.0,
    "masking, 0.1": 0.1,
    "masking, 0.3": 0.3,
    "masking, 0.5": 0.5,
    "gaussian, σ = 0.3": ("gaussian", 0.3),
}


class Digits:
    """Whole digits and damaged ones."""

    def __init__(self, path: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        with np.load(path) as file:
            self.whole, self.whole_test = (
                file[name].reshape(-1, 784) / np.float32(255) for name in ("x_train", "x_test")
            )
            self.y, self.y_test = file["y_train"][:N_LABELLED], file["y_test"]
        self.damaged = damaged(self.whole[:N_LABELLED], rng)
        self.damaged_test = damaged(self.whole_test, rng)

    def accuracy(self, transform: Callable[[np.ndarray], Any]) -> float:
        """Share of damaged digits that are told from their features."""
        classify = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        classify.fit(transform(self.damaged), self.y)
        return float(classify.score(transform(self.damaged_test), self.y_test))

    def distance(self, reconstructed: Any) -> float:
        """Mean squared distance of a pixel from the whole digit."""
        return float(np.mean((reconstructed - self.whole_test) ** 2))


def damaged(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Set a share of the pixels to 0."""
    result: np.ndarray = X * (rng.random(X.shape) >= DAMAGE)
    return result


def measured(path: str, repeats: int) -> dict[str, np.ndarray]:
    """Of each way: accuracy, distance and seconds of every repetition."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(repeats):
        digits = Digits(path, seed)
        of_pixels = digits.accuracy(lambda X: X), digits.distance(digits.damaged_test), 0.0
        found.setdefault("damaged pixels", []).append(of_pixels)
        for name, corruption in NOISE.items():
            sae = StackedAutoEncoder(**COMMON, corruption=corruption, random_state=seed)
            began = time.perf_counter()
            sae.fit(digits.whole)
            seconds = time.perf_counter() - began
            distance = digits.distance(sae.reconstruct(digits.damaged_test))
            found.setdefault(name, []).append((digits.accuracy(sae.transform), distance, seconds))
            say(f"{seed}: {name}: {found[name][-1]}")
    return {name: np.array(values) for name, values in found.items()}


def lines(found: dict[str, np.ndarray]) -> Iterator[tuple[str, ...]]:
    """Lines of the table."""
    for name, values in found.items():
        right, distance, seconds = values.mean(axis=0)
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(3)
        yield (
            name,
            f"{100 * right:.2f} ± {100 * spread[0]:.2f}",
            f"{distance:.4f} ± {spread[1]:.4f}",
            number(seconds) if seconds else "–",
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("digits", help="path of mnist.npz")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", help="write the table here too")
    arguments = parser.parse_args()
    found = measured(arguments.digits, arguments.repeats)
    header = (
        "noise that 200 units learned to undo",
        "right, %",
        "squared distance of a pixel",
        "seconds to learn",
    )
    told = [
        table(header, lines(found)),
        f"Mean ± standard deviation of {arguments.repeats} repetitions; digits of MNIST, three in "
        "ten pixels of which are 0.",
    ]
    tell(told, arguments.markdown)


if __name__ == "__main__":
    main()
