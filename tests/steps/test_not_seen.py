"""Where steps end cannot be seen by the code: the same programs with a step's end at every statement, and with none."""

from __future__ import annotations

import pytest

from .kit import AT_EVERY_STATEMENT, play
from .programs import PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_steps_are_not_seen(name: str) -> None:
    code = PROGRAMS[name]
    if "numpy" in code:
        pytest.importorskip("numpy")
    alone = play(code)
    assert alone.steps == 0
    going_on = play(code, steps=AT_EVERY_STATEMENT)
    assert going_on.seen() == alone.seen()
    again = play(code, steps=AT_EVERY_STATEMENT, restart=lambda _step: True)
    assert again.seen() == alone.seen()
    assert min(again.steps, going_on.steps) > 0
