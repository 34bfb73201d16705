"""`SqliteConnection`: the Resonate protocol on one SQLite file, with no server.

1. Nothing is answered before it is durable, and nothing here blocks the event loop: SQLite runs on threads of its own.
2. A reply is what the reference would answer; `docs/store.md` names each deliberate difference.
3. Messages are hints: losing every one of them delays work and loses none.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec
from resonate.timing import now_ms
from resonate.types import PromiseRecord

from . import delivery, members, wire
from .actions import ACTIONS, READS
from .commits import Committer
from .database import Database, Synchronous, members_folder
from .delivery import Messages
from .errors import StoreClosed
from .promises import PROMISE, Promise
from .wire import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from resonate.timing import Clock

__all__ = ["SqliteConnection"]

SCAN_LIMIT: Final = 1000
_LAST: Final = "\U0010ffff"  # sorts behind every other character, so that prefix + _LAST ends the prefix's range


class SqliteConnection:
    """A `Network` and `Source` of `resonate-base` over one SQLite file.

    `group` is what this process takes work for; one that only asks should name a group nobody works in.
    `pid` is its unicast name; two live processes must not share one. `synchronous="NORMAL"` survives SIGKILL but
    may lose the last commits when power fails. An absent file is created; its folder must be there.

    `start` and `send` raise `StoreError`; `send` starts the connection if nobody did.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        pid: str | None = None,
        group: str = "default",
        clock: Clock = now_ms,
        synchronous: Synchronous = "FULL",
    ) -> None:
        self.path = Path(path).absolute()
        self._clock = clock
        self._synchronous: Synchronous = synchronous
        self._address = delivery.unicast_address(group, pid or uuid.uuid4().hex)
        self._anycast = delivery.anycast_address(group)
        self._receivers: list[Callable[[str], None]] = []
        self._starting: asyncio.Task[None] | None = None
        self._stopped = False
        self._committer = Committer(clock, self._committed)
        self._reader: Database | None = None
        self._reading = ThreadPoolExecutor(1, "perdure-store-read")
        self._lock: int | None = None
        self._member = 0
        self._generation = 0
        self._change = asyncio.Event()

    # Network and Source

    def unicast(self) -> str:
        """The address of this process."""
        return self._address

    def resolve_target(self, target: str) -> str:
        """The address of any one process of a group."""
        return target if "://" in target else delivery.anycast_address(target)

    def recv(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with each message; to be told before `start`, or no work is offered to this process."""
        self._receivers.append(callback)

    async def start(self) -> None:
        """Open the file and join the processes that share it.

        Raises:
            StoreError: the file cannot be used; starting again tries again.
        """
        if self._stopped:
            message = f"{self.path}: this connection was stopped; open another one"
            raise StoreClosed(message)
        if self._starting is None or (self._starting.done() and self._failed(self._starting)):
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    @staticmethod
    def _failed(starting: asyncio.Task[None]) -> bool:
        return starting.cancelled() or starting.exception() is not None

    async def _start(self) -> None:
        database = await asyncio.to_thread(Database.open, self.path, synchronous=self._synchronous)
        try:
            self._reader = await asyncio.to_thread(Database.open_reader, self.path)
        except BaseException:
            database.close()
            raise
        self._committer.start(database, asyncio.get_running_loop())
        await self._committer.write(self._join)

    def _join(self, db: Database, now: int, messages: Messages) -> None:
        folder = members_folder(self.path)
        members.bury_dead(db, folder, now, messages)
        self._lock = members.join(
            db, folder, now, self._address, self._anycast, messages, receives=bool(self._receivers)
        )
        self._member = db.member

    async def stop(self) -> None:
        """Finish what was asked for, give up what this process holds, and close the file."""
        if self._stopped:
            return
        self._stopped = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
            if not self._failed(self._starting):
                await self._committer.write(self._leave)
                await self._committer.stop()
        if self._reader is not None:
            await asyncio.get_running_loop().run_in_executor(self._reading, self._reader.close)
        self._reading.shutdown(wait=False)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._receivers.clear()
        self._change.set()

    def _leave(self, db: Database, now: int, messages: Messages) -> None:
        members.bury(db, members_folder(self.path), now, self._member, messages)

    async def send(self, req: str, headers: dict[str, str] | None = None) -> str:  # noqa: ARG002 - one file holds every origin
        """Answer one request of the protocol.

        Raises:
            StoreError: the file failed; the request was not applied.
        """
        kind, corr_id = "", ""
        try:
            envelope = wire.read_envelope(req)
            kind, corr_id = envelope.kind, envelope.head.corr_id
            reply = await self._answer(kind, envelope.data)
        except wire.Malformed as error:
            reply = Reply(400, str(error))
        return wire.write_reply(kind, corr_id, reply)

    async def _answer(self, kind: str, data: msgspec.Raw) -> Reply:
        known = ACTIONS.get(kind)
        if known is None:
            return Reply(400, f"unknown operation: {kind}")
        shape, action = known
        request = wire.read_data(data, shape)
        if kind in READS:
            return await self._read(lambda db: action(db, self._clock(), request, Messages()))
        await self.start()
        return await self._committer.write(lambda db, now, messages: action(db, now, request, messages))

    # For tools that look at the file

    async def scan(self, prefix: str, after: str | None = None, limit: int = SCAN_LIMIT) -> list[PromiseRecord]:
        """The promises whose id begins with `prefix`, in the order of their ids, from behind `after` on."""
        sql = f"SELECT {PROMISE} FROM promises WHERE id >= ? AND id < ? AND id > ? ORDER BY id LIMIT ?"
        parameters = (prefix, prefix + _LAST, after or "", limit)
        now = self._clock()
        rows = await self._read(lambda db: db.all(sql, parameters))
        encoded = msgspec.json.encode([Promise(*row).seen(now) for row in rows])
        return msgspec.json.decode(encoded, type=list[PromiseRecord])

    @property
    def generation(self) -> int:
        """A number that grows with every commit this process has heard of."""
        return self._generation

    async def changed(self, timeout: float, since: int | None = None) -> int:
        """Wait until something was committed after generation `since` (default: now), at most `timeout` seconds.

        To miss nothing: note `generation`, read, then wait with what was noted. The generation is returned.
        """
        since = self._generation if since is None else since
        if self._generation == since and not self._stopped:
            try:
                async with asyncio.timeout(timeout):
                    await self._change.wait()
            except TimeoutError:
                pass
        return self._generation

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Internals

    async def _read[T](self, read: Callable[[Database], T]) -> T:
        await self.start()

        def run() -> T:
            assert self._reader is not None  # noqa: S101 - set by start
            with self._reader.snapshot():
                return read(self._reader)

        return await asyncio.get_running_loop().run_in_executor(self._reading, run)

    def _committed(self, messages: Messages) -> None:
        self._generation += 1
        change, self._change = self._change, asyncio.Event()
        change.set()
        for task, (member, version) in messages.executes.items():
            if member == self._member:
                self._deliver(wire.write_execute(task, version))
        for promise in messages.unblocks:
            self._deliver(wire.write_unblock(promise))

    def _deliver(self, message: str) -> None:
        for receiver in self._receivers:
            receiver(message)
