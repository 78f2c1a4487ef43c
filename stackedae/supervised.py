"""Predictions from stacked layers: a classifier and a regressor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import xarray as xr
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.validation import check_is_fitted

from stackedae.base import BaseStack
from stackedae.containers import Container, map_samples
from stackedae.costs import ClassifierCost, RegressorCost
from stackedae.errors import DataError
from stackedae.layers import Head, Stack
from stackedae.layout import Array
from stackedae.progress import Record
from stackedae.report import Report, make_report
from stackedae.samples import check_samples
from stackedae.stores import StoreLike
from stackedae.targets import Classes, Targets, column_of, numbers_of, weights_of


class _Supervised(BaseStack):
    """Layers with a head."""

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
        fine_tune: bool = True,
        fine_tune_alpha: float | Sequence[float] | None = None,
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

    @property
    def head_(self) -> Head:
        """What predicts from the features of the last layer."""
        check_is_fitted(self)
        assert self._head is not None
        return self._head

    def report(self, X: Container | None = None, *, title: str | None = None) -> Report:
        """Return a page of HTML on what was learned, from what, and how it went.

        It is that of `StackedAutoEncoder.report`, without reconstructions.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …), or None
            Samples whose shape, chunks and attributes the page is to have.
        title : str or None
            Of the page.

        Returns
        -------
        Report
            Has the page as `html`, and `save`; notebooks show it.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.
        """
        return make_report(self, X, title=title)

    def __sklearn_is_fitted__(self) -> bool:
        return getattr(self, "_head", None) is not None

    def _n_matrices(self, n_layers: int) -> int:
        """Return how many matrices all layers together have: encoders, and the head."""
        return n_layers + 1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _refuse_none(self, y: Any) -> None:
        if y is None:
            raise DataError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None; pass what it is to predict."
            )

    def _predict(
        self,
        X: Container,
        function: Callable[[Array], Array],
        sample_dims: Mapping[str, int],
        name: str,
        dtype: Any,
    ) -> Container:
        """Apply a function of the outputs of the head to every sample."""
        check_is_fitted(self)
        return map_samples(
            partial(_of_outputs, function, Stack(self.layers_), self.head_),
            check_samples(self, X, reset=False),
            sample_dims=sample_dims,
            dtype=dtype,
            name=f"stackedae-{name}",
            missing=self.fill_values_ is not None,
        )


class StackedAutoEncoderClassifier(ClassifierMixin, _Supervised):
    r"""Classify samples by a deep network whose layers were learned without labels.

    Layers are trained one by one on all samples, as `StackedAutoEncoder` does. A softmax on top of
    them is trained on those with a label, and then all together:

    .. math::

        J = -\frac{1}{\sum_i w_i} \sum_i w_i \log \mathrm{softmax}(S h_i + s)_{y_i}
            + \frac\alpha2 \bigl(\lVert S \rVert^2 + \sum_l \lVert W_l \rVert^2\bigr)

    where :math:`h_i` are the activations of the last layer. So few labels do where there are many
    samples without.

    Parameters
    ----------
    hidden_layer_sizes, activation, output_activation, alpha, sparsity_target, sparsity_weight
        Of the layers, where each is trained alone; see `StackedAutoEncoder`.
    corruption, tied
        How layers are trained alone, and what their input is in the end; see `StackedAutoEncoder`.
    fine_tune : bool, default=True
        Whether layers and softmax are trained together in the end; else layers stay as they were
        learned without labels.
    fine_tune_alpha : float, sequence of float or None, default=None
        Weight decay α of the softmax, and of all together, or one for each matrix from the data up,
        that of the softmax last; that of the first layer if None.
    class_weight : dict, "balanced" or None, default=None
        What samples of a class count: a number for each class; or numbers that make up for how many
        of each there are; 1 if None.
    solver, batching, max_iter, tol, epochs, batch_size, learning_rate_init, local_steps
        See `StackedAutoEncoder`; they hold for what is on top of layers likewise.
    validation, n_iter_no_change, dtype, missing
        See `StackedAutoEncoder`; they hold for the softmax, and for all together, likewise.
    pretrained, checkpoint, checkpoint_every, warm_start, random_state, verbose
        See `StackedAutoEncoder`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes, sorted.
    layers_ : list of Layer
        The layers, with W1 and b1 as they are in the end, W2 and b2 as they were learned.
    head_ : Head
        The softmax: S (n_classes, n_hidden), s (n_classes,), and how its training ended.
    tuning_status_ : Status or None
        How the training of all together ended, if there was one.
    history_ : list of dict
        As of `StackedAutoEncoder`; `layer` goes on counting for the softmax and for all together,
        which have `cross_entropy` and `decay` for terms.
    coefs_, intercepts_, components_, mean_activations_, n_iter_, cost_, info
        As of `StackedAutoEncoder`.
    n_features_in_, feature_names_in_, sample_shape_, sample_dims_, channel_names_, fill_values_
        As of `StackedAutoEncoder`.

    See Also
    --------
    StackedAutoEncoder : The layers alone.

    References
    ----------
    Bengio, Y., Lamblin, P., Popovici, D., Larochelle, H., "Greedy layer-wise training of deep
    networks", NIPS 2006.

    Examples
    --------
    Digits, nine in ten of which have no label (−1):

    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from stackedae import StackedAutoEncoderClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> few = np.where(np.arange(len(y)) % 10 == 0, y, -1)
    >>> model = StackedAutoEncoderClassifier((64,), max_iter=50, tol=0, random_state=0)
    >>> model.fit(X / 16, few).score(X / 16, y) > 0.9
    True
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
        fine_tune: bool = True,
        fine_tune_alpha: float | Sequence[float] | None = None,
        class_weight: Any = None,
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
        self,
        X: Container,
        y: Container,
        sample_weight: Container | None = None,
        *,
        callback: Callable[[Record], None] | None = None,
    ) -> Self:
        """Learn layers from all samples, and classes from those that have one.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples; trailing dimensions are one sample.
        y : array-like, Dask array, DataArray or zarr.Array of shape (n_samples,)
            Classes: numbers, strings or booleans, in any chunks. Beside two classes or more, −1
            says that a sample has no label.
        sample_weight : array-like, Dask array or DataArray of shape (n_samples,), or None
            What each sample counts, with and without labels; 1 if None.
        callback : callable or None
            Called after every iteration with its record of `history_`.

        Returns
        -------
        self

        Raises
        ------
        ArgumentError
            If a parameter cannot be worked with.
        DataError
            If X, y and sample_weight are of different lengths, y has fewer than two classes, X has
            infinity or NaN that is not to be masked, or weights are negative.
        CheckpointError, ClusterError, KeyboardInterrupt
            As `StackedAutoEncoder.fit`.

        Warns
        -----
        ConvergenceWarning
            If a training stopped for another reason than `tol`.
        """
        self._refuse_none(y)
        targets = partial(self._targets, y=y, sample_weight=sample_weight)
        return self._fit(X, callback=callback, targets=targets)

    def predict(self, X: Container) -> Container:
        """Return the most probable class of every sample.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,)
            Same container and chunks, lazy if X is (a zarr.Array gives a Dask array).
        """
        check_is_fitted(self)
        most = partial(_most_probable, self.classes_)
        return self._predict(X, most, {}, "predict", self.classes_.dtype)

    def predict_proba(self, X: Container) -> Container:
        """Return the probability of every class.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples, n_classes)
            Same container and chunks, lazy if X is; in the order of `classes_`, which a DataArray
            has for coordinates.
        """
        check_is_fitted(self)
        return self._by_class(X, _softmax, "predict-proba")

    def predict_log_proba(self, X: Container) -> Container:
        """Return the logarithm of `predict_proba`, without rounding where that is small.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self._by_class(X, _log_softmax, "predict-log-proba")

    def decision_function(self, X: Container) -> Container:
        """Return S h + s of every class; of two classes, the second minus the first.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples, n_classes), or (n_samples,) for two classes
            Same container and chunks, lazy if X is.
        """
        check_is_fitted(self)
        if len(self.classes_) == 2:
            return self._predict(X, _log_odds, {}, "decision", self.components_.dtype)
        return self._by_class(X, _as_they_are, "decision")

    def score(self, X: Container, y: Container, sample_weight: Container | None = None) -> float:
        """Return the share of samples whose class is predicted, computed now.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.
        y : container of shape (n_samples,)
            Their classes.
        sample_weight : container of shape (n_samples,) or None
            What each counts.

        Returns
        -------
        float
        """
        predicted = _in_memory(self.predict(X))
        return float(
            accuracy_score(_in_memory(y), predicted, sample_weight=_in_memory(sample_weight))
        )

    def _by_class(self, X: Container, function: Callable[[Array], Array], name: str) -> Container:
        n_classes = len(self.classes_)
        result = self._predict(X, function, {"class": n_classes}, name, self.components_.dtype)
        if isinstance(result, xr.DataArray):
            result = result.assign_coords({"class": self.classes_})
        return result

    def _targets(
        self, rows: tuple[int, ...], y: Container, sample_weight: Container | None
    ) -> Targets:
        """Return the classes to be predicted, for shards of so many rows."""
        weights, labels = weights_of(sample_weight, rows), column_of("y", y, rows)
        classes = Classes.among(labels, weights)
        codes = classes.encode(labels)
        of_class = classes.weigh(codes, self.class_weight)
        if of_class is not None and weights is not None:
            of_class = of_class.times(weights)
        self.classes_ = classes.labels
        cost = partial(ClassifierCost, n_classes=len(classes.labels))
        return Targets(codes, weights, of_class, cost)

    def _more_to_save(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist()}

    def _take_more(self, document: Mapping[str, Any]) -> None:
        classes = document["classes"]
        kinds = {type(each) for each in classes}
        if len(kinds) != 1 or not kinds <= {str, int, float, bool}:
            raise ValueError("its classes are no classes")
        n_classes = 0 if self._head is None else len(self._head.s)
        if n_classes != len(classes):
            raise ValueError(f"it has {len(classes)} classes and a head of {n_classes}")
        self.classes_ = np.array(classes)


class StackedAutoEncoderRegressor(RegressorMixin, _Supervised):
    r"""Predict numbers by a deep network whose layers were learned without them.

    Layers are trained one by one, as `StackedAutoEncoder` does; a linear head on top of them, and
    then all together, by

    .. math::

        J = \frac{1}{\sum_i w_i} \sum_i w_i \tfrac12 \lVert S h_i + s - y_i \rVert^2
            + \frac\alpha2 \bigl(\lVert S \rVert^2 + \sum_l \lVert W_l \rVert^2\bigr)

    where :math:`h_i` are the activations of the last layer. y should be of about unit variance, as
    elsewhere (`sklearn.compose.TransformedTargetRegressor` sees to that).

    Parameters
    ----------
    hidden_layer_sizes, activation, output_activation, alpha, sparsity_target, sparsity_weight
        Of the layers; see `StackedAutoEncoder`.
    corruption, tied
        How layers are trained alone, and what their input is in the end; see `StackedAutoEncoder`.
    fine_tune : bool, default=True
        Whether layers and head are trained together in the end.
    fine_tune_alpha : float, sequence of float or None, default=None
        Weight decay α of the head, and of all together, or one for each matrix from the data up,
        that of the head last; that of the first layer if None.
    solver, batching, max_iter, tol, epochs, batch_size, learning_rate_init, local_steps
        See `StackedAutoEncoder`; they hold for what is on top of layers likewise.
    validation, n_iter_no_change, dtype, missing
        See `StackedAutoEncoder`; they hold for the head, and for all together, likewise.
    pretrained, checkpoint, checkpoint_every, warm_start, random_state, verbose
        See `StackedAutoEncoder`.

    Attributes
    ----------
    head_ : Head
        S (n_outputs, n_hidden), s (n_outputs,), and how its training ended.
    layers_, tuning_status_, history_, n_features_in_
        As of `StackedAutoEncoderClassifier`, with `squared_error` for a term; and what else that
        has.

    See Also
    --------
    StackedAutoEncoderClassifier : Predicts classes.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from stackedae import StackedAutoEncoderRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = StackedAutoEncoderRegressor((5,), max_iter=50, tol=0, random_state=0)
    >>> model.fit(scale(X), scale(y)).score(scale(X), scale(y)) > 0.4
    True
    """

    def fit(
        self,
        X: Container,
        y: Container,
        sample_weight: Container | None = None,
        *,
        callback: Callable[[Record], None] | None = None,
    ) -> Self:
        """Learn layers from samples, and what to predict from y.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples; trailing dimensions are one sample.
        y : array-like, Dask array, DataArray or zarr.Array of shape (n_samples,)
            Numbers, or (n_samples, n_outputs); in any chunks.
        sample_weight : array-like, Dask array or DataArray of shape (n_samples,), or None
            What each sample counts; 1 if None.
        callback : callable or None
            Called after every iteration with its record of `history_`.

        Returns
        -------
        self

        Raises
        ------
        ArgumentError, DataError, CheckpointError, ClusterError, KeyboardInterrupt
            As `StackedAutoEncoderClassifier.fit`.

        Warns
        -----
        ConvergenceWarning
            If a training stopped for another reason than `tol`.
        """
        self._refuse_none(y)
        targets = partial(self._targets, y=y, sample_weight=sample_weight)
        return self._fit(X, callback=callback, targets=targets)

    def predict(self, X: Container) -> Container:
        """Return predictions for every sample.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,), or (n_samples, n_outputs) if y was
            Same container and chunks, lazy if X is (a zarr.Array gives a Dask array).
        """
        check_is_fitted(self)
        dims, function = {"output": len(self.head_.s)}, _as_they_are
        if self._predicts_flat:
            dims, function = {}, _first
        return self._predict(X, function, dims, "predict", self.components_.dtype)

    def score(self, X: Container, y: Container, sample_weight: Container | None = None) -> float:
        """Return R², the coefficient of determination, computed now.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.
        y : container of shape (n_samples,) or (n_samples, n_outputs)
            What they should give.
        sample_weight : container of shape (n_samples,) or None
            What each counts.

        Returns
        -------
        float
            At most 1.
        """
        predicted = _in_memory(self.predict(X))
        return float(r2_score(_in_memory(y), predicted, sample_weight=_in_memory(sample_weight)))

    def _targets(
        self, rows: tuple[int, ...], y: Container, sample_weight: Container | None
    ) -> Targets:
        """Return the numbers to be predicted, for shards of so many rows."""
        weights, (numbers, n_outputs) = weights_of(sample_weight, rows), numbers_of(y, rows)
        self._predicts_flat = n_outputs is None
        cost = partial(RegressorCost, n_outputs=n_outputs or 1)
        return Targets(numbers, weights, None, cost)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _more_to_save(self) -> dict[str, Any]:
        return {"flat": self._predicts_flat}

    def _take_more(self, document: Mapping[str, Any]) -> None:
        if self._head is None or type(document["flat"]) is not bool:
            raise ValueError("it has no head")
        self._predicts_flat = document["flat"]


def _of_outputs(function: Callable[[Array], Array], stack: Stack, head: Head, rows: Array) -> Array:
    return function(stack.predict(head, rows))


def _as_they_are(Z: Array) -> Array:
    return Z


def _first(Z: Array) -> Array:
    column: Array = Z[:, 0]
    return column


def _log_odds(Z: Array) -> Array:
    odds: Array = Z[:, 1] - Z[:, 0]
    return odds


def _most_probable(classes: Array, Z: Array) -> Array:
    classes_of_rows: Array = classes[Z.argmax(axis=1)]
    return classes_of_rows


def _log_softmax(Z: Array) -> Array:
    Z = Z - Z.max(axis=1, keepdims=True)
    logarithms: Array = Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))
    return logarithms


def _softmax(Z: Array) -> Array:
    raised = np.exp(Z - Z.max(axis=1, keepdims=True))
    shares: Array = raised / raised.sum(axis=1, keepdims=True)
    return shares


def _in_memory(values: Container | None) -> Any:
    return None if values is None else np.asarray(values)
