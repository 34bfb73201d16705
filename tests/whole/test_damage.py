"""What was recorded and is damaged, gone or out of reach: a definite end, said in one line, and never a loop."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from perdure.engine import Client, blobs_folder
from perdure.engine.blobs import BlobsUnavailable
from perdure.engine.errors import RecordDamaged
from perdure.engine.upkeep import check, collect
from perdure.workers import executions
from perdure.workers.executions import Executions

from .kit import World, kill_guests, opened, outcome

#: A value too large for its step, and code that has acted on the world and waits for somebody.
BEFORE = "import os; big = os.urandom(200_000); n = 1"
CODE = "pay('rent'); answer = ask('go on?'); n += 1; answer"


async def asked(client: Client) -> None:
    async with asyncio.timeout(30):
        while not await client.pending():
            await asyncio.sleep(0.01)


def stored(state: Path) -> Iterator[Path]:
    return (path for path in (state / "blobs").glob("??/*") if path.stat().st_size > 100_000)


@pytest.mark.parametrize("harm", ["flipped", "gone"])
async def test_a_checkpoint_damaged_in_the_middle_of_a_step_ends_it_for_good(tmp_path: Path, harm: str) -> None:
    state, world = tmp_path / "state", World(tmp_path)
    async with opened(state, world) as client:
        assert (await outcome(client, "s", BEFORE, grants=["pay", "ask"])).status == "ok"
        execution = await (await client.session("s")).submit(CODE)
        await asked(client)
    (path,) = stored(state)
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(b"x" + content[1:])
    async with opened(state, world) as client:
        await client.answer((await client.pending())[0].id, "yes")
        async with asyncio.timeout(20):
            result = await client.execution(execution.id).result()
        assert (result.status, result.attempts <= 4) == ("failed", True), result
        assert result.error is not None
        assert result.error.type == ("BlobMissing" if harm == "gone" else "BlobDamaged")
        assert path.name in result.error.message
        assert "what it has asked for stays recorded" in result.error.message
        refused = await outcome(client, "s", "n")
        assert (refused.status, refused.error and refused.error.type) == ("refused", result.error.type)
        path.write_bytes(content)
        assert (await outcome(client, "s", "n, len(big)")).value == (1, 200_000)
        assert world.effects() == ["pay rent"]
        assert (await check(client.substrate)).problems == ()


async def test_a_recorded_reply_that_is_gone_ends_the_replay_for_good(tmp_path: Path) -> None:
    state, world = tmp_path / "state", World(tmp_path)
    async with opened(state, world) as client:
        # It computes: what sleeps is parked, and looks at its reply only when it wakes.
        code = "n = len(look('x' * 300_000))\nwhile True: pass"
        session = await client.session("s", grants=["look"])
        execution = await session.submit(code)
        async with asyncio.timeout(30):
            while (call := await client.substrate.promises.get(f"{execution.id}:s0.0")) is None or not call.settled:
                await asyncio.sleep(0.01)
        for path in stored(state):
            path.unlink()
        kill_guests()
        async with asyncio.timeout(20):
            result = await execution.result()
        assert (result.status, result.error and result.error.type) == ("failed", "BlobMissing"), result
        assert (await outcome(client, "s", "1 + 1")).value == 2


@pytest.mark.parametrize("harm", ["flipped", "gone"])
async def test_a_display_that_is_damaged_costs_no_more_than_itself(tmp_path: Path, harm: str) -> None:
    state = tmp_path / "state"
    async with opened(state) as client:
        code = "print('before')\ndisplay({'text/html': 'x' * 400_000}, raw=True)\nprint('blake3:' + '0' * 64)\n7"
        assert (await outcome(client, "s", code)).value == 7
        (path,) = stored(state)
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(b"x" + path.read_bytes()[1:])
        events = [event async for event in client.execution("s@1").events()]
        (shown,) = [event for event in events if event.type == "display"]
        assert (shown.data, path.name in str(shown.lost)) == ({}, True), shown
        assert "".join(event.text for event in events if event.type == "output") == f"before\nblake3:{'0' * 64}\n"
        assert events[-1].type == "finished"
        (problem,) = (await check(client.substrate)).problems
        assert path.name in problem
        assert (await outcome(client, "s", "1 + 1")).value == 2


async def test_a_mark_of_no_content_is_left_out_of_a_display(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        code = "display({'$ref': 'blake3:' + '0' * 64, 'text/plain': 'seen'}, raw=True)"
        result = await outcome(client, "s", code)
        assert result.status == "ok"
        assert any("$ref was left out" in note for note in result.notes), result.notes
        (shown,) = [event async for event in client.execution("s@1").events() if event.type == "display"]
        assert shown.data == {"text/plain": "seen"}


async def test_a_checkpoint_whose_beginning_is_gone_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state) as client:
        for n in range(3):
            assert (await outcome(client, "s", f"n = {n}")).status == "ok"
    with closing(sqlite3.connect(state / "perdure.db")) as database, database:
        database.execute("DELETE FROM promises WHERE id = 's@1:s0'")
    async with opened(state) as client, asyncio.timeout(20):
        refused = await outcome(client, "s", "n")
        assert refused.status == "refused"
        assert refused.error is not None
        assert "s@1:s0" in refused.error.message


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
async def test_a_blob_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What the disk has lost is damage; what somebody may give back is waited for, and read then."""
    state = tmp_path / "state"
    async with opened(state) as client:
        assert (await outcome(client, "s", BEFORE)).status == "ok"
    (path,) = stored(state)
    monkeypatch.setattr(executions, "BACK_OFF", 0.1)
    read, refused = Path.read_bytes, 2

    def failing(self: Path) -> bytes:
        nonlocal refused
        if self == path and refused:
            refused -= 1
            raise OSError(number, os.strerror(number))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", failing)
    async with opened(state) as client, asyncio.timeout(30):
        result = await outcome(client, "s", "n")
        if number == errno.EIO:
            assert (result.status, result.error and result.error.type) == ("refused", "BlobDamaged")
        else:
            assert (result.value, result.attempts, refused) == (1, 3, 0)


async def test_blobs_that_are_not_mounted_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder in their place is neither taken for the loss of everything nor filled with new ones."""
    state, refused = tmp_path / "state", asyncio.Event()
    async with opened(state) as client:
        assert (await outcome(client, "s", BEFORE)).status == "ok"
    (state / "blobs").rename(tmp_path / "elsewhere")
    given_back = Executions._given_back

    async def giving_back(self: Executions, attempt: Any, problem: Exception) -> Exception:
        assert isinstance(problem, BlobsUnavailable), problem
        refused.set()
        return await given_back(self, attempt, problem)

    monkeypatch.setattr(executions, "BACK_OFF", 0.1)
    monkeypatch.setattr(Executions, "_given_back", giving_back)
    async with opened(state) as client, asyncio.timeout(40):
        waiting = asyncio.create_task(outcome(client, "s", "n, len(big)"))
        new = asyncio.create_task(outcome(client, "new", "import os; other = os.urandom(200_000); len(other)"))
        await refused.wait()
        (problem,) = (await check(client.substrate)).problems
        assert "Mount what was there" in problem
        assert not [*stored(state)]
        (state / "blobs").rmdir()
        (tmp_path / "elsewhere").rename(state / "blobs")
        assert (await waiting).value == (1, 200_000)
        assert (await new).value == 200_000
        assert (await check(client.substrate)).problems == ()


async def test_who_waits_for_room_on_the_disk_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full, failed = blobs_folder.write_all, True, 0

    def failing(*arguments: Any) -> int:
        nonlocal failed
        if full:
            failed += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    async with opened(tmp_path / "state", World(tmp_path)) as client, asyncio.timeout(40):
        assert (await outcome(client, "s", "n = 1", grants=["pay"])).status == "ok"
        monkeypatch.setattr(blobs_folder, "write_all", failing)
        execution = await (await client.session("s")).submit("pay('rent'); " + BEFORE.replace("n = 1", "n = 2"))
        while not failed:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await execution.cancel()
        result = await execution.result()
        assert result.status == "cancelled", result
        assert result.error is not None
        assert "no room" in result.error.message
        assert World(tmp_path).effects() == ["pay rent"]
        assert time.monotonic() - began < 20
        full = False
        assert (await outcome(client, "s", "n")).value == 1


def harm_record(state: Path, id: str, column: str) -> None:
    with closing(sqlite3.connect(state / "perdure.db")) as database, database:
        (data,) = database.execute(f"SELECT {column} FROM promises WHERE id = ?", (id,)).fetchone()  # noqa: S608 - ours
        harmed = data[: len(data) // 2] + "\x9a"
        database.execute(f"UPDATE promises SET {column} = ? WHERE id = ?", (harmed, id))  # noqa: S608 - the same


@pytest.mark.parametrize(
    ("id", "column"),
    [
        ("s@1", "param_data"),
        ("s@1", "value_data"),
        ("s@1:s0.0", "param_data"),
        ("s@2", "param_data"),
        ("s@2:s0", "param_data"),
        ("s@2:s0.0", "param_data"),
        ("s@2:s0.1", "param_data"),
        ("s:c0", "param_data"),
    ],
)
async def test_a_record_that_is_damaged_hides_none_of_the_others(tmp_path: Path, id: str, column: str) -> None:
    """Everything else is listed and shown; what cannot be read is named, and no blob goes that it may name."""
    state = tmp_path / "state"
    async with opened(state) as client:
        assert (await outcome(client, "s", "print('one')", grants=["ask"])).status == "ok"
        assert (await outcome(client, "other", "7")).value == 7
        waiting = await (await client.session("s")).submit("print('two'); ask('go on?')")
        async with asyncio.timeout(30):
            while (await waiting.info()).state != "waiting":
                await asyncio.sleep(0.01)
    harm_record(state, id, column)
    said = f"what is recorded of {id} cannot be read"
    async with Client.open(state, worker=False) as client, asyncio.timeout(30):
        infos = {info.id: info for info in await client.executions()}
        assert infos.keys() == {"s@1", "s@2", "other@1"}
        assert {name for name, info in infos.items() if info.damaged} == ({id} if ":" not in id else set())
        assert (infos["other@1"].status, infos["s@2"].state) == ("ok", "waiting")
        sessions = {info.name: bool(info.damaged) for info in await client.sessions()}
        assert sessions == {"s": id in ("s:c0", "s@2"), "other": False}
        (call,) = await client.pending()
        assert (call.id, said in call.prompt) == ("s@2:s0.1", call.id == id)
        for execution, text in (("s@1", "one\n"), ("s@2", "two\n")):
            tree = await client.execution(execution).tree()
            step = next(node for node in tree.children if node.kind == "step")
            records = [("output", "resolved"), *([("call", "pending")] if execution == "s@2" else [])]
            assert [(node.kind, node.state) for node in step.children] == records
            assert [node.id for node in (tree, step, *step.children) if said in node.label] == (
                [id] if id.startswith(execution) else []
            )
            shown, lost = "", ""
            with suppress(RecordDamaged):  # the result of s@1, after all that it printed
                async for event in client.execution(execution).events(follow=False):
                    shown += event.text if event.type == "output" else ""
                    lost += str(event.lost) if event.type == "display" else ""
            assert (shown, said in lost) == (("", True) if id == f"{execution}:s0.0" else (text, False))
        (problem,) = (await check(client.substrate)).problems
        assert said in problem
        with pytest.raises(RecordDamaged, match=said):
            await collect(client.substrate, time.time())


@pytest.mark.parametrize(
    ("id", "column"), [("s@1", "value_data"), ("s@2:s0", "param_data"), ("s@2:s0.0", "param_data")]
)
async def test_what_had_begun_ends_as_failed_when_its_records_are_damaged(tmp_path: Path, id: str, column: str) -> None:
    state, world = tmp_path / "state", World(tmp_path)
    async with opened(state, world) as client:
        assert (await outcome(client, "s", "n = 1", grants=["pay", "ask"])).status == "ok"
        execution = await (await client.session("s")).submit(
            "import asyncio\npay('rent')\nn = await asyncio.gather(ask('go on?'), ask('and then?'))"
        )
        async with asyncio.timeout(30):
            while len(await client.pending()) < 2:
                await asyncio.sleep(0.01)
    harm_record(state, id, column)
    async with opened(state, world) as client, asyncio.timeout(30):
        await client.answer("s@2:s0.1", "go")
        result = await client.execution(execution.id).result()
        assert result.error is not None
        assert (result.status, result.error.type) == ("failed", "RecordDamaged"), result
        assert f"what is recorded of {id} cannot be read" in result.error.message
        assert "It had begun" in result.error.message
        assert await client.pending() == []
        if id.startswith("s@2"):
            assert (await outcome(client, "s", "n")).value == 1
    assert world.effects() == ["pay rent"]


@pytest.mark.parametrize("harm", ["cut", "flipped"])
async def test_a_step_that_cannot_be_decoded_is_refused_by_name(tmp_path: Path, harm: str) -> None:
    state = tmp_path / "state"
    async with opened(state) as client:
        for n in range(2):
            assert (await outcome(client, "s", f"n = {n}")).status == "ok"
    with closing(sqlite3.connect(state / "perdure.db")) as database, database:
        (data,) = database.execute("SELECT value_data FROM promises WHERE id = 's@2:s0'").fetchone()
        harmed = data[: len(data) // 2] if harm == "cut" else data[:40] + "\x9a" + data[41:]
        database.execute("UPDATE promises SET value_data = ? WHERE id = 's@2:s0'", (harmed,))
    async with opened(state) as client, asyncio.timeout(30):
        for _ in range(2):
            refused = await outcome(client, "s", "n")
            assert (refused.status, refused.error and refused.error.type) == ("refused", "RecordDamaged")
            assert refused.error is not None
            assert "s@2:s0" in refused.error.message
        session = await client.session("s")
        with pytest.raises(RecordDamaged, match="s@2:s0"):
            await session.variables()
        (problem,) = (await check(client.substrate)).problems
        assert "s@2:s0" in problem
        assert (await outcome(client, "other", "1 + 1")).value == 2
    with closing(sqlite3.connect(state / "perdure.db")) as database, database:
        database.execute("UPDATE promises SET value_data = ? WHERE id = 's@2:s0'", (data,))
    async with opened(state) as client:
        assert (await outcome(client, "s", "n")).value == 1
