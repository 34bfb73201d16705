"""What has arrived on the channel and nobody has consumed: replies, by whoever asked, and the worker's messages.

Whoever waits reads the channel; one at a time, and wakes the one whose turn it is.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING

from .parties import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from .channel import Channel
    from .clock import Clock
    from .parties import Asked, Party
    from .signals import Critical, Guard
    from .wire import Message

__all__ = ["Mailbox"]


class Mailbox:
    """Calls that were sent, replies that came, and messages; ``guard`` is held to look at them."""

    def __init__(
        self,
        channel: Channel,
        critical: Critical,
        guard: Guard,
        clock: Clock,
        control: Callable[[], None],
        everybody: Callable[[], None],
    ) -> None:
        self.asked: dict[str, Asked] = {}
        #: Replies that came for a loop, in their order.
        self.inbox: deque[Asked] = deque()
        #: Messages for the main program; ``control`` is called when one comes.
        self.control: deque[Message] = deque()
        self._channel = channel
        self._critical = critical
        self._guard = guard
        self._clock = clock
        self._tell = control
        self._wake_everybody = everybody
        self._reader = threading.Lock()
        #: Somebody may have found the channel taken by one who only looked, and waits for nobody to read.
        self._turned_away = False

    def expect(self, asked: Asked) -> None:
        """Take in a call that is about to be sent."""
        with self._guard:
            self.asked[asked.path] = asked

    def forget(self, path: str) -> None:
        """Nobody will consume the reply to that call."""
        with self._guard:
            asked = self.asked.pop(path, None)
            if asked is not None and asked.outcome is not None and asked in self.inbox:
                self.inbox.remove(asked)

    def listen(self, party: Party, timeout: float | None) -> None:
        """Have a party wait; it reads the channel unless another does."""
        reads = False
        try:
            with self._critical:
                self._turned_away = True
                reads = self._reader.acquire(blocking=False)
            if party.listen(self._channel.fd if reads else None, timeout):
                with self._critical:
                    self._read()
        finally:
            if reads:
                self._reader.release()

    def read_nowait(self) -> None:
        """Take in what has arrived, unless another reads."""
        with self._critical:
            if not self._reader.acquire(blocking=False):
                return
            try:
                poll = select.poll()
                poll.register(self._channel.fd, select.POLLIN)
                if poll.poll(0):
                    self._read()
            finally:
                self._reader.release()
            if self._turned_away:
                self._turned_away = False
                self._wake_everybody()

    def _read(self) -> None:
        for message in self._channel.receive():
            kind = message["t"]
            if kind == "reply":
                self._reply(message)
            elif kind == "shutdown":
                os._exit(0)
            elif kind != "cancel":  # The signal that follows a cancel is what acts.
                with self._guard:
                    self.control.append(message)
                    self._tell()

    def _reply(self, message: Message) -> None:
        value = self._channel.content(message, "value")
        with self._guard:
            asked = self.asked.get(message["path"])
            if asked is None or asked.outcome is not None:
                return
            asked.outcome = {"error": message["error"]} if "error" in message else {"value": value}
            asked.arrived = self._clock.now()
            if isinstance(asked.owner, Waiter):
                asked.owner.wake()
            elif asked.owner is not None:
                self.inbox.append(asked)
                asked.owner.wake()
