"""What fails to load costs the deepest object that fails, and what is stored of it stays, whatever is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from .kit import Session

LIBRARY = """
class Thing:
    def __init__(self, *parts): self.parts = list(parts)
class Table(dict): pass
class Row(list): pass
class Point(tuple):
    def __new__(cls, at): return tuple.__new__(cls, at)
class Picky:
    def __setstate__(self, state): self.__dict__.update(state)
    def __getstate__(self): return dict(vars(self))
class Frozen:
    __slots__ = ('x',)
class Made:
    def __reduce__(self): return make, (self.x, self.y), None, None, None
def make(x, y):
    made = Made(); made.x = x; made.y = y
    return made
class Set:
    def __reduce__(self): return Set, (), {'deep': self.deep}, None, None, put
def put(made, state): made.deep = state['deep']
def helper(): return 'helped'
Seed = 7
"""

MAKE = """
import sys; sys.path.insert(0, {folder!r})
import library
from library import helper
shared = [1]
class Own(library.Thing):
    def size(self): return len(self.parts)
def use(x): return library.helper()
thing = library.Thing(shared, 'deep')
holder = {{'a': [thing, library.Thing(thing)], 'plain': 2}}
hidden = [1, 2]; both = {{'hidden': [hidden, library.Thing(hidden)]}}; twin = both['hidden'][1].parts; del hidden
table = library.Table(a=1, b=thing); row = library.Row([1, [2], thing]); point = library.Point((1, (2, shared)))
frozen = library.Frozen(); frozen.x = [shared]
made = library.Made(); made.x = 1; made.y = [shared]
put = [library.Set()]; put[0].deep = shared
own = Own(1, 2); owns = [own, Own(3)]
circle = library.Thing(); circle.parts.append(circle); ring = [circle, 1]
members = {{library.Thing(5), 6}}; member = next(m for m in members if m != 6)
functions = [helper, library.Thing, 1]; caller = lambda: helper()
"""

WHOLE = """
assert type(thing) is library.Thing and thing.parts[0] is shared and thing.parts[1] == 'deep'
assert holder['a'][0] is thing and holder['a'][1].parts[0] is thing and holder['plain'] >= 2
assert both['hidden'][1].parts is twin and twin[0] is both['hidden'][0]
assert type(table) is library.Table and table['b'] is thing and table['a'] == 1
assert type(row) is library.Row and row[2] is thing and row[:2] == [1, [2]]
assert type(point) is library.Point and point[1][1] is shared
assert frozen.x[0] is shared and made.x == 1 and made.y[0] is shared
assert put[0].deep is shared
assert type(own) is Own and own.size() == 2 and owns[0] is own and owns[1].size() == 1
assert isinstance(own, library.Thing)
assert type(ring[0]) is library.Thing and ring[0] is circle.parts[0] is circle
assert member in members and member.parts == [5] and 6 in members
assert functions[0] is helper is library.helper and functions[1] is library.Thing and caller() == 'helped'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "libraries"
    place.mkdir()
    (place / "library.py").write_text(LIBRARY)
    return place


def without(folder: Path) -> None:
    for cached in folder.glob("__pycache__/*"):
        cached.unlink()
    (folder / "library.py").unlink()


def test_what_could_be_loaded_is_there(session: Session, folder: Path) -> None:
    session.run(MAKE.format(folder=str(folder)) + WHOLE)
    without(folder)
    report = session.run(
        "def lost(x): return repr(x).startswith('<lost')\n"
        "assert lost(thing) and holder['a'][0] is thing and lost(holder['a'][1]) and holder['plain'] == 2\n"
        "assert both['hidden'][0] is twin[0] and lost(both['hidden'][1])\n"
        "assert lost(table) and lost(row) and lost(point) and lost(frozen) and lost(made) and lost(put[0])\n"
        "assert lost(own) and owns[0] is own and lost(owns[1]) and lost(Own)\n"
        "assert lost(ring[0]) and ring[0] is circle and ring[1] == 1\n"
        "assert member in members and lost(member) and 6 in members and lost(functions[0]) and functions[2] == 1\n"
        "try: holder['a'][1].parts\n"
        "except RuntimeError as error: text = str(error)\n"
        "for part in (\"holder['a'][1]\", 'library.Thing', \"No module named 'library'\", 'stays'):\n"
        "    assert part in text, text\n"
    ).loaded
    status = {name: (entry["status"], entry["where"]) for name, entry in report.items()}
    assert status["holder"] == ("lost", "holder['a'][1]"), status
    assert status["thing"] == ("lost", "")
    assert status["shared"] == ("kept", "")


CHANGES = [
    "",
    "holder['plain'] += 1; holder['more'] = [thing]",
    "other = thing, ring[0]; x = [holder['a'][1]]; third = functions[0]; helper2 = helper",
    "shared.append(2); twin.append(3); put.append(4); ring.append(5); members.add(9); owns.append(own)",
    "kept = shared; shared = ['another']; shared = kept; del kept",
    "shared2 = shared; del shared; shared = shared2",
    "functions.append(helper); table = [table]; table = table[0]",
    "every = dict(globals()); every = {k: v for k, v in every.items() if not k.startswith('__')}; del every",
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_stored_of_it_stays(session: Session, folder: Path, change: str) -> None:
    """Through checkpoints of processes that could not load it, whatever they did with the rest."""
    session.run(MAKE.format(folder=str(folder)))
    without(folder)
    session.run(change)
    session.run("pass")
    (folder / "library.py").write_text(LIBRARY)
    report = session.run(WHOLE).loaded
    assert {entry["status"] for entry in report.values()} == {"kept"}, report
    session.run(WHOLE)


def test_a_name_that_is_bound_to_something_else_is_not_taken_for_what_it_was(session: Session, folder: Path) -> None:
    session.run(MAKE.format(folder=str(folder)))
    without(folder)
    session.run("shared = ['another']")
    (folder / "library.py").write_text(LIBRARY)
    session.run("assert thing.parts == [[1], 'deep'] and shared == ['another'] and point[1][1] is thing.parts[0]")


def test_an_object_that_fails_late_is_nowhere_half_made(session: Session) -> None:
    session.run(
        "class Node:\n"
        "    broken = False\n"
        "    def __setstate__(self, state):\n"
        "        if state['broken']: raise ValueError(state['name'])\n"
        "        vars(self).update(state)\n"
        "    def __init__(self, name): self.name = name; self.inside = [self]; self.broken = False\n"
        "good, bad = Node('good'), Node('bad')\n"
        "bad.broken = True; bad.inside.append(good); good.inside.append(bad); tree = {'all': [good, bad, bad.inside]}\n"
    )
    for _ in range(2):
        report = session.run(
            "assert repr(bad).startswith('<lost an object of type Node') and good.inside[0] is good\n"
            "assert good.inside[1] is bad is tree['all'][1] is tree['all'][2][0] and tree['all'][2][1] is good\n"
        ).loaded
        assert "ValueError: bad" in report["bad"]["why"]
    session.run("Node.__setstate__ = lambda self, state: vars(self).update(state)")
    session.run(
        "assert bad.name == 'bad' and bad.inside[0] is bad and tree['all'][2] is bad.inside and good.inside[1] is bad"
    )


def test_thousands_that_fail_are_thousands_of_stand_ins(session: Session) -> None:
    session.run(
        "class Bad:\n"
        "    def __setstate__(self, state): raise ValueError\n"
        "many = []\n"
        "for number in range(3000): each = Bad(); each.number = number; many.append([each, number])\n"
    )
    report = session.run(
        "assert [pair[1] for pair in many] == list(range(3000)) and repr(many[2999][0]).startswith('<lost')"
    )
    assert report.loaded["many"]["where"] == "many[0][0]"


def test_a_hook_that_never_ends_costs_its_own_object(session: Session) -> None:
    session.run(
        "class Slow:\n    def __setstate__(self, state):\n        while True: pass\nx = [Slow(), 1]; x[0].y = 1"
    )
    report = session.run("assert x[1] == 1 and repr(x[0]).startswith('<lost')", hook_seconds=0.5).loaded
    assert "0.5 seconds" in report["x"]["why"]
