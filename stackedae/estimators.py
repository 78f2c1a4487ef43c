"""The estimator that users see."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from stackedae._version import __version__
from stackedae.checkpoint import Checkpoint
from stackedae.containers import Container, map_samples
from stackedae.documents import plain, refusing_nonsense
from stackedae.errors import ArgumentError, DataError
from stackedae.fitting import fit_stack
from stackedae.layers import Stack
from stackedae.layout import Array
from stackedae.persistence import KIND, load_model, save_model
from stackedae.progress import Progress, Record
from stackedae.report import Report, make_report
from stackedae.samples import check_samples, masks, named_dims, names_of_channels
from stackedae.solvers import Status
from stackedae.stores import StoreLike, shown
from stackedae.training import (
    BATCHING,
    DTYPES,
    SOLVERS,
    LayerSettings,
    TrainingSettings,
)

_WEIGHTS = ("alpha", "sparsity_target", "sparsity_weight")
_OF_THE_RUN = {"checkpoint", "checkpoint_every", "verbose"}
"""Parameters that results do not depend on."""

_PER_LAYER = ("activation", "output_activation", *_WEIGHTS)


class StackedAutoEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Learn features of samples without labels, by a stack of sparse auto-encoders.

    Each layer learns to reconstruct its input through hidden units of which few are active at a
    time: for samples :math:`x`, hidden activations :math:`a = f(W_1 x + b_1)` and reconstructions
    :math:`r = g(W_2 a + b_2)` it minimises

    .. math::

        J = \frac1n \sum_i \tfrac12 \lVert r_i - x_i \rVert^2
            + \frac\alpha2 (\lVert W_1 \rVert^2 + \lVert W_2 \rVert^2)
            + \beta \sum_j \mathrm{KL}(\rho \,\Vert\, \hat\rho_j)

    where :math:`\hat\rho_j` is the mean activation of unit j over *all* samples. The activations of
    one layer are the samples of the next.

    Cost and gradient are computed where the data are, on the Dask scheduler that is active: a
    `distributed.Client` if there is one, else threads.

    Parameters
    ----------
    hidden_layer_sizes : int or tuple of int, default=(25,)
        Hidden units of each layer, from the data up.
    activation : {"logistic", "tanh", "relu", "identity"}, default="logistic"
        Of hidden units, f. "relu" and "identity" need ``sparsity_weight=0``.
    output_activation : {"auto", "logistic", "tanh", "relu", "identity"}, default="auto"
        Of reconstructions, g. "auto" is "logistic" if all input of the layer lies in [0, 1], else
        "identity".
    alpha : float, default=1e-4
        Weight decay α; it is not divided by the number of samples.
    sparsity_target : float, default=0.05
        ρ, the mean activation wanted of every hidden unit. For "tanh", of (1 + a)/2.
    sparsity_weight : float, default=3.0
        β; 0 for no sparsity term.
    solver : {"lbfgs", "gd"}, default="lbfgs"
        L-BFGS, preconditioned by the covariance of the layer's input; or plain gradient descent.
    batching : {"progressive", "full"}, default="progressive"
        How "lbfgs" visits the samples. "progressive" starts on small random samples (drawn from
        every chunk), doubles them for as long as the variance of their gradient calls for it, and
        ends with steps that see all samples once each, so that `cost_` and `mean_activations_` are
        over all of them; it gets as far as "full" with a fraction of the visits, so that a smaller
        `max_iter` will do: with the same, it visits samples about as often. "full" visits all
        samples in every iteration; so does "gd", and any solver with less than 16,384 samples.
    max_iter : int, default=400
        Iterations per layer, at most: over all samples for "full", on each random sample for
        "progressive". There, a step over all samples visits them about twice and counts as two and
        a half, and ten of them are allowed in any case. Where samples do not speak for all of them,
        or not any more, "full" takes over for the iterations that are left.
    tol : float, default=1e-6
        Stop when the relative decrease of the cost over ten iterations and the largest entry of the
        gradient, relative to max(1, \|cost\|), are both at most this; 0 runs to `max_iter`.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the arithmetic, of the parameters and of the features. Sums over samples are in
        float64 either way.
    missing : {"raise", "mask"}, default="raise"
        What to do about entries that are NaN. "mask" leaves them out of the reconstruction error
        and its gradient, and fills them with `fill_values_` before they are encoded; see
        :doc:`/method`. Infinity is refused either way.
    checkpoint : path, URL, Zarr store or None, default=None
        Where progress is written down, so that `fit` with the same data and parameters goes on
        from there after whatever happened, to the same result bit for bit; after the end, it
        returns at once what was learned. See :doc:`/reliability`.
    checkpoint_every : int or str, default="30s"
        How often: a number of iterations, or a time, and then at most so often that writing takes a
        hundredth of it. Also at the end of each layer, and when an error or Ctrl-C ends training.
    random_state : int, RandomState instance or None, default=None
        Source of the first parameters, and of samples.
    verbose : int, default=0
        1 prints every tenth iteration, 2 every one.

    Attributes
    ----------
    layers_ : list of Layer
        One record per layer, from the data up, with W1 (hidden, features), b1 (hidden,),
        W2 (features, hidden), b2 (features,), the cost that was minimised, and how training ended.
    coefs_ : list of ndarray of shape (n_features, n_hidden)
        Encoder weights, W1 transposed, as in scikit-learn's MLPRegressor.
    intercepts_ : list of ndarray of shape (n_hidden,)
        Encoder biases b1.
    components_ : ndarray of shape (n_hidden, n_features)
        Filters of the first layer.
    output_activation_ : str
        Output activation of the first layer, the one that reconstructs the data.
    mean_activations_ : list of ndarray of shape (n_hidden,)
        Mean activation of each unit, for each layer.
    history_ : list of dict
        One per iteration, with keys `layer`, `phase` ("sample": over a growing sample; "full": over
        all samples), `iteration`, `n_rows`, `cost`,
        `reconstruction`, `decay`, `sparsity`, `gradient_norm` (Euclidean), `step`, `n_evaluations`,
        `rows_visited`, `bytes_read` and `seconds`; the last four are of this iteration alone.
    info : dict
        Where the model comes from: versions of packages, seed, what tells the data from others
        (sizes, and checksums of rows), scheduler; also of earlier runs that a checkpoint
        continued.
    n_iter_ : int
        Iterations of all layers together.
    cost_ : float
        J of the last layer at the end, over all samples.
    fill_values_ : ndarray of shape (n_features,) or None
        What stands in for entries that are missing: the mean over all samples in which the feature
        is present, 0 if there are none; None for ``missing="raise"``.
    sample_shape_ : tuple of int
        Shape of one sample, as `fit` saw it.
    sample_dims_ : tuple of str, or None
        Names of the dimensions of one sample, if `fit` saw any.
    channel_names_ : tuple of str, or None
        Names of the channels, the last dimension, if `fit` saw any: maps of images with the same
        names put them in this order.
    n_features_in_ : int
        Entries of one sample.
    feature_names_in_ : ndarray of str
        Names of the columns, if `fit` saw any.

    See Also
    --------
    extract_patches : Makes samples of images.
    ContrastNormalizer : Prepares them.

    Notes
    -----
    Samples that fit into half of the memory of the workers are held there from the start of `fit`
    to its end; more are read again for every evaluation. What was decided is logged, to the logger
    "stackedae". ``dask.config.set({"stackedae.memory": "10GB"})`` says how much memory there is;
    "stackedae.scratch" names a folder, seen by all workers, for features that fit nowhere else.
    The same chunks and the same `random_state` give the same bits on every scheduler, any number
    of workers, held or not.

    References
    ----------
    Ng, A., "Sparse autoencoder", CS294A lecture notes, Stanford, 2011.
    Bengio, Y., Lamblin, P., Popovici, D., Larochelle, H., "Greedy layer-wise training of deep
    networks", NIPS 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder
    >>> X = np.random.default_rng(0).random((200, 8, 8))
    >>> sae = StackedAutoEncoder(hidden_layer_sizes=(16, 4), max_iter=5, tol=0, random_state=0)
    >>> sae.fit_transform(X).shape
    (200, 4)
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
        solver: str = "lbfgs",
        batching: str = "progressive",
        max_iter: int = 400,
        tol: float = 1e-6,
        dtype: str = "float32",
        missing: str = "raise",
        checkpoint: StoreLike | None = None,
        checkpoint_every: int | str = "30s",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.output_activation = output_activation
        self.alpha = alpha
        self.sparsity_target = sparsity_target
        self.sparsity_weight = sparsity_weight
        self.solver = solver
        self.batching = batching
        self.max_iter = max_iter
        self.tol = tol
        self.dtype = dtype
        self.missing = missing
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: Container, y: Any = None, *, callback: Callable[[Record], None] | None = None
    ) -> Self:
        """Learn the layers, one after the other.

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
        DataError
            If X has no samples, infinity, NaN that is not to be masked, or entries that are not
            real numbers.
        CheckpointError
            If the checkpoint is of other data, other parameters or another version.
        ClusterError
            If workers or the scheduler are gone.
        KeyboardInterrupt
            After Ctrl-C. What was learned until then can be used: the last layer has the status
            INTERRUPTED.

        Warns
        -----
        ConvergenceWarning
            If a layer stopped for another reason than `tol` (which 0 never gives as a reason).
        """
        layer_settings = self._layer_settings()
        training = self._training_settings()
        checkpoint = self._checkpoint()
        X = check_samples(self, X, reset=True)
        self.sample_shape_ = tuple(X.shape[1:])
        self.sample_dims_ = tuple(map(str, X.dims[1:])) if isinstance(X, xr.DataArray) else None
        self.channel_names_ = names_of_channels(X)
        fit_stack(
            X,
            layer_settings,
            training,
            draw_seed=lambda: check_random_state(self.random_state).randint(2**31),
            checkpoint=checkpoint,
            on_iteration=_listeners(self.verbose, callback),
            keep=self._keep,
        )
        for index, layer in enumerate(self.layers_):
            reached_limit = layer.status is Status.MAX_ITER and self.tol == 0
            if layer.status is not Status.CONVERGED and not reached_limit:
                warnings.warn(
                    f"Layer {index} ended as {layer.status.name}: {layer.status.advice}.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
        return self

    def transform(self, X: Container) -> Container:
        """Return the activations of the last layer.

        After a fit with ``missing="mask"``, entries that are NaN are filled here and in all that
        reconstructs.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples, n_hidden)
            Same container and chunks, lazy if X is (a zarr.Array gives a Dask array). A DataArray
            keeps the coordinates of its samples and has the second dimension "feature".

        Raises
        ------
        DataError
            If X has another number of features than the samples of `fit`, infinity, or NaN unless
            the fit was with ``missing="mask"`` (for lazy X, when it is computed).
        """
        check_is_fitted(self)
        X = check_samples(self, X, reset=False)
        return self._map("encode", X, {"feature": self._n_features_out})

    def inverse_transform(self, X: Container) -> Container:
        r"""Return the samples that activations of the last layer stand for.

        Parameters
        ----------
        X : container of shape (n_samples, n_hidden)
            Activations.

        Returns
        -------
        container of shape (n_samples, \*sample_shape\_)
            The trailing dimensions of a DataArray are those that `fit` saw; without names
            "feature" for flat samples, else y, x and channel, or dim_1, dim_2, … if there are more.
        """
        check_is_fitted(self)
        n_hidden = self._n_features_out
        if len(X.shape) != 2 or X.shape[1] != n_hidden:
            raise DataError(
                f"X has shape {tuple(X.shape)}, and the last layer has {n_hidden} features; pass "
                f"activations of shape (n_samples, {n_hidden}), as transform returns them."
            )
        return self._map("decode", X, named_dims(self.sample_shape_, self.sample_dims_))

    def reconstruct(self, X: Container) -> Container:
        """Return samples after a pass through all layers, up and down again.

        Entries that are missing are predicted from those that are present.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of the shape of X
            Same container and chunks, lazy if X is.
        """
        check_is_fitted(self)
        return self._map("reconstruct", check_samples(self, X, reset=False), None)

    def reconstruction_error(self, X: Container) -> Container:
        r"""Return :math:`\tfrac12 \lVert r - x \rVert^2` of every sample.

        Entries that are missing are left out. For a single layer, the mean over the training
        samples is the reconstruction term of J.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,)
            Same container and chunks, lazy if X is.
        """
        check_is_fitted(self)
        return self._map("errors", check_samples(self, X, reset=False), {})

    def score_samples(self, X: Container) -> Container:
        """Return minus the reconstruction error of every sample: higher is more normal.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,)
        """
        return -self.reconstruction_error(X)

    def score(self, X: Container, y: Any = None) -> float:
        """Return the mean of `score_samples`, computed now.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.
        y : None
            Ignored.

        Returns
        -------
        float
            At most 0; higher is better.
        """
        return float(self.score_samples(X).mean())

    def save(self, path: StoreLike, *, overwrite: bool = False) -> None:
        """Write the fitted model as a Zarr group of arrays and JSON; no code, no pickle.

        Parameters
        ----------
        path : path, URL or Zarr store
            Where to write. On a local path the model appears when it is complete.
        overwrite : bool
            Whether to replace a store that exists.

        Raises
        ------
        StoreExistsError
            If it exists and `overwrite` is not set.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from stackedae import StackedAutoEncoder
        >>> X = np.random.default_rng(0).random((50, 6))
        >>> sae = StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sae.save(f"{folder}/model.zarr")
        ...     again = StackedAutoEncoder.load(f"{folder}/model.zarr")
        >>> bool((again.transform(X) == sae.transform(X)).all())
        True
        """
        check_is_fitted(self)
        document = {
            "class": type(self).__name__,
            "version": __version__,
            "params": {name: _plain(value) for name, value in self.get_params().items()},
            "n_features_in": self.n_features_in_,
            "feature_names_in": _plain(getattr(self, "feature_names_in_", None)),
            "sample_shape": list(self.sample_shape_),
            "sample_dims": _plain(self.sample_dims_),
            "channel_names": _plain(self.channel_names_),
            "info": self.info,
        }
        save_model(path, self.layers_, self.history_, document, overwrite=overwrite)

    def report(self, X: Container | None = None, *, title: str | None = None) -> Report:
        """Return a page of HTML on what was learned, from what, and how it went.

        It has the filters of all layers, the cost in the course of training, mean activations, how
        each layer ended and what to do about it, what training took, parameters, versions, and
        where the data and the model come from. It needs matplotlib (extra "plot").

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …), or None
            Samples such as `fit` saw. The page then has reconstructions, and the distribution of
            errors, of up to 1,000 of them, drawn at random from up to eight chunks, which alone are
            read; and the attributes of a DataArray.
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

        Examples
        --------
        >>> import numpy as np
        >>> from stackedae import StackedAutoEncoder
        >>> X = np.random.default_rng(0).random((50, 6, 6))
        >>> sae = StackedAutoEncoder(4, max_iter=2, tol=0, random_state=0).fit(X)
        >>> report = sae.report(X, title="Six by six")
        >>> "<h1>Six by six</h1>" in report.html
        True
        """
        return make_report(self, X, title=title)

    @classmethod
    def load(cls, path: StoreLike) -> Self:
        """Read a model that `save` wrote.

        Parameters
        ----------
        path : path, URL or Zarr store
            What was written.

        Returns
        -------
        StackedAutoEncoder
            Fitted, with ``checkpoint=None``: where to write is not for a file to say.

        Raises
        ------
        StoreError
            If it is missing, incomplete, not a model, or of a later version.
        """
        layers, history, document = load_model(path)
        n_features = layers[0].cost.n_features
        with refusing_nonsense(shown(path), KIND):
            if document["class"] != cls.__name__:
                raise ValueError(f"it is of class {document['class']!r}")
            params = {key: _from_plain(value) for key, value in document["params"].items()}
            model = cls(**{**params, "checkpoint": None})
            shape = tuple(plain(int, size) for size in document["sample_shape"])
            if not n_features == document["n_features_in"] == math.prod(shape):
                raise ValueError(f"samples of shape {shape} do not fit its first layer")
            model.n_features_in_, model.sample_shape_ = n_features, shape
            # Older models have neither.
            model.sample_dims_ = _names(document.get("sample_dims"), len(shape))
            model.channel_names_ = _names(document.get("channel_names"), shape[-1])
            names, model._info = document["feature_names_in"], dict(document["info"])
            if names is not None:
                names = np.array([plain(str, name) for name in names], dtype=object)
                if names.shape != (n_features,):
                    raise ValueError("it has names for other features")
                model.feature_names_in_ = names
        model.layers_, model.history_ = layers, history
        return model

    @property
    def coefs_(self) -> list[Array]:
        """Encoder weights, (n_features, n_hidden) each."""
        return [layer.W1.T for layer in self.layers_]

    @property
    def intercepts_(self) -> list[Array]:
        """Encoder biases, (n_hidden,) each."""
        return [layer.b1 for layer in self.layers_]

    @property
    def components_(self) -> Array:
        """Filters of the first layer, (n_hidden, n_features)."""
        return self.layers_[0].W1

    @property
    def output_activation_(self) -> str:
        """The output activation of the first layer."""
        return self.layers_[0].cost.output_activation

    @property
    def fill_values_(self) -> Array | None:
        """What stands in for entries that are missing, (n_features,)."""
        fill = self.layers_[0].cost.fill
        return np.array(fill) if fill else None

    @property
    def mean_activations_(self) -> list[Array]:
        """Mean activation of each unit, for each layer."""
        return [layer.mean_activations for layer in self.layers_]

    @property
    def n_iter_(self) -> int:
        """Iterations of all layers together."""
        return len(self.history_)

    @property
    def cost_(self) -> float:
        """Cost of the last layer at the end."""
        return float(self.history_[-1]["cost"])

    @property
    def info(self) -> dict[str, Any]:
        """Where the model comes from: versions, seed, data and scheduler of each run."""
        check_is_fitted(self)
        return self._info

    @property
    def _n_features_out(self) -> int:
        return self.layers_[-1].cost.n_hidden

    def _keep(self, progress: Progress) -> None:
        self.layers_, self.history_ = list(progress.layers), progress.history
        *earlier, last = progress.runs
        self._info = {
            **last,
            "seed": progress.seed,
            "data": dict(progress.data),
            "earlier_runs": earlier,
        }

    def _checkpoint(self) -> Checkpoint | None:
        if self.checkpoint is None:
            return None
        settings = {"class": type(self).__name__, "version": __version__}
        params = self.get_params()
        for name in sorted(set(params) - _OF_THE_RUN):
            settings[name] = _plain(params[name])
        return Checkpoint(self.checkpoint, self.checkpoint_every, settings)

    def _map(self, method: str, X: Container, sample_dims: Mapping[str, int] | None) -> Container:
        stack = Stack(self.layers_)
        return map_samples(
            getattr(stack, method),
            X,
            sample_dims=sample_dims,
            dtype=self.components_.dtype,
            name=f"stackedae-{method}",
            # Not as `missing` is now, but as it was in `fit`; and activations are never missing.
            missing=self.fill_values_ is not None and method != "decode",
        )

    def _layer_settings(self) -> list[LayerSettings]:
        given: Any = self.hidden_layer_sizes
        sizes = tuple(given) if np.iterable(given) else (given,)
        if not sizes or any(not isinstance(n, (int, np.integer)) or n < 1 for n in sizes):
            raise ArgumentError(
                "hidden_layer_sizes",
                self.hidden_layer_sizes,
                "does not give one or more hidden units for one or more layers",
                "pass for example (25,) or (100, 25)",
            )
        columns = {name: self._per_layer(name, len(sizes)) for name in _PER_LAYER}
        settings = []
        for index, size in enumerate(sizes):
            values = {name: column[index] for name, column in columns.items()}
            for name in _WEIGHTS:
                values[name] = _as_float(name, values[name])
            layer = LayerSettings(n_hidden=int(size), **values)
            # Any output will do for a check; "auto" is decided by the data.
            chosen = layer.output_activation
            layer.cost(n_features=1, output_activation="identity" if chosen == "auto" else chosen)
            settings.append(layer)
        return settings

    def _per_layer(self, name: str, n_layers: int) -> Sequence[Any]:
        value: Any = getattr(self, name)
        if isinstance(value, str) or not np.iterable(value):
            return [value] * n_layers
        values: list[Any] = list(value)
        if len(values) != n_layers:
            raise ArgumentError(
                name,
                value,
                f"has {len(values)} values for {n_layers} layers",
                "pass one for all layers, or one for each",
            )
        return values

    def _training_settings(self) -> TrainingSettings:
        for name, choices in (("solver", SOLVERS), ("batching", BATCHING), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise ArgumentError(
                    name, getattr(self, name), "is unknown", f"choose from {', '.join(choices)}"
                )
        missing = masks(self.missing)
        max_iter: Any = self.max_iter
        if not isinstance(max_iter, (int, np.integer)) or max_iter < 1:
            raise ArgumentError("max_iter", self.max_iter, "allows no iteration", "pass 1 or more")
        if not 0 <= self.tol < np.inf:
            raise ArgumentError("tol", self.tol, "is no tolerance", "pass 0 or more")
        return TrainingSettings(
            solver=self.solver,
            batching=self.batching,
            max_iter=int(max_iter),
            tol=float(self.tol),
            dtype=self.dtype,
            missing=missing,
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "layers_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Features come in `dtype`, whatever that of X.
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags


def _listeners(verbose: int, callback: Callable[[Record], None] | None) -> Callable[[Record], None]:
    def on_iteration(record: Mapping[str, Any]) -> None:
        if verbose and (verbose > 1 or record["iteration"] % 10 == 0):
            print(
                f"layer {record['layer']}  {record['n_rows']} rows  "
                f"iteration {record['iteration']:4d}  "
                f"cost {record['cost']:.6g}  gradient {record['gradient_norm']:.2g}  "
                f"evaluations {record['n_evaluations']}  {record['seconds']:.2g} s"
            )
        if callback is not None:
            callback(dict(record))

    return on_iteration


def _as_float(name: str, value: Any) -> float:
    """Return a float of Python's, which JSON knows, unlike the scalars of NumPy."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(name, value, "is no number", "pass a float") from error


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; what JSON cannot say (a RandomState) becomes None."""
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool)) else None


def _names(values: Any, n: int) -> tuple[str, ...] | None:
    """Return so many names, of which JSON said these, or None."""
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != n:
        raise ValueError(f"{values!r:.60} are not {n} names")
    return tuple(plain(str, name) for name in values)


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_from_plain, value))
    if value is not None and type(value) not in (str, int, float, bool):
        raise ValueError(f"no parameter can be {value!r:.60}")
    return value
