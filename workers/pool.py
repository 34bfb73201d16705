"""Guests that are kept: parked while their execution waits, or idle between executions of their session.

1. A parked guest goes on only under the very next version of its task, or the same one if the store said at once that
   something had settled; otherwise it is killed.
2. An idle guest serves an execution only if its own checkpoint is that execution's base.
3. A parked guest is frozen; an idle one is not, since threads of the user may run between executions.
4. The least recently used goes first when there are too many, they hold too much memory, or the machine has little
   left. One that holds more than all may is not kept: nobody else goes for its sake.
"""

from __future__ import annotations

import asyncio
import signal
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .watchdog import usage_of

if TYPE_CHECKING:
    from .guests import Death, Guest
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
    #: Bytes of memory that it held just now, if that is known.
    memory: int | None = None
    #: Ends when that step is recorded, where it is not yet; the guest serves nobody before, and nobody if it fails.
    recorded: asyncio.Task[None] | None = None

    @property
    def holds(self) -> bool:
        """Whether its step is recorded, and its process there."""
        task = self.recorded
        known = task is None or (task.done() and not task.cancelled() and task.exception() is None)
        return known and self.guest.alive


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A guest that is kept, and the memory that it held when it came."""

    what: Parked | Idle
    memory: int

    @property
    def guest(self) -> Guest:
        return self.what.run.guest if isinstance(self.what, Parked) else self.what.guest


class Pool:
    """Kept guests by session; at most one a session, at most ``limit`` in all, holding at most ``memory`` bytes."""

    def __init__(self, limit: int, memory: int) -> None:
        self._limit = limit
        self._memory = memory
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def memory(self) -> int:
        """Bytes that the kept guests hold together."""
        return sum(each.memory for each in self._kept.values())

    async def park(self, session: str, parked: Parked) -> None:
        """Freeze and keep the guest of an execution that waits."""
        parked.run.guest.freeze()
        await self._keep(session, parked)

    async def rest(self, session: str, idle: Idle) -> None:
        """Keep a guest whose execution has ended."""
        await self._keep(session, idle)

    async def take_parked(self, session: str, execution: str, version: int) -> Parked | None:
        """Return the run of this execution, thawed, if it may go on under this version; kill what may not."""
        kept = self._kept.get(session)
        match kept and kept.what:
            case Parked(run, parked_at) as parked:
                del self._kept[session]
                if run.execution == execution and parked_at in (version, version - 1) and run.guest.alive:
                    run.guest.thaw()
                    return parked
                await run.guest.kill("its attempt was succeeded by another")
        return None

    def holds_idle(self, session: str, checkpoint: str | None, settings: int) -> bool:
        """Whether there is an idle guest of the session whose namespace is this checkpoint."""
        kept = self._kept.get(session)
        match kept and kept.what:
            case Idle() as idle:
                return (idle.checkpoint, idle.settings) == (checkpoint, settings) and idle.holds
        return False

    async def take_idle(self, session: str, checkpoint: str | None, settings: int) -> Guest | None:
        """Return the session's guest if its namespace is this checkpoint; kill it otherwise."""
        wanted = self.holds_idle(session, checkpoint, settings)
        kept = self._kept.pop(session, None)
        if kept is None:
            return None
        if wanted:
            return kept.guest
        await kept.guest.kill("its session went on elsewhere")
        return None

    async def drop(self, session: str, reason: str) -> None:
        """Kill the session's kept guest, if there is one."""
        kept = self._kept.pop(session, None)
        if kept is not None:
            await kept.guest.kill(reason)

    async def close(self) -> None:
        """Kill everything that is kept."""
        kept = list(self._kept.values())
        self._kept.clear()
        await asyncio.gather(*(each.guest.kill("the worker stopped") for each in kept))

    async def relieve(self) -> None:
        """Give up the least recently used: the machine is short of memory."""
        if self._kept:
            await self._evict("the machine is short of memory, and it was the least recently used kept guest")

    async def _keep(self, session: str, what: Parked | Idle) -> None:
        await self.drop(session, "another guest took its place")
        guest = what.run.guest if isinstance(what, Parked) else what.guest
        # Measured once: a kept guest hardly grows, and what its threads do is watched for itself.
        memory = what.memory if isinstance(what, Idle) else None
        kept = _Kept(what, usage_of(guest.pid).memory if memory is None else memory)
        if kept.memory > self._memory:
            await guest.kill(f"it held {kept.memory} bytes, and all kept guests together may hold {self._memory}")
            return
        self._kept[session] = kept
        if isinstance(what, Idle) and what.recorded is not None:
            what.recorded.add_done_callback(partial(self._unless_recorded, guest))
        guest.died.add_done_callback(partial(self._gone, session, kept))
        while len(self._kept) > self._limit:
            await self._evict("it was the least recently used of too many kept guests")
        while self.memory > self._memory:
            await self._evict("kept guests held too much memory, and it was the least recently used")

    def _unless_recorded(self, guest: Guest, recorded: asyncio.Task[None]) -> None:
        # Another attempt may give its step another end.
        if recorded.cancelled() or recorded.exception() is not None:
            guest.signal(signal.SIGKILL)

    def _gone(self, session: str, kept: _Kept, _death: asyncio.Future[Death]) -> None:
        # A dead guest takes nobody's place.
        if self._kept.get(session) is kept:
            del self._kept[session]

    async def _evict(self, reason: str) -> None:
        _, oldest = self._kept.popitem(last=False)
        await oldest.guest.kill(reason)
