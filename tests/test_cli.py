import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from distributed import Security
from skimage.io import imread, imsave

from stackedae import (
    StackedAutoEncoder,
    StackedAutoEncoderClassifier,
    StackedAutoEncoderOutlierDetector,
    error_map,
    extract_patches,
    feature_map,
    open_image,
    open_patches,
    reconstruct_image,
)
from stackedae.cli import main

COMMAND = os.path.join(os.path.dirname(sys.executable), "stackedae")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def photographs():
    rng = np.random.default_rng(0)
    for i in range(3):
        imsave(f"photo{i}.png", rng.integers(0, 255, (40, 50), dtype=np.uint8))


def test_from_photographs_to_features(photographs):
    result = run("extract", "*.png", "--patch", "6x5", "--n-patches", 500, "--out", "patches.zarr")
    assert result.exit_code == 0, result.output
    assert "(patch: 500, y: 6, x: 5) float32" in result.output

    options = ["--hidden", 7, "--hidden", 3, "--max-iter", 4, "--tol", 0]
    result = run("fit", "patches.zarr", *options, "--out", "model.zarr")
    assert result.exit_code == 0, result.output
    assert "30-7-3" in result.output

    result = run("transform", "model.zarr", "patches.zarr", "--out", "features.zarr")
    assert result.exit_code == 0, result.output
    features = xr.open_zarr("features.zarr", consolidated=False)["features"]
    patches = open_patches("patches.zarr")
    expected = StackedAutoEncoder.load("model.zarr").transform(patches)
    assert (features.values == expected.values).all()
    assert (features.y0.values == patches.y0.values).all()

    result = run("filters", "model.zarr", "--out", "pictures/filters.txt")
    assert result.exit_code == 2
    assert "out='pictures/filters.txt' does not end in .png" in result.output
    result = run("filters", "model.zarr", "--out", "pictures/filters.png")
    assert result.exit_code == 0, result.output
    assert imread("pictures/filters.png").ndim == 2

    for path, words in (
        (
            "model.zarr",
            ["StackedAutoEncoder 30-7-3", "layer 1", "4 iterations", "MAX_ITER", "max_iter=4"],
        ),
        ("patches.zarr", ["patches", "(patch: 500, y: 6, x: 5)", "n_images  3", "seed  0"]),
        ("features.zarr", ["(patch: 500, feature: 3)", "model  model.zarr"]),
    ):
        result = run("info", path)
        assert result.exit_code == 0, result.output
        assert all(word in result.output for word in words), result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "no/*.png", "--out", "a.zarr"], "images='no/*.png' matches no file"),
        (["extract", "photo0.png", "--patch", "8by8", "--out", "a.zarr"], "'8by8' is not like 8x8"),
        (["extract", "photo0.png", "--patch", "99x99", "--out", "a.zarr"], "patch_shape=(99, 99)"),
        (["extract", "photo0.png", "--dtype", "float33", "--out", "a.zarr"], "dtype='float33'"),
        (["extract", "photo0.png", "--out", "photo1.png"], "photo1.png exists already"),
        (["fit", "nothing.zarr", "--out", "m.zarr"], "nothing.zarr: there is no patches store"),
        (["fit", "photo0.png", "--out", "m.zarr"], "photo0.png: not a patches store"),
        (["fit", "nothing.zarr", "--out", "photo0.png"], "photo0.png exists already"),
        (["filters", "nothing.zarr"], "nothing.zarr: there is no model store"),
        (["info", "nothing.zarr"], "nothing.zarr: no Zarr group to be read"),
        (["fit"], "Missing argument 'PATCHES'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(photographs, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    (line,) = (line for line in result.output.splitlines() if line.startswith("Error: "))
    assert message in line
    assert "Traceback" not in result.output


def test_bad_parameters_of_a_fit(photographs):
    run("extract", "*.png", "--n-patches", 50, "--out", "patches.zarr")
    result = run("fit", "patches.zarr", "--alpha", "-1", "--out", "m.zarr")
    assert result.exit_code == 2
    assert "alpha=-1.0 is not a finite weight; pass 0 or more." in result.output
    assert not os.path.exists("m.zarr")


def test_noise_tied_weights_and_the_training_of_all_together(photographs):
    run("extract", "*.png", "--patch", "6x5", "--n-patches", 500, "--out", "patches.zarr")
    fit = ["fit", "patches.zarr", "--hidden", 7, "--hidden", 3, "--max-iter", 4, "--tol", 0]
    how = ["--tied", "--fine-tune", "--validation", 0.2]
    for noise, expected in ((0.3, 0.3), ("gaussian:0.1", ("gaussian", 0.1))):
        result = run(*fit, *how, "--corruption", noise, "--out", "m.zarr", "--overwrite")
        assert result.exit_code == 0, result.output
        sae = StackedAutoEncoder.load("m.zarr")
        assert sae.get_params()["corruption"] == expected
    assert (sae.layers_[1].W2 == sae.layers_[1].W1.T).all()
    last = sae.history_[-1]
    said = run("info", "m.zarr").output
    assert f"all layers  {sae.tuning_status_.name} after {last['iteration']} iterations" in said
    assert f"+ sparsity 0; held out {last['validation']:.4g}" in said
    for noise, message in (
        ("much", "'much' is not like 0.3 or gaussian:0.1"),
        ("salt:1", "corruption='salt' is unknown; choose from masking, gaussian"),
        (1, "corruption=1.0 is no amount of masking noise"),
    ):
        result = run(*fit, "--corruption", noise, "--out", "other.zarr")
        assert (result.exit_code, message in result.output) == (2, True), result.output


@pytest.fixture
def classifier(photographs):
    patches = extract_patches("*.png", (4, 4), 300, store="p.zarr", rng=0)
    model = StackedAutoEncoderClassifier(3, max_iter=3, tol=0, random_state=0)
    model.fit(patches, np.arange(300) % 3).save("model.zarr")
    return model


def test_models_that_predict(classifier):
    said = run("info", "model.zarr").output
    head, last = (
        [record for record in classifier.history_ if record["layer"] == layer][-1]
        for layer in (1, 2)
    )
    for words in (
        "StackedAutoEncoderClassifier 16-3-3",
        "head  softmax, 3 outputs; MAX_ITER after 3 iterations, 300 samples",
        f"cost {head['cost']:.4g} = cross entropy {head['cross_entropy']:.4g} + decay",
        f"cost {last['cost']:.4g} = cross entropy",
        "class_weight=None",
    ):
        assert words in said
    assert run("transform", "model.zarr", "p.zarr", "--out", "f.zarr").exit_code == 0
    features = xr.open_zarr("f.zarr", consolidated=False)["features"]
    expected = classifier.transform(open_patches("p.zarr"))
    np.testing.assert_array_equal(features.values, expected.values)
    assert run("filters", "model.zarr").exit_code == 0
    assert run("report", "model.zarr").exit_code == 0
    image = "photo0.png"
    assert run("transform", "model.zarr", image, "--map", "--out", "maps.zarr").exit_code == 0
    expected = feature_map(classifier, image).compute()
    xr.testing.assert_equal(open_image("maps.zarr").compute(), expected)
    result = run("transform", "model.zarr", image, "--error-map", "--out", "errors.zarr")
    assert result.exit_code == 2
    assert "does not reconstruct samples" in result.output


def test_a_detector_says_what_an_outlier_is(photographs):
    patches = extract_patches("*.png", (4, 4), 300, rng=0)
    detector = StackedAutoEncoderOutlierDetector(3, max_iter=3, tol=0, random_state=0)
    detector.fit(patches).save("model.zarr")
    said = run("info", "model.zarr").output
    assert "StackedAutoEncoderOutlierDetector 16-3" in said
    assert f"outliers  error above {-detector.offset_:.4g}" in said
    result = run("transform", "model.zarr", "photo0.png", "--error-map", "--out", "errors.zarr")
    assert result.exit_code == 0, result.output


def test_missing_pixels():
    pixels = np.random.default_rng(0).random((60, 50))
    pixels[::7, ::5] = np.nan
    extract_patches(pixels, (6, 5), 200, store="patches.zarr", rng=0)
    fit = ["fit", "patches.zarr", "--hidden", 7, "--max-iter", 4, "--tol", 0, "--out", "m.zarr"]
    result = run(*fit)
    assert result.exit_code == 2
    assert "X contains NaN or infinity, first in row 0" in result.output
    assert run(*fit, "--missing", "mask").exit_code == 0
    assert StackedAutoEncoder.load("m.zarr").fill_values_.shape == (30,)
    result = run("transform", "m.zarr", "patches.zarr", "--out", "features.zarr")
    assert result.exit_code == 0, result.output


def test_what_did_not_converge_is_said(photographs):
    run("extract", "*.png", "--n-patches", 50, "--out", "patches.zarr")
    result = run("fit", "patches.zarr", "--max-iter", 2, "--out", "m.zarr")
    assert result.exit_code == 0
    assert "Warning: Layer 0 ended as MAX_ITER" in result.output


@pytest.mark.parametrize("command", ["", *sorted(main.commands)])
def test_help(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert max(map(len, result.output.splitlines())) <= 80


def test_a_fault_of_ours_is_not_passed_off_as_bad_input(monkeypatch):
    def fault(path):
        raise ValueError("a bug")

    monkeypatch.setattr("stackedae.cli.kind_of", fault)
    result = run("info", "model.zarr")
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError)


@pytest.mark.long
def test_demo():
    result = run("demo", "--out", "there/demo")
    assert result.exit_code == 0, result.output
    assert set(os.listdir("there/demo")) == {"patches.zarr", "model.zarr", "filters.png"}
    sae = StackedAutoEncoder.load("there/demo/model.zarr")
    assert sae.components_.shape == (25, 64)
    assert run("demo", "--out", "there/demo").exit_code == 0  # twice is fine


@pytest.fixture
def model(photographs):
    assert (
        run("extract", "*.png", "--patch", "4x4", "--n-patches", 300, "--out", "p.zarr").exit_code
        == 0
    )
    result = run("fit", "p.zarr", "--hidden", 3, "--max-iter", 3, "--tol", 0, "--out", "model.zarr")
    assert result.exit_code == 0, result.output
    return StackedAutoEncoder.load("model.zarr")


def test_maps_of_an_image(model):
    bands = xr.DataArray(
        np.random.default_rng(0).random((2, 23, 31)).astype("float32"),
        dims=("date", "lat", "lon"),
        coords={"date": np.array(["2026-01-01", "2026-01-09"], "M8[ns]"), "lat": np.arange(23) / 4},
        name="ndvi",
    )
    bands.to_zarr("ndvi.zarr", consolidated=False)
    where = ("--dims", "lat,lon")
    result = run("transform", "model.zarr", "ndvi.zarr", "--map", *where, "--out", "maps/all.zarr")
    assert result.exit_code == 0, result.output
    assert "(date: 2, lat: 23, lon: 31, feature: 3) float32" in result.output
    found = xr.open_zarr("maps/all.zarr", consolidated=False)["features"]
    expected = feature_map(model, bands, dims=("lat", "lon"))
    xr.testing.assert_equal(found.compute(), expected.compute())
    assert found.attrs["image"] == "ndvi.zarr"
    assert (open_image("maps/all.zarr").lat == bands.lat).all()
    for options, function in ((["--error-map"], error_map), (["--reconstruct"], reconstruct_image)):
        how = ["--mode", "valid", "--stride", 2, "--out", "other.zarr", "--overwrite"]
        result = run("transform", "model.zarr", "photo0.png", *options, *how)
        assert result.exit_code == 0, result.output
        expected = function(model, "photo0.png", mode="valid", stride=2).compute()
        xr.testing.assert_equal(open_image("other.zarr").compute(), expected)
    result = run("info", "maps/all.zarr")
    assert "map  (date: 2, lat: 23, lon: 31, feature: 3) float32" in result.output
    assert "chunks  1 × 23 × 31 × 3" in result.output
    result = run("transform", "model.zarr", "photo0.png", "--map", "--out", "other.zarr")
    assert (result.exit_code, "exists already" in result.output) == (2, True)


def test_patches_by_mask_and_weight(photographs):
    image, mask = imread("photo0.png"), np.zeros((40, 50), np.uint8)
    mask[:10, :12] = 255
    imsave("mask.png", mask, check_contrast=False)
    for options in (["--mask", "mask.png"], ["--weights", "mask.png", "--max-per-image", 9999]):
        result = run(
            "extract", "photo0.png", "--patch", "1x1", *options, "--out", "p.zarr", "--overwrite"
        )
        assert result.exit_code == 0, result.output
        assert sorted(open_patches("p.zarr").values.ravel()) == sorted(image[:10, :12].ravel())
    options = ["--weights", "variance", "--nodata", 7, "--min-valid", 0.5, "--n-patches", 20]
    result = run("extract", "photo0.png", *options, "--out", "p.zarr", "--overwrite")
    assert result.exit_code == 0, result.output
    attrs = open_patches("p.zarr").attrs
    assert (attrs["weights"], attrs["nodata"], attrs["min_valid"]) == ("variance", 7.0, 0.5)
    result = run("extract", "photo0.png", "--channel-dim", 7, "--out", "q.zarr")
    assert "channel_dim=7 names no axis" in result.output


def test_the_command_is_installed():
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("stackedae, version 0.1.0")


FIT = ["fit", "patches.zarr", "--hidden", 4, "--max-iter", 6, "--tol", 0, "--out", "model.zarr"]


@pytest.fixture
def patches():
    images = np.random.default_rng(0).random((3, 40, 40))
    extract_patches(images, (6, 6), 3_000, store="patches.zarr", rng=0)


@pytest.mark.usefixtures("patches")
def test_a_fit_goes_on_where_it_stood():
    options = ["--checkpoint", "run.zarr", "--checkpoint-every", 2]
    assert run(*FIT, *options, "--resume").exit_code == 0  # there is none yet
    first = StackedAutoEncoder.load("model.zarr")
    result = run("info", "run.zarr")
    assert "checkpoint  1 layers trained, of 1" in result.output
    assert "iteration 6" in result.output
    result = run(*FIT, *options, "--overwrite")
    assert result.exit_code == 2
    assert "run.zarr exists already; pass --resume to go on from it" in result.output
    assert run(*FIT, *options, "--resume").exit_code == 0
    again = StackedAutoEncoder.load("model.zarr")
    assert (again.components_ == first.components_).all()
    for words, message in (
        (["--resume"], "--resume needs --checkpoint"),
        (["--security"], "--security needs --workers"),
        (["--jobs", 2], "--jobs needs --cluster slurm|"),
        (["--cluster", "slurm"], "--cluster slurm needs --jobs"),
        (["--workers", 2, "--scheduler", "tcp://127.0.0.1:1"], "--workers excludes --scheduler"),
    ):
        result = run(*FIT, "--overwrite", *words)
        assert result.exit_code == 2
        assert message in result.output


@pytest.mark.usefixtures("patches")
def test_ctrl_c_leaves_a_model_and_a_checkpoint():
    code = "import sys; from stackedae.cli import main; main(sys.argv[1:])"
    options = [*map(str, FIT), "--max-iter", "100000", "--checkpoint", "run.zarr"]
    words = [sys.executable, "-c", code, *options]
    fit = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True, text=True)
    while not os.path.exists("run.zarr/00000001"):
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(fit.pid, signal.SIGINT)
    said = fit.communicate(timeout=30)[1]
    assert fit.returncode == 130, said
    assert "Traceback" not in said
    assert "Interrupted. model.zarr has what was learned in" in said
    assert "The same command with --resume goes on." in said
    assert StackedAutoEncoder.load("model.zarr").layers_[0].status.name == "INTERRUPTED"


@pytest.mark.long
@pytest.mark.usefixtures("patches")
def test_a_scheduler_that_expects_certificates():
    """They are named by Dask's settings; whoever has none is refused."""
    security = Security.temporary()
    tls = {role: security.get_tls_config_for_role(role) for role in ("client", "scheduler")}
    for role, certificate in tls.items():
        Path(f"{role}.pem").write_text(certificate["cert"])
        Path(f"{role}-key.pem").write_text(certificate["key"])
    Path("ca.pem").write_text(tls["client"]["ca_file"])
    roles = {"client": "client", "worker": "scheduler", "scheduler": "scheduler"}
    named = {to: {"cert": f"{of}.pem", "key": f"{of}-key.pem"} for to, of in roles.items()}
    comm = {"require-encryption": True, "tls": {"ca-file": "ca.pem", **named}}
    Path("dask.json").write_text(json.dumps({"distributed": {"comm": comm}}))
    environment = {**os.environ, "DASK_CONFIG": "dask.json"}
    here = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
    shared = ("--scheduler-file", "scheduler.json", "--protocol", "tls")
    commands = (("scheduler", "--port", "0", *here), ("worker", "--nthreads", "1", *here))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{name}", *words, *shared],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        for name, *words in commands
    ]
    try:
        while not os.path.exists("scheduler.json"):
            time.sleep(0.05)
        address = json.loads(Path("scheduler.json").read_text())["address"]
        assert address.startswith("tls://127.0.0.1:")
        command = [COMMAND, *map(str, FIT), "--scheduler", "scheduler.json"]
        fit = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert fit.returncode == 0, fit.stderr
        assert StackedAutoEncoder.load("model.zarr").info["scheduler"]["address"] == address
        environment["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "2s"
        for config, scheduler in (
            ("", address),
            ("", address.replace("tls", "tcp")),
            ("dask.json", address.replace("tls", "tcp")),
        ):
            environment["DASK_CONFIG"] = config
            command = [COMMAND, *map(str, FIT), "--overwrite", "--scheduler", scheduler]
            fit = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert (fit.returncode, fit.stdout) == (2, "")
            assert f"{scheduler}: no scheduler can be reached there" in fit.stderr
            assert "Traceback" not in fit.stderr
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


@pytest.mark.usefixtures("patches")
def test_a_scheduler_that_is_not_there_is_named():
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = run(*FIT, "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 2
    assert "tcp://127.0.0.1:1: no scheduler can be reached there" in result.output


@pytest.mark.usefixtures("patches")
def test_a_plan_says_what_a_fit_takes():
    result = run("plan", "patches.zarr", "--hidden", 400, "--memory", "1GB", "--workers", 2)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("patches.zarr  (patch: 3,000, y: 6, x: 6) float32")
    assert lines[1] == "cluster  2 workers of 1 thread and 0.93 GiB each"
    assert lines[2] == "layer 0  36-400"
    assert lines[3] == "  input       here: few samples: the client holds them, and works itself"
    assert lines[-1] == "It fits."
    assert max(map(len, lines)) <= 80
    for memory, message in (
        ("much", "memory='much' is no size; pass 4GB, say."),
        ("1MB", "A task would take up to"),
    ):
        result = run("plan", "patches.zarr", "--hidden", 40_000, "--memory", memory)
        assert result.exit_code == 2
        assert message in result.output
