"""What the store's tests share: the actions driven by hand, and connections to real files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.engine.store import SqliteConnection
from perdure.engine.store.actions import ACTIONS
from perdure.engine.store.database import Database, members_folder
from perdure.engine.store.delivery import Messages
from perdure.engine.store.members import Card, hold, join
from perdure.engine.store.timeouts import fire, nearest
from perdure.engine.store.wire import Malformed, read_data


class Machine:
    """The protocol's state machine on a real file, one transaction per request, the clock in the test's hand."""

    def __init__(self, path: Path) -> None:
        self.db = Database.open(path, synchronous="NORMAL")
        self.folder = members_folder(path)
        self.messages = Messages()
        self.locks: list[int] = []
        self.deadline: int | None = None

    def close(self) -> None:
        self.db.close()
        for lock in self.locks:
            os.close(lock)

    def join(self, group: str = "g", pid: str | None = "p") -> int:
        """List a member that takes work; it is the one that acts from here on."""
        card = Card.of(group, pid, receives=True)
        self.locks.append(hold(self.folder, card.name))
        self.write(lambda messages: join(self.db, self.folder, 0, card, messages))
        return self.db.member

    def write(self, change: Any) -> Any:
        self.messages = Messages()
        with self.db.transaction():
            result = change(self.messages)
        # Every deadline in the file must have been announced: it is by these alone that the store wakes.
        announced = [at for at in (self.deadline, self.messages.deadline) if at is not None]
        due = nearest(self.db)
        assert due is None or min(announced) <= due
        self.deadline = due
        return result

    def apply(self, now: int, kind: str, /, **data: Any) -> tuple[int, Any]:
        """One request; its status and data as they would travel."""
        shape, action = ACTIONS[kind]
        try:
            request = read_data(msgspec.Raw(msgspec.json.encode(data)), shape)
            reply = self.write(lambda messages: action(self.db, now, request, messages))
        except Malformed as error:
            return 400, str(error)
        return reply.status, msgspec.json.decode(msgspec.json.encode(reply.data))

    def tick(self, now: int) -> None:
        self.write(lambda messages: fire(self.db, now, messages))

    # Shorthand for the requests most tests make

    def create(self, now: int, id: str, timeout: int = 10**9, **tags: str) -> tuple[int, Any]:
        named = {f"resonate:{name}": value for name, value in tags.items()}
        return self.apply(now, "promise.create", id=id, timeoutAt=timeout, param={"data": "cA=="}, tags=named)

    def settle(self, now: int, id: str, state: str = "resolved", data: str = "dg==") -> tuple[int, Any]:
        return self.apply(now, "promise.settle", id=id, state=state, value={"data": data})

    def acquire(self, now: int, id: str, version: int, pid: str = "p", ttl: int = 60_000) -> tuple[int, Any]:
        return self.apply(now, "task.acquire", id=id, version=version, pid=pid, ttl=ttl)

    def suspend(self, now: int, id: str, version: int, *awaited: str) -> tuple[int, Any]:
        actions = [{"kind": "promise.register_callback", "data": {"awaited": a, "awaiter": id}} for a in awaited]
        return self.apply(now, "task.suspend", id=id, version=version, actions=actions)

    def fence(self, now: int, id: str, version: int, kind: str, /, **data: Any) -> tuple[int, Any]:
        return self.apply(now, "task.fence", id=id, version=version, action={"kind": kind, "data": data})

    def task(self, now: int, id: str) -> tuple[str, int]:
        task = self.apply(now, "task.get", id=id)[1]["task"]
        return task["state"], task["version"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def machine(path: Path) -> Iterator[Machine]:
    machine = Machine(path)
    yield machine
    machine.close()


@pytest.fixture
async def connection(path: Path) -> AsyncIterator[SqliteConnection]:
    async with SqliteConnection(path) as connection:
        yield connection
