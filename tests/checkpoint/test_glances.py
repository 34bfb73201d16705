"""A glance differs when anything in the value does, and is the same when nothing does."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from .fuzz import load_guest

load_guest()
identity: Any = importlib.import_module("_perdure_guest.checkpoints.identity")
sharing: Any = importlib.import_module("_perdure_guest.checkpoints.sharing")
glances: Any = importlib.import_module("_perdure_guest.checkpoints.glances")

pytestmark = pytest.mark.skipif(not identity.native, reason="no compiler")

#: What makes `a`, and what changes it.
CHANGES = [
    ("a = [1, 2]", "a[1] = 3"),
    ("a = [1, 2]", "a[1] = 2.0"),
    ("a = [1]", "a[0] = True"),
    ("a = [0.0]", "a[0] = -0.0"),
    ("a = [1 << 80]", "a[0] += 1"),
    ("a = ['x']", "a[0] = b'x'"),
    ("a = ['x']", "a[0] = 'x\\0'"),
    ("a = ['xy' * 9]", "a[0] = 'xz' * 9"),
    ("a = [1j]", "a[0] = 1 - 1j"),
    ("a = {'k': [1]}", "a['k'].append(None)"),
    ("a = {'k': 1, 'l': 2}", "a['k'] = a.pop('k')"),
    ("b = [1]; a = [b, b]", "a[1] = [1]"),
    ("a = {1, 2}", "a.add(3)"),
    ("a = {1, 2}", "a.discard(2)"),
    ("a = ({1}, frozenset({2}))", "a[0].add(2)"),
    ("a = bytearray(b'abc')", "a[0] = 0"),
    ("def a(x=[1]): return x", "a.__defaults__[0].append(2)"),
    ("def a(): return 1", "a.__code__ = (lambda: 2).__code__"),
    ("def a(): return 1", "a.kept = 1"),
    ("def a(): 'text'", "a.__doc__ = 'other'"),
    ("def f():\n n = [0]\n def up(): n.append(1)\n return up\na = f()", "a()"),
    ("def f():\n n = 0\n def up():\n  nonlocal n\n  n += 1\n return up\na = f()", "a()"),
    ("class a:\n kind = []", "a.kind.append(1)"),
    ("class a:\n kind = 1", "a.more = 2"),
    ("class a:\n @property\n def x(self): return 1", "a.x = property(lambda self: 2)"),
    ("class a:\n @staticmethod\n def x(): return 1", "a.x = staticmethod(lambda: 2)"),
    ("class C: pass\na = C(); a.x = 1", "a.x = 2"),
    ("class C: pass\na = C(); a.x = [1]", "a.x.append(2)"),
    ("class C: pass\nclass D: pass\na = C()", "a.__class__ = D"),
    ("class C:\n def m(self): pass\nc = C(); a = c.m", "c.x = 1"),
    ("import random\na = random.Random(1)", "a.random()"),
    ("import numpy\na = numpy.random.default_rng(1)", "a.random()"),
    ("import numpy\na = numpy.random.default_rng(1)", "a.bit_generator.seed_seq.spawn(1)"),
]

#: What only pickling tells about.
OTHERS = [
    "class C:\n def __getstate__(self): return {}\na = C()",
    "class C:\n __slots__ = ('x',)\na = C()",
    "class C:\n def __getattr__(self, name): return None\na = C()",
    "class C(dict): pass\na = C()",
    "class M(type): pass\nclass a(metaclass=M): pass",
    "import enum\nclass a(enum.Enum):\n ONE = 1",
    "import collections\na = collections.deque([1])",
    "a = iter([1])",
    "a = [].append",
]


def look(value: Any, names: dict[str, Any]) -> Any:
    table = identity.Table(sharing.judge_type, sharing.judge_object, glances.judge_open, glances.parts_of)
    table.root(value, 1, 1)
    table.root(names, "namespace", identity.LIVE)
    table.begin(1)
    return table.glance((value,))


@pytest.mark.parametrize(("make", "change"), CHANGES)
def test_a_glance_tells_what_changed(make: str, change: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(make, names)
    before = look(names["a"], names)
    assert before is not None
    assert look(names["a"], names) == before
    exec(change, names)
    assert look(names["a"], names) != before


@pytest.mark.parametrize("make", OTHERS)
def test_what_has_a_say_of_its_own_is_pickled(make: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(make, names)
    assert look(names["a"], names) is None
