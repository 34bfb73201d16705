"""Where a step of an execution ends: between two top-level statements, when replaying it would be dear.

1. It ends only if nothing that this execution made would be lost by it (risks.py, and the checkpoint's own report).
2. It cannot be seen by the code: nothing is written, drawn, counted or reset for it, whether it succeeds or not.
3. While recorded calls, deliveries or writes of the step have not all come again, it goes on: what is recorded in a
   step belongs to that step. And the host has the last word.
"""

from __future__ import annotations

import dis
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .compiler import Unit
    from .hub import Hub
    from .risks import Risks
    from .wire import Message

__all__ = ["Loss", "Steps"]

#: What ending steps may cost at most, as a share of the time it saves: looking and writing grow with the namespace, and
#: a session of gigabytes must not spend its life on them.
SHARE = 0.05
#: Reasons that are told; more than these nobody reads.
REASONS = 20

_cpu = time.process_time
_now = time.monotonic

#: A variable that would be lost: its name and why.
type Loss = tuple[str, str]


class Steps:
    """The steps of the running execution."""

    def __init__(self, hub: Hub, risks: Risks) -> None:
        self._hub = hub
        self._risks = risks
        #: Makes the message that carries the checkpoint, and says what it would lose; given by the guest.
        self.image: Callable[[int, int], tuple[Message, Iterable[Loss]]] = lambda _number, _line: ({}, ())
        #: Called when the host has settled a step.
        self.settled: Callable[[], None] = lambda: None
        #: Called when it has not: the step goes on.
        self.refused: Callable[[], None] = lambda: None
        self.commits = 0
        self.prevented: dict[str, int] = {}
        self._policy: dict[str, Any] | None = None
        self._units: Sequence[Unit] = ()
        self._every = False
        self._seconds = self._calls = float("inf")
        self._recorded = 0
        self._due = self._due_calls = float("inf")

    def begin(self, policy: dict[str, Any] | None, recorded: dict[str, Any] | None, state: dict[str, Any]) -> None:
        """Begin an execution, or go on in it with ``state``. ``policy`` None: it is one step."""
        self.commits = state.get("commits", 0)
        self.prevented = dict(state.get("prevented", {}))
        self._policy = policy
        never = {"cpu_seconds": float("inf"), "calls": float("inf")}
        self._seconds, self._calls = (never | (policy or {})).values()
        self._every = not (self._seconds and self._calls)
        self._recorded = (recorded or {}).get("calls", 0)
        self._later(0.0)
        if policy:
            self._risks.begin()

    def state(self) -> dict[str, Any]:
        """Return what the next step goes on with."""
        return {"commits": self.commits + 1, "prevented": self.prevented}

    def ended(self) -> dict[str, Any]:
        """Return what ``done`` says: how many steps were settled, what kept more from it since which line."""
        changed = list(self._risks.at_end()) if self._policy else []
        told = [[what, line] for what, line in self.prevented.items()]
        return {"commits": self.commits, "prevented": told, "changed": changed[:REASONS]}

    def between(self, units: Sequence[Unit], number: int) -> None:
        """Called before statement ``number``: end the step here if it is time, and possible."""
        if not self._policy:
            return
        self._risks.look()
        if not self._every and _cpu() < self._due and self._hub.calls_asked < self._due_calls:
            return
        if not self._hub.deliveries.complete or self._hub.calls_asked < self._recorded:
            return
        self._units = units
        began, used = _now(), _cpu()
        self._try(number)
        self._later(max(_now() - began, _cpu() - used))

    def _later(self, cost: float) -> None:
        """Set when to look again: when as much is at risk again, and what looking costs is worth it."""
        self._due = _cpu() + max(self._seconds, cost / SHARE)
        self._due_calls = self._hub.calls_asked + self._calls

    def _try(self, number: int) -> None:
        found = list(self._risks.found())
        if found:
            self._note((what, self._units[number - 1].line) for what in found)
            return
        message, losses = self.image(number, self._units[number].line)
        lost = list(losses)
        if lost:
            self._note((f"{name}: {why}", self._line_of(number, name)) for name, why in lost)
        elif self._hub.settle_step(message):
            self.settled()
            self.commits += 1
            self._recorded = 0
        else:
            self.refused()

    def _note(self, found: Iterable[tuple[str, int]]) -> None:
        for what, line in found:
            if len(self.prevented) < REASONS:
                self.prevented.setdefault(what, line)

    def _line_of(self, number: int, name: str) -> int:
        """Return the line of the last statement that bound a name, else of the one that ran last."""
        for unit in reversed(self._units[:number]):
            if name in unit.code.co_names and any(
                each.opname in ("STORE_NAME", "STORE_GLOBAL") and each.argval == name
                for each in dis.get_instructions(unit.code)
            ):
                return unit.line
        return self._units[number - 1].line
