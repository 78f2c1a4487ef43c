"""What estimators of stacked layers have in common."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from stackedae._version import __version__
from stackedae.checkpoint import Checkpoint
from stackedae.containers import Container, cut_into_shards, map_samples
from stackedae.documents import plain, refusing_nonsense
from stackedae.errors import ArgumentError
from stackedae.exporting import to_onnx, to_torch
from stackedae.fitting import fit_stack
from stackedae.layers import Stack
from stackedae.layout import Array
from stackedae.minimisation import BATCHING, DTYPES, SOLVERS, TrainingSettings
from stackedae.noise import Corruption
from stackedae.persistence import KIND, Learned, load_model, save_model
from stackedae.progress import Progress, Record
from stackedae.samples import check_samples, masks, names_of_channels
from stackedae.solvers import Status
from stackedae.stores import StoreLike, shown
from stackedae.targets import Targets
from stackedae.training import LayerSettings, StackSettings

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import torch

_WEIGHTS = ("alpha", "sparsity_target", "sparsity_weight")
_OF_THE_RUN = {"checkpoint", "checkpoint_every", "verbose"}
"""Parameters that results do not depend on."""

_PER_LAYER = ("activation", "output_activation", *_WEIGHTS)


class BaseStack(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Layers that learn from samples: parameters, training, features, and models on disk."""

    hidden_layer_sizes: int | Sequence[int]
    activation: str | Sequence[str]
    output_activation: str | Sequence[str]
    alpha: float | Sequence[float]
    sparsity_target: float | Sequence[float]
    sparsity_weight: float | Sequence[float]
    corruption: Any
    tied: bool
    fine_tune: bool
    fine_tune_alpha: float | Sequence[float] | None
    solver: str
    batching: str
    max_iter: int
    tol: float
    epochs: int
    batch_size: int
    learning_rate_init: float
    local_steps: int
    validation: float
    n_iter_no_change: int
    dtype: str
    missing: str
    pretrained: StoreLike | None
    checkpoint: StoreLike | None
    checkpoint_every: int | str
    warm_start: bool
    random_state: Any
    verbose: int

    def _keep_parameters(self, arguments: Mapping[str, Any]) -> None:
        """Keep what a constructor was called with, ``locals()``, under the same names."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    def _fit(
        self,
        X: Container,
        *,
        callback: Callable[[Record], None] | None,
        targets: Callable[[tuple[int, ...]], Targets] | None = None,
    ) -> Self:
        """Check parameters and samples, train, and keep what was learned.

        Parameters
        ----------
        X : container of shape (n_samples, …)
            Samples.
        callback : callable or None
            Called with the record of every iteration.
        targets : callable or None
            ``targets(rows)`` gives what a head is to predict, given the rows of the shards of X.
        """
        layers, training = self._layer_settings(), self._training_settings()
        settings = self._stack_settings(layers)
        checkpoint = self._checkpoint()
        X = check_samples(self, X, reset=True)
        found = None if targets is None else targets(cut_into_shards(X, self.dtype).rows)
        self._set_sample_shape(X)
        fit_stack(
            X,
            settings,
            training,
            targets=found,
            pretrained=self._pretrained_layers(layers),
            draw_seed=lambda: check_random_state(self.random_state).randint(2**31),
            checkpoint=checkpoint,
            on_iteration=_listeners(self.verbose, callback),
            keep=self._keep,
        )
        for message in unconverged(self):
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return self

    def _set_sample_shape(self, X: Container) -> None:
        self.sample_shape_ = tuple(X.shape[1:])
        self.sample_dims_ = tuple(map(str, X.dims[1:])) if isinstance(X, xr.DataArray) else None
        self.channel_names_ = names_of_channels(X)

    def _pretrained_layers(self, layers: Sequence[LayerSettings]) -> Learned | None:
        """Return the layers of a saved model, which must be of the shape that is asked for."""
        if self.pretrained is None:
            return None
        learned, _ = load_model(self.pretrained)
        sizes = (learned.layers[0].cost.n_features, *(e.cost.n_hidden for e in learned.layers))
        asked = (self.n_features_in_, *(layer.n_hidden for layer in layers))
        if sizes != asked:
            raise ArgumentError(
                "pretrained",
                self.pretrained,
                f"has layers of {sizes} units, from the data up, and {asked} are asked for",
                "pass a model of this shape, or hidden_layer_sizes like its own",
            )
        if masks(self.missing) and not learned.layers[0].cost.fill:
            raise ArgumentError(
                "pretrained",
                self.pretrained,
                'does not know what to fill for missing="mask"',
                'pass a model that was fitted with missing="mask"',
            )
        return learned

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
            **self._more_to_save(),
        }
        learned = Learned(self.layers_, self._head, self.tuning_status_, self.history_)
        save_model(path, learned, document, overwrite=overwrite)

    def to_onnx(
        self,
        path: str | Path | None = None,
        *,
        output: str | None = None,
        overwrite: bool = False,
    ) -> onnx.ModelProto:
        """Return the fitted model as an ONNX graph; it needs the package onnx (extra "onnx").

        Its input ``X`` are samples flattened to (n_samples, n_features), row-major, in the
        precision of the model; NaN is filled as by `transform`. See :doc:`/going-elsewhere`.

        Parameters
        ----------
        path : str, Path or None
            File to write as well.
        output : {"features", "reconstruction", "prediction"} or None
            What the graph computes: what `transform`, `reconstruct` or `predict` do (the
            probabilities of classes). None: predictions of what predicts, else features.
        overwrite : bool
            Whether to replace a file that exists.

        Returns
        -------
        onnx.ModelProto

        Raises
        ------
        MissingExtraError
            If onnx is not installed.
        StoreExistsError
            If the file exists and `overwrite` is not set.

        Examples
        --------
        >>> import numpy as np
        >>> from stackedae import StackedAutoEncoder
        >>> X = np.random.default_rng(0).random((50, 6))
        >>> sae = StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0).fit(X)
        >>> [node.op_type for node in sae.to_onnx().graph.node]  # doctest: +SKIP
        ['Gemm', 'Sigmoid']
        """
        return to_onnx(self, path, output=output, overwrite=overwrite)

    def to_torch(self, *, output: str | None = None) -> torch.nn.Sequential:
        """Return the fitted model as a PyTorch module; it needs PyTorch (extra "torch").

        It takes samples flattened to (n_samples, n_features), row-major, in the precision of the
        model; NaN is filled as by `transform`. See :doc:`/going-elsewhere`.

        Parameters
        ----------
        output : {"features", "reconstruction", "prediction"} or None
            As for `to_onnx`.

        Returns
        -------
        torch.nn.Sequential
            Weights are copies, which can be trained on.

        Raises
        ------
        MissingExtraError
            If PyTorch is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from stackedae import StackedAutoEncoder
        >>> X = np.random.default_rng(0).random((50, 6))
        >>> sae = StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0).fit(X)
        >>> sae.to_torch()  # doctest: +SKIP
        Sequential(
          (0): Linear(in_features=6, out_features=3, bias=True)
          (1): Sigmoid()
        )
        """
        return to_torch(self, output=output)

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
            Fitted, with ``checkpoint=None`` and ``pretrained=None``: where to write and to read is
            not for a file to say.

        Raises
        ------
        StoreError
            If it is missing, incomplete, not a model, or of a later version.
        """
        learned, document = load_model(path)
        with refusing_nonsense(shown(path), KIND):
            if document["class"] != cls.__name__:
                raise ValueError(f"it is of class {document['class']!r}")
            return cls._of_saved(learned, document)

    @classmethod
    def _of_saved(cls, learned: Learned, document: Mapping[str, Any]) -> Self:
        """Return the model that was saved so; raise a `ValueError` if it makes no sense."""
        n_features = learned.layers[0].cost.n_features
        params = {key: _from_plain(value) for key, value in document["params"].items()}
        model = cls(**{**params, "checkpoint": None, "pretrained": None})
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
        model.layers_, model.history_ = list(learned.layers), learned.history
        model._head, model.tuning_status_ = learned.head, learned.tuned
        model._take_more(document)
        return model

    def _more_to_save(self) -> dict[str, Any]:
        """Return what else a model is made of, as JSON values by name."""
        return {}

    def _take_more(self, document: Mapping[str, Any]) -> None:
        """Take back what `_more_to_save` returned; raise a `ValueError` if it makes no sense."""
        if self._head is not None:
            raise ValueError("it has a head, of which this class knows nothing")

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
        self._head, self.tuning_status_ = progress.head, progress.tuned
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
        noise = [_as_corruption(each) for each in self._per_layer("corruption", len(sizes))]
        settings = []
        for index, size in enumerate(sizes):
            values = {name: column[index] for name, column in columns.items()}
            for name in _WEIGHTS:
                values[name] = _as_float(name, values[name])
            layer = LayerSettings(
                n_hidden=int(size), corruption=noise[index], tied=bool(self.tied), **values
            )
            # Any output will do for a check; "auto" is decided by the data.
            chosen = layer.output_activation
            layer.cost(n_features=1, output_activation="identity" if chosen == "auto" else chosen)
            settings.append(layer)
        return settings

    def _stack_settings(self, layers: Sequence[LayerSettings]) -> StackSettings:
        start = self.layers_ if self.warm_start and hasattr(self, "layers_") else ()
        alphas = self._fine_tune_alphas(layers)
        return StackSettings(layers, bool(self.fine_tune), alphas, start)

    def _fine_tune_alphas(self, layers: Sequence[LayerSettings]) -> tuple[float, ...]:
        """Return the decay of every matrix of all layers together."""
        value: Any = layers[0].alpha if self.fine_tune_alpha is None else self.fine_tune_alpha
        n_matrices = self._n_matrices(len(layers))
        values = list(value) if np.iterable(value) else [value] * n_matrices
        if len(values) != n_matrices:
            raise ArgumentError(
                "fine_tune_alpha",
                value,
                f"has {len(values)} values for {n_matrices} matrices",
                "pass one for all, or one for each from the data on",
            )
        alphas = tuple(_as_float("fine_tune_alpha", each) for each in values)
        if not all(0 <= alpha < np.inf for alpha in alphas):
            raise ArgumentError("fine_tune_alpha", value, "is no finite weight", "pass 0 or more")
        return alphas

    def _n_matrices(self, n_layers: int) -> int:
        """Return how many matrices all layers together have: encoders, and decoders."""
        return 2 * n_layers

    def _per_layer(self, name: str, n_layers: int) -> Sequence[Any]:
        value: Any = getattr(self, name)
        one = isinstance(value, str) or not np.iterable(value)
        if one or (name == "corruption" and len(value) and isinstance(value[0], str)):
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
        for name in ("max_iter", "epochs", "batch_size", "local_steps", "n_iter_no_change"):
            value: Any = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ArgumentError(name, value, "is no number of them", "pass 1 or more")
        if not 0 <= self.tol < np.inf:
            raise ArgumentError("tol", self.tol, "is no tolerance", "pass 0 or more")
        if not 0 <= self.validation < 1:
            raise ArgumentError(
                "validation", self.validation, "is no share of samples", "pass 0.1, say, or 0"
            )
        if not 0 < self.learning_rate_init < np.inf:
            raise ArgumentError(
                "learning_rate_init", self.learning_rate_init, "is no rate", "pass 0.01, say"
            )
        return TrainingSettings(
            solver=self.solver,
            batching=self.batching,
            max_iter=int(self.max_iter),
            tol=float(self.tol),
            dtype=self.dtype,
            missing=missing,
            validation=float(self.validation),
            patience=int(self.n_iter_no_change),
            epochs=int(self.epochs),
            batch_size=int(self.batch_size),
            learning_rate=float(self.learning_rate_init),
            local_steps=int(self.local_steps),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "layers_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Features come in `dtype`, whatever that of X.
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags


def unconverged(model: BaseStack) -> Iterator[str]:
    """Say of all that stopped for another reason than `tol` which it was, and what to do."""
    statuses = [(f"Layer {i}", layer.status) for i, layer in enumerate(model.layers_)]
    if model._head is not None:
        statuses.append(("The head", model._head.status))
    if model.tuning_status_ is not None:
        statuses.append(("The training of all layers together", model.tuning_status_))
    for what, status in statuses:
        as_asked = model.tol == 0 and status in (Status.MAX_ITER, Status.LINE_SEARCH_FAILED)
        if not (status.is_good or as_asked):
            yield f"{what} ended as {status.name}: {status.advice}."


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


def _as_corruption(value: Any) -> Corruption | None:
    """Return what a user means by a share, or by a kind of noise and an amount."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str):
        return Corruption(value[0], _as_float("corruption", value[1]))
    amount = _as_float("corruption", value)
    return Corruption("masking", amount) if amount != 0 else None


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
