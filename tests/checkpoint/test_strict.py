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
# While nothing else is to be done, what was missed is found without one that looks at everything.
never = lambda: False
assert checkpoints.verify(never)
assert "missed" not in step("x = 7"), "nothing had changed"
step("import collections; collections.kept.append(2)")
asked = iter(range(100))
assert not checkpoints.verify(lambda: next(asked) > 0), "there was something else to do"
assert checkpoints.verify(never)
data = step("x = 8")
assert data["missed"] == 1 and data["missed_names"] == ["big"] and len(data["units"]) == 1, data
assert checkpoints.verify(never) and "missed" not in step("x = 9")
# What is of another name by now is no suspect, and a value that says itself how it is stored is not asked.
step('''
class Said:
    asked = 0
    def __init__(self): self.held = list(range(5000))
    def __getstate__(self): Said.asked += 1; return {"held": self.held}
said = Said(); twin = [Said() for _ in range(3)]
import copyreg
class Told:
    def __init__(self): self.held = list(range(5000))
def tell(thing): Said.asked += 1; return Told, ()
copyreg.pickle(Told, tell); told = Told()
''')
before = module.Said.asked
module.collections.kept.append(3)
module.big = module.big + [1]
assert checkpoints.verify(never) and module.Said.asked == before > 0
assert "missed" not in step("x = 10")
step("del said, twin, told, tell, Said, Told")
# Arrays: by their pages where the kernel tells, by their bytes otherwise.
try:
    import numpy
except ImportError:
    numpy = None
if numpy is not None:
    step("import collections, numpy; data = numpy.zeros(100_000); collections.kept = data[10:]; small = {}")
    data = step("import collections; collections.kept[5] = 1.0")
    assert "units" not in data, data
    assert checkpoints.verify(never)
    data = step("x = 11")
    assert data["missed"] == 1 and len(data["units"]) == 1 and data["pack"] < 70_000, data
    pages = importlib.import_module("_perdure_guest.checkpoints.pages").Pages.open()
    if pages is not None:
        checkpoints.watch(pages)
        step("x = 12")
        data = step("import collections; collections.kept[50_000] = 1.0")
        assert "missed" not in data and len(data["units"]) == 1 and data["pack"] < 70_000, data
        assert checkpoints.verify(never) and "units" not in step("y = None; y")
        # The part of a page with which it begins.
        seen = "units" in step("import collections; collections.kept[-10] = 2.0; collections.kept.base[0] = 2.0")
        assert seen or checkpoints.verify(never) and step("y = 1; y")["missed"] == 1
# A trial that is taken back: the next checkpoint adds to the one before it, and has all that changed since.
def trial(code):
    exec(compile(code, "<cell>", "exec"), vars(module))
    told = watcher.take()
    made = checkpoints.save(told, trial=True).data
    checkpoints.take_back()
    return told, made
def after(told, code):
    exec(compile(code, "<cell>", "exec"), vars(module))
    more = watcher.take()
    more.add(told)
    return checkpoints.save(more).data
step("rows = list(range(5000)); table = [[n] for n in range(5000)]")
before = checkpoints.manifest()
told, made = trial("rows.append(1); table[7].append(rows); new = {}")
assert made["units"] and "new" in made["names"] and checkpoints.manifest() == before
data = after(told, "x = 13")
assert data["since"] == before["generation"] and {"new", "x"} == set(data["names"]), data
assert data["units"].keys() >= made["units"].keys() - made["names"].keys() and data["pack"] < 20_000, data
assert after(trial("x = 14")[0], "x = 15")["names"] == {"x": 15}
told, made = trial("rows.append(3)")
assert made["units"] and after(told, "x = 16")["units"].keys() == made["units"].keys()
told, made = trial("rows.append(4)")
assert "units" not in after(touched.Touched(), "x = 17"), "what the trial was told was not needed: this tests nothing"
if numpy is not None and pages is not None:
    step("data = numpy.zeros(100_000); x = 16")
    told, made = trial("data[50_000] = 3.0")
    assert made["pack"] < 70_000, made
    data = after(told, "x = 17")
    assert data["units"] and data["pack"] < 70_000, data
    assert "units" not in after(trial("x = 18")[0], "x = 19")
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
