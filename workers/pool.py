"""Guests that are kept: parked while their execution waits, or idle between executions of their session.

1. A parked guest goes on only under the very next version of its task, or the same one if the store said at once that
   something had settled; otherwise it is killed.
2. An idle guest serves an execution only if its own checkpoint is that execution's base.
3. A parked guest is frozen; an idle one is not, since threads of the user may run between executions. The least
   recently used goes first when there are too many, they hold too much memory, or the machine has little left.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .watchdog import usage_of

if TYPE_CHECKING:
    from .guests import Guest
    from .run import Run

__all__ = ["Idle", "Parked", "Pool"]


@dataclass(frozen=True, slots=True)
class Parked:
    """A run that waits, and the version of the task under which it was parked."""

    run: Run
    version: int


@dataclass(frozen=True, slots=True)
class Idle:
    """A guest between executions, the step whose checkpoint its namespace is, and the settings it was started with."""

    guest: Guest
    checkpoint: str
    settings: int


class Pool:
    """Kept guests by session; at most one a session, at most ``limit`` in all, holding at most ``memory`` bytes."""

    def __init__(self, limit: int, memory: int) -> None:
        self._limit = limit
        self._memory = memory
        self._kept: OrderedDict[str, Parked | Idle] = OrderedDict()
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def park(self, session: str, parked: Parked) -> None:
        """Freeze and keep the guest of an execution that waits."""
        parked.run.guest.freeze()
        await self._keep(session, parked)

    async def rest(self, session: str, idle: Idle) -> None:
        """Keep a guest whose execution has ended."""
        await self._keep(session, idle)

    async def take_parked(self, session: str, execution: str, version: int) -> Parked | None:
        """Return the run of this execution, thawed, if it may go on under this version; kill what may not."""
        kept = self._kept.pop(session, None)
        match kept:
            case Parked() if (
                kept.run.execution == execution and kept.version in (version, version - 1) and kept.run.guest.alive
            ):
                kept.run.guest.thaw()
                return kept
            case Idle():
                self._kept[session] = kept
            case Parked():
                await kept.run.guest.kill("its attempt was succeeded by another")
        return None

    def holds_idle(self, session: str, checkpoint: str | None, settings: int) -> bool:
        """Whether there is an idle guest of the session whose namespace is this checkpoint."""
        kept = self._kept.get(session)
        return (
            isinstance(kept, Idle) and (kept.checkpoint, kept.settings) == (checkpoint, settings) and kept.guest.alive
        )

    async def take_idle(self, session: str, checkpoint: str | None, settings: int) -> Guest | None:
        """Return the session's guest if its namespace is this checkpoint; kill it otherwise."""
        kept = self._kept.pop(session, None)
        if kept is None:
            return None
        if isinstance(kept, Idle) and (kept.checkpoint, kept.settings) == (checkpoint, settings) and kept.guest.alive:
            return kept.guest
        await _guest(kept).kill("its session went on elsewhere")
        return None

    async def drop(self, session: str, reason: str) -> None:
        """Kill the session's kept guest, if there is one."""
        kept = self._kept.pop(session, None)
        if kept is not None:
            await _guest(kept).kill(reason)

    async def close(self) -> None:
        """Kill everything that is kept."""
        kept = list(self._kept.values())
        self._kept.clear()
        await asyncio.gather(*(_guest(each).kill("the worker stopped") for each in kept))

    async def _keep(self, session: str, kept: Parked | Idle) -> None:
        old = self._kept.pop(session, None)
        if old is not None:
            await _guest(old).kill("another guest took its place")
        self._kept[session] = kept
        # Measured once: a kept guest hardly grows, and what its threads do is watched for itself.
        self._held[session] = usage_of(_guest(kept).pid).memory
        while len(self._kept) > self._limit:
            await self._evict("it was the least recently used of too many kept guests")
        while self._kept and sum(self._held.get(each, 0) for each in self._kept) > self._memory:
            await self._evict("kept guests held too much memory, and it was the least recently used")

    async def relieve(self) -> None:
        """Give up the least recently used: the machine is short of memory."""
        if self._kept:
            await self._evict("the machine is short of memory, and it was the least recently used kept guest")

    async def _evict(self, reason: str) -> None:
        session, oldest = self._kept.popitem(last=False)
        self._held.pop(session, None)
        await _guest(oldest).kill(reason)


def _guest(kept: Parked | Idle) -> Guest:
    return kept.run.guest if isinstance(kept, Parked) else kept.guest
