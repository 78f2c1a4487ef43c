import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from stackedae import (
    StackedAutoEncoder,
    StackedAutoEncoderClassifier,
    StackedAutoEncoderRegressor,
    __version__,
)
from stackedae.costs.activations import ACTIVATIONS
from stackedae.errors import ArgumentError, MissingExtraError, StoreExistsError
from stackedae.exporting import chain_of

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
PAGE = Path(__file__).parents[1] / "docs" / "going-elsewhere.md"


def samples(missing):
    X = np.random.default_rng(0).uniform(0.1, 0.9, (60, 4, 3))
    return np.where(X < 0.2, np.nan, X) if missing == "mask" else X


def fitted(activation="logistic", dtype="float32", missing="raise"):
    """Return two layers of which the second is logistic, so that there are always two kinds."""
    settings = {"activation": (activation, "logistic"), "dtype": dtype, "missing": missing}
    sae = StackedAutoEncoder(
        (5, 3), sparsity_weight=0, max_iter=3, tol=0, random_state=3, **settings
    )
    return sae.fit(samples(missing))


CASES = [
    *((activation, dtype, "raise") for activation in ACTIVATIONS for dtype in TOLERANCE),
    *(("tanh", dtype, "mask") for dtype in TOLERANCE),
]
every_case = pytest.mark.parametrize(("activation", "dtype", "missing"), CASES)


def with_a_head(kind):
    """Return a model that predicts, and what it predicts."""
    X, settings = samples("raise"), {"max_iter": 3, "tol": 0, "random_state": 3}
    y = X.reshape(len(X), -1)[:, :3]
    if kind == "softmax":
        model = StackedAutoEncoderClassifier((5, 3), **settings).fit(X, y.argmax(axis=1))
        return model, model.predict_proba(X)
    model = StackedAutoEncoderRegressor((5, 3), **settings).fit(X, y)
    return model, model.predict(X)


# --- the chain --------------------------------------------------------------------------------


def test_the_chain_goes_up_and_down_in_the_precision_of_the_model():
    model = fitted("tanh")
    up, down = chain_of(model, "features"), chain_of(model, "reconstruction")[2:]
    assert [step.activation for step in up] == ["tanh", "logistic"]
    assert [(step.W.shape, step.b.shape) for step in down] == [((5, 3), (5,)), ((12, 5), (12,))]
    assert [step.activation for step in down] == ["identity", "logistic"]
    prediction = chain_of(with_a_head("linear")[0], "prediction")[-1]
    assert prediction.activation == "identity"
    assert prediction.W.dtype == prediction.b.dtype == np.float32


def test_what_a_model_does_not_have_is_refused():
    with pytest.raises(ArgumentError, match="choose from features, reconstruction"):
        chain_of(fitted(), "prediction")
    with pytest.raises(NotFittedError):
        StackedAutoEncoder().to_onnx()
    with pytest.raises(NotFittedError):
        StackedAutoEncoder().to_torch()


@pytest.mark.parametrize("package", ["onnx", "torch"])
def test_without_the_package_the_extra_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'stackedae\[{package}\]'"):
        getattr(fitted(), f"to_{package}")()


# --- ONNX -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx", reason="needs the extra test-export")


@pytest.fixture(scope="module")
def run(onnx):
    """Run a graph on rows."""
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra test-export")

    def run(graph, X):
        graph = graph if isinstance(graph, str) else graph.SerializeToString()
        session = runtime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {"X": X})
        return result

    return run


@every_case
def test_a_graph_computes_what_the_model_does(run, activation, dtype, missing):
    model, X = fitted(activation, dtype, missing), samples(missing)
    rows = X.reshape(60, 12).astype(dtype)
    for output, expected in (
        ("features", model.transform(X)),
        ("reconstruction", model.reconstruct(X).reshape(60, 12)),
    ):
        result = run(model.to_onnx(output=output), rows)
        assert result.dtype == dtype
        assert result == pytest.approx(expected, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])


@pytest.mark.parametrize("output", ["softmax", "linear"])
def test_a_graph_goes_beyond_the_head(run, output):
    model, expected = with_a_head(output)
    rows = samples("raise").reshape(60, 12).astype("float32")
    result = run(model.to_onnx(), rows)
    assert result == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_graph_says_what_it_is_and_takes_any_number_of_rows(onnx, run):
    made = fitted().to_onnx()
    onnx.checker.check_model(made, full_check=True)
    assert (made.producer_name, made.producer_version) == ("stackedae", __version__)
    assert (made.ir_version, [each.version for each in made.opset_import]) == (8, [17])
    assert "samples of shape (4, 3), flattened row-major" in made.doc_string
    (X,), (features,) = made.graph.input, made.graph.output
    assert (X.name, features.name) == ("X", "features")
    for value, size in ((X, 12), (features, 3)):
        rows, columns = value.type.tensor_type.shape.dim
        assert (rows.dim_param, columns.dim_value) == ("n_samples", size)
    assert run(made, np.zeros((1, 12), "float32")).shape == (1, 3)


def test_a_graph_is_written_whole_and_not_over_another_unasked(onnx, run):
    model, X = fitted(), np.zeros((2, 12), "float32")
    made = model.to_onnx("there/model.onnx")
    assert (run("there/model.onnx", X) == run(made, X)).all()
    with pytest.raises(StoreExistsError, match=r"there/model.onnx exists already"):
        model.to_onnx("there/model.onnx")
    model.to_onnx("there/model.onnx", output="reconstruction", overwrite=True)
    assert run("there/model.onnx", X).shape == (2, 12)
    assert os.listdir("there") == ["model.onnx"]


# --- PyTorch ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs the extra test-export")


@pytest.mark.long  # it takes seconds to import PyTorch
@every_case
def test_a_module_computes_what_the_model_does(torch, activation, dtype, missing):
    model, X = fitted(activation, dtype, missing), samples(missing)
    rows = torch.tensor(X.reshape(60, 12).astype(dtype))
    tolerance = min(1e-6, TOLERANCE[dtype])
    for output, expected in (
        ("features", model.transform(X)),
        ("reconstruction", model.reconstruct(X).reshape(60, 12)),
    ):
        module = model.to_torch(output=output)
        assert isinstance(module, torch.nn.Sequential)
        result = module(rows).detach().numpy()
        assert result.dtype == dtype
        assert result == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.long
@pytest.mark.parametrize("output", ["softmax", "linear"])
def test_a_module_goes_beyond_the_head(torch, output):
    model, expected = with_a_head(output)
    rows = torch.tensor(samples("raise").reshape(60, 12).astype("float32"))
    result = model.to_torch()(rows).detach().numpy()
    assert result == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.long
def test_a_module_is_a_copy_that_can_be_trained_and_draws_nothing(torch):
    model = fitted()
    before, state = model.layers_[0].params.copy(), torch.get_rng_state()
    module = model.to_torch()
    assert (torch.get_rng_state() == state).all()
    module(torch.ones(2, 12)).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            assert (parameter.grad != 0).any()
            parameter += 1
    assert (model.layers_[0].params == before).all()


@pytest.mark.long
def test_a_saved_module_needs_nothing_of_this_library(torch):
    model, X = fitted(missing="mask"), samples("mask")
    torch.save(model.to_torch(), "module.pt")
    np.save("X.npy", X.reshape(60, 12).astype("float32"))
    elsewhere(
        "import numpy as np, torch\n"
        "module = torch.load('module.pt', weights_only=False)\n"
        "np.save('features.npy', module(torch.tensor(np.load('X.npy'))).detach().numpy())"
    )
    assert np.load("features.npy") == pytest.approx(model.transform(X), abs=1e-6)


# --- NumPy ------------------------------------------------------------------------------------


def elsewhere(code):
    """Run code where this library cannot be imported."""
    blocked = f"import sys\nsys.modules['stackedae'] = None\n{code}"
    subprocess.run([sys.executable, "-W", "error", "-c", blocked], check=True)


def test_ten_lines_read_a_model():
    (block,) = re.findall(r"```python\n(import numpy.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line]) == 10
    expected = {}
    for number, case in enumerate(CASES):
        model, X = fitted(*case), samples(case[-1])
        os.mkdir(str(number))
        model.save(f"{number}/model.zarr")
        np.save(f"{number}/X.npy", X)
        expected[number] = model.transform(X)
    elsewhere(
        "import os, numpy\n"
        f"for number in range({len(CASES)}):\n"
        "    os.chdir(str(number))\n"
        "    names = {'X': numpy.load('X.npy')}\n"
        f"    exec({block!r}, names)\n"
        "    numpy.save('features.npy', names['a'])\n"
        "    os.chdir('..')\n"
    )
    for number, (_, dtype, _) in enumerate(CASES):
        features = np.load(f"{number}/features.npy")
        tolerance = TOLERANCE[dtype]
        assert features == pytest.approx(expected[number], rel=tolerance, abs=tolerance)
