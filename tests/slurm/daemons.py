"""A Slurm of our own on the loopback interface: two partitions, one of which may preempt the other.

It needs Debian's packages slurm-wlm and munge, and whoever may start them; all that it writes is in
a folder of its own, and nothing of an installed Slurm is used or changed.
"""

import os
import re
import secrets
import socket
import subprocess
import time
from datetime import datetime

import psutil

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scancel", "srun", "sinfo", "scontrol")
CPUS = 6
PATIENCE = 120
"""Seconds, on a machine that does other things as well."""

CONFIGURATION = """
ClusterName=stackedae-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/daemon
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmctldDebug=debug2
SlurmdLogFile={folder}/slurmd.log
KillWait=2
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2,requeue_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
DefMemPerCPU=500
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """Controller and node, and what one asks them."""

    def __init__(self, folder):
        self.folder, self.started = folder, []

    def start(self):
        for name in ("controller", "daemon"):
            (self.folder / name).mkdir()
        configuration = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=psutil.Process().username(),
            folder=self.folder,
            controller=free_port(),
            daemon=free_port(),
            cpus=CPUS,
        )
        (self.folder / "slurm.conf").write_text(configuration)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        own = (
            f"--{what}-file={self.folder}/munge.{what}" for what in ("key", "log", "pid", "seed")
        )
        self._run("munged", "-F", "-f", f"--socket={self.folder}/munge.socket", *own)
        wait_until((self.folder / "munge.socket").exists)
        self.began = time.time()
        self._run("slurmctld", "-D", "-c")
        self._run("slurmd", "-D")
        wait_until(lambda: "idle" in said("sinfo", "-h", "-o", "%T"))

    def wait_for_time_limits(self, ahead=2):
        """Return shortly before walltimes are looked at: every half a minute, in whole seconds."""
        looks = re.findall(r"^\[(.+?)\] .*Testing job time limits", self._log(), re.MULTILINE)
        last = datetime.fromisoformat(looks[-1]).timestamp() if looks else self.began
        while last + 30 - ahead < time.time():
            last += 30
        time.sleep(last + 30 - ahead - time.time())

    def _log(self):
        return (self.folder / "slurmctld.log").read_text()

    def _run(self, *words):
        with (self.folder / f"{words[0]}.out").open("w") as output:
            self.started.append(
                subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, text=True)
            )

    def stop(self):
        try:
            said("scancel", "-u", psutil.Process().username())
            wait_until(lambda: not self.jobs())
        finally:
            for process in reversed(self.started):
                process.terminate()
            for process in reversed(self.started):
                process.wait(PATIENCE)
            del os.environ["SLURM_CONF"]

    def jobs(self, state=None):
        """Numbers of the jobs that there are, in the order in which they came."""
        wanted = [] if state is None else ["-t", state]
        return sorted(map(int, said("squeue", "-h", "-o", "%i", *wanted).split()))

    def state(self, job):
        """How a job is, or how it ended."""
        fields = said("scontrol", "-o", "show", "job", str(job)).split()
        return dict(field.partition("=")[::2] for field in fields)["JobState"]

    def log(self):
        """What all daemons wrote."""
        paths = (*self.folder.glob("*.log"), *self.folder.glob("*.out"))
        return "\n".join(path.read_text() for path in sorted(paths))


def said(*words):
    """Return what a command says."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def wait_until(condition, patience=PATIENCE):
    """Wait for a condition, which may fail with an error meanwhile."""
    end = time.monotonic() + patience
    while True:
        try:
            if condition():
                return
        except AssertionError:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


SETTINGS = {
    "hidden_layer_sizes": (300,),
    "batching": "full",
    "max_iter": 30,
    "tol": 0,
    "random_state": 0,
}


def parameters_of(sae):
    return [layer.params.tobytes() for layer in sae.layers_]
