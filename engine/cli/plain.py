"""Text that code wrote, made safe for a line of a terminal: a prompt or an argument must not move the cursor."""

from __future__ import annotations

__all__ = ["plain"]


def plain(text: str, keep: str = "") -> str:
    """Return ``text`` with everything that is not printable (and not in ``keep``) as an escape."""
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
