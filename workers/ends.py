"""How a run comes to its end: the first of these that happens ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.engine.journal import Divergence

    from .messages import Done, StateLost, StepEnds

__all__ = ["Diverging", "End", "Ended", "Losing", "Resting", "Stepping"]


@dataclass(frozen=True, slots=True)
class Ended:
    """The code ended, and the guest said how."""

    done: Done


@dataclass(frozen=True, slots=True)
class Resting:
    """Nothing can happen before one of these promises settles."""

    waiting: tuple[str, ...]
    wake: int | None


@dataclass(frozen=True, slots=True)
class Diverging:
    """The replay does something else than the first run."""

    divergence: Divergence


@dataclass(frozen=True, slots=True)
class Stepping:
    """The guest waits between two statements: everything of the step is recorded, and it can be settled."""

    ends: StepEnds


@dataclass(frozen=True, slots=True)
class Losing:
    """The replay touched what only the guest of the first run had."""

    lost: StateLost


End = Ended | Resting | Diverging | Stepping | Losing
