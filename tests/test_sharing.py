import _thread
import gc
import threading
import time
import weakref
from functools import partial

import dask
import numpy as np
import pytest

from stackedae.shards import Draw, RowSource, Shards, each_alone
from stackedae.sharing import go_on, leave, n_sharing, reads_paid, share_reads, shared

NAME = "stackedae-test"
SIZES = (40, 30, 50, 20, 60, 10, 30)


class Counted(RowSource):
    """Rows of a shard, in two portions, that count how often they are read."""

    def __init__(self, rows):
        self.rows, self.reads = rows, 0

    def portions(self):
        self.reads += 1
        yield self.rows[:7]
        yield self.rows[7:]


@pytest.fixture
def shards():
    rng = np.random.default_rng(0)
    blocks = [Counted(rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-6, 6)) for n in SIZES]
    return Shards(blocks, SIZES, 3, np.dtype(float), whole=False)


@pytest.fixture(autouse=True)
def some_tasks(monkeypatch):
    monkeypatch.setattr("stackedae.shards.n_tasks", lambda n_bytes, n_threads: 1 + n_bytes // 2000)


def reads(shards):
    (count,) = {block.reads for block in shards.blocks}
    return count


def summing(scale, rows, out):
    return scale * rows.sum(axis=0) + (0 if out is None else out)


def center(rows):
    return lambda rows, out: (None, rows.sum(axis=0) + (0 if out is None else out))


def spread(sums, rows):
    return lambda rows, kept, out: ((rows - sums) ** 2).sum(axis=0) + (0 if out is None else out)


def held(shards):
    return shards.gather(np.copy, name=NAME)


def doubled(shards):
    twice = partial(np.concatenate, axis=1)
    return shards.map(lambda rows: twice([rows, 2 * rows]), n_features=6, dtype=float, name=NAME)


def ask_for_sum(shards):
    return shards.sum(each_alone(summing), 0.1, name=NAME)


def ask_for_both(shards):
    draw = Draw(0.1, 0.6, 3)
    sums, sample = shards.sum_and_draw(each_alone(summing), 0.3, draw=draw, here=False, name=NAME)
    return sums, held(sample)


ASKED = {
    "sum": ask_for_sum,
    "two stages": lambda shards: shards.sum_in_two_stages(center, spread, name=NAME),
    "sum and draw": ask_for_both,
    "draw": lambda shards: held(shards.draw(Draw(0.2, 0.4, 1), here=True)),
    "gather": lambda shards: shards.gather(np.add, range(7), name=NAME),
    "hold": lambda shards: held(shards.hold()),
    "map": lambda shards: ask_for_sum(doubled(doubled(shards))),
    "map and draw": lambda shards: ask_for_both(doubled(shards)),
    "map and hold": lambda shards: held(doubled(shards).hold(here=True)),
}


def equal(one, other):
    np.testing.assert_equal(one, other)
    return True


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_whatever_is_asked_for_comes_from_one_read(shards, scheduler):
    alone = [ask(shards) for ask in ASKED.values()]
    for block in shards.blocks:
        block.reads = 0
    with dask.config.set(scheduler=scheduler):
        equal(share_reads([lambda ask=ask: ask(shared(shards)) for ask in ASKED.values()]), alone)
    assert reads(shards) == 2  # the second stage is another


def test_the_same_on_a_cluster(shards, cluster):
    alone = [ask(shards) for ask in ASKED.values()]
    with cluster.as_current():
        equal(share_reads([lambda ask=ask: ask(shared(shards)) for ask in ASKED.values()]), alone)


def test_what_is_the_same_for_all_is_held_once(shards):
    draw = Draw(0.0, 0.5, 0)

    def hold():
        rows = shared(shards)
        _, sample = rows.sum_and_draw(each_alone(summing), 1, draw=draw, here=False, name=NAME)
        return (
            rows.hold(),
            sample,
            rows.draw(draw),
            rows.draw(Draw(0.0, 0.5, 1)),
            doubled(rows).hold(),
        )

    one, other = share_reads([hold, hold])
    assert all(mine is yours for mine, yours in zip(one[:4], other[:4], strict=True))
    assert one[1] is one[2] is not one[3]
    assert one[4] is not other[4]
    assert reads(shards) == 5
    equal(held(one[0]), [block.rows for block in shards.blocks])


def test_reads_are_paid_for_once(shards):
    def work(n):
        rows = shared(shards)
        for _ in range(n):
            ask_for_sum(rows)
        first = reads_paid(rows, n)
        return first, ASKED["two stages"](doubled(rows)), reads_paid(rows, 2), reads_paid(rows, 0)

    paid = [
        (first, second, rest)
        for first, _, second, rest in share_reads([partial(work, n) for n in (1, 3, 2)])
    ]
    assert sum(map(sum, paid)) == reads(shards)
    assert all(rest == 0 for *_, rest in paid)
    assert reads_paid(shards, 4) == 4


def test_nobody_waits_for_who_needs_no_more(shards):
    done = threading.Event()

    def quick():
        rows = shared(shards).hold()
        leave()
        assert done.wait(60)
        return ask_for_sum(rows)

    def slow():
        rows = shared(shards)
        ask_for_sum(rows)
        sums = ask_for_sum(rows)
        done.set()
        return sums

    np.testing.assert_allclose(*share_reads([quick, slow]), rtol=1e-12)  # in other portions
    assert reads(shards) == 2


def test_who_left_may_come_back(shards):
    def work():
        rows = shared(shards)
        leave()
        return ask_for_sum(rows), n_sharing()

    one, other = share_reads([work, work])
    assert equal(one, other)
    assert one[1] == 2
    assert n_sharing() == 1
    assert shared(shards) is shards


def endless(shards, ended):
    rows = shared(shards)
    try:
        while True:
            ask_for_sum(rows)
    except Exception:
        ended.append(threading.current_thread())
        raise


def stubborn(ended):
    leave()
    try:
        while True:
            go_on()
    except Exception:
        ended.append(threading.current_thread())
        raise


def failing(shards):
    rows = shared(shards)
    ask_for_sum(rows)
    raise LookupError("nothing to be found")


def test_an_error_of_one_ends_all(shards):
    ended = []
    works = [
        partial(endless, shards, ended),
        partial(failing, shards),
        partial(endless, shards, ended),
    ]
    with pytest.raises(LookupError, match="nothing to be found"):
        share_reads(works)
    assert len(ended) == 2
    assert not any(thread.is_alive() for thread in ended)


def bad(rows, out):
    raise ArithmeticError("no sum")


def test_an_error_of_a_common_read_ends_all(shards):
    ended = []
    works = [
        partial(endless, shards, ended),
        lambda: shared(shards).sum(each_alone(bad), name=NAME),
        partial(stubborn, ended),
    ]
    with pytest.raises(ArithmeticError, match="no sum"):
        share_reads(works)
    assert len(ended) == 2


def interrupting(shards):
    rows = shared(shards)
    ask_for_sum(rows)
    _thread.interrupt_main()
    while True:
        ask_for_sum(rows)


def test_ctrl_c_ends_all(shards):
    ended = []
    with pytest.raises(KeyboardInterrupt):
        share_reads([partial(endless, shards, ended), partial(interrupting, shards)])
    assert len(ended) == 1
    assert "stackedae-listener" not in {thread.name for thread in threading.enumerate()}


def test_what_cannot_begin_ends_all(shards, monkeypatch):
    ended, start = [], threading.Thread.start

    def refuse(thread):
        if thread.name == "stackedae-fit-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        share_reads([partial(endless, shards, ended)] * 4)
    assert len(ended) == 2


class Slow(RowSource):
    """Rows that take a while to read."""

    def portions(self):
        for _ in range(20):
            time.sleep(0.05)
            yield np.ones((1, 3))


def test_ctrl_c_leaves_no_task_on_the_cluster(cluster):
    def n_tasks(dask_scheduler):
        return len(dask_scheduler.tasks)

    def press():
        while cluster.run_on_scheduler(n_tasks) == 0:
            time.sleep(0.02)
        _thread.interrupt_main()

    slow = Shards([Slow()] * 4, (20,) * 4, 3, np.dtype(float), whole=False)

    def begin(ask):
        if ask is ask_for_sum:
            presses.start()
        return ask(shared(slow))

    presses = threading.Thread(target=press)
    with cluster.as_current():
        with pytest.raises(KeyboardInterrupt):
            share_reads([partial(begin, ask) for ask in (ask_for_sum, ask_for_both)])
        while cluster.run_on_scheduler(n_tasks):
            time.sleep(0.02)
    presses.join()


def test_nothing_waits_for_the_garbage_collector():
    blocks = [Counted(np.ones((9, 2))) for _ in range(5)]
    gone = [weakref.ref(block) for block in blocks]
    shards = [Shards(blocks, (9,) * 5, 2, np.dtype(float), whole=False)]
    del blocks
    gc.disable()
    try:
        share_reads([lambda ask=ask: ask(shared(shards[0])) for ask in (ask_for_sum, ask_for_both)])
        del shards[0]
        assert [block() for block in gone] == [None] * 5
    finally:
        gc.enable()
