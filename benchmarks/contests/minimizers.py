"""Everybody who minimises the cost of a sparse auto-encoder: this library, SciPy, PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize as scipy_minimize

from contests.measure import say, seconds_of
from contests.watch import Contender, Problem, Watch
from stackedae.blas import one_blas_thread
from stackedae.costs import AutoEncoderCost
from stackedae.evaluation import Evaluation
from stackedae.minimisation import Minimisation, TrainingSettings
from stackedae.objective import DaskObjective, Visits
from stackedae.rows import rows_of
from stackedae.training import moments_of

ADAM_RATES = (1e-3, 3e-3, 1e-2)
ADAM_BATCHES = (1024, 4096)
ADAM_MEMORY_ROWS = 40_960
"""Rows over which Adam averages ρ̂: batch means alone make the sparsity term noise."""


class Counted:
    """Our cost over all rows on the active scheduler, float32, and the rows that it visited."""

    def __init__(self, cost: AutoEncoderCost, X: np.ndarray) -> None:
        self.objective = DaskObjective(cost, X)
        self.n_rows, self.rows = len(X), 0

    def __call__(self, params: np.ndarray) -> Evaluation:
        self.rows += self.n_rows
        return self.objective(params)


def ours(
    cost: AutoEncoderCost,
    X: np.ndarray,
    start: np.ndarray,
    batching: str,
    max_iter: int,
    watch: Callable[[np.ndarray, int, float], None],
) -> None:
    """Minimise with this library: the one place that knows how.

    Parameters
    ----------
    cost : AutoEncoderCost
        What to minimise.
    X : ndarray of shape (n_rows, n_features), float32
        Rows. Holding them and their moments belong to the time of the run.
    start : ndarray of shape (n_parameters,)
        Where to start.
    batching : {"full", "progressive"}
        Whether every iteration visits all rows.
    max_iter : int
        Iterations at most.
    watch : callable
        To be called after every iteration with the parameters, the rows visited since the start,
        and J if it is known over all rows, else infinity. What it raises ends the run.
    """
    training = TrainingSettings(
        "lbfgs", batching, max_iter, tol=0.0, dtype="float32", missing=False
    )
    rows, visits, seed = rows_of(X, cost, training.dtype), Visits(), 0
    sample = rows.survey(seed).sample

    def on_step(at):
        state = at.state
        of_all = state.evaluation.n_rows == len(X)
        watch(state.params, visits.rows, state.evaluation.cost if of_all else np.inf)

    with one_blas_thread():  # as around the training of an estimator
        preconditioner = cost.preconditioner(moments_of(sample))
        minimisation = Minimisation(
            cost, rows.shards, sample, preconditioner, start, training, seed, visits
        )
        minimisation.run(minimisation.first(), on_step)


def ours_as_contender(batching: str, max_iter: int) -> Contender:
    """This library, as one contender among others."""
    return lambda problem, watch: ours(
        problem.cost, problem.X, problem.start, batching, max_iter, watch
    )


def scipy_lbfgsb(max_iter: int) -> Contender:
    """SciPy's L-BFGS-B on our cost."""

    def run(problem: Problem, watch: Watch) -> None:
        objective = Counted(problem.cost, problem.X)

        def pair(params):
            evaluation = objective(params)
            return evaluation.cost, evaluation.gradient

        def callback(intermediate_result):
            watch(intermediate_result.x, objective.rows, intermediate_result.fun)

        options = {"maxcor": 10, "maxiter": max_iter, "maxfun": 10**6, "ftol": 0, "gtol": 0}
        scipy_minimize(
            pair, problem.start, jac=True, method="L-BFGS-B", callback=callback, options=options
        )

    return run


def warm_up_torch(problem: Problem) -> None:
    """Let PyTorch import what it imports with the first optimizer: seconds, once."""
    tiny = replace(problem, X=problem.X[:100], passes=1)
    for contender in (torch_lbfgs("full batch", 1), torch_adam(1e-3, 100)):
        Watch(tiny, {}).time(contender)


def fastest_way(problem: Problem) -> str:
    """Return the fastest way to evaluate in PyTorch: the full batch, or a size of blocks."""
    from contests.torch_cost import TorchCost

    ways = TorchCost(problem.cost, problem.X, problem.start).evaluations()
    return min(ways, key=lambda way: min(seconds_of(ways[way]) for _ in range(3)))


def torch_lbfgs(way: str, max_iter: int) -> Contender:
    """PyTorch's L-BFGS; every evaluation is a checkpoint, not every iteration."""

    def run(problem: Problem, watch: Watch) -> None:
        import torch

        from contests.torch_cost import TorchCost

        peer = TorchCost(problem.cost, problem.X, problem.start)
        evaluate = peer.evaluations()[way]
        evaluations = itertools.count(1)
        optimizer = torch.optim.LBFGS(
            peer.parameters,
            history_size=10,
            line_search_fn="strong_wolfe",
            max_iter=max_iter,
            max_eval=25 * max_iter,
            tolerance_grad=0,
            tolerance_change=0,
        )

        def closure():
            J = evaluate()
            watch(peer.params, next(evaluations) * len(problem.X), J)
            return torch.tensor(J, dtype=torch.float64)

        optimizer.step(closure)

    return run


def torch_adam(rate: float, batch: int) -> Contender:
    """PyTorch's Adam on mini-batches; every pass over the rows is a checkpoint."""

    def run(problem: Problem, watch: Watch) -> None:
        import torch

        from contests.torch_cost import TorchCost

        peer = TorchCost(problem.cost, problem.X, problem.start)
        n = len(peer.X)
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(peer.parameters, lr=rate)
        steps = problem.passes * -(-n // batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        rho = peer.mean_activations(peer.X[:ADAM_MEMORY_ROWS])
        for epoch in range(problem.passes):
            for rows in torch.randperm(n, generator=generator).split(batch):
                optimizer.zero_grad()
                forget = min(1.0, len(rows) / ADAM_MEMORY_ROWS)
                loss, rho = peer.batch_loss(peer.X[rows], rho, forget)
                loss.backward()
                optimizer.step()
                schedule.step()
            watch(peer.params, (epoch + 1) * n)

    return run


def best_adam(problem: Problem, targets: Mapping[str, float]) -> tuple[str, Contender]:
    """Return the best of some settings of Adam, tried once each: most targets, then time or J."""

    def badness(watch: Watch) -> tuple[int, float]:
        missed = len(targets) - len(watch.reached)
        return missed, watch.lowest if missed else watch.seconds

    tried = {}
    for rate, batch in itertools.product(ADAM_RATES, ADAM_BATCHES):
        watch = Watch(problem, targets).time(torch_adam(rate, batch))
        say(f"{problem.name}, Adam {rate} {batch}: {watch.seconds:.2f} s, J {watch.lowest:.6f}")
        tried[rate, batch] = badness(watch)
    rate, batch = min(tried, key=tried.__getitem__)
    return f"PyTorch Adam, rate {rate}, batches of {batch}", torch_adam(rate, batch)
