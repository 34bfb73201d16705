"""Questions that somebody answers from outside, in a second or in a week."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import capability
from .errors import BadAnswer
from .shape import mismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ask", "line"]


def _checked(arguments: Mapping[str, Any], answer: Any) -> Any:
    choices = arguments.get("choices")
    if choices is not None:
        # From a command line or a form, an answer comes as text.
        answer = next((each for each in choices if each == answer or str(each) == answer), answer)
        if answer not in choices:
            raise BadAnswer(f"{answer!r} is not among the choices: {', '.join(map(repr, choices))}")
    wrong = mismatch(answer, arguments.get("schema"))
    if wrong:
        raise BadAnswer(wrong)
    return answer


@capability("ask", external=True, answer=_checked)
def ask(prompt: str, *, choices: list[Any] | None = None, schema: dict[str, Any] | None = None) -> Any:
    """Ask a person, and wait for the answer as long as it takes.

    With ``choices`` it is one of them. ``schema`` is a JSON Schema that the answer has to fit (see ``shape``).
    """


def _text(arguments: Mapping[str, Any], answer: Any) -> str:
    del arguments
    if not isinstance(answer, str):
        raise BadAnswer(f"input() is answered with a line of text, not with a {type(answer).__name__}")
    return answer


@capability("input", external=True, answer=_text)
def line(prompt: str = "") -> Any:
    """What the built-in ``input`` asks: one line of text."""
