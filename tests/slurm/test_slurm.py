"""Fits in jobs of a real Slurm, which are cancelled, preempted and ended by walltime meanwhile."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import dask
import numpy as np
import pytest
import yaml
from daemons import CPUS, PATIENCE, SETTINGS, parameters_of, said, wait_until
from distributed import Client

from stackedae import StackedAutoEncoder

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("dask_jobqueue") is None, reason="it needs the extra cluster"),
]

COMMAND = str(Path(sys.executable).parent / "stackedae")


@pytest.fixture
def cluster(slurm, jobqueue):
    """Two workers in a job each; jobs that end are replaced after a second."""
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        jobqueue.SLURMCluster(queue="test", walltime="00:10:00") as cluster,
        Client(cluster) as client,
    ):
        cluster.adapt(minimum_jobs=2, maximum_jobs=2)
        wait_until(lambda: len(client.nthreads()) == 2)
        yield cluster
    wait_until(lambda: not slurm.jobs())


AFTER = 4
"""Iterations that are left in peace."""


class Disturbing:
    """A callback for `fit` that does something to the job of a worker that is evaluating the cost.

    Parameters
    ----------
    cluster : SLURMCluster
        With a client.
    act : callable
        Called with the number of the job.
    """

    def __init__(self, cluster, act):
        self.cluster, self.act, self.job = cluster, act, None
        self.thread = threading.Thread(target=self.disturb)

    def __call__(self, record):
        if record["iteration"] == AFTER:
            self.thread.start()

    def disturb(self):
        with Client(self.cluster, set_as_default=False) as client:
            evaluating = []
            while not evaluating:
                evaluating = [
                    worker
                    for worker, keys in client.processing().items()
                    if any("cost-gradient" in key for key in keys)
                ]
            workers = client.scheduler_info(n_workers=-1)["workers"]
        self.job = int(self.cluster.workers[workers[evaluating[0]]["name"]].job_id)
        self.act(self.job)


def cancel(job):
    said("scancel", str(job))


def preempt(job):
    """Ask for all cores but one, with precedence, for two seconds."""
    said("sbatch", "-p", "urgent", "-c", str(CPUS - 1), "--wrap", "sleep 2", "-o", "/dev/null")


def end_walltime(job):
    said("scontrol", "update", f"JobId={job}", "EndTime=now")


def seconds_lost(sae, waited=0.0):
    """Return by how much evaluations took longer than usual, once something was lost."""
    records = sae.history_
    usual = np.median([record["seconds"] / record["n_evaluations"] for record in records])
    lost = sum(record["seconds"] - usual * record["n_evaluations"] for record in records[AFTER:])
    return f"{lost - waited:.1f} of {sum(r['seconds'] for r in records) - waited:.1f}"


def test_scale(slurm, jobqueue, patches, local):
    with jobqueue.SLURMCluster() as cluster, Client(cluster) as client:
        cluster.scale(jobs=2)
        client.wait_for_workers(2)
        sae = StackedAutoEncoder(**SETTINGS).fit(patches)
    assert sae.info["scheduler"]["workers"] == 2
    assert parameters_of(sae) == parameters_of(local)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        pytest.param(cancel, "REQUEST_KILL_JOB JobId={}", id="cancelled"),
        pytest.param(preempt, "preempted JobId={} has been requeued", id="preempted"),
    ],
)
def test_a_job_ends_in_the_middle_of_an_evaluation(
    slurm, cluster, patches, local, act, words, record_property
):
    """Others go on, another takes its place, and all is as it is in this process."""
    begun, disturbing = slurm.jobs(), Disturbing(cluster, act)
    sae = StackedAutoEncoder(**SETTINGS).fit(patches, callback=disturbing)
    disturbing.thread.join()
    record_property("seconds lost", seconds_lost(sae))
    assert parameters_of(sae) == parameters_of(local)
    wait_until(lambda: len(slurm.jobs("running")) >= 2)
    assert slurm.jobs()[-1] > begun[-1]
    ended = [job for job in begun if words.format(job) in slurm.log()]
    assert ended == [disturbing.job] if act is cancel else len(ended) == 1  # Slurm chooses whom


def test_walltime_ends_in_the_middle_of_an_evaluation(
    slurm, cluster, patches, local, record_property
):
    (job, _), waited = slurm.jobs(), []

    def callback(record):
        if record["iteration"] == AFTER:
            began = time.monotonic()
            slurm.wait_for_time_limits()  # first: a look that is nearly due is one to miss
            end_walltime(job)
            waited.append(time.monotonic() - began)

    sae = StackedAutoEncoder(**SETTINGS).fit(patches, callback=callback)
    record_property("seconds lost", seconds_lost(sae, *waited))
    assert slurm.state(job) == "TIMEOUT"
    assert parameters_of(sae) == parameters_of(local)


@pytest.fixture
def fit(slurm, settings, store, tmp_path):
    """The command that fits in jobs, whose settings are in a file, and leaves checkpoints."""
    told = {name: value for name, value in settings.items() if name not in ("cores", "memory")}
    Path("dask.yaml").write_text(yaml.safe_dump({"jobqueue": {"slurm": told}}))
    os.environ["DASK_CONFIG"] = str(tmp_path / "dask.yaml")
    yield [
        *(COMMAND, "fit", str(store), "--hidden", "300", "--batching", "full", "--tol", "0"),
        *("--max-iter", str(SETTINGS["max_iter"]), "--out", "model.zarr"),
        *("--checkpoint", "run.zarr", "--checkpoint-every", "1", "--resume"),
    ]
    del os.environ["DASK_CONFIG"]


def test_the_command_keeps_jobs_and_goes_on_after_sigterm(slurm, fit, local):
    jobs = ["--cluster", "slurm", "--jobs", "2", "--cores", "1", "--memory", "1GB"]
    jobs += ["--walltime", "00:10:00", "--queue", "test"]
    first = subprocess.Popen([*fit, *jobs], stderr=subprocess.PIPE, text=True)
    wait_until(Path("run.zarr/00000003").exists)
    assert len(slurm.jobs()) == 2
    first.send_signal(signal.SIGTERM)
    said_first = first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == 75, said_first
    assert "Traceback" not in said_first
    assert re.search(r"2 jobs submitted to slurm; dashboard at http://127.0.0.1:\d+", said_first)
    assert "  workers: 2 of 2 are there\n" in said_first
    assert "layer 0  full  iteration 1  60,000 rows  cost" in said_first
    assert "The same command with --resume goes on." in said_first
    assert StackedAutoEncoder.load("model.zarr").layers_[0].status.name == "INTERRUPTED"
    wait_until(lambda: not slurm.jobs())
    second = subprocess.run([*fit, *jobs, "--security"], capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    sae = StackedAutoEncoder.load("model.zarr")
    assert sae.info["scheduler"]["address"].startswith("tls://")
    assert sae.info["earlier_runs"][0]["scheduler"]["address"].startswith("tcp://")
    assert parameters_of(sae) == parameters_of(local)
    assert not list(Path().glob(".stackedae-*"))


def test_jobs_that_slurm_refuses(fit):
    for options, message in (
        (["--cores", "1", "--memory", "1GB", "--queue", "nowhere"], "invalid partition specified"),
        (["--cores", "1"], "memory=None does not say what a job of slurm is to have"),
        (["--cores", "1", "--memory", "much"], "cluster='slurm' cannot be used with {"),
    ):
        words = [*fit, "--cluster", "slurm", "--jobs", "1", *options]
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_one_job_with_all_processes_goes_on_in_others(slurm, fit, local):
    """Walltime ends the first, a warning of it the second, which puts itself into the queue again.

    Each goes on where the one before stood.
    """
    Path("job.sh").write_text(f"""#!/bin/bash
#SBATCH -n 4 -p test -t 5 -o job-%j.out --requeue --open-mode=append
srun {" ".join(fit)} --cluster srun
code=$?
echo "exit code $code"
[ $code -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
""")

    def begun():
        before = newest()
        job = int(said("sbatch", "--parsable", "job.sh"))
        wait_until(lambda: newest() >= before + 3)
        return job

    def newest():
        return max((int(path.name) for path in Path("run.zarr").glob("0*")), default=0)

    first = begun()
    said("scontrol", "suspend", str(first))
    slurm.wait_for_time_limits()
    said("scontrol", "resume", str(first))
    end_walltime(first)
    wait_until(lambda: not slurm.jobs())
    assert slurm.state(first) == "TIMEOUT"
    second = begun()
    output = Path(f"job-{second}.out")
    said("scancel", "--signal=TERM", str(second))  # as "#SBATCH --signal=TERM@60" has it sent
    wait_until(lambda: "exit code 75" in output.read_text())
    interrupted = StackedAutoEncoder.load("model.zarr")
    assert interrupted.layers_[0].status.name == "INTERRUPTED"
    wait_until(lambda: not slurm.jobs())
    assert "exit code 0" in output.read_text()
    assert f"iteration {interrupted.n_iter_ + 1} " in output.read_text()
    sae = StackedAutoEncoder.load("model.zarr")
    assert sae.info["scheduler"]["workers"] == 2
    assert len(sae.info["earlier_runs"]) == 2
    assert parameters_of(sae) == parameters_of(local)
