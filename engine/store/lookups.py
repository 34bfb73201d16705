"""Single promises, asked for by many at once.

What is asked for in one turn of the loop, or while others are being read, is read together: a way to the thread that
reads and back costs more than the row does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .promises import find_promise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resonate.timing import Clock

    from .database import Database
    from .promises import Promise
    from .wire import PromiseRecord

__all__ = ["Lookups"]

type _Read = Callable[[Callable[[Database], list[Promise | None]]], Awaitable[list[Promise | None]]]


class Lookups:
    """Reads promises through ``read``, as many at once as were asked for; one event loop's."""

    def __init__(self, read: _Read, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._asked: list[tuple[str, asyncio.Future[Promise | None]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def promise(self, id: str) -> PromiseRecord | None:
        """Return a promise as it stands after every commit up to now. Raises StoreError."""
        found: asyncio.Future[Promise | None] = asyncio.get_running_loop().create_future()
        self._asked.append((id, found))
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all())
        promise = await found
        return None if promise is None else promise.seen(self._clock())

    async def _read_all(self) -> None:
        while self._asked:
            # Who asks from here on may have heard of a commit that this look does not see: they wait for the next.
            asked, self._asked = self._asked, []
            ids = [id for id, _ in asked]
            try:
                rows = await self._read(lambda db, ids=ids: [find_promise(db, id) for id in ids])  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                for _, found in asked:
                    if not found.done():
                        found.set_exception(error)
                continue
            for (_, found), row in zip(asked, rows, strict=True):
                if not found.done():
                    found.set_result(row)
