"""What ran since the last time is told, however often and in whatever order: random functions against what they say."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .fuzz import load_guest

FORMS = (
    "def {name}():\n    ran.add('{name}')\n",
    "def {name}():\n    ran.add('{name}')\n    return [each for each in range(3)]\n",
    (
        "def {name}_steps():\n    while True:\n        ran.add('{name}_steps')\n        yield\n"
        "{name} = {name}_steps().__next__\n"
    ),
    "def {name}(count=[0]):\n    ran.add('{name}')\n    count[0] += 1\n    if count[0] % 2:\n        {name}()\n",
    "class {name}_type:\n    def __init__(self):\n        ran.add('{name}_type.__init__')\n{name} = {name}_type\n",
)


@pytest.fixture
def watcher() -> Iterator[Any]:
    load_guest()
    touched = importlib.import_module("_perdure_guest.checkpoints.touched")
    watcher = touched.Watcher(lambda _name: False)
    watcher.ignore(__file__)
    watcher.begin()
    yield watcher
    watcher.end()


class Session:
    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.namespace: dict[str, Any] = {"ran": self.ran}

    def run(self, code: str) -> None:
        exec(compile(code, "<cell>", "exec"), self.namespace)

    def told(self, watcher: Any) -> tuple[set[str], Any]:
        touched = watcher.take()
        return {name for file, _line, name in touched.code if file == "<cell>"}, touched


@pytest.mark.parametrize("seed", range(8))
def test_everything_that_ran_is_told(watcher: Any, seed: int) -> None:
    chance, session = random.Random(seed), Session()
    names: list[str] = []
    for step in range(150):
        session.ran.clear()
        if step % 3 == 0:
            names.append(f"f{step}")
            session.run(chance.choice(FORMS).format(name=names[-1]))
        if chance.random() < 0.05:
            sys.monitoring.restart_events()
        called = chance.sample(names, min(len(names), chance.randrange(6)))
        for name in called:
            for _ in range(chance.choice((1, 1, 3, 100))):
                session.namespace[name]()
        told, touched = session.told(watcher)
        assert session.ran <= told, (step, session.ran - told)
        assert not touched.everything
        # And nothing that did not: `<module>` is what defines them.
        assert told - {"<module>"} <= session.ran | {f"{name}_type" for name in names}, step


def test_of_more_functions_than_are_asked_one_by_one_each_is_told(watcher: Any) -> None:
    session = Session()
    names = [f"f{number}" for number in range(250)]
    for name in names:
        session.run(FORMS[0].format(name=name))
    for _ in range(3):
        session.told(watcher)
        for name in names:
            session.namespace[name]()
        told, touched = session.told(watcher)
        assert told >= set(names)
        assert not touched.everything
        session.namespace["f7"]()
        assert session.told(watcher)[0] == {"f7"}


def test_a_generator_that_goes_on_is_told_of(watcher: Any) -> None:
    session = Session()
    session.run("def steps():\n    while True:\n        yield\nnow = steps()\nnext(now)")
    assert not session.told(watcher)[1].resumed
    session.run("x = 1")
    assert not session.told(watcher)[1].resumed
    session.run("next(now)")
    told, touched = session.told(watcher)
    assert touched.resumed
    assert "steps" in told


@pytest.mark.parametrize("which", [0, 1])
def test_an_id_that_was_taken_away_is_noticed(watcher: Any, which: int) -> None:
    session = Session()
    session.run("def f(): ran.add('f')")
    session.namespace["f"]()
    assert "f" in session.told(watcher)[0]
    sys.monitoring.free_tool_id((watcher.tool, watcher._id_again)[which])
    session.namespace["f"]()
    assert session.told(watcher)[1].everything
    for _ in range(3):
        session.namespace["f"]()
        told, touched = session.told(watcher)
        assert "f" in told
        assert not touched.everything


def test_with_one_id_only_nothing_is_missed(watcher: Any) -> None:
    taken = [number for number in (3, 4, 5) if sys.monitoring.get_tool(number) is None]
    sys.monitoring.free_tool_id(watcher._id_again)
    taken.append(watcher._id_again)
    for number in taken:
        sys.monitoring.use_tool_id(number, "other")
    try:
        session = Session()
        session.run("def f(): ran.add('f')")
        assert session.told(watcher)[1].everything
        for _ in range(3):
            session.namespace["f"]()
            told, touched = session.told(watcher)
            assert "f" in told
            assert not touched.everything
    finally:
        for number in taken:
            sys.monitoring.free_tool_id(number)


def test_code_that_has_its_hands_on_what_watches_it_is_watched_again(watcher: Any) -> None:
    session = Session()
    session.run("def f(): ran.add('f')")
    session.namespace["f"]()
    session.told(watcher)
    session.run(f"import sys; sys.monitoring.set_local_events({watcher._id_again}, f.__code__, 0)")
    assert session.told(watcher)[1].everything
    session.namespace["f"]()
    assert "f" in session.told(watcher)[0]
