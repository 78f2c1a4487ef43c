"""Stores that are not on this machine: a server that speaks S3."""

import os
import signal
import socket
import subprocess
import sys
import time

import fsspec
import numpy as np
import pytest
import zarr

from stackedae import StackedAutoEncoder, extract_patches, open_patches
from stackedae.errors import CheckpointError, StoreExistsError

SETTINGS = {"hidden_layer_sizes": (5, 3), "max_iter": 6, "tol": 0, "random_state": 0}

pytestmark = pytest.mark.long


class StopHereError(Exception):
    """What a test ends training with."""


def listens(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def bucket():
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    key = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
    settings = {"FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}", **key}
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        try:
            while not listens(port):
                time.sleep(0.1)
            fsspec.filesystem("s3").mkdir("bucket")
            yield "s3://bucket"
        finally:
            del fsspec.config.conf["s3"]
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).random((17_000, 12), dtype=np.float32)


@pytest.fixture(scope="module")
def undisturbed(X):
    return StackedAutoEncoder(**SETTINGS).fit(X)


def bits(model):
    return [layer.params.tobytes() for layer in model.layers_]


FIT = f"""
import numpy as np
from stackedae import StackedAutoEncoder
X = np.random.default_rng(0).random((17_000, 12), dtype=np.float32)
sae = StackedAutoEncoder(**{SETTINGS}, checkpoint="s3://bucket/run.zarr", checkpoint_every=1)
print("it begins", flush=True)
sae.fit(X).save("s3://bucket/fitted.zarr")
"""


def test_a_client_killed_again_and_again_goes_on_from_a_bucket(bucket, undisturbed):
    """Lists of files that one process keeps are not those of another."""
    for wait in (0.2, 0.5, 1, 2, None):
        with subprocess.Popen([sys.executable, "-c", FIT], stdout=subprocess.PIPE) as fit:
            fit.stdout.readline()
            if wait is not None:
                time.sleep(wait)
                assert fit.poll() is None
                fit.send_signal(signal.SIGKILL)
    assert fit.returncode == 0
    assert bits(StackedAutoEncoder.load(f"{bucket}/fitted.zarr")) == bits(undisturbed)


def test_two_checkpoints_are_kept_in_a_bucket(bucket, X, undisturbed):
    sae = StackedAutoEncoder(**SETTINGS, checkpoint=f"{bucket}/two.zarr", checkpoint_every=3)
    n = 0

    def stop(record):
        nonlocal n
        n += 1
        if n == 12:
            raise StopHereError

    with pytest.raises(StopHereError):
        sae.fit(X, callback=stop)
    files = fsspec.filesystem("s3", use_listings_cache=False)
    kept = sorted(os.path.basename(path) for path in files.ls("bucket/two.zarr"))
    assert kept == ["00000004", "00000005", "zarr.json"]
    assert bits(sae.fit(X)) == bits(undisturbed)
    with pytest.raises(CheckpointError, match="max_iter=6, and it is 7 now"):
        sae.set_params(max_iter=7).fit(X)


def test_a_first_checkpoint_that_was_never_complete_is_none(bucket, X, undisturbed):
    where = f"{bucket}/first.zarr"
    sae = StackedAutoEncoder(**SETTINGS, checkpoint=where, checkpoint_every="1h")

    def stop(record):
        raise StopHereError

    with pytest.raises(StopHereError):
        sae.fit(X, callback=stop)
    group = zarr.open_group(f"{where}/00000001", mode="r+")
    del group.attrs["stackedae"]
    fsspec.filesystem("s3").rm(f"{where}/00000002", recursive=True)
    assert bits(sae.fit(X)) == bits(undisturbed)
    fsspec.filesystem("s3").rm(where, recursive=True)
    zarr.open_group(where, mode="w")  # killed before it was marked
    assert bits(sae.fit(X)) == bits(undisturbed)


def test_what_is_overwritten_in_a_bucket_is_gone(bucket, X):
    where = f"{bucket}/model.zarr"
    larger = StackedAutoEncoder((4, 3), max_iter=1, tol=0).fit(X[:100])
    smaller = StackedAutoEncoder(4, max_iter=1, tol=0).fit(X[:100])
    for model in (larger, smaller, larger):
        model.save(where, overwrite=True)
        assert bits(StackedAutoEncoder.load(where)) == bits(model)
    with pytest.raises(StoreExistsError):
        smaller.save(where)
    images = np.random.default_rng(0).random((2, 30, 30))
    for n in (300, 50):
        extract_patches(images, (5, 5), n, store=f"{bucket}/p.zarr", rng=0, overwrite=True)
        assert open_patches(f"{bucket}/p.zarr").compute().shape == (n, 5, 5)
