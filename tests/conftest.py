"""What many tests start from."""

import dask
import numpy as np
import pytest
from distributed.utils import get_mp_context
from hypothesis import settings
from skimage.data import camera

# Workers are forked from a process that has imported what they need: they start in no time.
dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
get_mp_context().set_forkserver_preload(["distributed", "dask.array", "xarray", "zarr"])

# A shared machine may be slow at any moment, which is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def camera_patches():
    """484 patches of 8×8 pixels in [0.1, 0.9]: the input of the reference numbers."""
    windows = np.lib.stride_tricks.sliding_window_view(camera() / 255.0, (8, 8))
    return 0.1 + 0.8 * windows[::24, ::24].reshape(-1, 64)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(1, id="1 worker", marks=pytest.mark.long),
        pytest.param(2, id="2 workers"),
    ],
)
def cluster(request):
    """A client of a cluster of single-threaded worker processes."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=request.param,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """What a test writes under a relative path goes to a folder of its own."""
    monkeypatch.chdir(tmp_path)


def pytest_terminal_summary(terminalreporter):
    """Say what tests measured by the way."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")
