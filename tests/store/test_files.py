"""What a file may be, what may go wrong with it, and how it is kept small and copied."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from resonate_base import ConnectorError, Network, Source

from perdure.engine.store import (
    Collected,
    SqliteConnection,
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreLocked,
    StoreNewer,
    StoreReadOnly,
    database,
    problems,
)

from .conftest import Machine


async def ask(connection: SqliteConnection, kind: str, **data: Any) -> tuple[int, Any]:
    request = {"kind": kind, "head": {"corrId": "c", "version": "1"}, "data": data}
    answer = json.loads(await connection.send(json.dumps(request)))
    assert (answer["kind"], answer["head"]["corrId"]) == (kind, "c")
    return answer["head"]["status"], answer["data"]


async def refused(path: Path, error: type[StoreError]) -> str:
    connection = SqliteConnection(path)
    with pytest.raises(error) as caught:
        await connection.start()
    await connection.stop()
    text = str(caught.value)
    assert isinstance(caught.value, ConnectorError)
    assert "\n" not in text
    assert str(path.parent) in text
    return text


def test_it_is_a_network_and_a_source(path: Path) -> None:
    connection = SqliteConnection(path, pid="p", group="g")
    assert isinstance(connection, Network)
    assert isinstance(connection, Source)
    assert connection.unicast() == "poll://uni@g/p"
    assert connection.resolve_target("workers") == "poll://any@workers"


async def test_what_was_answered_is_there_after_opening_again(path: Path) -> None:
    async with SqliteConnection(path) as first:
        assert (await ask(first, "promise.create", id="a", timeoutAt=2**53))[0] == 200
    async with SqliteConnection(path) as second:
        assert (await ask(second, "promise.get", id="a"))[1]["promise"]["state"] == "pending"


async def test_nothing_blocks_the_event_loop(path: Path, tmp_path: Path) -> None:
    with blockbuster_ctx():
        async with SqliteConnection(path) as one, SqliteConnection(path) as two:
            assert (await ask(one, "promise.create", id="a", timeoutAt=2**53))[0] == 200
            assert (await ask(two, "promise.get", id="a"))[0] == 200
            await two.scan("")
            await two.changed(0.01)
            await one.collect(2**53, lambda _: False)
            await one.vacuum()
            await one.check()
            await one.back_up(tmp_path / "copy.db")


async def test_requests_that_are_none_are_answered_as_such(connection: SqliteConnection) -> None:
    for text in ("", "{", "[]", '{"kind": 1}', '{"head": {}}', '{"kind": "promise.get", "data": {"id": "\\ud800"}}'):
        assert json.loads(await connection.send(text))["head"]["status"] == 400
    assert (await ask(connection, "promise.steal", id="a"))[0] == 400
    assert (await ask(connection, "promise.get", id=7))[0] == 400


async def test_a_request_that_fails_takes_nobody_with_it(connection: SqliteConnection) -> None:
    def broken(*_: object) -> None:
        message = "broken"
        raise RuntimeError(message)

    tasks = [asyncio.create_task(ask(connection, "promise.create", id=f"p{n}", timeoutAt=2**53)) for n in range(20)]
    failing = asyncio.create_task(connection._committer.write(broken))
    tasks += [asyncio.create_task(ask(connection, "promise.create", id=f"q{n}", timeoutAt=2**53)) for n in range(20)]
    assert {(await task)[0] for task in tasks} == {200}
    with pytest.raises(RuntimeError, match="broken"):
        await failing
    assert len(await connection.scan("")) == 40


async def test_requests_that_wait_share_a_transaction(connection: SqliteConnection) -> None:
    before = connection.generation
    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(ask(connection, "promise.create", id=f"p{number}", timeoutAt=2**53))
    assert connection.generation - before <= 20


async def test_requests_are_served_in_the_order_they_came(connection: SqliteConnection) -> None:
    await ask(connection, "promise.create", id="a", timeoutAt=2**53)
    settles = [
        asyncio.create_task(ask(connection, "promise.settle", id="a", state="resolved", value={"data": str(n)}))
        for n in range(10)
    ]
    assert {(await settle)[1]["promise"]["value"]["data"] for settle in settles} == {"0"}


async def test_deadlines_are_met_without_a_request(path: Path) -> None:
    async with SqliteConnection(path) as connection:
        told: asyncio.Queue[str] = asyncio.Queue()
        connection._receivers.append(told.put_nowait)
        connection._card = connection._card._replace(receives=True)
        now = connection._clock()
        await ask(connection, "promise.create", id="far", timeoutAt=now + 10**7, tags={"resonate:timer": "true"})
        await ask(connection, "promise.create", id="near", timeoutAt=now + 60, tags={"resonate:timer": "true"})
        seen = connection.generation
        async with asyncio.timeout(5):
            while (await connection.scan("near"))[0].state == "pending" or connection.generation == seen:
                await connection.changed(1)
        rows = await connection._read(lambda db: db.all("SELECT id FROM promises WHERE state = 'resolved'"))
        assert rows == [("near",)]


async def test_scan_lists_by_prefix_in_the_order_of_ids(connection: SqliteConnection) -> None:
    for id in ("a", "a:1", "a:10", "a:2", "ab", "b", "a:é"):
        await ask(connection, "promise.create", id=id, timeoutAt=2**53)
    found = await connection.scan("a:")
    assert [promise.id for promise in found] == ["a:1", "a:10", "a:2", "a:é"]
    assert [promise.id for promise in await connection.scan("a:", after="a:10", limit=1)] == ["a:2"]


async def test_changed_misses_nothing(connection: SqliteConnection) -> None:
    seen = connection.generation
    await ask(connection, "promise.create", id="a", timeoutAt=2**53)
    assert await connection.changed(0, since=seen) > seen
    assert await connection.changed(0) == connection.generation


async def test_a_stopped_connection_says_so(path: Path) -> None:
    connection = SqliteConnection(path)
    await connection.start()
    await connection.stop()
    await connection.stop()
    for use in (connection.start(), connection.send('{"kind": "promise.get", "data": {"id": "a"}}')):
        with pytest.raises(StoreClosed):
            await use


@pytest.mark.parametrize("content", [b"hello", b"\0" * 4096, b"SQLite format 2\0" + b"x" * 100])
async def test_a_file_that_is_no_database_is_foreign(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    await refused(path, StoreForeign)
    assert path.read_bytes() == content


async def test_another_programs_database_is_foreign(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    await refused(path, StoreForeign)


async def test_a_newer_file_is_refused_and_untouched(path: Path) -> None:
    async with SqliteConnection(path):
        pass
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {database.SCHEMA_VERSION + 1}")
    newer.close()
    assert "upgrade" in await refused(path, StoreNewer)


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("sub", "pipe"):
        assert "is not a file" in await refused(tmp_path / name, StoreForeign)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "create it" in await refused(tmp_path / "none" / "store.db", StoreReadOnly)


async def test_a_folder_that_cannot_be_written_is_named() -> None:
    await refused(Path("/proc/self/store.db"), StoreReadOnly)  # there, root cannot write either


async def test_a_damaged_file_is_damaged_and_a_copy_restores_it(path: Path, tmp_path: Path) -> None:
    async with SqliteConnection(path) as connection:
        for number in range(300):
            await ask(connection, "promise.create", id=f"p{number}", timeoutAt=2**53, param={"data": "x" * 200})
        await connection.back_up(tmp_path / "copy.db")
        with pytest.raises(StoreError, match="exists"):
            await connection.back_up(tmp_path / "copy.db")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(size - 8192))
    assert problems(path)
    assert not any("\n" in line for line in problems(path))
    assert "restore" in await refused(path, StoreDamaged)
    async with SqliteConnection(tmp_path / "copy.db") as restored:
        assert await restored.check() == []
        assert len(await restored.scan("")) == 300


async def test_a_file_another_program_keeps_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 0.2)
    async with SqliteConnection(path) as connection:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked):
            await ask(connection, "promise.create", id="a", timeoutAt=2**53)
        assert (await ask(connection, "promise.get", id="a"))[0] == 404
        other.execute("ROLLBACK")
        other.close()
        assert (await ask(connection, "promise.create", id="a", timeoutAt=2**53))[0] == 200


async def test_a_full_disk_loses_nothing(path: Path) -> None:
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        async with SqliteConnection(path) as connection:
            assert (await ask(connection, "promise.create", id="a", timeoutAt=2**53))[0] == 200
            # A file that may not grow is what a full disk looks like from here.
            resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size, limits[1]))
            with pytest.raises(StoreError):
                await ask(connection, "promise.create", id="b", timeoutAt=2**53, param={"data": "x" * 100_000})
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert [promise.id for promise in await connection.scan("")] == ["a"]
            assert (await ask(connection, "promise.create", id="b", timeoutAt=2**53))[0] == 200
            assert await connection.check() == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


async def test_a_disk_without_room_to_begin_reading_is_full(path: Path) -> None:
    connection = SqliteConnection(path)
    await connection.start()
    await connection.stop()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        assert "free some space" in await refused(path, StoreFull)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    connection = SqliteConnection(path)
    await connection.start()
    assert await connection.check() == []
    await connection.stop()


def test_sqlites_own_full_is_full(path: Path) -> None:
    store = database.Database.open(path)
    store.all("PRAGMA max_page_count = 60")
    with pytest.raises(StoreFull), store.transaction():
        store.execute("INSERT INTO outbox VALUES ('a', ?)", ("x" * 1_000_000,))
    assert store.all("SELECT * FROM outbox") == []
    store.close()


async def test_collecting_takes_settled_trees_and_nothing_else(connection: SqliteConnection) -> None:
    connection._clock = connection._committer._clock = lambda: 1000
    for root in ("old", "kept", "open", "young", "old!"):
        await ask(connection, "promise.create", id=root, timeoutAt=10**6)
        for child in range(3):
            await ask(connection, "promise.create", id=f"{root}:{child}", timeoutAt=10**6)
            if not (root == "open" and child == 1):
                await ask(connection, "promise.settle", id=f"{root}:{child}", state="resolved")
    await ask(connection, "promise.create", id="lone:1", timeoutAt=10**6)
    await ask(connection, "promise.create", id="lone:1.1", timeoutAt=10**6)
    await ask(connection, "promise.settle", id="lone:1", state="resolved")
    connection._clock = connection._committer._clock = lambda: 2000
    for root in ("old", "kept", "open"):
        await ask(connection, "promise.settle", id=root, state="resolved")
    connection._clock = connection._committer._clock = lambda: 9000
    await ask(connection, "promise.settle", id="young", state="resolved")
    assert await connection.collect(5000, lambda head: head == "kept") == Collected(2, 5)
    left = {promise.id.split(":")[0] for promise in await connection.scan("")}
    assert left == {"kept", "open", "young", "old!", "lone"}
    assert [promise.id for promise in await connection.scan("lone")] == ["lone:1.1"]
    assert await connection.check() == []


async def test_a_large_tree_is_collected_in_small_transactions_and_its_pages_given_back(
    connection: SqliteConnection,
) -> None:
    await ask(connection, "promise.create", id="a", timeoutAt=2**53)
    async with asyncio.TaskGroup() as group:
        for number in range(1200):
            data = {"data": "x" * 500}
            group.create_task(ask(connection, "promise.create", id=f"a:{number}", timeoutAt=1, param=data))
    await ask(connection, "promise.settle", id="a", state="resolved")
    pages = await connection._read(lambda db: db.one("PRAGMA page_count")[0])
    before = connection.generation
    assert await connection.collect(2**53, lambda _: False) == Collected(1, 1201)
    assert connection.generation - before >= 3
    await connection.vacuum()
    assert await connection._read(lambda db: db.one("PRAGMA page_count")[0]) < pages / 3


def test_every_query_of_the_state_machine_uses_an_index(machine: Machine) -> None:
    seen: set[str] = set()
    machine.db._connection.set_trace_callback(seen.add)
    machine.join()
    any_g = "poll://any@g"
    machine.create(0, "a", target=any_g)
    machine.acquire(0, "a", 0)
    machine.create(0, "a:x", external="true")
    machine.suspend(0, "a", 1, "a:x")
    machine.settle(0, "a:x")
    machine.acquire(0, "a", 1)
    machine.apply(0, "task.heartbeat", pid="p", tasks=[{"id": "a", "version": 2}])
    machine.apply(0, "promise.register_listener", awaited="a", address="poll://uni@g/p")
    machine.settle(0, "a")
    machine.tick(0)
    machine.db._connection.set_trace_callback(None)
    for sql in seen:
        if sql.split()[0] in {"SELECT", "UPDATE", "DELETE"}:
            plan = machine.db.all(f"EXPLAIN QUERY PLAN {sql}")
            scans = [row[3] for row in plan if row[3].startswith("SCAN") and "USING" not in row[3]]
            assert all(part.split()[1] in {"a", "members", "CONSTANT", "schedules"} for part in scans), (sql, scans)


@pytest.mark.parametrize("version", range(1, database.SCHEMA_VERSION + 1))
async def test_a_file_of_every_released_format_is_brought_forward(path: Path, version: int) -> None:
    dump = Path(__file__).with_name("formats") / f"{version}.sql"
    old = sqlite3.connect(path)
    old.executescript(dump.read_text())
    old.close()
    async with SqliteConnection(path) as connection:
        assert await connection.check() == []
        assert [(promise.id, promise.state) for promise in await connection.scan("")] == [
            ("pending", "pending"), ("settled", "resolved"),
        ]  # fmt: skip
        assert await connection._read(lambda db: db.one("PRAGMA user_version")[0]) == database.SCHEMA_VERSION


def test_the_newest_format_is_the_schema(path: Path, tmp_path: Path) -> None:
    def schema(file: Path) -> list[Any]:
        connection = sqlite3.connect(file)
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'").fetchall()
        connection.close()
        return sorted((name, " ".join(sql.split())) for name, sql in rows)

    database.Database.open(path).close()
    old = sqlite3.connect(tmp_path / "dump.db")
    old.executescript((Path(__file__).with_name("formats") / f"{database.SCHEMA_VERSION}.sql").read_text())
    old.close()
    assert schema(path) == schema(tmp_path / "dump.db")
