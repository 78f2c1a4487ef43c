"""How large the errors of many samples are."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from stackedae.containers import Container
from stackedae.errors import ArgumentError
from stackedae.layout import Array
from stackedae.plotting.axes import BLACK, SKY, VERMILION, axes_or_new, legend_above
from stackedae.samples import Reconstructing

_LOGARITHMIC_FROM = 100
_N_BINS = 40


class ErrorDisplay:
    """Distribution of reconstruction errors: a histogram with the median and the 95th percentile.

    The axis of errors is logarithmic where they spread over more than a factor of 100.

    Parameters
    ----------
    errors : ndarray of shape (n_samples,)
        Errors.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes that were drawn on.
    figure_ : matplotlib.figure.Figure
        Figure that contains them.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import ErrorDisplay, StackedAutoEncoder
    >>> X = np.random.default_rng(0).random((100, 8, 8))
    >>> sae = StackedAutoEncoder(9, max_iter=3, tol=0, random_state=0).fit(X)
    >>> display = ErrorDisplay.from_estimator(sae, X)
    >>> display.errors.shape
    (100,)
    """

    ax_: Any
    figure_: Any

    def __init__(self, errors: Array) -> None:
        self.errors = np.asarray(errors)
        if not np.isfinite(self.errors).any():
            raise ArgumentError("errors", errors, "has no finite value", "pass errors of samples")

    @classmethod
    def from_estimator(cls, estimator: Reconstructing, X: Container, *, ax: Any = None) -> Self:
        """Show the errors of all samples of X, which is read once.

        Parameters
        ----------
        estimator : StackedAutoEncoder
            Fitted.
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        ErrorDisplay
        """
        return cls(np.asarray(estimator.reconstruction_error(X))).plot(ax=ax)

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """Median, 95th percentile and largest of the finite errors."""
        finite = self.errors[np.isfinite(self.errors)]
        median, high, largest = np.quantile(finite, (0.5, 0.95, 1.0))
        return float(median), float(high), float(largest)

    @property
    def description(self) -> str:
        """The picture in words."""
        median, high, largest = self.quantiles
        return (
            f"Half of {len(self.errors):,} samples have an error of at most {median:.3g}, "
            f"95% of at most {high:.3g}; the largest is {largest:.3g}."
        )

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the histogram.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None
            Where to draw; a new figure if None.

        Returns
        -------
        ErrorDisplay
            Itself.
        """
        ax = axes_or_new(ax, (6, 4))
        finite = self.errors[np.isfinite(self.errors)]
        low, high = float(finite.min()), float(finite.max())
        logarithmic = low > 0 and high > _LOGARITHMIC_FROM * low
        bins: Any = np.geomspace(low, high, _N_BINS + 1) if logarithmic else _N_BINS
        ax.hist(finite, bins=bins, color=SKY, edgecolor=BLACK, linewidth=0.5)
        median, p95, _ = self.quantiles
        ax.axvline(median, color=BLACK, linewidth=2, label=f"median {median:.3g}")
        ax.axvline(p95, color=VERMILION, linestyle="--", linewidth=2, label=f"95% below {p95:.3g}")
        ax.set(
            xlabel="error  ½‖r − x‖²", ylabel="samples", xscale="log" if logarithmic else "linear"
        )
        legend_above(ax, 2)
        self.ax_, self.figure_ = ax, ax.figure
        return self
