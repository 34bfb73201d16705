"""A namespace that was just loaded: what nothing changed is not stored again, and what did change is."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .fuzz import ROOT, load_guest

load_guest()
room: Any = importlib.import_module("_perdure_guest.checkpoints.room")

BEGIN = """
import gc, importlib, json, sys, types
sys.path.insert(0, sys.argv[1])
from tests.checkpoint.fuzz import load_guest
checkpoint = load_guest()
part = "_perdure_guest.checkpoints."
touched = importlib.import_module(part + "touched")
room = importlib.import_module(part + "room")
storage = importlib.import_module(part + "storage").Storage
module = types.ModuleType("__main__")
sys.modules["__main__"] = module
pages = importlib.import_module(part + "pages").Pages.open()
def run(code): exec(compile(code, "<cell>", "exec"), vars(module))
def everything():
    told = touched.Touched()
    told.everything = True
    return told
def stored(checkpoints):
    data = checkpoints.save(everything())
    packs[checkpoints.generation] = b"".join(data.chunks)
    return data.data
def loaded():
    # Not on a page: what comes over a channel begins where it happens to.
    memory = {}
    for number, pack in packs.items():
        whole = room.stretched(storage(), len(pack) + 100)
        whole[100:] = pack
        memory[number] = memoryview(whole)[100:]
    for name in [name for name in vars(module) if not name.startswith("__")]: del vars(module)[name]
    again = checkpoint.Checkpoints(vars(module), protected=protected, pages=pages)
    again.restore(json.loads(json.dumps(manifest)), memory)
    return again
packs, protected = {}, frozenset(vars(module))
first = checkpoint.Checkpoints(vars(module), protected=protected, pages=pages)
"""

ARRAYS = """
run('''
import numpy
kept = numpy.arange(1_000_000)
small = numpy.arange(20_000)
part = kept[100:200]
class Counted:
    def __init__(self): self.values = numpy.zeros(300_000)
    def __getstate__(self): return {"values": self.values}
    def __setstate__(self, state): self.values = state["values"]; self.values[200_000] += 1
counted = Counted()
''')
stored(first)
manifest = first.manifest()
again = loaded()
assert module.counted.values[200_000] == 1 and module.part.base is not None
data = stored(again)
# What its own code changed while it was loaded is what it is now; of the rest nothing is stored again.
kinds = {root[1] for unit in data["units"].values() for root in unit["roots"]}
assert "Counted" in kinds <= {"Counted", "type"} and 0 < data["pack"] < 70_000, data
run("kept[500_000] = -1; small[3] = -1; part[0] = -2")
data = stored(again)
assert 0 < data["pack"] < 140_000, data
assert "units" not in stored(again)
manifest = again.manifest()
loaded()
assert (module.kept[500_000], module.kept[100], module.small[3], module.kept[0]) == (-1, -2, -1, 0)
assert module.part[0] == -2 and module.counted.values[200_000] == 2
"""

OBJECTS = """
import resource
run("rows = [{'id': n, 'name': f'row {n}', 'half': n / 2} for n in range(150_000)]; twin = rows[7]")
stored(first)
manifest = first.manifest()
for turn in range(3):
    again = loaded()
    rows = module.rows
    assert len(rows) == 150_000 and rows[7] is module.twin
    assert all(row == {"id": n, "name": f"row {n}", "half": n / 2} for n, row in enumerate(rows))
    # Objects that are made later, beside those of the load, and let go in any order.
    more = [[n] for n in range(100_000)]
    del rows[::2], more[::3]
    assert len(rows) == 75_000 and rows[3]["id"] == 7 and more[0] == [1]
    del rows, more
# As much as a limit leaves is used, and then what there is everywhere.
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (now + (400 << 20), hard))
loaded()
assert module.rows[149_999]["half"] == 149_999 / 2
"""


def run(code: str, folder: Path, pure: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(ROOT)], cwd=folder, capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "PERDURE_PURE": pure},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("pure", ["0", "1"])
def test_arrays_that_were_loaded_are_watched_from_then_on(tmp_path: Path, pure: str) -> None:
    pytest.importorskip("numpy")
    run(ARRAYS, tmp_path, pure)


@pytest.mark.parametrize("pure", ["0", "1"])
def test_many_objects_are_loaded_into_large_pages_and_let_go(tmp_path: Path, pure: str) -> None:
    run(OBJECTS, tmp_path, pure)


@pytest.mark.skipif(room._native is None, reason="no compiler")
def test_room_is_taken_once_at_a_time_and_memory_stretches() -> None:
    with room.roomy(room.WORTH):
        assert room._native.begin(1 << 24) is False, "it is taken"
    with room.roomy(room.WORTH - 1):
        assert room._native.begin(1 << 24) is True, "so few bytes are not worth it"
        room._native.end()
    memory = room.stretched(bytearray(b"ab"), 5 << 20)
    assert len(memory) == 5 << 20
    assert memory[:2] == b"ab"
    memory[:] = bytes(5 << 20)
    assert memory.count(0) == 5 << 20
