"""Where steps end cannot be seen by the code: the same programs with a step's end at every statement, and with none."""

from __future__ import annotations

import pytest

from . import kit
from .kit import AT_EVERY_STATEMENT, play
from .programs import PROGRAMS


@pytest.fixture(params=PROGRAMS)
def code(request: pytest.FixtureRequest) -> str:
    code: str = PROGRAMS[request.param]
    if "numpy" in code:
        pytest.importorskip("numpy")
    return code


def test_steps_are_not_seen(code: str) -> None:
    """Steps end everywhere, and another process goes on after every third of them."""
    alone = play(code)
    assert alone.steps == 0
    story = play(code, steps=AT_EVERY_STATEMENT, restart=lambda step: step % 3 == len(code) % 3)
    assert story.seen() == alone.seen()
    assert story.steps > 0


@pytest.mark.grid
def test_steps_are_not_seen_in_one_process_or_in_many(code: str) -> None:
    alone = play(code)
    assert play(code, steps=AT_EVERY_STATEMENT).seen() == alone.seen()
    assert play(code, steps=AT_EVERY_STATEMENT, restart=lambda _step: True).seen() == alone.seen()


def test_a_generator_that_begins_anew_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant that is broken on purpose: what draws from the session's seed starts over after a step."""
    code = PROGRAMS["random numbers of every kind"]
    alone = play(code)
    monkeypatch.setattr(kit, "RESEED", True)
    assert play(code, steps=AT_EVERY_STATEMENT, restart=lambda step: step == 6).seen() != alone.seen()
