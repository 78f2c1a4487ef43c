"""Hosts with addresses and disks of their own: network namespaces of Linux, joined by a bridge."""

import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from stackedae import StackedAutoEncoder, extract_patches, open_patches
from stackedae.memory import runs_on_client

SCHEDULER, WORKERS, CLIENT, STORE = "scheduler", ("worker1", "worker2"), "client", "store"
ADDRESSES = {name: f"10.77.0.{i}" for i, name in enumerate((SCHEDULER, *WORKERS, CLIENT, STORE), 1)}
COMMAND = os.path.join(os.path.dirname(sys.executable), "stackedae")
DEADLINE = 300
"""Seconds after which something will never come, even on a busy machine."""

N_PATCHES = 60_000
SETTINGS = {
    "hidden_layer_sizes": (200, 40),
    "batching": "full",
    "max_iter": 5,
    "tol": 0,
    "random_state": 0,
}


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
        self.disk.mkdir(parents=True)

    def start(self, *command, **options):
        """Start a process, which sees the network and the disk of this host."""
        home = self.network.home
        environment = {
            **os.environ,
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{DEADLINE}s",
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            **self.environment,
            **options.pop("env", {}),
        }
        Path(self.disk, "tmp").mkdir(exist_ok=True)
        offered, shared = self.network.offered, self.network.shared
        folders = (self.disk.parent, self.disk, home, offered, shared)
        inside = ("sh", "-c", _OWN_DISK, "sh", *map(str, folders), *map(str, command))
        return subprocess.Popen(
            ("ip", "netns", "exec", self.namespace, *inside), env=environment, **options
        )

    @contextmanager
    def running(self, *command, **options):
        """Run a command while inside, and to its end if that is not far; yield the process."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with self.start(*command, **streams, **options) as process:
            too_late = threading.Timer(DEADLINE, process.kill)
            too_late.start()
            try:
                yield process
                process.wait()
            finally:
                too_late.cancel()
                process.kill()

    def run(self, *command, **options):
        """Run a command to its end; return the exit status, and what it said."""
        with self.running(*command, **options) as process:
            said = process.stdout.read()
        return process.returncode, said

    def succeed(self, *command, **options):
        """Run a command that must not fail; return what it said."""
        status, said = self.run(*command, **options)
        assert status == 0, said
        return said

    def python(self, code, **options):
        """Run some lines of Python, which must not fail; return what they said."""
        return self.succeed(sys.executable, "-c", code, **options)

    def serve(self, *command):
        """Start a process that goes on until the host stops; what it says goes to a file."""
        log = self.disk / "log"
        with open(log, "wb") as file:
            self.serving.append(self.start(*command, stdout=file, stderr=subprocess.STDOUT))
        return log

    def processes(self):
        """Return what runs here."""
        running = []
        for pid in _ip("netns", "pids", self.namespace).split():
            with suppress(psutil.NoSuchProcess):  # it has ended since
                running.append(psutil.Process(int(pid)))
        return running

    def worked(self):
        """Return the seconds that processors worked for what runs here."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def stop(self):
        """End what runs here, and clear the disk."""
        while running := self.processes():
            for process in running:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(running, timeout=DEADLINE)
        while self.serving:
            self.serving.pop().wait()
        shutil.rmtree(self.disk)
        self.disk.mkdir()
        self.environment.clear()

    @contextmanager
    def unplugged(self):
        """Pull out the cable, where it ends at the bridge, while inside."""
        link = ("-n", self.network.bridge, "link", "set", self.name)
        _ip(*link, "down")
        try:
            yield
        finally:
            _ip(*link, "up")


# What is mounted is seen by this process only, for ip made a mount namespace for it. It ends with
# the tests, however these end.
_OWN_DISK = """
set -e
disks=$1 disk=$2 home=$3 offered=$4 shared=$5
shift 5
mount --bind "$disk" "$home"
mount --bind "$offered" "$shared"
mount -o remount,bind,ro "$shared"
mount -t tmpfs -o ro none "$disks"
cd "$home"
exec setpriv --pdeathsig KILL -- "$@"
"""


class Network:
    """Hosts that reach each other by a bridge, and nothing else."""

    def __init__(self, root):
        self.root, self.prefix = root, f"stackedae-{uuid.uuid4().hex[:8]}"
        self.home, self.shared, self.nothing = root / "home", root / "shared", root / "nothing"
        for folder in (self.home, self.shared, self.nothing):
            folder.mkdir()
        self.offered = self.shared
        self.bridge = f"{self.prefix}-bridge"
        self.hosts = {name: Host(self, name) for name in ADDRESSES}
        self.ending = ExitStack()
        self.ending.callback(shutil.rmtree, root)

    def __getitem__(self, name):
        return self.hosts[name]

    def make(self):
        namespaces = [self.bridge, *(host.namespace for host in self.hosts.values())]
        for namespace in namespaces:
            _ip("netns", "add", namespace)
            self.ending.callback(_ip, "netns", "delete", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", self.bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.bridge, "link", "set", "bridge", "up")
        for name, host in self.hosts.items():
            self.ending.callback(host.stop)
            peer = ("peer", "name", "eth0", "netns", host.namespace)
            _ip("-n", self.bridge, "link", "add", name, "type", "veth", *peer)
            _ip("-n", self.bridge, "link", "set", name, "master", "bridge", "up")
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
        status, said = self.hosts[CLIENT].run("true")
        if status:
            raise RefusedError(said)

    @contextmanager
    def sharing_nothing(self):
        """Let processes that start meanwhile see none of the patches that are shared."""
        self.offered = self.nothing
        try:
            yield
        finally:
            self.offered = self.shared

    @contextmanager
    def listening(self, word):
        """Listen at the bridge while inside; yield what then has packets, and those with a word."""
        heard = []
        command = (sys.executable, "-c", _LISTEN, word)
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        inside = ("ip", "netns", "exec", self.bridge, *command)
        with subprocess.Popen(inside, **streams) as listener:
            try:
                assert listener.stdout.readline() == "listening\n"
                yield heard
            finally:
                listener.terminate()
                heard += map(int, listener.communicate()[0].split())

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

    def remove(self):
        """End all that runs on the hosts, and remove what was made, as far as it was."""
        self.ending.close()


_LISTEN = """
import signal, socket, sys

def tell(*_):
    print(n_packets, n_with_word)
    sys.exit()

word, n_packets, n_with_word = sys.argv[1].encode(), 0, 0
signal.signal(signal.SIGTERM, tell)
every_protocol = socket.htons(3)
ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every_protocol)
print("listening", flush=True)
while True:
    n_with_word += word in ear.recv(2**17)
    n_packets += 1
"""


class RefusedError(Exception):
    """What cannot be done here."""


def _ip(*words):
    done = subprocess.run(("ip", *words), capture_output=True, text=True)
    if done.returncode:
        raise RefusedError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture(scope="session")
def eventually():
    """Wait for something that comes, but not for ever."""

    def wait(condition):
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait


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
def images():
    """What patches are cut from."""
    return np.random.default_rng(0).random((8, 200, 200)).cumsum(1).cumsum(2) % 1


@pytest.fixture(scope="session")
def patches(network, images):
    """Where patches are that all hosts can read."""
    store = network.shared / "patches.zarr"
    extract_patches(images, (8, 8), N_PATCHES, store=store, rng=0)
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
            assert not runs_on_client(0, layer.cost.flops(N_PATCHES))
        return [layer.params.tobytes() for layer in model.layers_]

    return of


@pytest.fixture(scope="session")
def settings():
    """Parameters of the fit."""
    return SETTINGS


@pytest.fixture(scope="session")
def extract_command():
    """The command line for the same patches, but for what it reads and writes."""
    return (COMMAND, "extract", "--patch", "8x8", "--n-patches", N_PATCHES)


@pytest.fixture(scope="session")
def fit_command():
    """The command line for the same fit, but for what it reads and writes."""
    sizes = SETTINGS["hidden_layer_sizes"]
    hidden = [word for size in sizes for word in ("--hidden", size)]
    return (
        COMMAND,
        "fit",
        *hidden,
        "--batching",
        "full",
        "--max-iter",
        SETTINGS["max_iter"],
        "--tol",
        0,
    )
