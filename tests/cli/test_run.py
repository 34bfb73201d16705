"""`perdure run` and `perdure exec`: what a script sees, what is shown, exit codes, and going on after a kill."""

import os
import signal

import pytest

from .kit import PATIENCE, Cli

# Each test starts several processes, each of which takes a second of computing to load.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ASKS = """
print("before")
answer = ask("Pay?", choices=["yes", "no"])
print("answered", answer)
"""


def test_a_script_sees_itself_as_under_python(cli: Cli) -> None:
    cli.write("see.py", "import sys\nprint(sys.argv, __name__, __file__ == sys.path[0] + '/see.py')\n")
    ran = cli("run", "see.py", "a", "b c", "--", "--json")
    assert ran.code == 0, ran
    assert ran.out == "['see.py', 'a', 'b c', '--json'] __main__ True\n"


@pytest.mark.parametrize(
    "code, exit_code, out, err",
    [
        ("print(1)", 0, "1\n", ""),
        ("import sys; sys.exit(3)", 3, "", ""),
        ("import sys; sys.exit()", 0, "", ""),
        ("import sys; sys.exit('why')", 1, "", "why\n"),
        ("import sys; print('e', file=sys.stderr)", 0, "", "e\n"),
    ],
)
def test_exit_codes_and_streams_are_those_of_python(cli: Cli, code: str, exit_code: int, out: str, err: str) -> None:
    cli.write("script.py", code)
    ran = cli("run", "script.py")
    assert (ran.code, ran.out, ran.err) == (exit_code, out, err)


def test_an_exception_is_a_traceback_on_stderr(cli: Cli) -> None:
    cli.write("fails.py", "def f():\n    raise ValueError('no')\nf()\n")
    ran = cli("run", "fails.py")
    assert ran.code == 1
    assert ran.err.startswith("Traceback (most recent call last):\n")
    assert 'File "fails.py", line 2, in f' in ran.err
    assert ran.err.endswith("ValueError: no\n")


def test_source_is_read_as_python_reads_it(cli: Cli) -> None:
    (cli.folder / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\r\nprint('\xe9', end='')\r\n")
    assert cli("run", "latin.py").out == "é"


def test_exec_shows_the_value_and_keeps_the_namespace(cli: Cli) -> None:
    assert cli("exec", "-s", "s", "-", stdin="x = 20").out == ""
    assert cli("exec", "-s", "s", "x + 1").out == "21\n"
    assert cli("exec", "-s", "s", "x / 0").code == 1
    names = {line["name"]: line["status"] for line in cli("vars", "s", "--json").lines()}
    assert names["x"] == "kept"


def test_json_is_a_line_an_event_and_nothing_else(cli: Cli) -> None:
    ran = cli("exec", "-s", "s", "print('hi')\n6 * 7", "--json")
    events = ran.lines()
    assert [event["type"] for event in events] == ["output", "finished"]
    assert events[0]["text"] == "hi\n"
    assert events[1]["result"]["data"] == 42
    assert ran.err == ""


def test_every_run_that_has_ended_is_followed_by_a_new_session(cli: Cli) -> None:
    cli.write("twice.py", "print('once')")
    assert [cli("run", "twice.py").out for _ in range(3)] == ["once\n"] * 3
    assert {line["name"] for line in cli("sessions", "--json").lines()} == {"twice", "twice-2", "twice-3"}


def test_a_question_is_left_pending_answered_and_gone_on_with(cli: Cli) -> None:
    cli.write("asks.py", ASKS)
    command = ("run", "asks.py", "--grant", "ask", "--detach")
    first = cli(*command)
    assert first.code == 75
    assert first.out == "before\n"
    assert 'asks@1:s0.1 waits for an answer to "Pay?": perdure answer asks@1:s0.1 VALUE' in first.err
    assert [call["prompt"] for call in cli("pending", "--json").lines()] == ["Pay?"]

    bad = cli("answer", "asks@1:s0.1", "maybe")
    assert (bad.code, bad.err) == (2, "perdure: 'maybe' is not among the choices: 'yes', 'no'\n")
    assert cli("answer", "asks@1:s0.1", "yes").code == 0
    again = cli("answer", "asks@1:s0.1", "no")
    assert again.code == 2
    assert "was settled already" in again.err

    rest = cli(*command)
    assert rest.code == 0, rest
    assert rest.out == "answered yes\n"  # not the beginning again
    assert cli("output", "asks@1").out == "before\nanswered yes\n"


def test_an_unfinished_run_is_not_mixed_with_another_one(cli: Cli) -> None:
    cli.write("asks.py", ASKS)
    command = ("run", "asks.py", "--grant", "ask", "--detach")
    assert cli(*command).code == 75
    other = cli(*command, "argument")
    assert other.code == 2
    assert "asks@1 is unfinished, and its arguments are not those of this run" in other.err

    cli.write("asks.py", "print('changed')")
    changed = cli(*command)
    assert changed.code == 2
    assert "its content" in changed.err
    assert "--resume" in changed.err
    assert "--new" in changed.err

    assert cli(*command, "--new").out == "changed\n"
    assert {line["id"]: line["status"] for line in cli("ps", "--json").lines()} == {"asks-2@1": "ok", "asks@1": None}


def test_the_unfinished_run_of_an_older_file_is_finished_as_it_was(cli: Cli) -> None:
    cli.write("asks.py", ASKS)
    assert cli("run", "asks.py", "--grant", "ask", "--detach").code == 75
    cli.write("asks.py", "print('changed')")
    assert cli("fail", "asks@1:s0.1", "nobody is here").code == 0
    ran = cli("run", "asks.py", "--resume")
    assert ran.code == 1
    assert ran.err.endswith("perdure.CallFailed: nobody is here\n")
    assert "changed" not in ran.out


def test_a_killed_run_goes_on_and_prints_the_rest(cli: Cli) -> None:
    cli.write("long.py", "import time\nfor i in range(6):\n    print(i)\n    time.sleep(0.5)\n")
    out = cli.folder / "out"
    process = cli.start("run", "long.py", out=out)
    cli.until(out, "2\n", process)
    process.kill()
    process.wait(PATIENCE)
    shown = out.read_text()
    assert "no worker is there: 'perdure worker' goes on with it" in cli("ps").out
    ran = cli("run", "long.py")
    assert ran.code == 0, ran
    # Killed between the print and the note of it, the last record is shown twice; never is one left out.
    assert ran.out.endswith("3\n4\n5\n")
    assert cli("output", "long@1").out == "0\n1\n2\n3\n4\n5\n"
    assert shown + ran.out == "0\n1\n2\n3\n4\n5\n" or shown.endswith(ran.out.splitlines(keepends=True)[0])


def test_an_interrupt_leaves_and_loses_nothing(cli: Cli) -> None:
    cli.write("long.py", "import time\nprint('start')\ntime.sleep(3)\nprint('end')\n")
    out = cli.folder / "out"
    process = cli.start("run", "long.py", out=out)
    cli.until(out, "start", process)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    said = out.with_suffix(".err").read_text()
    assert said == "perdure: left long@1 unfinished; nothing is lost: the same command goes on with it\n"
    assert cli("run", "long.py").out == "end\n"


def test_a_worker_of_its_own_finishes_what_is_left(cli: Cli) -> None:
    cli.write("asks.py", ASKS)
    assert cli("run", "asks.py", "--grant", "ask", "--detach").code == 75
    out = cli.folder / "worker"
    worker = cli.start("worker", out=out)
    try:
        cli.until(out.with_suffix(".err"), "worker.ready")
        assert cli("answer", "asks@1:s0.1", "no").code == 0
        assert cli("output", "asks@1", "--follow").out == "before\nanswered no\n"
    finally:
        worker.terminate()
    assert worker.wait(PATIENCE) == 0


def test_cancel_stops_what_runs(cli: Cli) -> None:
    cli.write("forever.py", "import time\nprint('on')\nwhile True:\n    time.sleep(0.01)\n")
    out = cli.folder / "out"
    process = cli.start("run", "forever.py", out=out)
    cli.until(out, "on", process)
    assert cli("cancel", "forever@1").code == 0
    assert process.wait(PATIENCE) == 1
    assert cli("ps", "--json").lines()[0]["status"] == "cancelled"


def test_questions_are_asked_in_the_terminal(cli: Cli) -> None:
    cli.write("asks.py", ASKS)
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(cli.folder)
        command = cli.command("run", "asks.py", "--grant", "ask")
        os.execve(command[0], command, cli.environment(TERM="xterm"))  # noqa: S606 - the child of a terminal
    try:
        seen = _read_until(terminal, b"", [b"Pay? [yes/no] "])
        os.write(terminal, b"maybe\n")
        seen = _read_until(terminal, seen, [b"'maybe' is not among the choices", b"Pay? [yes/no] "])
        os.write(terminal, b"yes\n")
        _read_until(terminal, seen, [b"answered yes"])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert seen.index(b"before") < seen.index(b"Pay?")


def test_a_prompt_stands_once(cli: Cli) -> None:
    cli.write(
        "greets.py", "name = input('who? ')\ndef f(x):\n    breakpoint()\n    return x\nprint('hello', name, f(2))\n"
    )
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(cli.folder)
        command = cli.command("run", "greets.py")
        os.execve(command[0], command, cli.environment(TERM="dumb"))  # noqa: S606 - the child of a terminal
    try:
        seen = _read_until(terminal, b"", [b"who? "])
        os.write(terminal, b"Ada\n")
        seen = _read_until(terminal, seen, [b"(Pdb) "])
        os.write(terminal, b"p x\n")
        seen = _read_until(terminal, seen, [b"2", b"(Pdb) "])
        os.write(terminal, b"c\n")
        seen = _read_until(terminal, seen, [b"hello Ada 2"])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert (seen.count(b"who? "), seen.count(b"(Pdb) ")) == (1, 2)


def _read_until(terminal: int, seen: bytes, wanted: list[bytes]) -> bytes:
    """Read on until all of ``wanted`` came, in this order, after ``seen``."""
    at = len(seen)
    for each in wanted:
        while each not in seen[at:]:
            seen += os.read(terminal, 4096)
        at = seen.index(each, at) + len(each)
    return seen
