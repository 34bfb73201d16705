"""Asking a guest for an image of its namespace, and waiting for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .frames import StreamTooLarge
from .guests import GuestDied
from .link import LinkClosed
from .messages import ProtocolViolation
from .orders import MakeCheckpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .guests import Guest
    from .messages import Checkpoint, FromGuest, Written

__all__ = ["Images"]


class Images:
    """The image that a guest was asked for, on its way."""

    def __init__(self) -> None:
        self._come: asyncio.Queue[Checkpoint] = asyncio.Queue(1)
        #: Whether one comes without being asked for: the guest has said so.
        self.follows = False

    def take(self, image: Checkpoint) -> None:
        """Take in what the guest says of it. Raises ProtocolViolation."""
        if self._come.full():
            msg = "an image nobody asked for"
            raise ProtocolViolation(msg)
        self._come.put_nowait(image)

    async def _next(self, guest: Guest, since: int) -> Checkpoint:
        if self.follows:
            self.follows = False
            image = await self._come.get()
            if image.since == since:
                return image
            # It adds to one that is not stored here.
            guest.link.take(image.stream)
        await guest.link.send(MakeCheckpoint(since=since))
        return await self._come.get()

    async def ask(
        self, guest: Guest, handle: Callable[[FromGuest | Written], Awaitable[None]], timeout: float, since: int
    ) -> bytearray:
        """Ask for what changed since the checkpoint of that number (0: for everything); the guest is heard meanwhile.

        Raises GuestDied, ProtocolViolation.
        """
        pump = asyncio.create_task(guest.link.pump(handle))
        try:
            got = asyncio.create_task(self._next(guest, since))
            try:
                awaited: set[asyncio.Future[Any]] = {got, pump, guest.died}
                await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if got.done():
                    return guest.link.take(got.result().stream)
            finally:
                got.cancel()
            if pump.done() and isinstance(exc := pump.exception(), StreamTooLarge):
                raise GuestDied(await guest.exceed("namespace_bytes", f"its namespace is too large: {exc}"))
            if pump.done() and (exc := pump.exception()) is not None and not isinstance(exc, LinkClosed):
                raise exc
            if guest.died.done() or pump.done():
                raise GuestDied(await asyncio.shield(guest.died))
            # No error of the outside, which would have it tried again: the next guest would take as long.
            raise GuestDied(await guest.exceed("checkpoint_seconds", f"its namespace took above {timeout:g} s"))
        except LinkClosed:
            raise GuestDied(await asyncio.shield(guest.died)) from None
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
