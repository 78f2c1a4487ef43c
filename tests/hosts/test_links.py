"""Cables that are pulled out in the middle of an evaluation, and put back."""

import statistics
import sys
import time
from contextlib import contextmanager

import pytest

from stackedae import StackedAutoEncoder

pytestmark = pytest.mark.long

CUT = 10
"""Seconds without a cable, which connections outlive."""

SHORTEST = "11s"
"""How long Dask lets a dead connection live, at least; 30 s if nobody says so."""

FIT = """
from distributed import Client
from stackedae import StackedAutoEncoder, open_patches

def tell(record):
    print(record["layer"], record["iteration"], flush=True)

with Client({scheduler!r}):
    sae = StackedAutoEncoder(**{settings}, checkpoint={checkpoint!r}, checkpoint_every=2)
    sae.fit(open_patches({patches!r}), callback=tell).save("model.zarr", overwrite=True)
"""


@pytest.fixture
def fitting(network, patches, settings):
    """Fit on the client's host while inside; yields the process."""

    def run(scheduler, checkpoint=None):
        code = FIT.format(
            scheduler=scheduler, settings=settings, patches=str(patches), checkpoint=checkpoint
        )
        return network["client"].running(sys.executable, "-c", code)

    return run


def wait_for(process, line):
    """Wait until a process says a line."""
    said = []
    while f"{line}\n" not in said:
        said.append(process.stdout.readline())
        assert said[-1], "".join(said)


@contextmanager
def unplugged_at_work(network, name, eventually):
    """Pull out the cable of a host once workers are in the middle of an evaluation."""
    worker = network["worker1"]
    before = worker.worked()
    eventually(lambda: worker.worked() > before + 0.02)
    with network[name].unplugged():
        yield


def test_a_fit_outlives_cuts(
    network, scheduler, fitting, expected, bits, eventually, record_property
):
    with fitting(scheduler) as fit:
        for line, name in (("0 2", "worker1"), ("1 2", "client")):
            wait_for(fit, line)
            with unplugged_at_work(network, name, eventually):
                time.sleep(CUT)
        said = fit.stdout.read()
    assert fit.returncode == 0, said
    fitted = StackedAutoEncoder.load(network["client"].disk / "model.zarr")
    assert bits(fitted) == expected
    seconds = [record["seconds"] for record in fitted.history_]
    of_worker, of_client = max(seconds[:5]), max(seconds[5:])
    record_property("seconds of an iteration", f"{statistics.median(seconds):.1f}")
    record_property(f"without a worker's cable for {CUT} s", f"{of_worker:.1f}")
    record_property(f"without the client's cable for {CUT} s", f"{of_client:.1f}")
    assert min(of_worker, of_client) > CUT - 1


def test_a_connection_that_is_given_up(network, fitting, expected, bits, eventually, monkeypatch):
    """A worker is replaced by the others; a client goes on from its own disk."""
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP", SHORTEST)
    with network.cluster() as scheduler:
        with fitting(scheduler, "run.zarr") as fit:
            wait_for(fit, "0 2")
            with unplugged_at_work(network, "worker1", eventually):
                wait_for(fit, "0 3")
            wait_for(fit, "0 4")
            with network["client"].unplugged():
                said = fit.stdout.read()
        assert fit.returncode == 1
        assert "ClusterError" in said
        assert "the connection to the scheduler was lost" in said
        # Dask's worker ends where it was given up: whoever started it has to do so again.
        eventually(lambda: not network["worker1"].processes())
        with fitting(scheduler, "run.zarr") as fit:
            first = fit.stdout.readline()
            said = first + fit.stdout.read()
        assert fit.returncode == 0, said
        assert first > "0 4\n"
        fitted = StackedAutoEncoder.load(network["client"].disk / "model.zarr")
    assert len(fitted.info["earlier_runs"]) == 1
    assert bits(fitted) == expected
