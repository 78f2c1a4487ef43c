import subprocess
import sys
from importlib.util import find_spec

import psutil
import pytest
from distributed import Client

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
