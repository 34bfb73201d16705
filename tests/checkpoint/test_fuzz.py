"""Random programs in small: `make fuzz` runs a million steps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .fuzz import ROOT


@pytest.mark.parametrize("how", ["", "tier1"])
def test_what_comes_back_is_what_was_there(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.fuzz", "7", "300", *how.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
