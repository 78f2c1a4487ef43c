import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import Client

from stackedae import StackedAutoEncoder, extract_patches
from stackedae.deployment import batch_workers, local_workers, workers_of, workers_of_this_job
from stackedae.errors import ArgumentError, ClusterError, MissingExtraError

needs_jobqueue = pytest.mark.skipif(
    find_spec("dask_jobqueue") is None, reason="it needs the extra cluster"
)


@pytest.mark.parametrize("encrypted", [False, True])
def test_workers_of_this_machine_are_for_nobody_else(encrypted):
    with local_workers(1, encrypted=encrypted) as client:
        addresses = {
            connection.laddr.ip
            for process in (psutil.Process(), *psutil.Process().children(recursive=True))
            for connection in process.net_connections()
            if connection.status == "LISTEN"
        }
        assert addresses == {"127.0.0.1"}
        address = client.scheduler_info()["address"]
        assert address.startswith("tls://127" if encrypted else "tcp://127")
        if encrypted:
            stranger = address.replace("tls://", "tcp://")
            with pytest.raises(OSError, match=r"Timed out|refused|closed"):
                Client(stranger, timeout="2s")
            assert client.submit(sum, [1, 2]).result() == 3


def test_a_scheduler_is_found_by_its_address_or_its_file(tmp_path):
    with local_workers(1) as client:
        address = client.scheduler_info()["address"]
        client.write_scheduler_file(str(tmp_path / "scheduler.json"))
        for name in (address, str(tmp_path / "scheduler.json")):
            with workers_of(name) as other:
                assert other.scheduler_info()["address"] == address


@needs_jobqueue
def test_what_jobs_need():
    """Settings of a job that nobody gave, a job that is none, and a package that is missing."""
    with (
        pytest.raises(ArgumentError, match=r"cores=None does not say what a job of pbs is"),
        batch_workers("pbs", 2),
    ):
        pass
    with pytest.raises(ClusterError, match=r"SLURM_JOB_ID.* start at least three"):
        workers_of_this_job().__enter__()


@pytest.fixture
def start():
    """A function that starts a task of a Slurm job, as `srun` would."""
    started = []

    def start(number, *words):
        job = {"SLURM_JOB_ID": 7, "SLURM_STEP_ID": 1, "SLURM_NTASKS": 4, "SLURM_PROCID": number}
        settings = {"INTERFACE": "lo", "SCHEDULER_OPTIONS": "{'dashboard_address': '127.0.0.1:0'}"}
        dask = {f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in settings.items()}
        environment = os.environ | {name: str(value) for name, value in job.items()} | dask
        command = Path(sys.executable).parent / "stackedae"
        with Path(f"{number}.out").open("w") as output:
            started.append(
                subprocess.Popen([command, *words], env=environment, stdout=output, stderr=output)
            )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.long
@needs_jobqueue
def test_who_is_terminated_first_in_a_job_of_slurm_does_not_matter(start):
    """Nor that the scheduler's file is there before it is complete."""
    images = np.random.default_rng(0).random((2, 40, 40))
    extract_patches(images, (8, 8), 1_000, store="patches.zarr", chunks=100, rng=0)
    fit = ["fit", "patches.zarr", "--hidden", "20", "--tol", "0", "--max-iter", "1000000"]
    fit += ["--out", "model.zarr", "--checkpoint", "run.zarr", "--resume", "--cluster", "srun"]
    Path("scheduler-7-1-0.json").write_text('{"type": "Scheduler", "id"')
    client = start(1, *fit)
    time.sleep(5)
    others = [start(number, *fit) for number in (0, 2, 3)]
    end = time.monotonic() + 120
    while "iteration" not in Path("1.out").read_text():
        assert client.poll() is None, Path("1.out").read_text()
        assert time.monotonic() < end, Path("1.out").read_text()
        time.sleep(0.1)
    for process in (*others, client):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    assert client.wait(15) == 75, Path("1.out").read_text()
    assert [process.wait(5) for process in others] == [0, 0, 0]
    assert StackedAutoEncoder.load("model.zarr").layers_[0].status.name == "INTERRUPTED"
    assert not Path("scheduler-7-1-0.json").exists()


@needs_jobqueue
def test_ctrl_c_is_still_ctrl_c():
    """Importing dask-jobqueue changes what it does."""
    code = """
import signal, sys
from stackedae.deployment import _jobqueue
_jobqueue()
assert "dask_jobqueue" in sys.modules
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dask_jobqueue_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(MissingExtraError, match=r"'stackedae\[cluster\]'"), batch_workers("sge", 1):
        pass
