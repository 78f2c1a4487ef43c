"""Growing samples: learn from few rows for as long as they have something to teach."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from stackedae.costs import AutoEncoderCost
from stackedae.layout import Vector
from stackedae.memory import FIRST_SAMPLE_ROWS
from stackedae.objective import HalvedObjective, Visits
from stackedae.shards import Draw, Shards
from stackedae.solvers import LBFGS, SolverState, minimize

GROWTH = 2
"""A sample is this many times as large as the one before."""


def grow_samples(
    cost: AutoEncoderCost,
    sample: Shards,
    solver: LBFGS,
    start: Vector,
    *,
    max_iter: int,
    tol: float,
    visits: Visits,
    on_step: Callable[[SolverState], None],
) -> SolverState:
    """Minimise over parts of a sample, each twice as large as the one before, then all of it.

    Parameters
    ----------
    cost : AutoEncoderCost
        What to minimise.
    sample : Shards
        Rows to start with.
    solver : LBFGS
        What steps.
    start : ndarray of shape (cost.layout.size,)
        First parameters.
    max_iter : int
        Iterations on each part, at most.
    tol : float
        See `SolverState.has_converged`.
    visits : Visits
        Where rows are counted.
    on_step : callable
        Called with the state after every step.

    Returns
    -------
    SolverState
        Where the largest sample had no more to teach; its cost is over that sample.

    References
    ----------
    Byrd, R., Chin, G., Nocedal, J., Wu, Y., "Sample size selection in optimization methods for
    machine learning", Math. Program. 134, 2012.
    Bollapragada, R., Mudigere, D., Nocedal, J., Shi, H.-J., Tang, P., "A progressive batching
    L-BFGS method for machine learning", ICML 2018.
    """
    state = solver.init(start)
    n_rows = FIRST_SAMPLE_ROWS
    while True:
        share = min(1.0, n_rows / sample.n_rows)
        first, second = (sample.draw(Draw(at, at + share / 2, seed=0)) for at in (0.0, 0.5))
        state = minimize(
            solver,
            HalvedObjective(cost, first, second, visits),
            state.restarted(),
            max_iter=state.iteration + max_iter,
            tol=tol,
            on_step=on_step,
            enough=NormTest(),
        )
        if share == 1:
            return state
        n_rows *= GROWTH


class NormTest:
    r"""Says when the gradient over a sample tells of the sample rather than of all rows.

    That is when :math:`\lVert g \rVert^2 < \theta^2 \operatorname{var} g`, both summed over a few
    steps, for the norm of single gradients jumps. Byrd et al. ask for a larger sample as soon as
    :math:`\theta` is about 1, to keep each direction good. Here a sample is worked on until what is
    left to gain on it is small against what it cannot know (:math:`\theta^2 = 0.05`), for steps on
    the next sample cost twice as much. `docs/performance.md` has what other values cost.
    """

    theta_squared = 0.05
    window = 5

    def __init__(self) -> None:
        self.norms: deque[tuple[float, float]] = deque(maxlen=self.window)

    def __call__(self, state: SolverState) -> bool:
        """Take in the state after a step."""
        assert state.evaluation is not None
        gradient = state.evaluation.gradient
        self.norms.append((float(gradient @ gradient), state.evaluation.gradient_variance))
        if len(self.norms) < self.window:
            return False
        signal, noise = (sum(values) for values in zip(*self.norms, strict=True))
        return bool(signal < self.theta_squared * noise)
