"""Whatever is wrong with a command, it says so in one line that helps, and nothing is lost."""

from pathlib import Path

import pytest

from .kit import Cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

#: What is wrong, the command, what its one line has to contain.
NOTHING_THERE = [
    ("a missing file", "run missing.py", "missing.py cannot be read (No such file or directory)"),
    ("a folder", "run folder", "folder cannot be read (Is a directory)"),
    ("no text", "run binary.py", "binary.py is not Python source"),
    ("a syntax error", "run broken.py", "SyntaxError: '(' was never closed (broken.py, line 2); nothing was recorded"),
    ("an unknown grant", "run fine.py --grant htp", "did you mean 'http'?"),
    ("a module that is not there", "run fine.py --grant nomodule:x", "importing nomodule failed"),
    ("a grant of no capability", "run fine.py --grant os:path", "'os:path' cannot be granted: path is a module"),
    ("a bad session name", "run fine.py --session a.b", "'a.b' cannot name a session: use 1 to 64 letters"),
    ("a bad isolation", "run fine.py --isolation none", "should be 'strict' or 'process'"),
    ("a missing file to bring", "run fine.py --with nothere", "there is no file nothere"),
    ("a state of a newer version", "run fine.py --state newer", "newer version (format 99, this one knows 1): upgrade"),
    ("a folder that is no state", "run fine.py --state folder", "not empty and not a state folder: name another with"),
    ("a file for a state", "run fine.py --state fine.py", "is not a state folder"),
    ("a place where nothing can be made", "run fine.py --state /proc/nothing", "cannot make a state folder at /proc/"),
    ("a file that is no store", "ps --state foreign", "is not a store"),
    ("no state to look at", "ps", "there is no state in .perdure: name it with --state"),
    ("no state to answer in", "answer a@1:s0.0 yes", "there is no state in .perdure"),
    ("a worker on a newer state", "worker --state newer", "upgrade perdure"),
    ("a worker's unknown grant", "worker --grant nomodule:x", "importing nomodule failed"),
]

#: The same in a state that holds fine@1, which has ended.
IN_A_STATE = [
    ("an id that cannot be one", "show fine", "'fine' is not the id of an execution: they look like analysis@4"),
    ("an unknown execution", "show fine@9", "there is no execution fine@9: 'perdure ps' lists"),
    ("output of an unknown one", "output other@1", "there is no execution other@1"),
    ("a call's id that cannot be one", "answer fine yes", "'fine' is not the id of a call"),
    ("an unknown call", "answer fine@1:s0.7 yes", "there is no call fine@1:s0.7: 'perdure pending' lists"),
    ("a record that is no call", "answer fine@1:s0.0 yes", "there is no call fine@1:s0.0"),
    ("failing an unknown call", "fail fine@1:s0.7 no", "there is no call fine@1:s0.7"),
    ("an answer that is not JSON", "answer fine@1:s0.7 {a --json-value", "the value is not JSON"),
    ("cancelling what has ended", "cancel fine@1", "fine@1 has ended already"),
    ("cancelling what never was", "cancel fine@2", "there is no execution fine@2"),
    ("variables of nothing", "vars other", "there is no session 'other': 'perdure sessions' lists"),
]


def _prepare(folder: Path) -> None:
    (folder / "fine.py").write_text("print('fine')\n")
    (folder / "broken.py").write_text("print(1)\nx = (\n")
    (folder / "binary.py").write_bytes(b"\xff\xfe\x00")
    (folder / "folder").mkdir()
    (folder / "folder" / "something").touch()
    for name, format_ in (("newer", 99), ("foreign", 1)):
        (folder / name).mkdir()
        (folder / name / "format").write_text(f'{{"format": {format_}}}')
    (folder / "foreign" / "perdure.db").write_bytes(b"no database " * 1000)


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    cli = Cli(tmp_path_factory.mktemp("lived-in"))
    _prepare(cli.folder)
    assert cli("run", "fine.py").code == 0
    return cli


@pytest.mark.parametrize("what, command, says", NOTHING_THERE, ids=[row[0] for row in NOTHING_THERE])
def test_one_line_that_helps(cli: Cli, what: str, command: str, says: str) -> None:
    _prepare(cli.folder)
    _refused(cli, command, says)


@pytest.mark.parametrize("what, command, says", IN_A_STATE, ids=[row[0] for row in IN_A_STATE])
def test_one_line_that_helps_in_a_state(lived_in: Cli, what: str, command: str, says: str) -> None:
    _refused(lived_in, command, says)


def test_nothing_was_lost_by_any_of_it(lived_in: Cli) -> None:
    assert [line["id"] for line in lived_in("ps", "--json").lines()] == ["fine@1"]
    assert lived_in("output", "fine@1").out == "fine\n"


def _refused(cli: Cli, command: str, says: str) -> None:
    ran = cli(*command.split())
    assert ran.code == 2, ran
    assert ran.out == ""
    assert ran.err.startswith("perdure: ")
    said, *excerpt = ran.err.splitlines()
    assert says in said
    assert all(line.startswith("    ") for line in excerpt), ran.err  # of the code, as Python shows it


def test_a_syntax_error_is_shown_as_python_shows_it(cli: Cli) -> None:
    ran = cli("exec", "-s", "s", "total = 1 +* 2")
    assert ran.err.splitlines()[1:] == ["    total = 1 +* 2", "               ^"]
    assert not cli("ps", "--json").lines()


def test_a_loss_is_said_by_the_execution_that_makes_it(cli: Cli) -> None:
    code = "rows = (n for n in range(3)); next(rows)"
    assert "not kept for the next execution: rows (" in cli("exec", "-s", "s", code).err
    assert cli("exec", "-s", "s", "1 + 1").err == ""
    (rows,) = cli("vars", "s", "--json").lines()
    assert (rows["status"], rows["type"]) == ("lost", "lost: the generator of <genexpr>()")


@pytest.mark.parametrize("command", ["nonsense", "run", "exec -s a", "answer a@1:s0.0", "ps --nonsense"])
def test_a_command_that_is_none_exits_2_without_a_traceback(cli: Cli, command: str) -> None:
    ran = cli(*command.split())
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert not cli.state.exists()
