"""The durable REPL, as a user starts it."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from perdure.engine.cli.repl import Reader

if TYPE_CHECKING:
    from .kit import Cli


def test_statements_are_taken_when_they_are_whole() -> None:
    reader = Reader()
    assert reader.add("x = (1,") is None
    begun = reader.more
    assert begun
    assert reader.add("2)") == "x = (1,\n2)"
    assert reader.add("await f()") == "await f()"
    assert [reader.add(line) for line in ("if x:", "    1", "")] == [None, None, "if x:\n    1\n"]
    assert reader.add("def f(:") == "def f(:"
    assert reader.add("") == ""
    assert not reader.more
    assert reader.add("if x:") is None
    reader.drop()
    assert reader.add("1") == "1"


def test_a_session_goes_on_where_it_was_left(cli: Cli) -> None:
    first = cli("repl", "talk", stdin="x = 20\nfor i in range(2):\n    print(i)\n\nx + 1\n1/0\n")
    assert first.code == 0
    assert "[2] >>> [2] ... [2] ... 0\n1\n[3] >>> 21\n[4] >>> " in first.out
    assert "ZeroDivisionError: division by zero" in first.err
    second = cli("repl", "talk", stdin="_ + x\nexit(3)\n")
    assert second.code == 3
    assert second.out == "[5] >>> 41\n[6] >>> "


def test_ctrl_c_stops_what_runs_and_a_lost_repl_is_caught_up(cli: Cli) -> None:
    with subprocess.Popen(
        cli.command("repl", "talk"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cli.folder,
        env=cli.environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("print('on', flush=True)\nkept = 1; print('go'); exec('while True: pass')\n")
        process.stdin.flush()
        while "go" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.stdin.write("kept + 1\n")
        process.stdin.write("import time; print('sleepy'); time.sleep(3); print('awake')\n")
        process.stdin.flush()
        while (line := process.stdout.readline()) and "2" not in line:
            pass
        assert line.strip().endswith("2")
        while "sleepy" not in process.stdout.readline():
            pass
        process.kill()
        assert "stopped by itself" in process.stderr.read()
    again = cli("repl", "talk", stdin="kept\n")
    assert again.code == 0
    assert "going on with talk@4" in again.err
    assert again.out.endswith("awake\n[5] >>> 1\n[6] >>> \n")


@pytest.mark.parametrize("limit", ["nonsense=1", "grace_seconds=soon", "wall_seconds"])
def test_limits_are_named_when_they_are_wrong(cli: Cli, limit: str) -> None:
    ran = cli("exec", "-s", "s", "--limit", limit, "1")
    assert ran.code == 2
    assert limit.partition("=")[0] in ran.err


def test_a_timeout_says_why_and_how_the_code_stopped(cli: Cli) -> None:
    ran = cli("exec", "-s", "s", "--timeout", "0.3", "x = 2\nwhile True: pass")
    assert ran.code == 1
    assert "longer than 0.3 s (wall_seconds)" in ran.err
    assert "s@1 stopped by itself when it was asked to" in ran.err
    assert cli("exec", "-s", "s", "x").out == "2\n"


def test_an_atomic_run_says_that_it_is_rolled_back(cli: Cli) -> None:
    ran = cli("exec", "-s", "s", "--atomic", "x = 3\n1/0")
    assert ran.code == 1
    assert "s@1 is rolled back" in ran.err


def test_a_cancel_that_nobody_hears_says_so(cli: Cli) -> None:
    assert cli("exec", "-s", "s", "--detach", "input('? ')").code == 75
    asked = cli("cancel", "s@1").out
    assert "no worker is there now: the next one does" in asked
