"""How many evaluations the preconditioner saves, against SciPy's L-BFGS-B from the same start.

    python benchmarks/preconditioner.py [--markdown docs/preconditioner.md]

Both minimise the same cost on the same rows, so evaluations are what a user waits for; seconds are
left out because one machine's are another's noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize as scipy_minimize
from sklearn.datasets import load_digits

from stackedae import ContrastNormalizer, datasets, extract_patches
from stackedae.costs import AutoEncoderCost
from stackedae.moments import Moments, scatter_sums
from stackedae.solvers import LBFGS, minimize

ITERATIONS = 400
SEEDS = range(3)


def problems() -> Iterator[tuple[str, AutoEncoderCost, np.ndarray]]:
    """Name, cost and rows of each problem."""
    for name, whiten in (("whitened photographs", True), ("photographs", False)):
        images = datasets.natural_images(whiten=whiten)
        patches = extract_patches(images, (8, 8), 10_000, rng=0, dtype="float64").values
        if whiten:
            patches = ContrastNormalizer().fit_transform(patches)
        rows = patches.reshape(len(patches), -1)
        yield (
            f"10,000 8×8 patches, {name}, 64-25",
            AutoEncoderCost(64, 25, sparsity_target=0.01),
            rows,
        )
    digits = load_digits().data
    cost = AutoEncoderCost(64, 36, output_activation="identity", sparsity_target=0.1)
    yield "1,797 digits, 64-36, identity output", cost, digits


def costs_seen(cost: AutoEncoderCost, rows: np.ndarray, seed: int) -> dict[str, list[float]]:
    """Cost at every evaluation, in order, by solver."""
    mean = rows.mean(axis=0)
    moments = Moments.from_sums(mean, scatter_sums(mean, rows), len(rows))
    start = cost.initial_params(np.random.default_rng(seed), moments)
    seen: dict[str, list[float]] = {"scipy": [], "plain": [], "preconditioned": []}

    def objective(name):
        def evaluate(params):
            evaluation = cost.finish(params, cost.chunk_sums(params, rows))
            seen[name].append(evaluation.cost)
            return evaluation

        return evaluate

    def pair(params):
        evaluation = objective("scipy")(params)
        return evaluation.cost, evaluation.gradient

    options = {"maxcor": 10, "maxiter": ITERATIONS, "maxfun": 10**6, "ftol": 0, "gtol": 0}
    scipy_minimize(pair, start, jac=True, method="L-BFGS-B", options=options)
    for name, preconditioner in (("plain", None), ("preconditioned", cost.preconditioner(moments))):
        solver = LBFGS(preconditioner=preconditioner)
        minimize(solver, objective(name), start, max_iter=ITERATIONS, tol=0)
    return seen


def first_below(costs: list[float], target: float) -> int:
    """Evaluations until the cost is this low."""
    return int(np.argmax(np.array(costs) <= target)) + 1


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", help="write the table here too")
    arguments = parser.parse_args()
    lines = [
        "| problem | J: SciPy | J: plain | J: ours | evaluations: SciPy | evaluations: ours |",
        "|---|---|---|---|---|---|",
    ]
    for name, cost, rows in problems():
        runs = [costs_seen(cost, rows, seed) for seed in SEEDS]
        lowest = {key: np.median([min(run[key]) for run in runs]) for key in runs[0]}
        targets = [min(run["scipy"]) for run in runs]
        needed = {
            key: np.median([first_below(run[key], t) for run, t in zip(runs, targets, strict=True)])
            for key in ("scipy", "preconditioned")
        }
        lines.append(
            f"| {name} | {lowest['scipy']:.4f} | {lowest['plain']:.4f} "
            f"| {lowest['preconditioned']:.4f} | {needed['scipy']:.0f} "
            f"| {needed['preconditioned']:.0f} |"
        )
        print(lines[-1], flush=True)
    lines.append(
        f"\nJ after {ITERATIONS} iterations of SciPy's L-BFGS-B, of ours without preconditioner, "
        "and of ours; evaluations of cost and gradient to the J that SciPy reaches. Medians of "
        f"{len(SEEDS)} starts, the same for all; float64, 10 pairs."
    )
    print("\n".join(lines))
    if arguments.markdown:
        with open(arguments.markdown, "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
