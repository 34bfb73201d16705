"""What was answered survives any number of SIGKILLs and loss of power, and nothing is half done.

`PERDURE_KILLS` says how many kills; the default keeps the suite short.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("PERDURE_KILLS", "150"))
HERE = Path(__file__).parent


def crash(folder: Path, kills: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(part for part in sys.path if part)
    return subprocess.run(
        [sys.executable, str(HERE / "crashes.py"), str(folder), str(kills), "1", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def powerless(tmp_path: Path) -> dict[str, str]:
    """The environment in which only what was fsynced survives."""
    shim = tmp_path / "power.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(HERE / "power.c"), "-ldl"], check=True)
    durable = tmp_path / "durable"
    durable.mkdir()
    return {"LD_PRELOAD": str(shim), "PERDURE_DURABLE": str(durable)}


@pytest.mark.timeout(60 + KILLS)
def test_kills_lose_nothing_that_was_answered(tmp_path: Path) -> None:
    ended = crash(tmp_path, KILLS)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert f"{KILLS} kills" in ended.stdout


@pytest.mark.timeout(60 + KILLS)
def test_loss_of_power_loses_nothing_that_was_answered(tmp_path: Path, powerless: dict[str, str]) -> None:
    ended = crash(tmp_path, max(KILLS // 8, 1), **powerless)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_the_simulated_loss_of_power_does_lose_what_was_not_synced(tmp_path: Path, powerless: dict[str, str]) -> None:
    ended = crash(tmp_path, 5, "NORMAL", **powerless)
    assert "answered" in ended.stderr
