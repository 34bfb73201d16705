"""Whether what two sides saw of a program is the same, or differs as it is known to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .known import KNOWN, REASONS

if TYPE_CHECKING:
    from .corpus import Program
    from .running import Seen

__all__ = ["judge"]


def judge(program: Program, form: str, outside: Seen, inside: Seen) -> None:
    """Fail on a difference that is not known, and on one that is known and gone."""
    reasons = [each.reason for each in KNOWN if each.program == program.name and _like(form) in each.forms]
    found = outside.differences(inside)
    if reasons and not found and form != "restored":
        pytest.fail(f"{program.name} ({form}) is the same now: take it out of known.py ({REASONS[reasons[0]]})")
    if found and not reasons:
        shown = "\n".join(f"{what}:\n  outside: {a}\n  inside:  {b}" for what, (a, b) in found.items())
        pytest.fail(f"{program.name} ({form}) differs from Python\n{shown}\n--- program\n{program.code}", pytrace=False)


def _like(form: str) -> str:
    """Return the form whose differences show in this one, where nothing else hides them."""
    return "split" if form == "restored" else form
