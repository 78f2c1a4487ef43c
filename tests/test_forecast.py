"""Forecasts count the tasks that the engine makes, and their parts behave like what they are of."""

from dataclasses import replace

import dask
import numpy as np
import pytest
from dask.callbacks import Callback

from stackedae.costs import AutoEncoderCost
from stackedae.forecast import PAUSE, Rates, forecast, forecast_layer
from stackedae.memory import GROUP, rows_per_shard, runs_on_client, shard_rows
from stackedae.objective import DaskObjective, needs_two_stages
from stackedae.shards import Shards

ROWS, D, H = 40_000, 64, 25


def shards_of(n_rows, d):
    X = np.zeros((n_rows, d), np.float32)
    rows = shard_rows((n_rows,), rows_per_shard(n_rows, 4 * d))
    blocks = np.split(X, np.cumsum(rows)[:-1])
    return Shards(blocks, rows, d, X.dtype, held=True)


def graph_of(call):
    graphs = []
    with Callback(start=graphs.append):
        call()
    (graph,) = graphs
    return graph


@pytest.mark.parametrize("n_rows", [5_000, 30_000, 100_000, 300_000])
@pytest.mark.parametrize("n_threads", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("in_two_stages", [True, False])
def test_as_many_tasks_as_the_engine_makes(n_rows, n_threads, in_two_stages):
    cost = AutoEncoderCost(16, 2, sparsity_weight=3.0 if in_two_stages else 0.0)
    shards = shards_of(n_rows, 16)
    assert needs_two_stages(cost, shards) is in_two_stages
    objective = DaskObjective(cost, shards)
    told = forecast(
        n_rows,
        4 * 16,
        flops=cost.flops(n_rows),
        n_parameters=cost.layout.size,
        n_sums=cost.stage_layout.size,
        n_first_sums=cost.n_hidden if in_two_stages else 0,
        n_workers=n_threads,
    )
    with dask.config.set(scheduler="threads", num_workers=n_threads):
        graph = graph_of(lambda: objective(cost.layout.zeros()))
        assert objective.shards.shards_per_task == -(-told.n_shards // told.n_branches)
    assert len(graph) == told.n_tasks
    assert told.n_shards == len(shards.rows)
    names = [key.rsplit("-", 1)[0] for key in graph]
    assert names.count("stackedae-sum") == told.n_sums * (1 + in_two_stages)


def test_what_travels_is_what_costs_say():
    for sparsity in (0.0, 3.0):
        cost = AutoEncoderCost(7, 5, sparsity_weight=sparsity)
        assert cost.layout.size == 2 * 7 * 5 + 7 + 5
    many = forecast_layer(10**9, 64, 25, n_workers=4, held=True)
    cost = AutoEncoderCost(64, 25)
    assert many.flops == cost.flops(10**9)
    n_sent = many.n_branches + many.n_sums - 1
    sent = many.n_branches * 4 * cost.layout.size + 8 * cost.sums_layout.size * n_sent
    assert many.bytes_sent == sent


@pytest.mark.parametrize("n_rows", [ROWS, 500_000, 10**7])
def test_the_policy_of_the_library(n_rows):
    told = forecast_layer(n_rows, D, H, n_workers=4)
    cost = AutoEncoderCost(D, H)
    assert (told.n_tasks == 0) == runs_on_client(n_rows * 4 * D, cost.flops(n_rows))
    rows = replace(shards_of(16, D), rows=(n_rows,))
    if told.n_tasks:
        two = needs_two_stages(cost, rows)
        assert told.bytes_read == (1 + two) * n_rows * 4 * D
        assert told.flops == (10 if two else 12) * n_rows * D * H


def test_twice_the_workers_halve_the_work():
    one, two = (forecast_layer(10**10, D, H, n_workers=n) for n in (64, 128))
    assert one.seconds["read"] == pytest.approx(2 * two.seconds["read"])
    assert one.seconds["compute"] == pytest.approx(2 * two.seconds["compute"], rel=0.01)
    assert one.total > two.total


def test_the_scheduler_works_while_threads_do():
    told = forecast_layer(10**9, D, H, n_workers=8, held=True)
    work = told.seconds["compute"]
    assert work < told.total < sum(told.seconds.values())
    assert 0 < told.saved < told.seconds["scheduler"]
    one_wave = forecast_layer(10**12, D, H, n_workers=5000)
    assert one_wave.saved == 0


def test_large_parameters_are_handed_on_to_groups_of_workers():
    told = {
        n: forecast(
            n * 10**6, 256, flops=1e12, n_parameters=10**6, n_sums=1, n_workers=n, held=True
        )
        for n in (32, GROUP, GROUP + 1, 3000)
    }
    seconds = [each.seconds["messages"] for each in told.values()]
    assert seconds[0] < seconds[1] > seconds[2]  # one half asks another worker
    assert seconds[3] > seconds[2] + PAUSE  # sixty-three groups, of which fifty are served first
    hops = [each.seconds["round trips"] for each in told.values()]
    assert hops[2] == pytest.approx(hops[1] + Rates().round_trip)
    n_parameter_tasks = [each.n_tasks - each.n_branches - each.n_sums for each in told.values()]
    assert n_parameter_tasks == [1, 1, 3, 64]


def test_few_streamed_tasks_have_places():
    """Nobody has one more than others, and the scheduler does not look for who is free."""
    few, held = (forecast_layer(10**12, D, H, n_workers=3000, held=held) for held in (False, True))
    assert few.seconds["compute"] == held.seconds["compute"]
    assert few.seconds["scheduler"] == held.seconds["scheduler"]


def test_held_rows_are_not_read():
    told = forecast_layer(10**9, D, H, n_workers=8, held=True)
    assert told.bytes_read == told.seconds["read"] == 0


def test_more_threads_than_shards_are_of_no_use():
    few, many = (
        forecast_layer(10**12, D, H, n_workers=n, threads_per_worker=32) for n in (128, 1000)
    )
    assert few.n_branches == many.n_branches == 4096
    assert few.seconds["compute"] == many.seconds["compute"]


def test_the_limit_is_the_largest_part():
    slow_network = Rates(bandwidth=1e3)
    assert forecast_layer(10**9, D, H, n_workers=8).limit == "read"
    assert forecast_layer(10**9, D, H, n_workers=8, held=True).limit == "compute"
    assert forecast_layer(10**9, D, H, n_workers=8, rates=slow_network).limit == "messages"
    assert forecast_layer(10**8, D, H, n_workers=4000, held=True).limit == "scheduler"
