"""What programs that look at a store's file as a whole ask of a connection: listing, collecting, checking, copying."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import maintenance
from .promises import PROMISE, Promise

if TYPE_CHECKING:
    from resonate.timing import Clock

    from . import wire
    from .commits import Committer
    from .database import Database

SCAN_LIMIT: Final = 1000
_LAST: Final = "\U0010ffff"  # sorts behind every other character, so that prefix + _LAST ends the prefix's range


class Reading:
    """A connection, as far as these need it."""

    path: Path
    _clock: Clock
    _committer: Committer

    async def start(self) -> None:
        """Open the file."""
        raise NotImplementedError

    async def _read[T](self, read: Callable[[Database], T]) -> T:
        raise NotImplementedError

    async def scan(self, prefix: str, after: str | None = None, limit: int = SCAN_LIMIT) -> list[wire.PromiseRecord]:
        """The promises whose id begins with `prefix`, in the order of their ids, from behind `after` on."""
        sql = f"SELECT {PROMISE} FROM promises WHERE id >= ? AND id < ? AND id > ? ORDER BY id LIMIT ?"
        parameters = (prefix, prefix + _LAST, after or "", limit)
        now = self._clock()
        rows = await self._read(lambda db: db.all(sql, parameters))
        return [Promise(*row).seen(now) for row in rows]

    async def payloads(self, after: str | None = None, limit: int = SCAN_LIMIT) -> list[tuple[str, list[str]]]:
        """What promises hold, as it is stored (`plain` says what that is), by id, from behind `after` on."""
        sql = "SELECT id, param_data, value_data FROM promises WHERE id > ? ORDER BY id LIMIT ?"
        rows = await self._read(lambda db: db.all(sql, (after or "", limit)))
        return [(id, [data for data in held if data]) for id, *held in rows]

    async def collect(self, before: int, keep: Callable[[str], bool], *, remove: bool = True) -> maintenance.Collected:
        """Delete the trees that settled before a time (in milliseconds); without `remove`, only count them.

        `keep` is asked with each tree's first id, and what it answers True to stays: what somebody still needs is
        for the caller to know.
        """
        trees = promises = 0
        after = maintenance.Head(-1, "")
        while heads := await self._read(partial(maintenance.old_heads, before=before, after=after)):
            for head in heads:
                if keep(head.id):
                    continue
                count = await self._collect(head.id, before) if remove else await self._count(head.id, before)
                trees, promises = trees + (count > 0), promises + count
            after = heads[-1]
        return maintenance.Collected(trees, promises)

    async def _collect(self, head: str, before: int) -> int:
        removed, more = 0, True
        while more:
            count, more = await self._committer.write(lambda db, _now, _: maintenance.collect(db, head, before))
            removed += count
        return removed

    async def _count(self, head: str, before: int) -> int:
        return await self._read(lambda db: maintenance.count(db, head, before))

    async def vacuum(self) -> None:
        """Give free pages back to the disk, a few at a time."""
        await self.start()
        while await self._committer.write(maintenance.give_back):
            pass

    async def check(self) -> list[str]:
        """What is wrong with the file, one line each; reads all of it, beside the work."""
        await self.start()
        return await asyncio.to_thread(maintenance.problems, self.path)

    async def back_up(self, target: str | os.PathLike[str]) -> None:
        """Copy the store as it is at one moment to a new file, beside the work; opening the copy restores it.

        Raises:
            StoreError: the target exists or cannot be written.
        """
        await self.start()
        await asyncio.to_thread(maintenance.back_up, self.path, Path(target))


def plain(data: str) -> bytes:
    """What a payload says: the SDK writes JSON as base64, others may write anything."""
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return data.encode("utf-8", "surrogatepass")
