"""`SqliteConnection`: the Resonate protocol on one SQLite file, with no server.

1. Nothing is answered before it is durable, and nothing here blocks the event loop: SQLite runs on threads of its own.
2. A reply is what the reference would answer; `docs/store.md` names each deliberate difference.
3. Messages are hints: losing every one of them delays work and loses none.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

import msgspec
import structlog
from resonate.timing import Clock, now_ms
from resonate.types import PromiseCreateReq, PromiseSettleReq

from . import members, timeouts, wire
from .actions import ACTIONS, READS
from .commits import Committer
from .database import Database, Synchronous, members_folder
from .delivery import Messages, anycast_address
from .errors import StoreClosed, StoreError
from .fencing import Along, Refused, fenced, fencing
from .lookups import Lookups
from .members import Card, Peer
from .peers import Notice, Peers
from .promises import fetch
from .reading import Reading
from .wire import Reply

__all__ = ["SqliteConnection"]

log = structlog.get_logger(__name__)

LOOK: Final = 1.0  # seconds between looks at the file for what no message said: a stopped peer, a wire never made
MOURNING: Final = (0.001, 0.005, 0.02, 0.1, 0.4)  # seconds; then the peer lives, and only its wire is gone


class SqliteConnection(Reading):
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
        self._folder = members_folder(self.path)
        self._clock = clock
        self._synchronous: Synchronous = synchronous
        self._card = Card.of(group, pid, receives=0)
        self._receivers: list[Callable[[str], None]] = []
        self._starting: asyncio.Task[None] | None = None
        self._ready = False
        self._stopped = False
        self._committer = Committer(clock, self._committed)
        self._reader: Database | None = None
        self._reading = ThreadPoolExecutor(1, "perdure-store-read")
        self._lookups = Lookups(self._read, clock)
        self._along = Along()
        self._lock: int | None = None
        self._member = 0
        self._peers = Peers(self._folder, self._card.name, self)
        self._background: set[asyncio.Task[None]] = set()
        self._offered: dict[str, int] = {}
        self._generation = 0
        self._change = asyncio.Event()
        self._watchers = 0

    # Network and Source

    def unicast(self) -> str:
        """The address of this process."""
        return self._card.address

    def resolve_target(self, target: str) -> str:
        """The address of any one process of a group."""
        return target if "://" in target else anycast_address(target)

    def recv(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with each message; from the first of them on, work is offered to this process."""
        self._receivers.append(callback)
        if self._starting is not None:
            self._spawn(self._receive())

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
        committer = Committer(self._clock, self._committed)
        committer.start(database, asyncio.get_running_loop())
        try:
            self._reader = await asyncio.to_thread(Database.open_reader, self.path)
            self._card = self._card._replace(receives=int(bool(self._receivers)))
            if self._lock is None:
                self._lock = await asyncio.to_thread(members.hold, self._folder, self._card.name)
                self._peers.listen()
            others = await committer.write(self._join)
        except BaseException:
            await committer.stop()
            await self._close_reader()
            raise
        self._committer = committer
        self._peers.connect(self._member, others)
        self._ready = not self._stopped
        self._spawn(self._look_regularly())

    async def _receive(self) -> None:
        await self.start()
        if not self._card.receives:
            await self._committer.write(lambda db, now, messages: members.receive(db, now, self._card, messages))
            self._card = self._card._replace(receives=1)

    async def rest(self) -> None:
        """Have no more work offered to this process; what was, and was not begun, goes to others. It may still ask."""
        if self._card.receives and not self._stopped:
            self._card = self._card._replace(receives=members.RESTS)
            await self._guarded(self._committer.write(members.rest))

    def _join(self, db: Database, now: int, messages: Messages) -> list[Peer]:
        others = members.join(db, self._folder, now, self._card, messages)
        self._member = db.member
        return others

    async def stop(self) -> None:
        """Finish what was asked for, give up what this process holds, and close the file."""
        if self._stopped:
            return
        self._stopped = True
        self._ready = False
        self._change.set()
        if self._starting is not None:
            await asyncio.wait([self._starting])
            if not self._failed(self._starting):
                self._along.refuse()
                await self._guarded(self._committer.write(self._leave))
                await self._committer.stop()
        await self._peers.close()
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        await self._close_reader()
        self._reading.shutdown(wait=False)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._receivers.clear()

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await asyncio.get_running_loop().run_in_executor(self._reading, reader.close)

    def _leave(self, db: Database, now: int, messages: Messages) -> None:
        members.bury(db, self._folder, now, self._member, messages)

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
        if not self._ready:
            await self.start()

        def write(db: Database, now: int, messages: Messages) -> Reply:
            return action(db, now, request, messages)

        match request:
            case wire.TaskFulfill():
                return await self._along.write_with(request.id, write, self._committer)
            case wire.TaskRelease():
                self._along.refuse(request.id)
        return await self._committer.write(write)

    # For programs in this process

    async def fence(
        self, task: str, version: int, request: PromiseCreateReq | PromiseSettleReq
    ) -> wire.PromiseRecord | Refused:
        """What `task.fence` answers, without its envelope: for whoever pays for each microsecond of a durable call.

        Raises:
            StoreError: the file failed; the request was not applied.
        """
        if not self._ready:
            await self.start()
        return fenced(await self._committer.write(fencing(task, version, request)))

    def fence_along(
        self, task: str, version: int, request: PromiseCreateReq | PromiseSettleReq
    ) -> asyncio.Future[Reply]:
        """Have the same done in one transaction with the task's fulfilment, which is about to be asked for.

        Neither is ever done without the other; a task that is released instead has it refused. `fenced` says what came
        of it.
        """
        return self._along.add(task, fencing(task, version, request))

    async def promise(self, id: str) -> wire.PromiseRecord | None:
        """What `promise.get` answers, without its envelope; None if there is no such promise.

        Raises:
            StoreError: the file cannot be read.
        """
        return await self._lookups.promise(id)

    # Reading along

    async def attended(self, group: str) -> bool:
        """Whether a process that lives takes the work of a group."""
        await self._committer.write(self._bury_dead)
        sql = "SELECT 1 FROM members WHERE receives = 1 AND anycast = ? LIMIT 1"
        return bool(await self._read(lambda db: db.all(sql, (anycast_address(group),))))

    @property
    def generation(self) -> int:
        """A number that grows with every commit this process has heard of."""
        return self._generation

    async def changed(self, timeout: float, since: int | None = None) -> int:
        """Wait until something was committed after generation `since` (default: now), at most `timeout` seconds.

        To miss nothing: note `generation`, read, then wait with what was noted. The generation is returned.
        """
        since = self._generation if since is None else since
        if self._generation != since or self._stopped:
            return self._generation
        self._watchers += 1
        self._peers.watch(on=True)
        try:
            async with asyncio.timeout(timeout):
                await self._change.wait()
        except TimeoutError:
            pass
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._peers.watch(on=False)
        return self._generation

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Internals

    async def _read[T](self, read: Callable[[Database], T]) -> T:
        if not self._ready:
            await self.start()

        def run(reader: Database) -> T:
            with reader.snapshot():
                return read(reader)

        assert self._reader is not None  # noqa: S101 - there since start
        return await asyncio.get_running_loop().run_in_executor(self._reading, run, self._reader)

    def _committed(self, messages: Messages) -> None:
        self.on_changed()
        self._peers.committed()
        for task, (member, version) in messages.executes.items():
            if member == self._member:
                self.on_execute(task, version)
            else:
                self._peers.send(member, Notice(execute=(task, version)))
        for member in messages.fetches:
            self._peers.send(member, Notice(fetch=True))
        for promise in messages.unblocks:
            self._deliver(wire.write_unblock(promise))

    def _deliver(self, message: str) -> None:
        for receiver in self._receivers:
            receiver(message)

    # What peers say

    def on_execute(self, task: str, version: int) -> None:
        """A task was offered to this process."""
        self._offered[task] = version
        self._deliver(wire.write_execute(task, version))

    def on_fetch(self) -> None:
        """Another process has settled what this one listens to."""
        self._spawn(self._fetch())

    def on_changed(self) -> None:
        """Somebody has committed."""
        self._generation += 1
        if self._watchers:
            change, self._change = self._change, asyncio.Event()
            change.set()

    def on_lost(self, member: int) -> None:
        """The wire to a peer ended."""
        self._spawn(self._mourn(member))

    async def _mourn(self, member: int) -> None:
        # A killed process's descriptors are closed one by one: its lock may outlive its socket by a moment.
        for pause in MOURNING:
            living = await self._committer.write(self._bury_dead)
            if member not in living:
                self._peers.forget(member)
                break
            await asyncio.sleep(pause)
        await self._catch_up()

    def _bury_dead(self, db: Database, now: int, messages: Messages) -> set[int]:
        return {peer.id for peer in members.bury_dead(db, self._folder, now, messages)}

    # What no message said

    async def _look_regularly(self) -> None:
        seen = -1
        while True:
            await asyncio.sleep(LOOK)
            try:
                version = await self._read(Database.version_of_data)
                if version != seen:
                    await self._catch_up()
                    seen = version
                await self._look_around()
            except StoreClosed:
                raise
            except (StoreError, OSError) as error:  # a full disk, a stopped process in a transaction: it will pass
                log.warning("the store's file could not be looked at; it is tried again", error=str(error))

    async def _look_around(self) -> None:
        everybody = await self._read(members.peers)
        listed = any(peer.id == self._member for peer in everybody)
        if not (listed and await asyncio.to_thread(self._found)):
            await self._stay()
        strangers = [peer for peer in everybody if peer.id != self._member and not self._peers.connected(peer.id)]
        if strangers:
            living = await self._committer.write(self._bury_dead)
            self._peers.connect(self._member, [peer for peer in strangers if peer.id in living])

    def _found(self) -> bool:
        """Whether others can find the files by which they know that this process lives."""
        return self._lock is not None and members.held(self._lock) and self._peers.heard()

    async def _stay(self) -> None:
        """Be found again, though somebody has removed those files."""
        if self._lock is None or not members.held(self._lock):
            lost, self._lock = self._lock, await asyncio.to_thread(members.hold, self._folder, self._card.name)
            if lost is not None:
                os.close(lost)
        if not await asyncio.to_thread(self._peers.heard):
            self._peers.listen()
        await self._committer.write(lambda db, now, messages: members.stay(db, now, self._card, messages))

    async def _catch_up(self) -> None:
        """Find in the file what a lost or unsent message would have said."""
        offers, waiting, nearest = await self._read(self._missed)
        for task, version in offers.items():
            if self._offered.get(task) != version:
                self._deliver(wire.write_execute(task, version))
        self._offered = offers
        if waiting:
            await self._fetch()
        if nearest is not None:
            self._committer.expect(nearest)
        self.on_changed()

    def _missed(self, db: Database) -> tuple[dict[str, int], bool, int | None]:
        offers = db.all("SELECT id, version FROM tasks WHERE member = ? AND state = 'pending'", (self._member,))
        waiting = db.one("SELECT 1 FROM outbox WHERE address = ? LIMIT 1", (self._card.address,)) is not None
        return dict(offers), waiting, timeouts.nearest(db)

    async def _fetch(self) -> None:
        address = self._card.address
        for promise in await self._committer.write(lambda db, now, _: fetch(db, now, address)):
            self._deliver(wire.write_unblock(promise))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except StoreClosed:
            pass  # it was for this connection alone
        except StoreError as error:
            log.warning("the store's file could not be looked at; it is tried again", error=str(error))
