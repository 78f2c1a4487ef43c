"""Seconds until a cost is reached: progressive L-BFGS, and Adam by replicas, on two workers.

    python benchmarks/adam.py [--mnist mnist.npz] [--natural patches.npz] [--repeats 3]
                              [--quick] [--markdown FILE] [--figure FILE]

Both minimise the same cost of the same rows from the same start, on a LocalCluster of two processes
with one thread each. L-BFGS goes on until it has converged; of Adam, whose learning rate falls to 0
in the course of a schedule, every schedule is a run of its own, which counts when it has ended.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import dask
import numpy as np
from contests.data import mnist_rows, moments_of, natural_patches
from contests.measure import number, say, table, tell
from contests.workers import two_workers

from stackedae.blas import one_blas_thread
from stackedae.costs import AutoEncoderCost
from stackedae.minimisation import Minimisation, TrainingSettings
from stackedae.objective import DaskObjective, Visits
from stackedae.progress import Position
from stackedae.rows import rows_of
from stackedae.solvers import Status
from stackedae.training import moments_of as moments_of_shards

RATES, EPOCHS = (0.005, 0.01, 0.02), (1, 2, 3, 5, 10, 20)
SHARES = (0.001, 0.01, 0.03)
"""Above the cost that L-BFGS ends at."""

TIMES = (1, 2, 4, 8, 16, 32)
THINNING = 1.03
"""Iterations from one at which J is looked at to the next."""

LBFGS = "L-BFGS, progressive"
SEED = 0
Point = tuple[float, float]
"""Seconds, and J then."""


@dataclass
class Problem:
    """A cost, its rows and a start; J in float64 over all rows, which is computed here."""

    name: str
    cost: AutoEncoderCost
    X: np.ndarray
    known: dict[int, float] = field(default_factory=dict)
    ended: str = ""

    def __post_init__(self) -> None:
        self.start = self.cost.initial_params(np.random.default_rng(SEED), moments_of(self.X))
        with dask.config.set(scheduler="threads"):
            self.exact = DaskObjective(self.cost, self.X, dtype="float64")

    def J(self, params: np.ndarray) -> float:
        """Return J, from memory if a run before came by: runs of the same have the same bits."""
        key = hash(params.tobytes())
        if key not in self.known:
            with dask.config.set(scheduler="threads"):
                self.known[key] = self.exact(params).cost
        return self.known[key]


class Clock:
    """Takes the time of a run; stands still while J is looked at."""

    def __init__(self, problem: Problem, *, at_the_end: bool) -> None:
        self.problem, self.at_the_end = problem, at_the_end
        self.points, self.next, self.seconds = list[Point](), 1.0, 0.0
        self.since = time.perf_counter()

    def __call__(self, at: Position) -> None:
        """Follow a step."""
        self.seconds += time.perf_counter() - self.since
        ended = at.state.status is not Status.RUNNING
        if ended or (not self.at_the_end and at.state.iteration >= self.next):
            self.next = THINNING * at.state.iteration
            self.points.append((self.seconds, self.problem.J(at.state.params)))
        self.since = time.perf_counter()


def run(problem: Problem, max_iter: int, adam: tuple[float, int] | None) -> list[Point]:
    """Fit, as an estimator does: hold the rows, look at them, minimise; say how it went."""
    chosen = {} if adam is None else {"learning_rate": adam[0], "epochs": adam[1]}
    solver = "lbfgs" if adam is None else "adam"
    training = TrainingSettings(solver, "progressive", max_iter, 1e-6, "float32", False, **chosen)
    clock = Clock(problem, at_the_end=adam is not None)
    rows = rows_of(problem.X, problem.cost, training.dtype)
    sample = rows.survey(SEED).sample
    with one_blas_thread():
        moments = moments_of_shards(sample)
        minimisation = Minimisation(
            problem.cost,
            rows.shards,
            sample,
            problem.cost.preconditioner(moments),
            problem.start,
            training,
            SEED,
            Visits(),
            coordinates=problem.cost.coordinates(moments),
        )
        state = minimisation.run(minimisation.first(), clock)
    seconds, J = clock.points[-1]
    name = LBFGS if adam is None else f"Adam {adam}"
    say(f"{problem.name}, {name}: {state.status.name}, {seconds:.2f} s, J {J:.6f}")
    if adam is None:
        problem.ended = state.status.name
    return clock.points


def curves(problem: Problem, max_iter: int, repeats: int, epochs: tuple[int, ...]) -> dict:
    """Points of every solver, the seconds being medians of runs that took turns."""
    contenders = [None, *itertools.product(RATES, epochs)]
    run(problem, max_iter, (RATES[0], 1))  # workers import what they need
    runs: dict = {contender: [] for contender in contenders}
    for contender in contenders * repeats:
        runs[contender].append(run(problem, max_iter, contender))
    medians = {
        contender: [
            (float(np.median([seconds for seconds, _ in same])), same[0][1])
            for same in zip(*points, strict=True)
        ]
        for contender, points in runs.items()
    }
    of_adam = {f"Adam, rate {rate}": sorted(medians[rate, n][-1] for n in epochs) for rate in RATES}
    return {LBFGS: medians[None], **of_adam}


def lowest_by(points: list[Point], seconds: float) -> float:
    """Return the lowest J that was reached by then."""
    return min((J for at, J in points if at <= seconds), default=np.inf)


def tables(problem: Problem, of_each: dict) -> Iterator[str]:
    """Seconds to some costs, and costs after some seconds."""
    end = of_each[LBFGS][-1][1]
    yield f"### {problem.name}\n\nL-BFGS ends at J = {end:.6f} ({problem.ended})."
    header = ("seconds to J above that by", *(f"{share:.1%}" for share in SHARES), "its end")
    lines = []
    for name, points in of_each.items():
        times = [
            min((at for at, J in points if (1 + share) * end >= J), default=None)
            for share in SHARES
        ]
        cells = ("not reached" if seconds is None else number(seconds) for seconds in times)
        lines.append((name, *cells, f"{points[-1][1] / end - 1:+.2%} at {number(points[-1][0])}"))
    yield table(header, lines)
    unit = max(points[0][0] for name, points in of_each.items() if name != LBFGS)
    header = ("J above that, after", *(f"{number(n * unit)} s ({n}×)" for n in TIMES))
    rows = (
        (name, *(f"{lowest_by(points, n * unit) / end - 1:+.2%}" for n in TIMES))
        for name, points in of_each.items()
    )
    yield table(header, rows)


def draw(every: dict[str, dict], path: str) -> None:
    """Draw what J is in excess of where L-BFGS ends, against seconds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(5 * len(every), 4), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(every)))
    for axes, (name, of_each) in zip(all_axes, every.items(), strict=True):
        end = of_each[LBFGS][-1][1]
        for solver, points in of_each.items():
            seconds, J = np.array(points).T
            excess = np.maximum(100 * (np.minimum.accumulate(J) / end - 1), 0.01)
            axes.plot(seconds, excess, "-" if solver == LBFGS else "o-", label=solver, ms=4)
        axes.set(xscale="log", yscale="log", title=name, xlabel="seconds")
        axes.set_ylabel("% above where L-BFGS ends (0.01: there, or below)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
        for share in SHARES:
            axes.axhline(100 * share, color="0.8", lw=0.8, zorder=0)
        axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", help="npz with x_train; without it, patches only")
    parser.add_argument("--natural", help="npz of whitened images; else photographs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-iter", type=int, default=2000, help="of L-BFGS")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--markdown", help="write the tables here too")
    parser.add_argument("--figure", help="write the curves here")
    options = parser.parse_args()
    quick = options.quick
    repeats, epochs = (1, (1, 3)) if quick else (options.repeats, EPOCHS)
    X = natural_patches(20_000 if quick else 320_000, options.natural)
    cost = AutoEncoderCost(64, 25, alpha=1e-4, sparsity_target=0.01, sparsity_weight=3.0)
    problems = [Problem(f"{len(X):,} natural patches, 64-25", cost, X)]
    if options.mnist is not None:
        X = mnist_rows(options.mnist)[: 2_500 if quick else None]
        cost = AutoEncoderCost(784, 196, alpha=3e-3, sparsity_target=0.1, sparsity_weight=3.0)
        problems.append(Problem(f"{len(X):,} digits of MNIST, 784-196", cost, X))
    every, told = {}, []
    with two_workers() as client, client.as_current():
        for problem in problems:
            max_iter = 12 if quick else options.max_iter
            every[problem.name] = curves(problem, max_iter, repeats, epochs)
            told += tables(problem, every[problem.name])
    told.append(
        f"Whole fits, median of {repeats} that took turns: rows are sent to two workers "
        "with one thread each, looked at, and trained on in float32. J is in float64 over all "
        "rows, off the clock. L-BFGS has its default tolerance, and counts from the iteration on "
        "that first was as low, though nobody would have known to stop there; Adam has batches of "
        f"256, 32 steps to a round, and counts when a schedule of {', '.join(map(str, epochs))} "
        "epochs has ended."
    )
    tell(told, options.markdown)
    if options.figure:
        draw(every, options.figure)


if __name__ == "__main__":
    main()
