"""Looking at everything: what changed behind every name is found, stored and counted; nothing else is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .fuzz import ROOT

CODE = """
import importlib, sys, types
sys.path.insert(0, sys.argv[1])
from tests.checkpoint.fuzz import load_guest
checkpoint = load_guest()
touched = importlib.import_module("_perdure_guest.checkpoints.touched")
module = types.ModuleType("__main__")
sys.modules["__main__"] = module
watcher = touched.Watcher(lambda _name: False)
watcher.ignore("<string>")
checkpoints = checkpoint.Checkpoints(vars(module), protected=frozenset(vars(module)))
watcher.begin()
def step(code, **how):
    exec(compile(code, "<cell>", "exec"), vars(module))
    return checkpoints.save(watcher.take(), **how).data
step("import collections; big = list(range(5000)); collections.kept = big; x = 1")
data = step("import collections; collections.kept.append(1)")
assert "units" not in data, "the library's reference was seen after all: this tests nothing"
data = step("x = 2", strict=True)
assert data["missed"] == 1 and len(data["units"]) == 1, data
data = step("x = 3; big.append(2)", strict=True)
assert "missed" not in data and len(data["units"]) == 1, data
assert "missed" not in step("x = 4", strict=True)
# The address of a state that is made anew each time is no identity: a value of the session may lie there next.
step("import random")
step("x = 5")
step("x = 6")
assert checkpoints._keeper._known.ids["\\0random"] < 0
"""


def test_what_was_missed_is_found_and_counted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT)], capture_output=True, text=True, timeout=55, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
