"""The documentation names things that exist: links, make targets, commands, options."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.engine.cli.app import app

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
    broken = [target for target in targets if not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)", page.read_text())) | set(
        re.findall(r"^\$? ?make ([a-z]+)", page.read_text(), re.MULTILINE)
    )
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    commands = {name for command in app.registered_commands if (name := command.name or command.callback.__name__)}
    named = set(re.findall(r"(?:`|^|\$ )perdure ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= commands


def test_every_command_explains_itself() -> None:
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0
        assert command.callback.__doc__
