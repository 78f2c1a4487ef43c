import json
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from stackedae import StackedAutoEncoder, extract_patches
from stackedae.costs import AutoEncoderCost
from stackedae.errors import DamagedChunkError, StoreError, StoreExistsError
from stackedae.layers import Layer, Stack
from stackedae.noise import Corruption
from stackedae.persistence import Learned, load_model, save_model
from stackedae.solvers import Status


@pytest.fixture(scope="module")
def model():
    X = np.random.default_rng(0).random((60, 4, 3))
    settings = {"alpha": (1e-3, 1e-4), "max_iter": np.int64(4), "tol": 0, "random_state": 3}
    return StackedAutoEncoder((5, 2), **settings).fit(X)


def test_a_model_comes_back_as_it_was(model):
    model.save("model.zarr")
    again = StackedAutoEncoder.load("model.zarr")
    X = np.random.default_rng(1).random((10, 4, 3))
    assert (again.transform(X) == model.transform(X)).all()
    assert again.reconstruct(X).shape == (10, 4, 3)
    assert again.get_params() == model.get_params()
    assert again.history_ == model.history_
    assert again.n_features_in_ == 12
    assert again.sample_shape_ == (4, 3)
    for one, other in zip(model.layers_, again.layers_, strict=True):
        assert one.cost == other.cost
        assert one.status is other.status
        assert one.params.dtype == other.params.dtype
        assert (one.params == other.params).all()
        assert (one.mean_activations == other.mean_activations).all()


def test_what_stands_in_for_missing_pixels_is_kept():
    X = np.random.default_rng(0).random((60, 4, 3))
    X[X < 0.2] = np.nan
    sae = StackedAutoEncoder((5, 2), missing="mask", max_iter=4, tol=0, random_state=3).fit(X)
    sae.save("model.zarr")
    again = StackedAutoEncoder.load("model.zarr")
    assert again.missing == "mask"
    assert again.fill_values_.tobytes() == sae.fill_values_.tobytes()
    assert again.layers_[0].cost == sae.layers_[0].cost
    assert hash(again.layers_[0].cost) == hash(sae.layers_[0].cost)
    for method in ("transform", "reconstruct", "score_samples"):
        assert getattr(again, method)(X).tobytes() == getattr(sae, method)(X).tobytes()


@pytest.mark.parametrize(
    "noise", [None, Corruption("masking", 0.3, seed=7, phase=2), Corruption("gaussian", 0.1)]
)
def test_what_else_a_cost_is_made_of_is_kept(model, noise):
    below, above = model.layers_
    cost = replace(below.cost, tied=True, corruption=noise)
    params = np.random.default_rng(0).normal(size=cost.layout.size).astype(np.float32)
    layers = [replace(below, cost=cost, params=params), above]
    document = {"class": "StackedAutoEncoder"}
    learned = Learned(layers, None, None, model.history_)
    save_model("model.zarr", learned, document, overwrite=False)
    assert "W2" not in zarr.open_group("model.zarr", mode="r")["layers/0"]
    again = load_model("model.zarr")[0].layers[0]
    assert again.cost == cost
    assert again.params.tobytes() == params.tobytes()
    assert (again.W2 == again.W1.T).all()
    X = np.random.default_rng(1).random((10, 12), dtype=np.float32)
    for method in ("encode", "reconstruct", "errors"):
        one, other = (getattr(Stack([layer]), method)(X) for layer in (again, layers[0]))
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tied": 1}, "1 should be bool"),
        ({"tied": True}, "there should be no array 'layers/0/W2'"),
        ({"corruption": "noise"}, "the model is not as it was written"),
        ({"corruption": {"kind": "masking", "amount": 2.0}}, "is no amount of masking noise"),
        ({"corruption": {"kind": "masking", "amount": 0.5, "seed": "7"}}, "'7' should be int"),
        ({"corruption": {"kind": "masking", "amount": 0.5, "x": 1}}, "KeyError.*x"),
    ],
)
def test_costs_that_were_tampered_with_are_refused(model, changed, message):
    model.save("model.zarr")
    values = zarr.open_group("model.zarr").attrs["model"]
    values["layers"][0]["cost"].update(changed)
    edit("model.zarr", model=values)
    with pytest.raises(StoreError, match=message):
        StackedAutoEncoder.load("model.zarr")


def test_a_model_from_before_there_was_noise_is_read(model):
    model.save("model.zarr")
    values = zarr.open_group("model.zarr").attrs["model"]
    for layer in values["layers"]:
        del layer["cost"]["tied"], layer["cost"]["corruption"]
    edit("model.zarr", model=values)
    again = StackedAutoEncoder.load("model.zarr")
    assert [layer.cost for layer in again.layers_] == [layer.cost for layer in model.layers_]


def test_features_are_never_missing():
    X = np.where(np.arange(720).reshape(60, 12) % 7, 0.5, np.nan)
    sae = StackedAutoEncoder((5, 2), missing="mask", max_iter=4, tol=0, random_state=3).fit(X)
    second = sae.layers_[1]
    sae.layers_[1] = replace(second, cost=replace(second.cost, fill=(0.0,) * 5))
    sae.save("model.zarr")
    with pytest.raises(StoreError, match="features are never missing, but a layer fills them"):
        StackedAutoEncoder.load("model.zarr")


def test_as_many_features_as_you_like_may_be_missing(model):
    n, rng = 150_000, np.random.default_rng(0)
    cost = AutoEncoderCost(n, 1, fill=tuple(rng.random(n).tolist()))
    params = cost.initial_params(rng).astype(np.float32)
    layer = Layer(cost, params, np.full(1, 0.5), Status.MAX_ITER)
    history = [record for record in model.history_ if record["layer"] == 0]
    learned = Learned([layer], None, None, history)
    save_model("model.zarr", learned, {"class": "StackedAutoEncoder"}, overwrite=False)
    assert load_model("model.zarr")[0].layers[0].cost == cost


def test_a_model_from_before_pixels_could_be_missing_is_read(model):
    model.save("model.zarr")
    values = zarr.open_group("model.zarr").attrs["model"]
    del values["params"]["missing"]
    edit("model.zarr", model=values)
    again = StackedAutoEncoder.load("model.zarr")
    assert again.get_params() == model.get_params()
    assert [layer.cost for layer in again.layers_] == [layer.cost for layer in model.layers_]
    assert again.fill_values_ is None


@pytest.mark.parametrize("scalar", [np.float32, np.float64, int])
def test_numbers_of_any_kind_can_be_saved(scalar):
    settings = {"alpha": scalar(1), "sparsity_weight": scalar(2), "tol": scalar(0)}
    sae = StackedAutoEncoder(np.int32(2), max_iter=1, **settings).fit(np.ones((3, 2)))
    sae.save("model.zarr")
    again = StackedAutoEncoder.load("model.zarr")
    assert again.layers_[0].cost == sae.layers_[0].cost
    assert again.alpha == 1


def test_a_store_object_will_do(model):
    store = zarr.storage.MemoryStore()
    model.save(store)
    assert (StackedAutoEncoder.load(store).components_ == model.components_).all()


def test_names_of_columns_are_kept(model):
    import pandas as pd

    frame = pd.DataFrame(np.random.default_rng(0).random((20, 2)), columns=["a", "b"])
    sae = StackedAutoEncoder(2, max_iter=1, tol=0, random_state=np.random.RandomState(0)).fit(frame)
    sae.save("model.zarr")
    again = StackedAutoEncoder.load("model.zarr")
    assert list(again.feature_names_in_) == ["a", "b"]
    assert again.random_state is None  # the state of a generator is not kept


def test_the_file_is_plain_zarr(model):
    model.save("model.zarr")
    root = zarr.open_group("model.zarr", mode="r")
    assert (root["layers/0/W1"][:] == model.components_).all()
    assert root.attrs["model"]["layers"][1]["cost"]["n_hidden"] == 2
    costs = root["history"][:, root.attrs["model"]["history"].index("cost")]
    assert costs.tolist() == [record["cost"] for record in model.history_]
    assert root.attrs["model"]["class"] == "StackedAutoEncoder"
    layer = xr.open_zarr("model.zarr", group="layers/0", consolidated=False)
    assert layer.W2.dims == ("feature", "hidden")


def test_an_existing_model_is_not_overwritten_unless_asked_to(model):
    model.save("model.zarr")
    with pytest.raises(StoreExistsError, match="pass overwrite=True"):
        model.save("model.zarr")
    model.save("model.zarr", overwrite=True)
    assert os.listdir() == ["model.zarr"]


def edit(path, **attributes):
    """Change attributes of a model, and its checksum with them."""
    group = zarr.open_group(path, mode="r+")
    group.attrs.update(attributes)
    if "model" in attributes:
        text = json.dumps(attributes["model"], sort_keys=True)
        group.attrs["stackedae"] = {**group.attrs["stackedae"], "crc32": zlib.crc32(text.encode())}


def test_a_later_format_is_refused(model):
    model.save("model.zarr")
    edit("model.zarr", stackedae={"kind": "model", "format": 2, "complete": True})
    with pytest.raises(StoreError, match=r"has format 2.*install a later version"):
        StackedAutoEncoder.load("model.zarr")


def test_a_store_of_another_kind_is_refused():
    extract_patches(np.zeros((9, 9)), (2, 2), 3, store="patches.zarr")
    with pytest.raises(StoreError, match="this is a patches store, not a model store"):
        StackedAutoEncoder.load("patches.zarr")


def test_a_model_that_was_tampered_with_is_refused(model):
    model.save("model.zarr")
    values = zarr.open_group("model.zarr").attrs["model"]
    cost = values["layers"][0]["cost"]
    for changed, message in (
        ({**cost, "n_hidden": 6}, r"'layers/0/W1' has shape \(5, 12\), not \(6, 12\)"),
        ({**cost, "shell": "rm -rf"}, "the model is not as it was written"),
    ):
        layers = [{"cost": changed, "status": "CONVERGED"}, values["layers"][1]]
        edit("model.zarr", model={**values, "layers": layers})
        with pytest.raises(StoreError, match=message):
            StackedAutoEncoder.load("model.zarr")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renames cannot be exchanged")
def test_there_is_always_a_model_while_it_is_overwritten(model):
    model.save("model.zarr")
    watched = "import os\nwhile os.path.exists('model.zarr'): pass"
    watcher = subprocess.Popen([sys.executable, "-c", watched])
    for _ in range(10):
        model.save("model.zarr", overwrite=True)
    assert watcher.poll() is None, "there was none"
    watcher.kill()
    watcher.wait()
    assert os.listdir() == ["model.zarr"]


def test_a_damaged_model_is_refused(model):
    model.save("model.zarr")
    chunk = Path("model.zarr/layers/1/b2/c/0")
    data = bytearray(chunk.read_bytes())
    data[3] ^= 4
    chunk.write_bytes(data)
    with pytest.raises(DamagedChunkError, match="'layers/1/b2' is not what was written there"):
        StackedAutoEncoder.load("model.zarr")
    chunk.unlink()
    with pytest.raises(DamagedChunkError, match="chunk layers/1/b2/c/0 is missing"):
        StackedAutoEncoder.load("model.zarr")
