"""Several settings of an estimator, fitted in common reads of the data."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from stackedae.base import BaseStack, unconverged
from stackedae.containers import Container
from stackedae.errors import ArgumentError
from stackedae.progress import Record
from stackedae.sharing import go_on, share_reads
from stackedae.stores import StoreLike, local_path, shown

E = TypeVar("E", bound=BaseStack)

Setting = Mapping[str, Any]
"""Values of some parameters of an estimator, by name."""


def fit_many(
    estimator: E,
    settings: Iterable[Setting],
    X: Container,
    y: Any = None,
    sample_weight: Container | None = None,
    *,
    callback: Callable[[int, Record], None] | None = None,
) -> list[E]:
    r"""Fit an estimator with several settings of its parameters, in one read of X for all.

    Each fit gives what it would give alone, to the last bit. What they share is reading: samples
    that fit into memory are loaded once for all; of others, each pass over them serves all fits
    that are still running, which wait for each other before it. So X is read about as often as by
    the fit that needs the most passes.

    Parameters
    ----------
    estimator : StackedAutoEncoder, or one that predicts or detects
        What to fit; it is cloned for each setting, and stays as it is.
    settings : iterable of dict
        Parameters to set, by name, such as `sklearn.model_selection.ParameterGrid` yields.
    X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
        Samples, as for `fit`.
    y, sample_weight : container or None
        As for `fit`.
    callback : callable or None
        Called as ``callback(number, record)`` after every iteration of the fit with the setting of
        this number, with its record of `history_`; one call at a time.

    Returns
    -------
    list of estimators
        Fitted, one for each setting, in order.

    Raises
    ------
    ArgumentError
        If there are no settings, or two have the same checkpoint.
    KeyboardInterrupt
        After Ctrl-C. Fits that have a checkpoint have written it.
    Exception
        As `fit` raises them, with a note that names the setting; the other fits are ended, and
        write their checkpoints.

    Warns
    -----
    ConvergenceWarning
        As `fit` does, with the number of the setting.

    Notes
    -----
    Give the estimator a `random_state`: fits with the same one draw the same random samples, which
    are then held once; without one, every fit holds its own. Features of a layer are each fit's
    own, and held if they fit into its part of the memory. Settings with other `class_weight` read
    by themselves, and so does what comes after the layers where few samples have a label.

    `bytes_read` of a pass that several fits share stands in the history of the first of them, and
    is 0 in the others: summed over all models, it is what was read.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import ParameterGrid
    >>> from stackedae import StackedAutoEncoder, fit_many
    >>> X = np.random.default_rng(0).random((300, 8, 8))
    >>> sae = StackedAutoEncoder(4, max_iter=5, tol=0, random_state=0)
    >>> grid = ParameterGrid({"alpha": [1e-4, 1e-3], "sparsity_target": [0.05, 0.1]})
    >>> models = fit_many(sae, grid, X[:200])
    >>> scores = [model.score(X[200:]) for model in models]
    >>> models[np.argmax(scores)].alpha
    0.0001
    """
    every = [dict(setting) for setting in settings]
    models = _models(estimator, every)
    one_at_a_time = threading.Lock()
    known = {} if sample_weight is None else {"sample_weight": sample_weight}

    def tell(number: int, record: Record) -> None:
        go_on()
        if callback is not None:
            with one_at_a_time:
                callback(number, record)

    def fit(number: int) -> None:
        with _naming(number, every[number]):
            models[number].fit(X, y, **known, callback=partial(tell, number))

    with warnings.catch_warnings():
        # Threads would warn without saying which setting it is about.
        warnings.simplefilter("ignore", ConvergenceWarning)
        share_reads([partial(fit, number) for number in range(len(models))])
    for number, model in enumerate(models):
        for message in unconverged(model):
            warnings.warn(f"settings[{number}]: {message}", ConvergenceWarning, stacklevel=2)
    return models


def _models(estimator: E, settings: Sequence[Setting]) -> list[E]:
    if not isinstance(estimator, BaseStack):
        raise ArgumentError(
            "estimator",
            estimator,
            "is no estimator of stacked layers, and only these share reads",
            "pass one, and X as a transformer before it would return it",
        )
    if not settings:
        raise ArgumentError("settings", settings, "is empty", "pass one dict or more")
    stores = [setting.get("checkpoint", estimator.checkpoint) for setting in settings]
    _refuse_common_checkpoints(stores)
    models = []
    for number, (setting, store) in enumerate(zip(settings, stores, strict=True)):
        with _naming(number, setting):
            # The store itself: `clone` would copy it, with all that is in one in memory.
            model = clone(estimator).set_params(**{**setting, "checkpoint": store})
            models.append(model)
    return models


def _refuse_common_checkpoints(stores: Sequence[StoreLike | None]) -> None:
    seen: dict[Path | str, int] = {}
    for number, store in enumerate(stores):
        if store is None:
            continue
        path = local_path(store)
        place = shown(store) if path is None else path.resolve()
        if place in seen:
            raise ArgumentError(
                "checkpoint",
                store,
                f"is that of settings[{seen[place]}] and of settings[{number}]",
                "put a checkpoint of its own into each setting",
            )
        seen[place] = number


@contextmanager
def _naming(number: int, setting: Setting) -> Iterator[None]:
    """Say in a note on errors which setting they are of."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This was with settings[{number}], {setting}.")
        raise
