"""Questions that somebody answers from outside, in a second or in a week."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import capability
from .errors import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ask", "line"]


def _checked(arguments: Mapping[str, Any], answer: Any) -> Any:
    choices = arguments.get("choices")
    if choices is not None and answer not in choices:
        msg = f"{answer!r} is not among the choices: {', '.join(map(repr, choices))}"
        raise BadAnswer(msg)
    return answer


@capability("ask", external=True, answer=_checked)
def ask(prompt: str, *, choices: list[Any] | None = None) -> Any:
    """Ask a person, and wait for the answer as long as it takes; with ``choices`` it is one of them."""


def _text(arguments: Mapping[str, Any], answer: Any) -> str:
    del arguments
    if not isinstance(answer, str):
        msg = f"input() is answered with a line of text, not with a {type(answer).__name__}"
        raise BadAnswer(msg)
    return answer


@capability("input", external=True, answer=_text)
def line(prompt: str = "") -> str:
    """What the built-in ``input`` asks: one line of text."""
    raise NotImplementedError
