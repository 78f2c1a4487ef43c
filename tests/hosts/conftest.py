"""Hosts with addresses and disks of their own: network namespaces of Linux, joined by a bridge."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from stackedae import StackedAutoEncoder, extract_patches, open_patches
from stackedae.memory import runs_on_client

SCHEDULER, WORKERS, CLIENT, STORE = "scheduler", ("worker1", "worker2"), "client", "store"
ADDRESSES = {name: f"10.77.0.{i}" for i, name in enumerate((SCHEDULER, *WORKERS, CLIENT, STORE), 1)}
DEADLINE = 300
"""Seconds after which something will never come, even on a busy machine."""

PATCHES = {"patch_shape": (8, 8), "n_patches": 60_000, "rng": 0}
SETTINGS = {
    "hidden_layer_sizes": (100, 60),
    "batching": "full",
    "max_iter": 6,
    "tol": 0,
    "random_state": 0,
}


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.long)


class Host:
    """A machine of the network: an address, and a disk that no other can see.

    The folders `home` and `shared` have the same names on all hosts; only the second is the same
    folder, and cannot be written to. What is at home lies in `disk`, seen from outside.
    """

    def __init__(self, network, name):
        self.network, self.name, self.address = network, name, ADDRESSES[name]
        self.namespace = f"{network.prefix}-{name}"
        self.disk = network.root / "disks" / name
        self.environment, self.serving = {}, []
        Path(self.disk, "tmp").mkdir(parents=True)

    def start(self, *command, **options):
        """Start a process, which sees the network and the disk of this host."""
        home = self.network.home
        environment = {
            **os.environ,
            # An address is found by the way to the scheduler, and a slow machine is patient.
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{DEADLINE}s",
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            **self.environment,
            **options.pop("env", {}),
        }
        folders = (self.network.root / "disks", self.disk, home, self.network.shared)
        inside = ("sh", "-c", _OWN_DISK, "sh", *map(str, folders), *map(str, command))
        return subprocess.Popen(
            ("ip", "netns", "exec", self.namespace, *inside), env=environment, **options
        )

    def run(self, *command, **options):
        """Run a command to its end; return it, with what it said."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        with self.start(*command, **options) as process:
            out, err = process.communicate(timeout=DEADLINE)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def python(self, code, **options):
        """Run some lines of Python, which must not fail; return what they print."""
        done = self.run(sys.executable, "-c", code, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self, *command, **options):
        """Start a process that goes on until all is over; what it says goes to a file."""
        log = self.disk / f"{len(os.listdir(self.disk))}.log"
        with open(log, "wb") as file:
            process = self.start(*command, stdout=file, stderr=subprocess.STDOUT, **options)
        self.serving.append(process)
        return log

    def stop(self):
        """End what runs here, and clear the disk."""
        pids = [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not _ip("netns", "pids", self.namespace))
        while self.serving:
            self.serving.pop().wait()
        shutil.rmtree(self.disk)
        Path(self.disk, "tmp").mkdir(parents=True)

    def link(self, state):
        """Plug the cable in, or out, where it ends at the bridge."""
        _ip("-n", self.network.bridge, "link", "set", self.name, state)


# What is mounted is seen by this process only, for ip made a mount namespace for it. It ends with
# the tests, however these end.
_OWN_DISK = """
set -e
disks=$1 disk=$2 home=$3 shared=$4
shift 4
mount --bind "$disk" "$home"
mount --bind "$shared" "$shared"
mount -o remount,bind,ro "$shared"
mount -t tmpfs -o ro none "$disks"
cd "$home"
exec setpriv --pdeathsig KILL -- "$@"
"""


class Network:
    """Hosts that reach each other by a bridge, and nothing else."""

    def __init__(self, root):
        self.root, self.prefix = root, f"stackedae-{uuid.uuid4().hex[:8]}"
        self.home, self.shared = root / "home", root / "shared"
        self.home.mkdir()
        self.shared.mkdir()
        self.bridge = f"{self.prefix}-bridge"
        self.hosts = {name: Host(self, name) for name in ADDRESSES}

    def __getitem__(self, name):
        return self.hosts[name]

    def make(self):
        namespaces = [self.bridge, *(host.namespace for host in self.hosts.values())]
        for namespace in namespaces:
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", self.bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.bridge, "link", "set", "bridge", "up")
        for name, host in self.hosts.items():
            peer = ("peer", "name", "eth0", "netns", host.namespace)
            _ip("-n", self.bridge, "link", "add", name, "type", "veth", *peer)
            _ip("-n", self.bridge, "link", "set", name, "master", "bridge", "up")
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
        done = self.hosts[CLIENT].run("true")
        if done.returncode:
            raise RefusedError(done.stderr)

    @contextmanager
    def cluster(self, protocol="tcp"):
        """Start a scheduler, and a worker on each host for one; yield the address."""
        address = f"{protocol}://{ADDRESSES[SCHEDULER]}:8786"
        server = (sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard")
        worker = (sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", address)
        try:
            self[SCHEDULER].serve(*server, "--protocol", protocol)
            for name in WORKERS:
                self[name].serve(*worker, "--nthreads", 1, "--memory-limit", "2 GiB")
            self[CLIENT].python(
                f"from distributed import Client\n"
                f"with Client({address!r}) as client: client.wait_for_workers({len(WORKERS)})",
            )
            yield address
        finally:
            for name in (SCHEDULER, *WORKERS, CLIENT):
                self[name].stop()

    def cut(self, names, seconds):
        """Leave hosts without a cable for so long."""
        for state in ("down", "up"):
            for name in names:
                self[name].link(state)
            time.sleep(seconds if state == "down" else 0)

    def remove(self):
        """End all that runs on the hosts, and remove what is there of them."""
        there = set(re.findall(rf"^{self.prefix}\S+", _ip("netns", "list"), re.MULTILINE))
        for host in self.hosts.values():
            if host.namespace in there:
                host.stop()
        for namespace in there:
            _ip("netns", "delete", namespace)
        shutil.rmtree(self.root)


class RefusedError(Exception):
    """What cannot be done here."""


def _ip(*words):
    done = subprocess.run(("ip", *words), capture_output=True, text=True)
    if done.returncode:
        raise RefusedError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def wait_until(condition):
    """Wait for something that comes, but not for ever."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """Hosts by name; skipped where the system does not let us make any."""
    for tool in ("ip", "mount", "setpriv"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing (packages iproute2, mount, util-linux)")
    network = Network(tmp_path_factory.mktemp("network"))
    try:
        try:
            network.make()
        except RefusedError as error:
            pytest.skip(f"network namespaces cannot be made, which takes root: {error}")
        yield network
    finally:
        network.remove()


@pytest.fixture(scope="module")
def scheduler(network):
    """Address of a scheduler that has two workers."""
    with network.cluster() as address:
        yield address


@pytest.fixture(scope="session")
def patches(network):
    """Where patches are that all hosts can read."""
    store = network.shared / "patches.zarr"
    images = np.random.default_rng(0).random((8, 200, 200)).cumsum(1).cumsum(2) % 1
    extract_patches(images, **PATCHES, store=store)
    return store


@pytest.fixture(scope="session")
def expected(patches, bits):
    """The bits of a fit in this process, without a cluster."""
    return bits(StackedAutoEncoder(**SETTINGS).fit(open_patches(patches)))


@pytest.fixture(scope="session")
def bits():
    """Return what was learned, of so many rows and units that workers evaluated them."""

    def of(model):
        for layer in model.layers_:
            assert not runs_on_client(0, layer.cost.flops(PATCHES["n_patches"]))
        return [layer.params.tobytes() for layer in model.layers_]

    return of


@pytest.fixture(scope="session")
def settings():
    """Parameters of the fit."""
    return SETTINGS


@pytest.fixture(scope="session")
def fit_options():
    """Words of the command line for the same fit."""
    sizes = SETTINGS["hidden_layer_sizes"]
    hidden = [word for size in sizes for word in ("--hidden", size)]
    return (*hidden, "--batching", "full", "--max-iter", SETTINGS["max_iter"], "--tol", 0)
