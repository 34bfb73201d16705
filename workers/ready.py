"""Guests that are there before anybody wants them: forked, confined as far as that goes without a session, waiting.

1. A guest that waits has run nothing of anybody, and belongs to nobody: what differs by session (workspace, limits,
   seed, grants, the rest of its walls) comes with the session, before any of its code.
2. Nothing is polled: guests are forked when one was taken, ended, or could not be had, never on a clock.
3. Who finds none has one forked: waiting guests save time, they are never what a session depends on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from .guests import Guest
from .zygote import ZygoteGone

if TYPE_CHECKING:
    from .guests import Death
    from .zygote import Zygote

__all__ = ["Ready"]


class Ready:
    """The waiting guests of one zygote: filled up to ``most`` whenever there are no more than half of it."""

    def __init__(self, zygote: Zygote, most: int) -> None:
        self._zygote = zygote
        self._most = most
        self._few = most // 2
        self._waiting: deque[Guest] = deque()
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def take(self) -> Guest:
        """Return a guest that waits, or a new one; there will be others. Raises ZygoteGone."""
        while self._waiting:
            guest = self._waiting.popleft()
            if guest.alive:
                guest.waited = True
                self.fill()
                return guest
        guest = await Guest.fork(self._zygote)
        self.fill()
        return guest

    def fill(self) -> None:
        """See to it that there will be enough."""
        idle = self._filling is None or self._filling.done()
        if idle and not self._closed and self._most and len(self._waiting) <= self._few:
            self._filling = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        # A zygote that is gone, or does not answer, is met by who needs it; nobody waits for this.
        with suppress(ZygoteGone):
            while self._wanted():
                guest = await Guest.fork(self._zygote)
                if not self._wanted():
                    await guest.kill("it is not needed any more")
                    return
                self._waiting.append(guest)
                guest.died.add_done_callback(partial(self._ended, guest))

    def _wanted(self) -> bool:
        return not self._closed and len(self._waiting) < self._most

    def _ended(self, guest: Guest, _death: asyncio.Future[Death]) -> None:
        # One that was taken is not missed; nor is one refilled that a whole zygote took along.
        with suppress(ValueError):
            self._waiting.remove(guest)
            if self._zygote.alive:
                self.fill()

    async def drop(self, reason: str) -> int:
        """End those that wait, and say how many there were; others come when one is taken next."""
        waiting = list(self._waiting)
        self._waiting.clear()
        await asyncio.gather(*(guest.kill(reason) for guest in waiting))
        return len(waiting)

    async def close(self) -> int:
        """Have none from now on; returns when the last one has ended."""
        self._closed = True
        if self._filling is not None:
            await asyncio.gather(self._filling, return_exceptions=True)
        return await self.drop("it is not needed any more")
