"""Patches, checkpoint and model on a host that speaks S3: no host sees a file of another."""

import re
import signal
import sys

import pytest
import zarr

from stackedae import StackedAutoEncoder

pytestmark = pytest.mark.long

FETCH = """
import os
from stackedae import StackedAutoEncoder
StackedAutoEncoder.load("s3://bucket/model.zarr").save("fetched.zarr")
print(os.listdir({shared!r}))
"""


@pytest.fixture
def requests(network, eventually):
    """The log of a server of objects, which all hosts are told of."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    store, client = network["store"], network["client"]
    for host in network.hosts.values():
        host.environment |= {
            "FSSPEC_S3_ENDPOINT_URL": f"http://{store.address}:5000",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "key",
        }
    make = f"request.urlopen(request.Request('http://{store.address}:5000/bucket', method='PUT'))"
    try:
        log = store.serve(sys.executable, "-m", "moto.server", "-H", store.address, "-p", 5000)
        script = f"from urllib import request; {make}"
        eventually(lambda: client.run(sys.executable, "-c", script)[0] == 0)
        yield log
    finally:
        store.stop()


def test_a_client_is_killed_and_goes_on_from_a_bucket(
    network, requests, images, extract_command, fit_command, expected, bits, eventually
):
    client = network["client"]
    with network.sharing_nothing(), network.cluster() as scheduler:
        zarr.create_array(client.disk / "images.zarr", data=images, chunks=(2, 200, 200))
        client.succeed(*extract_command, "images.zarr", "--out", "s3://bucket/patches.zarr")
        command = (*fit_command, "s3://bucket/patches.zarr", "--out", "s3://bucket/model.zarr")
        kept = ("--checkpoint", "s3://bucket/run.zarr", "--checkpoint-every", 2, "--resume")
        command = (*command, *kept, "--scheduler", scheduler)
        with client.running(*command) as fit:
            eventually(lambda: " /bucket/run.zarr/00000003" in requests.read_text())
            fit.kill()
        assert fit.returncode == -signal.SIGKILL
        client.succeed(*command)
        assert client.python(FETCH.format(shared=str(network.shared))) == "[]\n"
        there = {path.name for path in client.disk.iterdir()}
        assert there == {"tmp", "images.zarr", "fetched.zarr"}
        fitted = StackedAutoEncoder.load(client.disk / "fetched.zarr")
    assert bits(fitted) == expected
    assert len(fitted.info["earlier_runs"]) == 1
    readers = re.findall(r'(\S+) - - .*"GET /bucket/patches.zarr/patches/c/', requests.read_text())
    assert {network[name].address for name in ("worker1", "worker2")} <= set(readers)
