"""The estimator that tells outliers by their reconstruction error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from stackedae.containers import Container, cut_into_shards
from stackedae.documents import plain
from stackedae.errors import ArgumentError
from stackedae.estimators import StackedAutoEncoder
from stackedae.layers import Stack
from stackedae.objective import belongs_here
from stackedae.progress import Record
from stackedae.quantiles import quantile
from stackedae.samples import check_samples
from stackedae.stores import StoreLike


class StackedAutoEncoderOutlierDetector(OutlierMixin, StackedAutoEncoder):
    r"""Tell samples that are unlike most of those that a stack of auto-encoders was trained on.

    The score of a sample is minus its reconstruction error,
    :math:`-\tfrac12 \lVert r - x \rVert^2`: what few samples have in common, few hidden units learn
    to reconstruct. Samples are outliers whose score is below a threshold, `offset_`, such that a
    share of the training samples is.

    It is a `StackedAutoEncoder` in all else, with its parameters, attributes and methods.

    Parameters
    ----------
    hidden_layer_sizes, activation, output_activation, alpha, sparsity_target, sparsity_weight
        What is learned, as for `StackedAutoEncoder`.
    corruption, tied, fine_tune, fine_tune_alpha
        How, as there.
    contamination : float, default=0.1
        The share of outliers among the training samples, above 0 and at most 0.5.
    solver, batching, max_iter, tol
        As there.
    epochs, batch_size, learning_rate_init, local_steps, validation, n_iter_no_change, dtype
        As there.
    missing, pretrained, checkpoint, checkpoint_every, warm_start, random_state, verbose
        As there.

    Attributes
    ----------
    offset_ : float
        The threshold: ``numpy.quantile(score_samples(X), contamination)`` of the training samples,
        interpolated linearly between two scores.

    See Also
    --------
    StackedAutoEncoder : Parameters and attributes.
    error_map : Errors of all patches of an image; those above ``-offset_`` are of outliers.

    Notes
    -----
    The threshold takes one more read of the samples. Their scores, one number each, stay where the
    samples are; the quantile is found by counting, and the same bits on every scheduler.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoderOutlierDetector
    >>> x = np.linspace(0, 1, 200)[:, None]
    >>> X = np.hstack([x, x, 1 - x])
    >>> detector = StackedAutoEncoderOutlierDetector(
    ...     2, contamination=0.01, sparsity_weight=0, max_iter=200, tol=0, random_state=0
    ... )
    >>> detector.fit(X).predict(np.array([[0.3, 0.3, 0.7], [0.3, 0.3, 0.3]]))
    array([ 1, -1])
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (25,),
        *,
        activation: str | Sequence[str] = "logistic",
        output_activation: str | Sequence[str] = "auto",
        alpha: float | Sequence[float] = 1e-4,
        sparsity_target: float | Sequence[float] = 0.05,
        sparsity_weight: float | Sequence[float] = 3.0,
        corruption: Any = 0.0,
        tied: bool = False,
        fine_tune: bool = False,
        fine_tune_alpha: float | Sequence[float] | None = None,
        contamination: float = 0.1,
        solver: str = "lbfgs",
        batching: str = "progressive",
        max_iter: int = 400,
        tol: float = 1e-6,
        epochs: int = 10,
        batch_size: int = 256,
        learning_rate_init: float = 0.02,
        local_steps: int = 32,
        validation: float = 0.0,
        n_iter_no_change: int = 10,
        dtype: str = "float32",
        missing: str = "raise",
        pretrained: StoreLike | None = None,
        checkpoint: StoreLike | None = None,
        checkpoint_every: int | str = "30s",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self._keep_parameters(locals())

    def fit(
        self, X: Container, y: Any = None, *, callback: Callable[[Record], None] | None = None
    ) -> Self:
        """Learn the layers, one after the other, and then the threshold.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples; trailing dimensions are one sample.
        y : None
            Ignored.
        callback : callable or None
            Called after every iteration with its record of `history_`.

        Returns
        -------
        self

        Raises
        ------
        ArgumentError
            If a parameter cannot be worked with.
        KeyboardInterrupt
            After Ctrl-C. The layers can be used, but there is no threshold.

        See Also
        --------
        StackedAutoEncoder.fit : What else may be raised.
        """
        share: Any = self.contamination
        if not isinstance(share, (int, float, np.floating)) or not 0 < share <= 0.5:
            raise ArgumentError(
                "contamination",
                share,
                "is no share of outliers",
                "pass a number above 0, and 0.5 at most",
            )
        self.__dict__.pop("offset_", None)  # of an earlier fit
        super().fit(X, y, callback=callback)
        self.offset_ = self._quantile_of_scores(check_samples(self, X, reset=False), float(share))
        return self

    def score_samples(self, X: Container) -> Container:
        """Return minus the reconstruction error of every sample: higher is more normal.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,), float64
            Same container and chunks, lazy if X is.
        """
        return super().score_samples(X).astype(np.float64)

    def decision_function(self, X: Container) -> Container:
        """Return how far the score of every sample is above the threshold, below it if negative.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,), float64
            ``score_samples(X) - offset_``: same container and chunks, lazy if X is.
        """
        check_is_fitted(self, "offset_")
        return self.score_samples(X) - self.offset_

    def predict(self, X: Container) -> Container:
        """Return 1 for every sample that is like those of `fit`, and −1 for every outlier.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,), int64
            Where `decision_function` is negative, −1; same container and chunks, lazy if X is.
        """
        return 2 * (self.decision_function(X) >= 0) - 1

    def _quantile_of_scores(self, X: Container, share: float) -> float:
        shards, cost = cut_into_shards(X, self.dtype), self.layers_[0].cost
        scores = shards.map(
            Stack.scores,
            Stack(self.layers_),
            n_features=1,
            dtype=self.dtype,
            name="stackedae-scores",
        )
        return quantile(scores.hold(here=belongs_here(cost, shards)), share)

    def _more_to_save(self) -> dict[str, Any]:
        return {"offset": getattr(self, "offset_", None)}

    def _take_more(self, values: Mapping[str, Any]) -> None:
        super()._take_more(values)
        if values["offset"] is not None:  # of a fit that was interrupted
            self.offset_ = plain(float, values["offset"])
