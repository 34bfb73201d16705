"""Replies on their way to one guest, in the order in which they were recorded.

A guest that writes reads nothing until it has written: whoever reads or records what it says may not wait until it
takes a reply, or both wait for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from perdure.engine.refs import INLINE_LIMIT, dumped, fetched, is_ref

from .link import LinkClosed
from .orders import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.engine.blobs import BlobStore

    from .guests import Guest

__all__ = ["Deliveries"]


class Deliveries:
    """What is due to a guest, and how it is sent: ``before`` and ``after`` are told of each, by its path."""

    def __init__(
        self, guest: Guest, blobs: BlobStore, before: Callable[[str], None], after: Callable[[str], None]
    ) -> None:
        self._guest = guest
        self._blobs = blobs
        self._before = before
        self._after = after
        self._due: deque[tuple[str, dict[str, Any]]] = deque()
        self._sending = False
        self._none_due = asyncio.Event()
        self._none_due.set()

    @property
    def busy(self) -> bool:
        """Whether something was not sent yet."""
        return bool(self._due)

    def add(self, path: str, outcome: dict[str, Any]) -> bool:
        """Have an outcome sent; true if nobody is sending, so that somebody must."""
        self._due.append((path, outcome))
        self._none_due.clear()
        return not self._sending

    async def sent(self) -> None:
        """Wait until nothing is due."""
        await self._none_due.wait()

    def send_now(self) -> bool:
        """Send what is due as far as that needs no wait; true if all of it is sent."""
        if self._sending:
            return False
        link = self._guest.link
        while self._due and link.idle:
            path, outcome = self._due[0]
            text = _inline(path, outcome)
            if text is None:
                return False
            self._before(path)
            try:
                link.send_text_now(text)
            except LinkClosed:
                return False  # Whoever sends it with a wait waits for the guest's death.
            self._due.popleft()
            self._after(path)
        if self._due:
            return False
        self._none_due.set()
        return True

    async def send(self) -> None:
        """Send what is due; what was not sent when this is cut off is sent by the next."""
        if self._sending:
            return
        self._sending = True
        try:
            while self._due:
                path, outcome = self._due[0]
                self._before(path)
                text = await self._message(path, outcome)
                # Whole in our buffer before anything is waited for: cut off after this, it is not sent again.
                self._due.popleft()
                await self._guest.link.send_text(text)
                self._after(path)
            self._none_due.set()
        except LinkClosed:
            # The guest is dead, and its death ends the run; the record is what counts.
            await asyncio.shield(self._guest.died)
        finally:
            self._sending = False

    async def _message(self, path: str, outcome: dict[str, Any]) -> bytes:
        text = _inline(path, outcome)
        if text is not None:
            return text
        raw = dumped(await fetched(self._blobs, outcome["value"]))
        stream = await self._guest.link.send_stream(raw)
        return dumped(Reply(path=path, value_stream=stream).to_wire())


def _inline(path: str, outcome: dict[str, Any]) -> bytes | None:
    """Return a reply as it travels in one message; None if its value needs a stream."""
    # As Reply has it, whose checks are for what comes from elsewhere: every call comes through here.
    if "error" in outcome:
        return dumped({"t": "reply", "path": path, "error": outcome["error"]})
    if is_ref(outcome["value"]):
        return None
    text = dumped({"t": "reply", "path": path, "value": outcome["value"]})
    return text if len(text) <= INLINE_LIMIT else None
