"""Growing samples: learn from few rows for as long as they have something to teach."""

from __future__ import annotations

from stackedae.shards import Draw, Shards
from stackedae.solvers import SolverState

GROWTH = 2
"""A sample is this many times as large as the one before."""


def halves_of(sample: Shards, n_rows: int) -> tuple[Shards, Shards]:
    """Return about so many rows of a sample (all of it, if it has fewer), in two halves."""
    share = min(1.0, n_rows / sample.n_rows)
    first, second = (sample.draw(Draw(at, at + share / 2, seed=0)) for at in (0.0, 0.5))
    return first, second


def is_whole(sample: Shards, n_rows: int) -> bool:
    """Say whether so many rows are all that there are."""
    return n_rows >= sample.n_rows


def next_size(n_rows: int) -> int:
    """Return the rows of the sample after one of so many."""
    return GROWTH * n_rows


class NormTest:
    r"""Says when the gradient over a sample tells of the sample rather than of all rows.

    That is when :math:`\lVert g \rVert^2 < \theta^2 \operatorname{var} g`, both summed over a few
    steps, for the norm of single gradients jumps. Byrd et al. ask for a larger sample as soon as
    :math:`\theta` is about 1, to keep each direction good. Here a sample is worked on until what is
    left to gain on it is small against what it cannot know (:math:`\theta^2 = 0.05`), for steps on
    the next sample cost twice as much. `docs/performance.md` has what other values cost.

    Parameters
    ----------
    norms : tuple of (float, float)
        Squared norms and variances that it has seen before.

    References
    ----------
    Byrd, R., Chin, G., Nocedal, J., Wu, Y., "Sample size selection in optimization methods for
    machine learning", Math. Program. 134, 2012.
    Bollapragada, R., Mudigere, D., Nocedal, J., Shi, H.-J., Tang, P., "A progressive batching
    L-BFGS method for machine learning", ICML 2018.
    """

    theta_squared = 0.05
    window = 5

    def __init__(self, norms: tuple[tuple[float, float], ...] = ()) -> None:
        self.norms = norms

    def __call__(self, state: SolverState) -> bool:
        """Take in the state after a step."""
        assert state.evaluation is not None
        gradient = state.evaluation.gradient
        seen = float(gradient @ gradient), state.evaluation.gradient_variance
        self.norms = (*self.norms, seen)[-self.window :]
        if len(self.norms) < self.window:
            return False
        signal, noise = (sum(values) for values in zip(*self.norms, strict=True))
        return bool(signal < self.theta_squared * noise)
