"""What a run waits for from outside: answers to calls, and the deadlines of timers too long to be sat out.

1. An answer is delivered once, however it became known.
2. One promise stands for all deadlines: it resolves at the nearest.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from perdure.engine.durable import now_ms
from perdure.engine.journal import outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.engine.durable import Attempt, Promise
    from perdure.engine.journal import Journal

    from .messages import Idle
    from .recording import Recorder

__all__ = ["Waiting"]

#: Answers from outside are listened for if the guest is still live after this (s); a suspended one is woken anyway.
LISTEN_AFTER = 0.25


class Waiting:
    """The open calls of one run that others answer, by path, and its recorded deadlines."""

    def __init__(self, journal: Journal, deliver: Callable[[str, dict[str, Any]], None]) -> None:
        self.attempt: Attempt
        self.calls: dict[str, str] = {}
        #: While the run is being suspended nothing is delivered: whoever wakes it finds the answer.
        self.suspending = False
        self._deliver = deliver
        self._listened: set[str] = set()
        self._deadlines = dict(journal.timers)
        self._timer = journal.wake

    def begin(self) -> None:
        """Go on in the next step: the calls of the one before are over, and its deadlines."""
        self.calls = {}
        self._deadlines = {}
        self._timer = None

    # -- answers ---------------------------------------------------------------------

    async def answered(self, promise: Promise) -> None:
        """Deliver the answer to a call that was answered from outside, once."""
        if self.suspending or not promise.settled:
            return
        path = next((path for path, id in self.calls.items() if id == promise.id), None)
        outcome = outcome_of(promise)
        if path is not None and outcome is not None:
            del self.calls[path]
            self._deliver(path, outcome)

    async def resume(self) -> None:
        """Look, after a suspension, at what may have been answered meanwhile."""
        known = [promise for id in self.calls.values() if (promise := self.attempt.preloaded.get(id))]
        settled = [promise for promise in known if promise.settled]
        if not settled:
            await self.look(list(self.calls.values()))
        for promise in settled:
            await self.answered(promise)

    async def look(self, ids: list[str]) -> None:
        """Look whether these have been answered."""
        for id in ids:
            promise = await self.attempt.get(id)
            if promise is not None:
                await self.answered(promise)

    async def listen(self) -> None:
        """Be told of answers from now on; runs beside the guest."""
        while True:
            await asyncio.sleep(LISTEN_AFTER)
            for id in [id for id in self.calls.values() if id not in self._listened]:
                self._listened.add(id)
                promise = await self.attempt.listen(id)
                if promise is not None:
                    await self.answered(promise)

    # -- deadlines -------------------------------------------------------------------

    async def timer(self, idle: Idle, recorder: Recorder) -> tuple[str, int] | None:
        """Record the deadlines that a guest at rest depends on; return the promise of the nearest, and its time."""
        if not idle.timers:
            return None
        now = now_ms()
        new: dict[str, int] = {}
        for path, left in idle.timers:
            if path not in self._deadlines:
                new[path] = now + int(left * 1000)
        self._deadlines |= new
        live = {path for path, _ in idle.timers}
        self._deadlines = {path: at for path, at in self._deadlines.items() if path in live}
        wake = max(min(self._deadlines.values()), now + 1)
        if self._timer is None or self._timer[1] != wake or new:
            self._timer = await recorder.timers(dict(new), wake), wake
        return self._timer

    def seconds_left(self) -> dict[str, float]:
        """Return the seconds left of every recorded deadline, by path."""
        now = now_ms()
        return {path: max(0.0, (deadline - now) / 1000) for path, deadline in self._deadlines.items()}
