"""What a fork takes along: every call asked before the reply it changes, and every delivery before it."""

from __future__ import annotations

from typing import Any

from perdure.engine.forks import Import, plan
from perdure.engine.journal import Journal

from .test_journal import call, output, promise


def asked(path: str, after: int, **more: Any) -> dict[str, Any]:
    return {**call(path), "name": "f", "at": 0, "after": after, **more}


def planned(records: list[Any], at: int, outcome: dict[str, Any] | None) -> list[Import]:
    """Plan a fork, and see that what it writes can be read."""
    imports = plan(records, at, outcome)
    again = [promise(each.param, state="pending" if each.open else "resolved") for each in imports]
    Journal.read(again)
    return imports


def paths(imports: list[Import]) -> list[str]:
    return [each.param["path"] for each in imports if each.kind == "call"]


HISTORY = [
    promise(asked("main.0", 0, outcome={"value": 1}, entered={"at": 0, "items": []})),
    promise(asked("main/1.0", 1, effect="external", entered={"at": 0, "items": [["r", "main.0", 0]]}), state="pending"),
    promise(asked("main/2.0", 1), value="old"),
    promise({**output(("stdout", "ab", [2])), "at": 0}),
    promise(
        asked(
            "main/2.1",
            4,
            outcome={"value": 3},
            entered={"at": 1, "items": [["c", "main", 1, 5, 1], ["r", "main/2.0", 0], ["c", "main", 2, 9, 1]]},
        )
    ),
    # Asked before the fork, recorded behind it.
    promise(asked("main/3.0", 1, outcome={"value": 4})),
    promise({**output(("stdout", "cd", [2])), "at": 0}),
]


def test_what_was_asked_before_the_changed_reply_is_taken_along_and_nothing_else() -> None:
    imports = planned(HISTORY, 2, {"value": "new"})
    assert paths(imports) == ["main.0", "main/1.0", "main/2.0", "main/3.0"]
    assert [each.open for each in imports if each.kind == "call"] == [False, True, False, False]
    changed = next(each for each in imports if each.param.get("path") == "main/2.0")
    assert changed.param["outcome"] == {"value": "new"}
    assert sum(each.kind == "output" for each in imports) == 1
    carrier = imports[-1]
    assert carrier.kind == "fork"
    assert carrier.param["entered"] == {
        "at": 0,
        "items": [["r", "main.0", 0], ["c", "main", 1, 5, 1], ["r", "main/2.0", 0]],
    }


def test_a_call_that_is_to_be_asked_anew_is_left_out_with_its_delivery() -> None:
    imports = planned(HISTORY, 2, None)
    assert paths(imports) == ["main.0", "main/1.0", "main/3.0"]
    assert imports[-1].param["entered"]["items"] == [["r", "main.0", 0], ["c", "main", 1, 5, 1]]


def test_what_was_under_way_is_in_doubt() -> None:
    imports = planned([promise(asked("main.0", 0), state="pending"), promise(asked("main.1", 0), value=1)], 1, None)
    assert imports[0].param["outcome"]["error"]["type"] == "CallInDoubt"


def test_a_fork_can_be_forked() -> None:
    once = planned(HISTORY, 2, {"value": "new"})
    again = [promise(each.param, state="pending" if each.open else "resolved") for each in once]
    twice = planned(again, 0, {"value": 7})
    # What the first reply led to was asked after it, and is not known to the second fork.
    assert paths(twice) == ["main.0"]
    assert twice[-1].param["entered"]["items"] == [["r", "main.0", 0]]
