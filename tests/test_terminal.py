import os
import re
import signal

import pytest

from stackedae.terminal import Lines, Terminated, interrupted_by_sigterm

RECORD = {"layer": 1, "phase": "full", "iteration": 7, "n_rows": 50_000, "cost": 0.5}


def test_a_line_now_and_then(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("stackedae.terminal.time.monotonic", lambda: now[0])
    lines = Lines()
    for iteration in range(1, 8):
        lines({**RECORD, "iteration": iteration, "seconds": 25.0})
        now[0] += 25.0
    told = capsys.readouterr().err.splitlines()
    when = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")
    assert [when.sub("", line, count=1) for line in told] == [
        f"layer 1  full  iteration {iteration}  50,000 rows  cost 0.5  25 s each"
        for iteration in (1, 4, 7)
    ]
    assert all(map(when.match, told))


def test_sigterm_interrupts_once():
    before = signal.getsignal(signal.SIGTERM)
    with interrupted_by_sigterm():
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # nobody is interrupted while cleaning up
    assert signal.getsignal(signal.SIGTERM) is before
