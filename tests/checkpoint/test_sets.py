"""The order of sets: after a restore they are iterated, and go on growing, as they would have without it."""

from __future__ import annotations

import importlib
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .fuzz import load_guest

load_guest()
identity: Any = importlib.import_module("_perdure_guest.checkpoints.identity")
layouts: Any = importlib.import_module("_perdure_guest.checkpoints.layouts")
stream: Any = importlib.import_module("_perdure_guest.checkpoints.stream")
hooks: Any = importlib.import_module("_perdure_guest.checkpoints.hooks")
glances: Any = importlib.import_module("_perdure_guest.checkpoints.glances")
sharing: Any = importlib.import_module("_perdure_guest.checkpoints.sharing")

WAYS = ["python", pytest.param("native", marks=pytest.mark.skipif(not identity.native, reason="no compiler"))]

#: Many of them collide: in a table of eight slots, and in larger ones.
ELEMENTS = st.one_of(
    st.integers(-3, 40),
    st.integers(0, 12).map(lambda number: number * 64),
    st.integers(0, 30).map(str),
    st.tuples(st.integers(0, 3), st.text(max_size=1)),
    st.sampled_from([None, 1.5, b"x", True, frozenset({1, 9})]),
)
STEPS = st.lists(st.tuples(st.sampled_from(["add"] * 5 + ["discard"] * 2 + ["pop", "copy", "clear"]), ELEMENTS))


def played(thing: set[Any], steps: list[tuple[str, Any]]) -> tuple[set[Any], list[Any]]:
    """Return what becomes of a set, and everything that can be seen of it on the way."""
    seen: list[Any] = []
    for what, element in steps:
        if what == "copy":
            thing = thing | {element}
        elif what == "pop":
            seen.append(thing.pop() if thing else None)
        elif what == "clear":
            thing.difference_update(list(thing)[::2])
        else:
            getattr(thing, what)(element)
        seen.append(list(thing))
    return thing, seen


def through(value: Any, way: str) -> Any:
    """Store a value as a unit and load it."""
    table = (layouts and identity.PythonTable if way == "python" else identity.extension.Table)(
        sharing.judge_type, sharing.judge_object, glances.judge_open, glances.parts_of
    )
    writer = stream.Writer(table)
    writer.begin({}, hooks.Watch())
    table.begin(1)
    written = writer.write([value], lambda _which, why: why)
    writer.close()
    table.forget()
    assert not written.failures
    reader = stream.Reader(written.stream, list(zip(written.ends, written.buffer_ends, strict=True)), [], None)
    return reader.read(0)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=150, deadline=None)
@given(before=STEPS, after=STEPS)
def test_a_set_goes_on_as_if_nothing_had_been(way: str, before: list[Any], after: list[Any]) -> None:
    thing, _ = played(set(), before)
    # The substitute is followed by either: plans are durable data.
    back, frozen = through([thing, frozenset(thing)], way)
    assert list(back) == list(thing)
    assert list(frozen) == list(frozenset(thing))
    assert played(back, after)[1] == played(thing, after)[1]


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_both_ways_make_the_same_plans(steps: list[Any]) -> None:
    if not identity.native:
        pytest.skip("no compiler")
    thing, _ = played(set(), steps)
    plan = identity.extension.layout(thing)
    assert plan == layouts.python_layout(thing)
    again = pickle.loads(pickle.dumps(thing))  # noqa: S301 - made here
    if plan is not None:
        assert layouts.python_arrange(again, plan)
        assert identity.extension.layout(again) == plan


@pytest.mark.parametrize("way", WAYS)
def test_what_large_sets_share_is_stored_once(way: str) -> None:
    large: set[Any] = {str(number) for number in range(4000)} - {str(number) for number in range(0, 4000, 3)}
    large |= {number << 40 for number in range(100)}
    one, [other, kept], held = through([large, [large, {"in": large}], frozenset(large)], way)
    assert one is other is kept["in"]
    assert list(one) == list(large)
    assert list(held) == list(frozenset(large))


class Held(set[Any]):
    """A subclass, which is stored by its hook."""


@pytest.mark.parametrize("way", WAYS)
def test_a_set_of_a_library_class(way: str) -> None:
    thing = Held(map(str, range(50)))
    thing -= {"3", "30"}
    assert list(through(thing, way)) == list(thing)


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_for_another_set_is_not_followed(way: str) -> None:
    arrange = layouts.python_arrange if way == "python" else identity.extension.arrange
    thing = set(map(str, range(50)))
    plan = layouts.python_layout(thing - {"7"})
    for other in (set(map(str, range(1, 50))), set(range(49)), {1}, set(), {1, 2, 3} - {2}):
        order = list(other)
        assert not arrange(other, plan)
        assert list(other) == order
    for damaged in (b"", plan[:5], plan[:-1], plan + b"\0", bytes([9]) + plan[1:], plan[:1] + b"\x40" + plan[2:]):
        assert not arrange(set(iter(thing - {"7"})), damaged)


def test_where_sets_work_otherwise_there_are_no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layouts.works(layouts.python_layout, layouts.python_arrange)
    monkeypatch.setattr(layouts, "_trust", [False])
    assert layouts.python_layout(set(map(str, range(50)))) is None
    assert not layouts.works(layouts.python_layout, layouts.python_arrange)
