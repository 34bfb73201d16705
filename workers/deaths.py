"""Deaths of guests: recorded durably, with how far the step had come, and judged.

A step whose guest dies again and again with nothing newly recorded between is poison; it would die for ever. Deaths
that were not of its own doing (somebody's SIGKILL, a machine out of memory) do not count as that, but have a bound too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from perdure.engine.durable import now_ms
from perdure.engine.ids import death_id

if TYPE_CHECKING:
    from perdure.engine.durable import Attempt, Promise

    from .guests import GuestDied

__all__ = ["Deaths", "place_of"]

log = structlog.get_logger()


class Deaths:
    """The deaths of one execution's guests, of all its attempts."""

    def __init__(self, known: list[dict[str, Any]]) -> None:
        self._known = known

    @classmethod
    async def read(cls, attempt: Attempt) -> Deaths:
        """Read those that are recorded."""
        known: list[dict[str, Any]] = []
        while (found := await attempt.get(death_id(attempt.id, len(known)))) is not None:
            known.append(found.param)
        return cls(known)

    async def record(self, attempt: Attempt, step: int, records: int, died: GuestDied) -> None:
        """Record one more."""
        param = {"at": now_ms(), "how": str(died), "step": step, "records": records, "own": died.death.own}
        await attempt.create(death_id(attempt.id, len(self._known)), "death", param, settled=True)
        log.warning("guest.died", execution=attempt.id, how=str(died), step=step, records=records)
        self._known.append(param)

    @property
    def any(self) -> bool:
        """Whether a guest has died at all."""
        return bool(self._known)

    def in_a_row(self) -> tuple[int, int]:
        """Return how many of the deaths found the execution just as far as the last one did: its own, and all."""
        if not self._known:
            return 0, 0
        last = self._known[-1]
        alike = [death for death in self._known if (death["step"], death["records"]) == (last["step"], last["records"])]
        return sum(death.get("own", True) for death in alike), len(alike)


def place_of(records: list[Promise]) -> str:
    """Say how far a step had come, by its records: where to look for what ended its process."""
    calls = [record.param for record in records if record.param.get("kind") == "call"]
    if not calls:
        return "it had asked for nothing yet in this step"
    line = f" at line {calls[-1]['line']}" if calls[-1].get("line") else ""
    return f"the last call that it had made was {calls[-1]['name']}{line}"
