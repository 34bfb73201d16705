"""What can change a value without its name, and what can change whose alias it is: nothing of it is missed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .changes import cases
from .fuzz import ROOT

RUN = Path(__file__).with_name("changes.py")


@pytest.fixture(scope="module", params=["native", "pure"])
def wrong(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("changes")
    found: dict[str, Any] = {}
    for what in ("live", "back"):
        environment = {
            "PYTHONHASHSEED": "0",
            "PATH": "/usr/bin:/bin",
            "PERDURE_PURE": str(int(request.param == "pure")),
        }
        done = subprocess.run(
            [sys.executable, str(RUN), what, str(ROOT), str(folder)],
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        found |= json.loads((folder / f"{what}.json").read_text())
    return found


@pytest.mark.parametrize("name", cases())
def test_nothing_is_missed(name: str, wrong: dict[str, Any]) -> None:
    assert name not in wrong, wrong[name]
