"""What the judge says of the order of effects: it is the grid's eye, and may be neither blind nor see ghosts."""

from __future__ import annotations

from typing import Any

import pytest

from .judge import judge
from .program import Case, Played, Program


def effect(attempt: int, name: str, began: float, at: float) -> dict[str, Any]:
    by = {"attempt": attempt, "execution": "s@1", "retry": 0, "worker": attempt}
    return {"name": name, "what": "x", "key": "k", "began": began, "at": at, **by}


LATE = {
    "one that may be repeated, and ran when its process was stopped": ("look", 1.0, False),
    "one that may be repeated, and began when its successor had acted": ("look", 2.5, True),
    "one that may not, and ran when its process was stopped": ("pay", 1.0, True),
    "one that may not, and began afterwards": ("pay", 2.5, True),
}


@pytest.mark.parametrize("case", LATE)
def test_an_effect_after_one_of_a_successor(case: str) -> None:
    name, began, wrong = LATE[case]
    effects = [effect(2, "look", 1.9, 2.0), effect(1, name, began, 3.0)]
    played = Played(session="s", effects=effects, acts=["stop\tx"])
    found = judge(Program("p", ("x",)), None, played, Case("p", "worker stopped", workers=2))
    assert ("late effect" in [kind for kind, _ in found]) is wrong, found
