import numpy as np
import pytest

from stackedae import (
    StackedAutoEncoder,
    StackedAutoEncoderClassifier,
    StackedAutoEncoderOutlierDetector,
    StackedAutoEncoderRegressor,
)
from stackedae.errors import StoreError
from stackedae.models import load_any
from stackedae.persistence import load_model, save_model

CLASSES = [
    StackedAutoEncoder,
    StackedAutoEncoderOutlierDetector,
    StackedAutoEncoderClassifier,
    StackedAutoEncoderRegressor,
]


@pytest.mark.parametrize("of_class", CLASSES)
def test_a_model_comes_back_as_what_it_was(of_class):
    X = np.random.default_rng(0).random((40, 5))
    model = of_class((4, 3), max_iter=2, tol=0, random_state=0).fit(X, np.arange(40) % 2)
    model.save("model.zarr")
    again = load_any("model.zarr")
    assert type(again) is of_class
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


def test_a_class_that_is_unknown_is_refused():
    X = np.random.default_rng(0).random((20, 5))
    StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0).fit(X).save("model.zarr")
    learned, document = load_model("model.zarr")
    for name in ("Pipeline", ["StackedAutoEncoder"]):
        save_model("other.zarr", learned, {**document, "class": name}, overwrite=True)
        with pytest.raises(StoreError, match=r"other\.zarr: the model is not as it was written"):
            load_any("other.zarr")
