"""The documentation names things that exist: links, make targets, commands; and what it shows as run does run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.engine.cli.app import app
from perdure.engine.settings import Limits

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]

#: Stands above a block of sh or python that is run as it is, in an empty folder.
RUNS = re.compile(r"<!-- runs -->\n```(sh|python)\n(.*?)```", re.DOTALL)

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

COMMANDS = {
    command.name or command.callback.__name__: command.callback
    for command in app.registered_commands
    if command.callback
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    broken = [target for target in targets if not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", page.read_text())) | set(
        re.findall(r"^\$? ?make ([a-z-]+)", page.read_text(), re.MULTILINE)
    )
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    commands = set(COMMANDS)
    named = set(re.findall(r"(?:`|^|\$ )perdure ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0
    assert COMMANDS[name].__doc__


def test_what_is_shown_as_run_does_run(tmp_path: Path) -> None:
    blocks = [block for page in PAGES for block in RUNS.findall(page.read_text())]
    assert blocks
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for number, (language, text) in enumerate(blocks):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-c", text] if language == "python" else ["sh", "-euc", text]
        done = subprocess.run(command, cwd=folder, env=tools, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


def test_every_limit_is_in_its_table() -> None:
    table = (ROOT / "docs" / "sessions.md").read_text().partition("## Limits")[2]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(Limits.model_fields)
