"""Line search for the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from stackedae.evaluation import Evaluation
from stackedae.layout import Vector

_NARROWEST = 1e-12
"""A bracket narrower than this, relative to its ends, holds no other float worth a trial."""


@dataclass(frozen=True)
class Trial:
    """A point on the line: φ(t) = J(params + t·direction), with its slope φ'(t)."""

    t: float
    params: Vector
    evaluation: Evaluation
    slope: float

    @property
    def cost(self) -> float:
        """φ(t)."""
        return self.evaluation.cost


@dataclass(frozen=True)
class SearchResult:
    """What a line search came to.

    Parameters
    ----------
    trial : Trial or None
        The lowest point that satisfies the first condition; None if no trial did.
    n_trials : int
        Evaluations spent.
    saw_finite : bool
        Whether any trial had a finite cost and gradient.
    """

    trial: Trial | None
    n_trials: int
    saw_finite: bool


@dataclass(frozen=True)
class StrongWolfe:
    r"""Find a step t that lowers φ enough and flattens it enough.

    Accepts :math:`\varphi(t) \le \varphi(0) + c_1 t \varphi'(0)` with
    :math:`|\varphi'(t)| \le c_2 |\varphi'(0)|`. Steps grow by extrapolation until they bracket such
    a point, which cubic interpolation between the ends of the bracket then closes in on.

    Where the decrease wanted is smaller than the rounding of φ, the first condition cannot be
    told from noise; there :math:`\varphi'(t) \le (2c_1 - 1) \varphi'(0)` replaces it, which says
    the same of a parabola.

    Parameters
    ----------
    c1, c2 : float
        Share of the predicted decrease to reach, and of the slope to leave; 0 < c1 < c2 < 1.
    max_trials : int
        Evaluations before the search settles for the lowest point seen.
    rounding : float
        Relative rounding error of φ.

    References
    ----------
    Nocedal, J., Wright, S., "Numerical Optimization", 2nd ed., 2006, section 3.5.
    Hager, W., H. Zhang, "A new conjugate gradient method with guaranteed descent and an efficient
    line search", SIAM J. Optim. 16, 2005, section 4: the condition in the presence of rounding.
    """

    c1: float = 1e-4
    c2: float = 0.9
    max_trials: int = 20
    rounding: float = 1e-14

    def search(self, phi: Callable[[float], Trial], origin: Trial, t: float) -> SearchResult:
        """Search along φ from `origin`, φ(0) with a negative slope; t > 0 is the first trial."""
        before, low, high = origin, origin, None
        saw_finite = False
        for n_trials in range(1, self.max_trials + 1):
            trial = phi(t)
            if (trial.params == origin.params).all():
                break  # no float is nearer
            if not trial.evaluation.is_finite:
                high = trial
            else:
                saw_finite = True
                if self._lowers(origin, trial) and abs(trial.slope) <= -self.c2 * origin.slope:
                    return SearchResult(trial, n_trials, saw_finite)
                if self._is_too_far(origin, low, trial):
                    high = trial
                else:
                    if trial.slope * (1.0 if high is None else high.t - low.t) >= 0:
                        high = low
                    before, low = low, trial
            if high is None:
                t = _beyond(before, low)
            elif abs(high.t - low.t) <= _NARROWEST * max(high.t, low.t):
                break
            else:
                t = _between(low, high)
        settled = low is not origin and self._decreases(origin, low)
        return SearchResult(low if settled else None, n_trials, saw_finite)

    def _decreases(self, origin: Trial, trial: Trial) -> bool:
        return trial.cost <= origin.cost + self.c1 * trial.t * origin.slope

    def _lowers(self, origin: Trial, trial: Trial) -> bool:
        if self._decreases(origin, trial):
            return True
        within_rounding = trial.cost <= origin.cost + self.rounding * abs(origin.cost)
        return within_rounding and trial.slope <= (2 * self.c1 - 1) * origin.slope

    def _is_too_far(self, origin: Trial, low: Trial, trial: Trial) -> bool:
        if not self._lowers(origin, trial):
            return True
        return low is not origin and trial.cost >= low.cost


def _beyond(before: Trial, last: Trial) -> float:
    """Return a step past `last`, one to four times as far again as `last` is past `before`."""
    stride = last.t - before.t
    guess = _cubic_minimiser(before, last)
    if not guess > last.t:  # also if it is NaN: the cubic falls without end
        return last.t + 4 * stride
    return min(max(guess, last.t + stride), last.t + 4 * stride)


def _between(low: Trial, high: Trial) -> float:
    """Return a step well inside the bracket, near the minimum of a cubic through its ends."""
    width = high.t - low.t
    if not high.evaluation.is_finite:
        return low.t + 0.1 * width
    share = (_cubic_minimiser(low, high) - low.t) / width
    return low.t + width * (min(max(share, 0.1), 0.9) if math.isfinite(share) else 0.5)


def _cubic_minimiser(p: Trial, q: Trial) -> float:
    """Return where the cubic through two points and their slopes is lowest, or NaN.

    Nocedal & Wright, eq. (3.59).
    """
    d1 = p.slope + q.slope - 3 * (p.cost - q.cost) / (p.t - q.t)
    discriminant = d1 * d1 - p.slope * q.slope
    if not discriminant >= 0:
        return math.nan
    d2 = math.copysign(math.sqrt(discriminant), q.t - p.t)
    denominator = q.slope - p.slope + 2 * d2
    return q.t - (q.t - p.t) * (q.slope + d2 - d1) / denominator if denominator else math.nan
