"""Scheduler, workers and client on hosts of their own, which share nothing but the patches."""

import pytest
import zarr

from stackedae import StackedAutoEncoder

pytestmark = pytest.mark.long

OF_TASKS = "stackedae-"
"""How the names of tasks begin."""

SEEN_BY_WORKERS = """
import os
from distributed import Client
with Client({scheduler!r}) as client:
    for names in client.run(lambda: os.listdir() + os.listdir({disks!r})).values():
        print(*sorted(names))
"""


@pytest.mark.parametrize("memory", ["held", "streamed"])
def test_a_fit_across_hosts(network, scheduler, patches, expected, bits, fit_command, memory):
    client = network["client"]
    model, run = f"{memory}.zarr", f"{memory}-run.zarr"
    written = ("--out", model, "--checkpoint", run, "--checkpoint-every", 3)
    environment = {} if memory == "held" else {"DASK_STACKEDAE__MEMORY": "20 MB"}
    with network.listening(OF_TASKS) as heard:
        command = (*fit_command, patches, *written, "--scheduler", scheduler)
        client.succeed(*command, env=environment)
    n_packets, n_with_names = heard
    assert n_packets > n_with_names > 0

    fitted = StackedAutoEncoder.load(client.disk / model)
    assert bits(fitted) == expected
    assert fitted.info["scheduler"]["address"] == scheduler
    assert (fitted.history_[-1]["bytes_read"] > 0) == (memory == "streamed")

    # Paths that the client wrote to are no other host's, and it wrote to no other.
    assert {"tmp", model, run} <= {path.name for path in client.disk.iterdir()}
    assert list(zarr.open_group(client.disk / run, mode="r").group_keys())
    code = SEEN_BY_WORKERS.format(scheduler=scheduler, disks=str(client.disk.parent))
    assert client.python(code).splitlines() == ["log tmp"] * 2
    assert [path.name for path in patches.parent.iterdir()] == [patches.name]
