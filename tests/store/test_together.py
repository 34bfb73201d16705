"""What shares a way to the store: looks at promises, and a write that waits for the one it belongs with."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from resonate.types import PromiseCreateReq, PromiseSettleReq, Value

from perdure.engine.store import Refused, SqliteConnection, StoreError, fenced

if TYPE_CHECKING:
    from pathlib import Path

FAR = 2**42


async def answer(connection: SqliteConnection, kind: str, **data: Any) -> Any:
    return msgspec.json.decode(await connection.send(msgspec.json.encode({"kind": kind, "data": data}).decode()))


async def ask(connection: SqliteConnection, kind: str, **data: Any) -> Any:
    reply = await answer(connection, kind, **data)
    assert reply["head"]["status"] == 200, reply
    return reply["data"]


def promise(id: str) -> PromiseCreateReq:
    return PromiseCreateReq(id=id, timeout_at=FAR, param=Value(), tags={})


async def held(connection: SqliteConnection) -> None:
    """Hold the task `a`, with a promise below it."""
    tags = {"resonate:target": "poll://any@g"}
    create = {"kind": "promise.create", "data": {"id": "a", "timeoutAt": FAR, "tags": tags}}
    await ask(connection, "task.create", pid="p", ttl=60_000, action=create)
    assert not isinstance(await connection.fence("a", 1, promise("a:s0")), Refused)


def settle(version: int = 1) -> tuple[str, int, PromiseSettleReq]:
    return "a", version, PromiseSettleReq(id="a:s0", state="resolved", value=Value(data="dg=="))


FULFILL: dict[str, Any] = {
    "id": "a",
    "version": 1,
    "action": {"kind": "promise.settle", "data": {"id": "a", "state": "resolved"}},
}


async def test_a_write_and_the_one_it_waits_for_are_one_commit(connection: SqliteConnection) -> None:
    await held(connection)
    commits = connection.generation
    along = connection.fence_along(*settle())
    await ask(connection, "task.fulfill", **FULFILL)
    assert connection.generation == commits + 1
    record = fenced(await along)
    assert not isinstance(record, Refused)
    assert record.state == "resolved"


async def test_what_is_asked_for_at_once_is_one_commit(connection: SqliteConnection) -> None:
    await held(connection)
    commits = connection.generation
    await asyncio.gather(*(connection.fence("a", 1, promise(f"a:s0.{number}")) for number in range(8)))
    assert connection.generation == commits + 1


async def test_what_no_end_follows_is_not_done(connection: SqliteConnection) -> None:
    await held(connection)
    along = connection.fence_along(*settle())
    await ask(connection, "task.release", id="a", version=1)
    assert isinstance(fenced(await along), Refused)
    found = await connection.promise("a:s0")
    assert found is not None
    assert found.state == "pending"


async def test_neither_is_done_without_the_other(connection: SqliteConnection) -> None:
    """An end that names a step which is not recorded could not be gone on from."""
    await held(connection)
    along = connection.fence_along(*settle(version=2))
    refused = await answer(connection, "task.fulfill", **FULFILL)
    assert refused["head"]["status"] == 409
    assert isinstance(fenced(await along), Refused)
    task = await ask(connection, "task.get", id="a")
    assert task["task"]["state"] == "acquired"


async def test_nor_where_the_file_fails(connection: SqliteConnection) -> None:
    await held(connection)

    def full(*_: Any) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    along = connection.fence_along(*settle())
    waiting = connection._along._waiting
    waiting["a"] = waiting["a"]._replace(write=full)
    # Others that share the transaction have theirs done.
    beside = asyncio.create_task(connection.fence("a", 1, promise("a:s1")))
    with pytest.raises(StoreError):
        await answer(connection, "task.fulfill", **FULFILL)
    with pytest.raises(StoreError):
        await along
    assert not isinstance(await beside, Refused)
    task = await ask(connection, "task.get", id="a")
    assert task["task"]["state"] == "acquired"


async def test_nor_where_the_connection_is_stopped(path: Path) -> None:
    connection = SqliteConnection(path)
    await held(connection)
    along = connection.fence_along(*settle())
    await connection.stop()
    assert isinstance(fenced(along.result()), Refused)


async def test_what_is_asked_for_at_once_is_read_at_once(connection: SqliteConnection) -> None:
    await held(connection)
    looks = 0
    read = connection._lookups._read

    async def counted(look: Any) -> Any:
        nonlocal looks
        looks += 1
        return await read(look)

    connection._lookups._read = counted
    several = await asyncio.gather(*map(connection.promise, ["a", "a:s0", "b"]))
    assert [found and found.id for found in several] == ["a", "a:s0", None]
    assert looks == 1


async def test_a_look_sees_every_commit_before_it(connection: SqliteConnection) -> None:
    """Also where another look is under way, that began before the commit."""
    await held(connection)
    for number in range(50):
        early = asyncio.create_task(connection.promise(f"a:s0.{number}"))
        await connection.fence("a", 1, promise(f"a:s0.{number}"))
        assert await connection.promise(f"a:s0.{number}") is not None
        await early
