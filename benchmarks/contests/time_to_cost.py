"""Seconds, and passes over the rows, until a cost is reached; everybody from the same start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from contests.data import mnist_rows, moments_of, natural_patches
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
from contests.minimizers import (
    ADAM_BATCHES,
    ADAM_MEMORY_ROWS,
    ADAM_RATES,
    best_adam,
    fastest_way,
    ours_as_contender,
    scipy_lbfgsb,
    torch_lbfgs,
    warm_up_torch,
)
from contests.watch import Contender, Problem, Watch
from stackedae.costs import AutoEncoderCost
from stackedae.objective import DaskObjective

MOST_REPEATS = 3
"""A run takes minutes where a kernel takes a second."""

CAP_FACTOR = 2
"""Iterations that the L-BFGS of everybody may take, in those of the run that set the target."""

OURS_FULL, OURS_PROGRESSIVE = "ours, full batch", "ours, progressive"


def report(options: Options) -> str:
    """Measure, and write the section."""
    repeats = min(options.repeats, MOST_REPEATS)
    skips = {} if installed("torch") else {"torch": "not installed"}
    parts = [_one_problem(problem, repeats, skips) for problem in _problems(options)]
    if options.mnist is None:
        skips["MNIST"] = "no --mnist"
    notes = (
        "Seconds and passes: median (lowest–highest) of runs that took turns, all from one start. "
        "Whether a target is reached is decided by our cost in float64 over all rows, off the "
        "clock. SciPy minimises our cost on our Dask objective, so that it differs from ours by "
        "its solver alone. A pass is one evaluation of cost and gradient of every row; the moments "
        "that our preconditioner takes are in our seconds, not in our passes. Adam has ρ̂ averaged "
        f"over about {ADAM_MEMORY_ROWS:,} rows, and a learning rate that falls to 0 along half a "
        f"cosine; it is the best of learning rates {', '.join(map(str, ADAM_RATES))} and batches "
        f"of {' and '.join(map(str, ADAM_BATCHES))} rows."
    )
    return "\n\n".join(
        ["## Time to cost", *parts, notes, *(skipped(*item) for item in skips.items())]
    )


def _problems(options: Options) -> Iterator[Problem]:
    n_patches, iterations, passes = (4_000, 15, 3) if options.quick else (320_000, 400, 100)
    X = natural_patches(n_patches, options.natural)
    cost = AutoEncoderCost(64, 25, alpha=1e-4, sparsity_target=0.01, sparsity_weight=3.0)
    yield _problem(f"{len(X):,} natural patches, 64-25", cost, X, iterations, passes)
    if options.mnist is not None:
        n_digits, iterations, passes = (500, 8, 3) if options.quick else (60_000, 250, 100)
        X = mnist_rows(options.mnist)[:n_digits]
        cost = AutoEncoderCost(784, 196, alpha=3e-3, sparsity_target=0.1, sparsity_weight=3.0)
        yield _problem(f"{len(X):,} digits of MNIST, 784-196", cost, X, iterations, passes)


def _problem(
    name: str, cost: AutoEncoderCost, X: np.ndarray, iterations: int, passes: int
) -> Problem:
    start = cost.initial_params(np.random.default_rng(0), moments_of(X))
    exact = DaskObjective(cost, X, dtype="float64")
    return Problem(name, cost, X, start, iterations, passes, exact)


def _one_problem(problem: Problem, repeats: int, skips: dict[str, str]) -> str:
    targets = _targets(problem)
    contenders = _contenders(problem, targets, skips)
    runs: dict[str, list[Watch]] = {name: [] for name in contenders}
    for name, contender in list(contenders.items()) * repeats:
        if name in skips:
            continue
        try:
            runs[name].append(Watch(problem, targets).time(contender))
        except NotImplementedError as error:
            skips[name] = str(error)
        else:
            watch = runs[name][-1]
            say(f"{problem.name}, {name}: {watch.seconds:.2f} s, J {watch.lowest:.6f}")
    runs = {name: watches for name, watches in runs.items() if watches}
    parts = [f"### {problem.name}"]
    for target, J in targets.items():
        header = (f"to J = {J:.6f}, {target}", "seconds", "times ours", "passes")
        ours = _median_seconds(runs[OURS_FULL], target)
        rows = [(name, *_cells(watches, target, ours)) for name, watches in runs.items()]
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def _targets(problem: Problem) -> dict[str, float]:
    """Return the costs to reach: what SciPy, and our full batch, come to."""
    targets = {}
    for name, contender in (
        ("SciPy's", scipy_lbfgsb(problem.iterations)),
        ("our full batch's", ours_as_contender("full", problem.iterations)),
    ):
        watch = Watch(problem, {}).time(contender)
        targets[f"{name} after {watch.checkpoints} iterations"] = watch.lowest
        say(f"{problem.name}: {name} J {watch.lowest:.6f} in {watch.seconds:.2f} s")
    return targets


def _contenders(
    problem: Problem, targets: Mapping[str, float], skips: Mapping[str, str]
) -> dict[str, Contender]:
    cap = CAP_FACTOR * problem.iterations
    contenders: dict[str, Contender] = {
        OURS_FULL: ours_as_contender("full", cap),
        OURS_PROGRESSIVE: ours_as_contender("progressive", cap),
        "SciPy L-BFGS-B": scipy_lbfgsb(cap),
    }
    if "torch" not in skips:
        import torch

        torch.set_num_threads(cores())
        warm_up_torch(problem)
        way = fastest_way(problem)
        contenders[f"PyTorch LBFGS, {way}"] = torch_lbfgs(way, cap)
        name, adam = best_adam(problem, targets)
        contenders[name] = adam
    return contenders


def _median_seconds(watches: list[Watch], target: str) -> float:
    return float(np.median([watch.reached.get(target, (np.inf, 0))[0] for watch in watches]))


def _cells(watches: list[Watch], target: str, ours: float) -> tuple[str, str, str]:
    reached = [watch.reached[target] for watch in watches if target in watch.reached]
    if len(reached) < len(watches):
        lowest = min(watch.lowest for watch in watches)
        took = max(watch.seconds for watch in watches)
        share = f"{len(reached)} of {len(watches)} runs, " if reached else ""
        return f"not reached ({share}J = {lowest:.6f} after {number(took)} s)", "–", "–"
    seconds, passes = zip(*reached, strict=True)
    times = number(np.median(seconds) / ours) if np.isfinite(ours) else "–"
    return median_and_range(seconds), times, median_and_range(passes)
