import json
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stackedae import MetricsFile, StackedAutoEncoder
from stackedae.errors import ArgumentError


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).random((200, 6))


def fitted(X, callback):
    sae = StackedAutoEncoder((4, 3), max_iter=5, tol=0, validation=0.2, random_state=0)
    return sae.fit(X, callback=callback)


def test_a_line_of_json_for_every_iteration(X, tmp_path):
    sae = fitted(X, MetricsFile(tmp_path / "run.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    now = time.time()
    assert all(now - 60 < line.pop("time") <= now for line in lines)
    assert lines == sae.history_
    again = fitted(X, MetricsFile(tmp_path / "run.jsonl"))  # goes on at the end
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 2 * again.n_iter_


def test_what_prometheus_reads(X, tmp_path, monkeypatch):
    monkeypatch.setattr("stackedae.metrics.SECONDS_BETWEEN", 0.0)
    sae = fitted(X, MetricsFile(tmp_path / "run.prom"))
    assert [path.name for path in tmp_path.iterdir()] == ["run.prom"]
    families = list(text_string_to_metric_families((tmp_path / "run.prom").read_text()))
    assert all(family.documentation for family in families)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    last = sae.history_[-1]

    def total(name):
        return pytest.approx(sum(record[name] for record in sae.history_))

    assert found["stackedae_iterations_total",] == sae.n_iter_
    assert found["stackedae_evaluations_total",] == total("n_evaluations")
    assert found["stackedae_rows_visited_total",] == total("rows_visited")
    assert found["stackedae_layer",] == 1
    assert found["stackedae_cost",] == sae.cost_
    assert found["stackedae_cost_held_out",] == last["validation"]
    assert found["stackedae_cost_term", "sparsity"] == last["sparsity"]
    assert found["stackedae_seconds_total", "compute"] == total("seconds_compute")
    seconds = [value for (name, *_), value in found.items() if name == "stackedae_seconds_total"]
    assert sum(seconds) == total("seconds")
    assert found["stackedae_last_iteration_timestamp_seconds",] == pytest.approx(
        time.time(), abs=60
    )


def test_a_text_is_not_written_at_every_iteration(X, tmp_path):
    metrics, written = MetricsFile(tmp_path / "run.prom"), []
    metrics._replace = written.append
    sae = fitted(X, metrics)
    assert len(written) < sae.n_iter_


def test_a_format_that_is_not_known():
    with pytest.raises(ArgumentError, match=r"metrics='run.csv' does not say in what format"):
        MetricsFile("run.csv")
