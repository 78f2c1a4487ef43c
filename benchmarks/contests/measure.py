"""Timing contenders side by side, and writing down what came of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import threadpoolctl

LIBRARIES = ("stackedae", "numpy", "scipy", "scikit-learn", "dask", "torch", "h2o")


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    quick: bool
    repeats: int
    natural: str | None
    mnist: str | None


def say(message: str) -> None:
    """Tell the user how far we are; stdout is for the report."""
    print(message, file=sys.stderr, flush=True)


def installed(module: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(module) is not None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seconds_of(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def alternate(
    contenders: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of every contender: one call each to warm up, then A B C A B C …"""
    for call in contenders.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            seconds[name].append(seconds_of(call))
    return seconds


def median_and_range(values: Sequence[float]) -> str:
    """Write "median (lowest–highest)"."""
    return f"{number(np.median(values))} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    """Write three digits, without exponents: 0.0123, 1.23, 1,230,000."""
    if value == 0 or not np.isfinite(value):
        return str(value)
    decimals = 2 - int(np.floor(np.log10(abs(value))))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a Markdown table; all columns but the first are aligned to the right."""
    lines = [header, ("---", *("---:" for _ in header[1:])), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


@contextmanager
def having(module: object, **constants: int) -> Iterator[None]:
    """Give constants of a module other values while inside."""
    before = {name: getattr(module, name) for name in constants}
    vars(module).update(constants)
    try:
        yield
    finally:
        vars(module).update(before)


def skipped(name: str, reason: str) -> str:
    """Say that a contender did not run, as a line of the report."""
    return f"skipped: {name} ({reason})"


def surroundings() -> str:
    """Say which machine and which versions this is, as Markdown."""
    versions = [f"Python {platform.python_version()}"]
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{library} not installed")
    pools = {
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'any')})"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    }
    return (
        f"Machine: {_cpu_model()}, {cores()} cores, {platform.system()}; load before the start "
        f"{os.getloadavg()[0]:.1f}, which should be about 0. "
        f"NumPy's BLAS: {', '.join(sorted(pools))}.\n\nVersions: {', '.join(versions)}."
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def tell(parts: Sequence[str], markdown: str | None) -> None:
    """Print the parts of a report and where it comes from; write the parts to a file if asked."""
    print("\n\n".join([*parts, surroundings()]))
    if markdown:
        Path(markdown).write_text("\n\n".join(parts) + "\n")
