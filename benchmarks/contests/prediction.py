"""What the model says of clusters that are not at hand, and of other constants of the library."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain

from contests.measure import Options, having, number, table
from stackedae import forecast as model
from stackedae import memory
from stackedae.forecast import Forecast, Rates, forecast_layer

THREADS, NODE_MEMORY, STORE = 32, 512e9, 2e9
"""Of a node: threads, bytes of memory, and bytes a second from the store."""

CLUSTER = Rates(bandwidth=3e9, latency=0.1e-3)

LAYERS = ((64, 25), (784, 196))
ROWS, NODES = (10**9, 10**12), (100, 1000)
TREE = ("tasks", "messages, s", "an evaluation, s")
SHARDS = (4096, 8192, 16_384, 32_768, 65_536)


def report(options: Options) -> str:
    """Calculate, and write the section."""
    return "\n\n".join(["## Prediction", _clusters(), _shards(), _trees(), _wide_tasks()])


def _clusters() -> str:
    header = (
        *("layer, rows, nodes", "rows are", "tasks", "read, s", "compute, s", "messages, s"),
        *("scheduler, s", "an evaluation, s", "limit", "branches / threads"),
    )
    lines = []
    for d, h in LAYERS:
        for n in ROWS:
            for nodes in NODES:
                for held in (False, True):
                    told = _told(n, d, h, nodes, held)
                    fits = memory.hold_or_stream(4 * d * n, nodes * NODE_MEMORY).held
                    name = f"{d}-{h}, {_power(n)}, {nodes:,}"
                    lines.append((name, "held" if held else "streamed", *_parts(told, nodes)))
                    if held and not fits:
                        lines[-1] = (name, "too many to hold", *["–"] * (len(header) - 2))
    notes = (
        f"Nodes of {THREADS} threads of {CLUSTER.flops:.3g} flop/s and {NODE_MEMORY / 1e9:.0f} GB, "
        f"each of which reads {STORE / 1e9:.0f} GB/s ({CLUSTER.reading / 1e6:.0f} MB/s a thread at "
        f"most) and sends {CLUSTER.bandwidth / 1e9:.0f} GB/s; of Dask, the constants that "
        "`Rates` has by default. Branches are compared with threads: where they are fewer, threads "
        "have nothing to do."
    )
    return f"{table(header, lines)}\n\n{notes}"


def _parts(told: Forecast, nodes: int) -> tuple[object, ...]:
    seconds = told.seconds
    return (
        f"{told.n_tasks:,}",
        *(number(seconds[part]) for part in ("read", "compute", "messages", "scheduler")),
        number(told.total),
        told.limit,
        number(told.n_branches / (nodes * THREADS)),
    )


def _shards() -> str:
    cases = [(10**12, 100, False), (10**12, 1000, False), (10**12, 1000, True), (10**9, 1000, True)]
    header = (
        "shards at most",
        *(f"{_power(n)}, {nodes:,}, {'held' if h else 'streamed'}" for n, nodes, h in cases),
    )
    lines = []
    for n_shards in SHARDS:
        with having(memory, MAX_SHARDS=n_shards):
            told = [_told(n, 64, 25, nodes, held) for n, nodes, held in cases]
        lines.append((f"{n_shards:,}", *(_with_limit(each) for each in told)))
    notes = "Seconds of an evaluation of 64-25, and the limit, by rows and nodes."
    return f"{table(header, lines)}\n\n{notes}"


def _trees() -> str:
    header = ("levels of a sum", *(f"{d}-{h}: {what}" for d, h in LAYERS for what in TREE))
    lines = []
    for levels in (1, 2, 3, 4):
        with having(model, LEVELS_PER_SUM=levels, ARGUMENTS=2**levels - 1):
            told = [_told(10**9, d, h, 100, True) for d, h in LAYERS]
        columns = (
            (f"{each.n_tasks:,}", number(each.seconds["messages"]), _with_limit(each))
            for each in told
        )
        lines.append((levels, *chain.from_iterable(columns)))
    notes = "10^9 rows that a hundred nodes hold. A task of a sum adds two levels of the tree now."
    return f"{table(header, lines)}\n\n{notes}"


def _wide_tasks() -> str:
    header = ("threads of a task", "tasks", "an evaluation, s")
    lines = []
    for wide in (1, 2, 4, 8, 16, 32):
        told = _told(10**12, 64, 25, 1000, True, wide)
        lines.append((wide, f"{told.n_tasks:,}", _with_limit(told)))
    notes = (
        "10^12 rows of 64-25 that a thousand nodes hold, if several threads shared a task, as they "
        "do not now."
    )
    return f"{table(header, lines)}\n\n{notes}"


def _told(n: int, d: int, h: int, nodes: int, held: bool, wide: int = 1) -> Forecast:
    """Return the forecast for nodes whose busy threads share what a node reads."""
    rates = replace(CLUSTER, flops=wide * CLUSTER.flops, reading=wide * CLUSTER.reading)
    told = partial(
        forecast_layer, n, d, h, n_workers=nodes, threads_per_worker=THREADS // wide, held=held
    )
    busy = min(THREADS // wide, -(-told(rates=rates).n_branches // nodes))
    return told(rates=replace(rates, reading=min(rates.reading, STORE / busy)))


def _with_limit(told: Forecast) -> str:
    return f"{number(told.total)} ({told.limit})"


def _power(n: int) -> str:
    return f"10^{len(str(n)) - 1}"
