"""A run of the tests cannot pass by mistake: nothing collected, a misspelt marker, a warning, a blocked loop fail."""

import subprocess
import sys
from pathlib import Path

import pytest
from blockbuster import BlockingError

from perdure import engine
from tests.repository.layers import ROOT

FAILED, MISUSED, NOTHING_COLLECTED = 1, 2, 5


def outcome(folder: Path, source: str, *options: str) -> int:
    """Run pytest as this project sets it up on one file of tests; its exit code."""
    (folder / "test_given.py").write_text(source)
    settings: list[str | Path] = ["-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *settings, "--rootdir", folder, folder, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("def test_a(): pass", 0),
        ("", NOTHING_COLLECTED),
        ("import pytest\n@pytest.mark.grid\ndef test_a(): pass", NOTHING_COLLECTED),
        ("import pytest\n@pytest.mark.sloow\ndef test_a(): pass", MISUSED),
        ("import warnings\ndef test_a(): warnings.warn('x')", FAILED),
        ("import asyncio\nasync def test_a(): await asyncio.sleep(0)", 0),
        ("import pytest\n@pytest.mark.timeout(0.2)\ndef test_a():\n    while True: pass", FAILED),
        ("import pytest\n@pytest.mark.parametrize('x', [])\ndef test_a(x): pass", MISUSED),
        ("import pytest\n@pytest.mark.xfail\ndef test_a(): pass", FAILED),
    ],
)
def test_the_exit_code(tmp_path: Path, source: str, code: int) -> None:
    assert outcome(tmp_path, source) == code


def test_a_selection_that_finds_nothing_fails(tmp_path: Path) -> None:
    assert outcome(tmp_path, "def test_a(): pass", "-k", "other") == NOTHING_COLLECTED


@pytest.mark.no_blocking
async def test_a_blocking_call_of_ours_on_the_loop_is_found() -> None:
    ours = compile("import os; os.stat('/')", f"{engine.__path__[0]}/blocking.py", "exec")
    with pytest.raises(BlockingError):
        exec(ours, {})


async def test_blocking_calls_are_looked_for_only_where_asked() -> None:
    ours = compile("import os; os.stat('/')", f"{engine.__path__[0]}/blocking.py", "exec")
    exec(ours, {})
