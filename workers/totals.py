"""What an execution has come to so far, over its settled steps: carried in each of them."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Totals"]


class Totals(NamedTuple):
    """Counts over the whole execution; ``characters`` is where its output goes on."""

    calls: int = 0
    writes: int = 0
    characters: int = 0
    replayed: int = 0
    #: Seconds in guests, without what was waited with no process.
    ran: float = 0.0

    @classmethod
    def of(cls, step: Any) -> Totals:
        """Read them from the value of a settled step that another one follows."""
        return cls(**step["totals"])
