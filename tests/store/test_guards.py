"""Refusals come in the protocol's order: of two things that are wrong with a request, the earlier guard answers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest

from perdure.engine.store.actions import ACTIONS

from .conftest import Machine
from .guards import GUARDS, Guard, schedule_s, world, wrong

ALONE = [(kind, guard) for kind, (_, guards) in GUARDS.items() for guard in guards]
TOGETHER = [
    (kind, *pair) for kind, (_, guards) in GUARDS.items() for pair in combinations(guards, 2) if pair[0].beside(pair[1])
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("guards") / "store.db")
    yield machine
    machine.close()


@pytest.fixture
def machine(opened: Machine) -> Machine:
    """One file for all, emptied: a new one each would take most of the time."""
    tables = opened.db.all("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    opened.write(lambda _messages: [opened.db.execute(f"DELETE FROM {table}") for (table,) in tables])  # noqa: S608 - names of the schema
    return opened


def named(part: object) -> str | None:
    return f"{part.status} {part.says} {part.changes or part.now}" if isinstance(part, Guard) else None


def test_every_action_is_in_the_table() -> None:
    assert GUARDS.keys() == ACTIONS.keys()


@pytest.mark.parametrize("kind", GUARDS)
def test_what_is_in_order_is_done(machine: Machine, kind: str) -> None:
    world(machine)
    schedule_s(machine)
    assert machine.apply(10, kind, **GUARDS[kind][0])[0] == 200


@pytest.mark.parametrize(("kind", "guard"), ALONE, ids=named)
def test_a_guard_refuses_and_says_why(machine: Machine, kind: str, guard: Guard) -> None:
    status, why = refusal(machine, kind, guard)
    assert status == guard.status
    assert guard.says in why


@pytest.mark.parametrize(("kind", "first", "second"), TOGETHER, ids=named)
def test_the_earlier_guard_answers(machine: Machine, kind: str, first: Guard, second: Guard) -> None:
    assert refusal(machine, kind, first, second)[0] == first.status


def refusal(machine: Machine, kind: str, *guards: Guard) -> tuple[int, str]:
    """The answer to a request with all of this wrong, which has changed nothing."""
    world(machine)
    for guard in guards:
        if guard.before is not None:
            guard.before(machine)
    before = machine.db.changes
    now = max(guard.now for guard in guards)
    request = wrong(GUARDS[kind][0], {path: to for guard in guards for path, to in guard.changes.items()})
    status, why = machine.apply(now, kind, **request)
    assert machine.db.changes == before
    return status, why
