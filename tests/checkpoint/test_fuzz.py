"""Random programs in small: `make fuzz` runs a million steps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .fuzz import ROOT

#: Thirteen programs of up to 50 steps from each on: 20,000 steps in all.
SEEDS = range(7, 16007, 1000)
STEPS = 625


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", ["", "tier1"])
def test_what_comes_back_is_what_was_there(how: str, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.fuzz", str(seed), str(STEPS), *how.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
