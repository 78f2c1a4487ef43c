"""Workers that only pretend to work: thousands of them in one process.

    python -m contests.crowd SCHEDULER N_WORKERS N_THREADS

Lines of JSON on stdin say what machine they are. Each of them talks to the scheduler as a worker of
distributed 2026.8 does (registration, heartbeats, tasks, keys, stealing, dependencies from others,
results), and sleeps for as long as tasks and messages take. A worker's network carries one message
at a time in each direction, for as many of its peers as a real worker serves.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import pickle
import random
import sys
import time
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import distributed.protocol.core
import numpy as np
from distributed.batched import BatchedSend
from distributed.comm import connect, listen
from distributed.core import ConnectionPool
from distributed.protocol import to_serialize

from stackedae.clock import NO_TIME, Timed

OUTGOING = 50
"""Peers that a worker serves at a time (`distributed.worker.connections.outgoing`)."""

BUSY_WAIT = 0.15
"""Seconds after which a worker asks one again that had no time (`retry_busy_worker_later`)."""

SPARING = {"DASK_DISTRIBUTED__COMM__OFFLOAD": "False"}
"""Without it, every message that is sent would be weighed first."""

TIMED = pickle.dumps(Timed)


@dataclass(frozen=True)
class Machine:
    """How long things take, and how large they are.

    Parameters
    ----------
    per_shard : float
        Seconds to read a shard and to compute its sums, in one stage.
    per_task : float
        Seconds that a task takes beside its work.
    bandwidth, latency : float
        Of messages between workers.
    parameter_bytes, shard_bytes, sum_bytes, first_sum_bytes : int
        Of what tasks return; of sums in the first of two stages last.
    """

    per_shard: float = 0.0
    per_task: float = 0.0
    bandwidth: float = 1e9
    latency: float = 0.0
    parameter_bytes: int = 0
    shard_bytes: int = 0
    sum_bytes: int = 0
    first_sum_bytes: int = 0

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    def seconds_and_bytes(self, key: str, needed: list[str]) -> tuple[float, int]:
        """Return how long a task takes, and how large its result is; its key says what it is."""
        name = key.rsplit("-", 1)[0]
        if name.endswith(("-parameters", "-hand-on")):
            return 0.0, self.parameter_bytes
        if name == "stackedae-load":
            return self.per_task, self.shard_bytes
        first = self.first_sum_bytes and not any(is_sum(each) for each in needed)
        n_bytes = self.first_sum_bytes if first else self.sum_bytes
        if is_sum(key):
            below = self.first_sum_bytes and all(
                "sums-of" in each or each in _FIRST for each in needed
            )
            if "sums-of" in key or below:
                _FIRST.add(key)
                return self.per_task, self.first_sum_bytes
            return self.per_task, self.sum_bytes
        start, last = name.rsplit("-", 2)[1:]
        return self.per_task + self.per_shard * (int(last) - int(start) + 1), n_bytes


_FIRST: set[str] = set()
"""Keys of sums of the first of two stages."""


def is_sum(key: str) -> bool:
    return key.startswith("stackedae-sum")


class Crowd:
    """All workers, and what they share: a machine, and connections for heartbeats."""

    def __init__(self, scheduler: str, machine: Machine) -> None:
        self.scheduler, self.machine = scheduler, machine
        self.workers: dict[str, SimulatedWorker] = {}
        self.loop = asyncio.get_running_loop()


class SimulatedWorker:
    """One of them."""

    def __init__(self, crowd: Crowd, number: int, n_threads: int) -> None:
        self.crowd, self.number, self.free, self.n_threads = crowd, number, n_threads, n_threads
        self.nbytes: dict[str, int] = {}
        self.tasks: dict[str, dict] = {}
        self.ready: list[tuple] = []
        self.waiting: dict[str, set[str]] = {}  # tasks, by the key that they wait for
        self.missing: dict[str, set[str]] = {}  # keys, by the task that waits for them
        self.fetching: dict[str, tuple[str, ...]] = {}
        self.executing: set[str] = set()
        self.n_outgoing = 0
        self.out_free = self.in_free = 0.0

    async def start(self) -> None:
        crowd = self.crowd
        self.listener = await listen("tcp://127.0.0.1:0", self.serve, deserialize=False)
        self.address = self.listener.contact_address
        crowd.workers[self.address] = self
        comm = await connect(crowd.scheduler, timeout=600, deserialize=False)
        await comm.write(
            {
                "op": "register-worker",
                "reply": False,
                "address": self.address,
                "status": "running",
                "nthreads": self.n_threads,
                "name": self.number,
                "now": time.time(),
                "resources": {},
                "memory_limit": 2**37,
                "local_directory": "/nowhere",
                "services": {},
                "nanny": None,
                "pid": 0,
                "versions": {},
                "metrics": self.metrics(),
                "extra": {},
                "stimulus_id": f"worker-connect-{time.time()}",
                "server_id": f"simulated-{self.number}",
            },
            serializers=["msgpack"],
        )
        await comm.read()
        self.stream = BatchedSend(interval="2ms")
        self.stream.start(comm)
        self.listening = asyncio.create_task(self.listen_to_scheduler(comm))

    def metrics(self) -> dict:
        """Return as much as a real worker tells in every heartbeat."""
        return {
            "task_counts": {"memory": len(self.nbytes)} if hasattr(self, "nbytes") else {},
            "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
            "digests_total_since_heartbeat": {},
            "managed_bytes": 0,
            "spilled_bytes": {"memory": 0, "disk": 0},
            "transfer": {
                f"{way}_{what}": 0
                for way in ("incoming", "outgoing")
                for what in ("bytes", "count", "count_total")
            },
            "event_loop_interval": 0.02,
            "cpu": 0.0,
            "memory": 2**28,
            "time": time.time(),
            "host_net_io": {"read_bps": 0.0, "write_bps": 0.0},
            "host_disk_io": {"read_bps": 0.0, "write_bps": 0.0},
            "num_fds": 100,
        }

    async def serve(self, comm) -> None:
        """Hand out results, to the scheduler."""
        while True:
            try:
                message = await comm.read()
            except OSError:
                return
            if message.get("op") != "get_data":
                return
            data = {key: to_serialize(result(self.nbytes[key])) for key in message["keys"]}
            await comm.write({"status": "OK", "data": data})
            await comm.read()

    async def listen_to_scheduler(self, comm) -> None:
        handlers = {
            "compute-task": self.take,
            "free-keys": self.forget,
            "remove-replicas": self.give_up,
            "steal-request": self.give_away,
            "refresh-who-has": self.refresh,
        }
        while True:
            try:
                messages = await comm.read()
            except OSError:
                return
            for message in messages if isinstance(messages, (tuple, list)) else (messages,):
                handlers.get(message["op"], self.ignore)(message)

    def ignore(self, message: dict) -> None:
        if message["op"] == "close":
            self.crowd.loop.stop()

    def take(self, message: dict) -> None:
        key = message["key"]
        self.tasks[key] = message
        missing = {each for each in message["who_has"] if each not in self.nbytes}
        if not missing:
            self.queue(key)
            return
        self.missing[key] = missing
        for each in missing:
            self.waiting.setdefault(each, set()).add(key)
            if each not in self.fetching:
                self.fetching[each] = tuple(message["who_has"][each])
                self.fetch(each, message["nbytes"][each])

    def fetch(self, key: str, n_bytes: int) -> None:
        """Get a result from one of those that have it; if all have no time, ask for others."""
        crowd = self.crowd
        able = [crowd.workers[each] for each in self.fetching[key]]
        able = [each for each in able if each.n_outgoing < OUTGOING and key in each.nbytes]
        if not able:
            message = {"op": "request-refresh-who-has", "keys": [key]}
            self.send(message, "gather-dep-busy")
            crowd.loop.call_later(BUSY_WAIT, self.fetch_later, key, n_bytes)
            return
        peer, now, machine = random.choice(able), crowd.loop.time(), crowd.machine
        peer.n_outgoing += 1
        end = max(now, peer.out_free, self.in_free) + n_bytes / machine.bandwidth
        peer.out_free = self.in_free = end
        crowd.loop.call_at(end + machine.latency, self.arrive, key, n_bytes, peer)

    def fetch_later(self, key: str, n_bytes: int) -> None:
        if key in self.fetching:
            self.fetch(key, n_bytes)

    def arrive(self, key: str, n_bytes: int, peer: SimulatedWorker) -> None:
        peer.n_outgoing -= 1
        del self.fetching[key]
        wanted = self.waiting.pop(key, ())
        if not wanted:
            return
        self.nbytes[key] = n_bytes
        self.send({"op": "add-keys", "keys": [key]}, "receive-dep")
        for task in wanted:
            self.missing[task].discard(key)
            if not self.missing[task]:
                del self.missing[task]
                self.queue(task)

    def refresh(self, message: dict) -> None:
        for key, who in message["who_has"].items():
            if key in self.fetching:
                self.fetching[key] = tuple(who)

    def queue(self, key: str) -> None:
        heapq.heappush(self.ready, (tuple(self.tasks[key]["priority"]), key))
        self.execute()

    def execute(self) -> None:
        machine, loop = self.crowd.machine, self.crowd.loop
        while self.free and self.ready:
            _, key = heapq.heappop(self.ready)
            if key not in self.tasks or key in self.executing:
                continue
            self.free -= 1
            self.executing.add(key)
            seconds, n_bytes = machine.seconds_and_bytes(key, list(self.tasks[key]["who_has"]))
            if seconds:
                loop.call_later(seconds, self.finish, key, n_bytes, time.time())
            else:
                self.finish(key, n_bytes, time.time())

    def finish(self, key: str, n_bytes: int, started: float) -> None:
        self.free += 1
        self.executing.discard(key)
        task = self.tasks.pop(key)
        self.nbytes[key] = n_bytes
        message = {
            "op": "task-finished",
            "key": key,
            "run_id": task["run_id"],
            "nbytes": n_bytes,
            "type": TIMED,
            "typename": "numpy.ndarray",
            "metadata": {},
            "thread": 1,
            "startstops": [{"action": "compute", "start": started, "stop": time.time()}],
            "status": "OK",
        }
        self.send(message, "task-finished")
        self.execute()

    def forget(self, message: dict) -> None:
        for key in message["keys"]:
            self.nbytes.pop(key, None)
            _FIRST.discard(key)
            if key not in self.executing:
                self.tasks.pop(key, None)
                for each in self.missing.pop(key, ()):
                    self.waiting[each].discard(key)

    def give_up(self, message: dict) -> None:
        for key in message["keys"]:
            self.nbytes.pop(key, None)
            self.send({"op": "release-worker-data", "key": key}, "remove-replicas")

    def give_away(self, message: dict) -> None:
        key, state = message["key"], None
        if key in self.executing:
            state = "executing"
        elif key in self.tasks:
            state = "waiting" if key in self.missing else "ready"
        elif key in self.nbytes:
            state = "memory"
        answer = {"op": "steal-response", "key": key, "state": state}
        self.stream.send(answer | {"stimulus_id": message["stimulus_id"]})
        if state in ("waiting", "ready"):
            self.forget({"keys": [key]})

    def send(self, message: dict, why: str) -> None:
        self.stream.send(message | {"stimulus_id": f"{why}-{time.time()}"})


def result(n_bytes: int) -> Timed:
    """Return sums as if of one row, half of whose units are active."""
    sums = np.full(n_bytes // 8, 0.5)
    sums[:2] = 1.0
    return Timed(sums, NO_TIME)


async def send_heartbeats(scheduler: str, members: list[SimulatedWorker]) -> None:
    """Send those of all workers, in turn, as often as the scheduler wants them."""
    pool, start = await ConnectionPool(), time.time()
    while True:
        for member in members:
            answer = await pool(scheduler).heartbeat_worker(
                address=member.address,
                now=time.time(),
                metrics=member.metrics(),
                executing={},
                extensions={},
            )
            start += answer["heartbeat-interval"] / len(members)
            await asyncio.sleep(start - time.time())


async def main(scheduler: str, n_workers: int, n_threads: int) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    crowd = Crowd(scheduler, Machine(**json.loads(await lines.readline())))
    members = [SimulatedWorker(crowd, number, n_threads) for number in range(n_workers)]
    for member in members:
        await member.start()
    beats = asyncio.create_task(send_heartbeats(scheduler, members))
    while line := await lines.readline():
        crowd.machine = Machine(**json.loads(line))
    beats.cancel()


def save_time() -> None:
    """Do without what real workers do on machines of their own, and nobody needs here."""
    pickling = distributed.protocol.core.pickle
    distributed.protocol.core.pickle = SimpleNamespace(
        loads=lambda *_, **__: None,
        dumps=pickling.dumps,  # what a task is to call
    )
    gc.disable()


if __name__ == "__main__":
    save_time()
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
