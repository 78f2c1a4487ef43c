"""Saved models, of whichever class they are."""

from __future__ import annotations

from stackedae.documents import refusing_nonsense
from stackedae.estimators import StackedAutoEncoder
from stackedae.outliers import StackedAutoEncoderOutlierDetector
from stackedae.persistence import KIND, load_model
from stackedae.stores import StoreLike, shown
from stackedae.supervised import StackedAutoEncoderClassifier, StackedAutoEncoderRegressor

AnyModel = StackedAutoEncoder | StackedAutoEncoderClassifier | StackedAutoEncoderRegressor

_CLASSES: dict[str, type[AnyModel]] = {
    each.__name__: each
    for each in (
        StackedAutoEncoder,
        StackedAutoEncoderOutlierDetector,
        StackedAutoEncoderClassifier,
        StackedAutoEncoderRegressor,
    )
}


def load_any(path: StoreLike) -> AnyModel:
    """Read a model that `save` wrote, of the class that it says it is.

    Parameters
    ----------
    path : path, URL or Zarr store
        What was written.

    Returns
    -------
    StackedAutoEncoder, or another estimator of this library
        Fitted.

    Raises
    ------
    StoreError
        As `StackedAutoEncoder.load`.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from stackedae import StackedAutoEncoderClassifier
    >>> from stackedae.models import load_any
    >>> X = np.random.default_rng(0).random((50, 6))
    >>> model = StackedAutoEncoderClassifier(3, max_iter=2, tol=0).fit(X, X[:, 0] > 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model.zarr")
    ...     type(load_any(f"{folder}/model.zarr")).__name__
    'StackedAutoEncoderClassifier'
    """
    learned, document = load_model(path)
    with refusing_nonsense(shown(path), KIND):
        if document["class"] not in _CLASSES:
            raise ValueError(f"it is of class {document['class']!r}, which is unknown")
        return _CLASSES[document["class"]]._of_saved(learned, document)
