"""What tests with a real Slurm start from."""

import shutil

import dask
import numpy as np
import pytest
from daemons import PROGRAMS, SETTINGS, Slurm

from stackedae import StackedAutoEncoder, extract_patches, open_patches
from stackedae.deployment import _jobqueue


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} are not installed (Debian: slurm-wlm, munge)")
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.start()
    except Exception as error:
        log = slurm.log()
        slurm.stop()
        pytest.skip(f"no Slurm can be started here ({error}): {log[-500:]}")
    yield slurm
    slurm.stop()


@pytest.fixture
def settings(tmp_path):
    """What dask-jobqueue is told by its configuration, for what is on this machine."""
    return {
        "cores": 1,
        "memory": "1GB",
        "processes": 1,
        "interface": "lo",
        "death-timeout": 60,
        "log-directory": str(tmp_path / "jobs"),
        "scheduler-options": {"dashboard_address": "127.0.0.1:0"},
    }


@pytest.fixture
def jobqueue(settings):
    """dask-jobqueue, so configured; imported in a way that leaves Ctrl-C alone."""
    dask_jobqueue = _jobqueue()
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in settings.items()}):
        yield dask_jobqueue


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Patches of noise, so many that their evaluations take the workers a while."""
    images = np.random.default_rng(0).random((8, 150, 150), dtype=np.float32)
    path = tmp_path_factory.mktemp("data") / "patches.zarr"
    extract_patches(images, (8, 8), 60_000, store=path, chunks=4_000, rng=0)
    return path


@pytest.fixture
def patches(store):
    return open_patches(store)


@pytest.fixture(scope="session")
def local(store):
    """What is learned in this process."""
    return StackedAutoEncoder(**SETTINGS).fit(open_patches(store))
