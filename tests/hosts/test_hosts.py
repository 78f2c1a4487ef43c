"""Scheduler, workers and client on hosts of their own, which share nothing but the patches."""

import pytest
import zarr

from stackedae import StackedAutoEncoder

SEEN_BY_WORKERS = """
import os
from distributed import Client
with Client({scheduler!r}) as client:
    for names in client.run(lambda: os.listdir() + os.listdir({disks!r})).values():
        print(*sorted(names))
"""


@pytest.mark.parametrize("memory", ["held", "streamed"])
def test_a_fit_across_hosts(network, scheduler, patches, expected, bits, fit_options, memory):
    client = network["client"]
    model, run = f"{memory}.zarr", f"{memory}-run.zarr"
    options = (*fit_options, "--checkpoint", run, "--checkpoint-every", 3, "--scheduler", scheduler)
    environment = {} if memory == "held" else {"DASK_STACKEDAE__MEMORY": "20 MB"}
    fit = client.run("stackedae", "fit", patches, *options, "--out", model, env=environment)
    assert fit.returncode == 0, fit.stderr

    fitted = StackedAutoEncoder.load(client.disk / model)
    assert bits(fitted) == expected
    assert fitted.info["scheduler"]["address"] == scheduler
    assert (fitted.history_[-1]["bytes_read"] > 0) == (memory == "streamed")

    # Paths that the client wrote to are no other host's, and it wrote to no other.
    assert {"tmp", model, run} <= {path.name for path in client.disk.iterdir()}
    assert list(zarr.open_group(client.disk / run, mode="r").group_keys())
    code = SEEN_BY_WORKERS.format(scheduler=scheduler, disks=str(client.disk.parent))
    assert client.python(code).splitlines() == ["1.log tmp"] * 2
    assert [path.name for path in patches.parent.iterdir()] == [patches.name]
