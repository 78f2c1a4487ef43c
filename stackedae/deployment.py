"""Where workers come from: this machine, a scheduler that runs, jobs of a batch system."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import dask.config
import distributed
from dask.utils import parse_bytes, parse_timedelta

from stackedae.errors import ArgumentError, ClusterError, MissingExtraError

BATCH_SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
}
"""What submits jobs to each, in dask-jobqueue."""

Tell = Callable[[str], None]


def _nobody(_: str) -> None:
    """Tell nobody."""


@contextmanager
def local_workers(n: int, *, encrypted: bool = False) -> Iterator[distributed.Client]:
    """Start workers on this machine, with one thread each, to be used while inside.

    They, the scheduler and its dashboard listen on the loopback interface only. Other users of the
    machine can connect there all the same, unless connections are `encrypted`: then only who has
    the certificates, which nobody but these processes ever sees.
    """
    security = distributed.Security.temporary() if encrypted else None
    with (
        distributed.LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=security,
            preload=_IGNORE_CTRL_C,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


_IGNORE_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""For workers, to which a terminal sends it too: the client ends them when it is done."""


@contextmanager
def workers_of(scheduler: str) -> Iterator[distributed.Client]:
    """Use the workers of a scheduler while inside: of its address, or of the file that names it."""
    is_file = "://" not in scheduler and os.path.exists(scheduler)
    try:
        client = distributed.Client(**{"scheduler_file" if is_file else "address": scheduler})
    # Without a certificate it is a TypeError, with one where none is expected a RuntimeError.
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"{scheduler}: no scheduler can be reached there ({error}); check the address, and "
            "distributed.comm.tls if it expects certificates."
        ) from error
    with client:
        yield client


@contextmanager
def batch_workers(
    system: str, jobs: int, *, encrypted: bool = False, tell: Tell = _nobody, **settings: Any
) -> Iterator[distributed.Client]:
    """Submit jobs of workers to a batch system, to be used while inside.

    So many jobs are kept there: another is submitted for one that ends, by its walltime, say. Work
    begins with the first that runs; for the others it waits for no longer than
    ``stackedae.cluster.wait`` of `dask.config` (a minute). Who comes later takes part.

    Parameters
    ----------
    system : str
        One of `BATCH_SYSTEMS`.
    jobs : int
        How many.
    encrypted : bool
        Whether connections are, with certificates that are made for these jobs.
    tell : callable
        Told in words what is waited for.
    **settings : object
        Of dask-jobqueue: cores, memory, walltime, queue and so on. Those that are None, or not
        given, are as its configuration has them (``~/.config/dask/jobqueue.yaml``).

    Raises
    ------
    MissingExtraError
        If dask-jobqueue is not installed.
    ArgumentError
        If settings are missing, or make no sense.
    ClusterError
        If the batch system refuses the jobs.
    """
    make = getattr(_jobqueue(), BATCH_SYSTEMS[system])
    given = {name: value for name, value in settings.items() if value is not None}
    for name in ("cores", "memory"):
        if name not in given and dask.config.get(f"jobqueue.{system}.{name}", None) is None:
            raise ArgumentError(
                name,
                None,
                f"does not say what a job of {system} is to have",
                f"pass it, or set jobqueue.{system}.{name} in Dask's configuration",
            )
    with ExitStack() as cleaning:
        if encrypted:
            given["security"] = distributed.Security.temporary()
            given["shared_temp_directory"] = cleaning.enter_context(_shared_folder(system))
        try:
            cluster = make(**given)
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(
                "cluster",
                system,
                f"cannot be used with {given} ({_one_line(error)})",
                f"pass other settings, or set jobqueue.{system} in Dask's configuration",
            ) from error
        cleaning.callback(_close, cluster)
        try:
            cluster.sync(_submit_first, cluster)
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"{system} refused the jobs: {_one_line(error)}") from error
        client = cleaning.enter_context(distributed.Client(cluster))
        word = "job" if jobs == 1 else "jobs"
        tell(f"{jobs} {word} submitted to {system}; dashboard at {client.dashboard_link}")
        cluster.scale(jobs=jobs)
        n_workers = len(cluster.plan)
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # which replaces what is lost
        _wait_for_workers(client, n_workers, tell)
        yield client


async def _submit_first(cluster: Any) -> None:
    """Submit a job; raise what goes wrong with that, of which Dask would only tell a log."""
    cluster.worker_spec.update(cluster.new_worker_spec())
    await cluster


def _close(cluster: Any) -> None:
    with suppress(AssertionError):  # a job that was refused has no state in which Dask closes it
        cluster.close()


def _wait_for_workers(client: distributed.Client, n: int, tell: Tell) -> None:
    """Wait for a first worker, and a while for all."""
    client.wait_for_workers(1)
    end = time.monotonic() + parse_timedelta(dask.config.get("stackedae.cluster.wait", "60s"))
    while len(client.nthreads()) < n and time.monotonic() < end:
        time.sleep(0.1)
    there = len(client.nthreads())
    more = "" if there >= n else "; others take part when they come"
    tell(f"workers: {there} of {n} are there{more}")


@contextmanager
def workers_of_this_job(*, tell: Tell = _nobody) -> Iterator[distributed.Client]:
    """Use the tasks of a Slurm job, all of which call this (``srun``), as a cluster while inside.

    The first is the scheduler and the second goes on, as the client; the others are workers. The
    interface is ``jobqueue.slurm.interface`` of Dask's configuration, the scheduler's options are
    those in ``jobqueue.slurm.scheduler-options``. SIGTERM is for the client: the others end with
    it, or 20 s after the signal.

    Raises
    ------
    MissingExtraError
        If dask-jobqueue is not installed.
    ClusterError
        If this is no job, or has fewer than three tasks.
    """
    options = dict(dask.config.get("jobqueue.slurm.scheduler-options", {}))
    interface = dask.config.get("jobqueue.slurm.interface", None)
    of_worker: dict[str, Any] = _share_of_this_task(os.environ)
    if interface is not None:
        of_worker["interface"] = interface
        options.setdefault("interface", interface)
    patient = nullcontext() if os.environ.get("SLURM_PROCID") == "1" else _sigterm_put_off()
    with _signals(signal.SIGINT, _leave), patient:
        try:
            started = _runner()(
                scheduler_file=_scheduler_file(os.environ),
                scheduler_options=options,
                worker_options=of_worker,
            )
        except RuntimeError as error:
            raise ClusterError(
                f"no cluster can be made of this job ({_one_line(error)}); start at least three "
                "tasks by srun in a job of Slurm."
            ) from error
    try:
        with distributed.Client(started) as client:
            _wait_for_workers(client, started.n_workers, tell)
            yield client
    finally:
        with suppress(OSError), dask.config.set({"distributed.comm.timeouts.connect": "2s"}):
            started.close()  # the scheduler, and so the workers; they may be gone


def _runner() -> Any:
    """Return dask-jobqueue's class, patient with a scheduler's file that is not complete."""

    class Runner(_jobqueue().slurm.SLURMRunner):  # type: ignore[misc]
        async def get_scheduler_address(self) -> str:
            while True:
                with suppress(ValueError):
                    return str(await super().get_scheduler_address())
                await asyncio.sleep(0.05)

    return Runner


def _scheduler_file(environment: Mapping[str, str]) -> str:
    """Name the file by which the tasks of a step of a Slurm job find their scheduler.

    A job that is put back into the queue keeps its number, and may find a file of its last run.

    Examples
    --------
    >>> from stackedae.deployment import _scheduler_file
    >>> _scheduler_file({"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "2"})
    'scheduler-17-0-2.json'
    """
    job, step, restarts = (
        environment.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")
    )
    return f"scheduler-{job}-{step}-{restarts}.json"


@contextmanager
def _sigterm_put_off(seconds: int = 20) -> Iterator[None]:
    """Let SIGTERM wait, for less than the half a minute after which Slurm kills.

    All tasks of a job get it at once. If workers ended before the client gives up, their work would
    go to others, which end as well, and so look as if it had killed them.
    """
    before = signal.getsignal(signal.SIGTERM)

    def put_off(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.alarm(seconds)

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)

    with _signals(signal.SIGTERM, put_off), _signals(signal.SIGALRM, end):
        try:
            yield
        finally:
            signal.alarm(0)  # else it would end whoever takes his time to leave


def _share_of_this_task(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the threads, and the memory if it is known, of one task of a Slurm job.

    Examples
    --------
    >>> from stackedae.deployment import _share_of_this_task
    >>> _share_of_this_task({"SLURM_CPUS_PER_TASK": "4", "SLURM_MEM_PER_CPU": "2000"})
    {'nthreads': 4, 'memory_limit': 8388608000}
    """
    n = int(environment.get("SLURM_CPUS_PER_TASK", 1))
    memory = environment.get("SLURM_MEM_PER_CPU")
    limit = {} if memory is None else {"memory_limit": n * parse_bytes(f"{memory}MiB")}
    return {"nthreads": n, **limit}


def _leave(*_: Any) -> None:
    raise SystemExit


@contextmanager
def _signals(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def _shared_folder(system: str) -> Iterator[str]:
    """Make a folder for certificates, for nobody but us, where the jobs see it."""
    parent = dask.config.get(f"jobqueue.{system}.shared-temp-directory", None) or os.getcwd()
    with tempfile.TemporaryDirectory(dir=parent, prefix=".stackedae-") as folder:
        yield folder


def _jobqueue() -> Any:
    in_charge = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ImportError as error:
        raise MissingExtraError(
            "jobs need dask-jobqueue; install it, or pip install 'stackedae[cluster]'."
        ) from error
    if in_charge:  # it makes Ctrl-C leave Python without a word
        signal.signal(signal.SIGINT, handler)
    return dask_jobqueue


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
