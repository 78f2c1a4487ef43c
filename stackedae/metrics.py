"""How training goes, in a file that other programs follow: JSON lines, or Prometheus's text."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from stackedae.errors import ArgumentError
from stackedae.progress import SECONDS, TERMS, Record

SECONDS_BETWEEN = 1.0
"""Two versions of Prometheus's text, at least."""

_TOTALS = {
    "iterations": "Iterations.",
    "evaluations": "Evaluations of cost and gradient.",
    "rows_visited": "Rows that passed through a kernel.",
    "read_bytes": "Bytes of rows that were read from where they are stored.",
}
_NOW = {
    "layer": ("layer", "What is trained: the number of a layer, a head, or all together."),
    "iteration": ("iteration", "Iteration of it."),
    "rows": ("n_rows", "Rows of the present sample, or all."),
    "cost": ("cost", "Cost that is minimised."),
    "cost_held_out": ("validation", "Cost of rows that are held out, without decay."),
    "gradient_norm": ("gradient_norm", "Norm of the gradient."),
    "step": ("step", "Length of the last step."),
}


class MetricsFile:
    """A callback for `fit` that writes down how it goes, for a dashboard or a log to follow.

    Parameters
    ----------
    path : str or Path
        ``*.jsonl``: a line of JSON for every iteration is appended, which is its record in
        `history_`, with the time ("time", seconds since 1970). ``*.prom``: the present state in the
        text format of Prometheus, once a second at most; every version is complete, as the textfile
        collector of its node exporter asks for.

    Raises
    ------
    ArgumentError
        If the path ends otherwise.

    Examples
    --------
    >>> import json, numpy as np, tempfile
    >>> from pathlib import Path
    >>> from stackedae import MetricsFile, StackedAutoEncoder
    >>> X = np.random.default_rng(0).random((50, 6))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "run.jsonl")
    ...     sae = StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0)
    ...     _ = sae.fit(X, callback=MetricsFile(path))
    ...     lines = [json.loads(line) for line in path.read_text().splitlines()]
    >>> [(line["iteration"], line["cost"] == record["cost"])
    ...  for line, record in zip(lines, sae.history_)]
    [(1, True), (2, True)]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix not in (".jsonl", ".prom"):
            raise ArgumentError(
                "metrics", str(path), "does not say in what format", "pass run.jsonl or run.prom"
            )
        self.totals = dict.fromkeys(_TOTALS, 0)
        self.seconds = dict.fromkeys((*SECONDS, "seconds_other"), 0.0)
        self.written = -SECONDS_BETWEEN

    def __call__(self, record: Record) -> None:
        """Take note of an iteration, and write."""
        if self.path.suffix == ".jsonl":
            with self.path.open("a") as lines:
                lines.write(json.dumps({"time": time.time(), **record}) + "\n")
            return
        self._add(record)
        if time.monotonic() >= self.written + SECONDS_BETWEEN:
            self.written = time.monotonic()
            self._replace("".join(self._text(record)))

    def _add(self, record: Record) -> None:
        counted = 1, record["n_evaluations"], record["rows_visited"], record["bytes_read"]
        for name, count in zip(_TOTALS, counted, strict=True):
            self.totals[name] += count
        for name in SECONDS:
            self.seconds[name] += record[name]
        self.seconds["seconds_other"] += record["seconds"] - sum(record[n] for n in SECONDS)

    def _text(self, record: Record) -> Iterator[str]:
        for name, what in _TOTALS.items():
            yield _metric(f"{name}_total", "counter", what, {"": self.totals[name]})
        parts = {
            f'{{phase="{name.removeprefix("seconds_")}"}}': n for name, n in self.seconds.items()
        }
        what = "Seconds of evaluations by what was done in them, a mean over threads; and others."
        yield _metric("seconds_total", "counter", what, parts)
        for name, (key, what) in _NOW.items():
            if key in record:
                yield _metric(name, "gauge", what, {"": record[key]})
        terms = {f'{{term="{name}"}}': record[name] for name in TERMS if name in record}
        yield _metric("cost_term", "gauge", "What the cost is the sum of.", terms)
        what = "When the last iteration ended, in seconds since 1970."
        yield _metric("last_iteration_timestamp_seconds", "gauge", what, {"": time.time()})

    def _replace(self, text: str) -> None:
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        unfinished.write_text(text)
        unfinished.replace(self.path)


def _metric(name: str, kind: str, what: str, samples: dict[str, float]) -> str:
    lines = [f"# HELP stackedae_{name} {what}", f"# TYPE stackedae_{name} {kind}"]
    lines += [f"stackedae_{name}{labels} {value!r}" for labels, value in samples.items()]
    return "\n".join(lines) + "\n"
