"""What a fifth of the pixels missing costs: in what is learned, and in time.

    python benchmarks/missing.py [--markdown docs/missing.md]

Patches of photographs are learned from whole; with a fifth of their pixels missing, which are left
out; and with these at the mean of their feature, counted as data. What was learned has to
reconstruct other patches, which are whole, and to predict a fifth of their pixels from the others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from contests.measure import alternate, number, table

from stackedae import ContrastNormalizer, StackedAutoEncoder, datasets, extract_patches
from stackedae.blas import one_blas_thread
from stackedae.costs import AutoEncoderCost

N_PATCHES, N_HELD_OUT, SHARE = 20_000, 5_000, 0.2
ITERATIONS, SEEDS, REPEATS = 400, range(5), 40
SHAPES = ((64, 25, 40_960), (784, 196, 8_192))


def without_some(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put NaN for a share of the pixels."""
    return np.where(rng.random(X.shape) < SHARE, X.dtype.type(np.nan), X)


def training_sets(raw: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows of what is learned from, each normalised by what is known of it."""
    gaps = without_some(raw, np.random.default_rng(seed))
    yield "all pixels", ContrastNormalizer().fit_transform(raw)
    masked = ContrastNormalizer(missing="mask").fit_transform(gaps)
    yield "those present", masked
    yield "those present, and means", np.where(np.isnan(masked), np.nanmean(masked, 0), masked)


def learned(whiten: bool) -> Iterator[tuple[str, np.ndarray]]:
    """What was learned from, and of each start: error, error of predictions, seconds."""
    images = datasets.natural_images(whiten=whiten)
    every = extract_patches(images, (8, 8), N_PATCHES + N_HELD_OUT, rng=0, dtype="float32")
    every = every.values.reshape(len(every), -1)
    raw, held_out = every[:N_PATCHES], every[N_PATCHES:]
    held_out = ContrastNormalizer().fit(raw).transform(held_out)
    gaps = without_some(held_out, np.random.default_rng(100))
    gone = np.isnan(gaps)
    measured: dict[str, list[tuple[float, ...]]] = {}
    for seed in SEEDS:
        for name, X in training_sets(raw, seed):
            # Masked in any case: where nothing is missing, that changes nothing.
            sae = StackedAutoEncoder(
                (25,), sparsity_target=0.01, max_iter=ITERATIONS, tol=0, missing="mask"
            ).set_params(random_state=seed)
            began = time.perf_counter()
            sae.fit(X)
            seconds = time.perf_counter() - began
            error = float(sae.reconstruction_error(held_out).mean())
            wrong = (sae.reconstruct(gaps) - held_out)[gone]
            by_the_mean = (sae.fill_values_ - held_out)[gone]
            unexplained = float((wrong**2).sum() / (by_the_mean**2).sum())
            measured.setdefault(name, []).append((error, unexplained, seconds))
    return ((name, np.array(values)) for name, values in measured.items())


def quality() -> Iterator[tuple[str, ...]]:
    """Lines of the table of what was learned."""
    for data, whiten in (("whitened photographs", True), ("photographs", False)):
        whole = None
        for name, values in learned(whiten):
            errors, unexplained, seconds = values.T
            whole = errors if whole is None else whole
            ratio = errors / whole
            yield (
                data,
                name,
                f"{errors.mean():.4f}",
                f"{ratio.mean():.3f} ({ratio.min():.3f}–{ratio.max():.3f})",
                f"{unexplained.mean():.3f}",
                number(min(seconds)),
            )


def evaluations() -> Iterator[tuple[str, ...]]:
    """Lines of the table of what an evaluation takes."""
    for d, h, n in SHAPES:
        plain = AutoEncoderCost(d, h, sparsity_target=0.01)
        masking = replace(plain, fill=(0.5,) * d)
        params = plain.initial_params(np.random.default_rng(0))
        X = np.random.default_rng(1).random((n, d), dtype=np.float32)
        gaps = without_some(X, np.random.default_rng(2))
        calls = {
            "one pass": (plain.chunk_sums, masking.chunk_sums),
            "`evaluate`": (plain.evaluate, masking.evaluate),
        }
        for name, (whole, masked) in calls.items():
            contenders = {
                "whole": lambda f=whole, X=X, p=params: f(p, X),
                "masked": lambda f=masked, X=gaps, p=params: f(p, X),
            }
            with one_blas_thread():
                seconds = alternate(contenders, REPEATS)
            one, other = (min(seconds[key]) for key in contenders)
            yield f"{d}-{h}, {n:,} rows", name, number(one), number(other), f"{other / one:.2f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", help="write the tables here too")
    arguments = parser.parse_args()
    header = ("patches", "learned from", "error", "ratio", "unexplained", "seconds")
    told = [
        table(header, quality()),
        f"{N_PATCHES:,} patches of 8×8, {SHARE:.0%} of the pixels missing, 64-25, ρ 0.01, "
        f"{ITERATIONS} iterations, {len(SEEDS)} starts. Error: ½‖r − x‖² of {N_HELD_OUT:,} other "
        "patches, which are whole, in the mean; ratio to learning from all pixels with the same "
        f"start: mean (lowest–highest). Unexplained: squared error of predicting {SHARE:.0%} of "
        "their pixels from the others, over that of the mean of the feature. Seconds: the fastest.",
        table(("d-h, rows", "evaluation", "whole", "masked", "ratio"), evaluations()),
        f"Seconds of cost and gradient, one core, float32: the fastest of {REPEATS} alternating "
        "calls.",
    ]
    print("\n\n".join(told))
    if arguments.markdown:
        with open(arguments.markdown, "w") as file:
            file.write("\n\n".join(told) + "\n")


if __name__ == "__main__":
    main()
