"""Collecting, copying and checking a state: nothing that a session needs is ever missing, beside running workers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from perdure.engine import Client
from perdure.engine.errors import ExecutionNotFound, SessionBusy, StateLocked, StateUnusable
from perdure.engine.records import Result
from perdure.engine.sessions import read_settings
from perdure.engine.upkeep import back_up, check, collect
from perdure.engine.upkeep.holding import held

DAY = 24 * 3600.0
LATER = 40 * DAY
#: An image too large to ride in its step, and different each time.
BIG = "import os; big = os.urandom(100_000); open('file', 'wb').write(big); n = {n}"


@pytest.fixture(autouse=True)
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checkpoint is whole: none builds on an older one, which would be kept with it."""
    monkeypatch.setattr("perdure.workers.checkpoints.CHAIN", 1)


async def run(client: Client, session: str, code: str) -> Result:
    return await (await (await client.session(session, grants=["ask"])).submit(code)).result()


async def test_old_executions_go_and_the_session_goes_on(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state") as client:
        stale = await client.session("s")
        for n in range(6):
            assert (await run(client, "s", BIG.format(n=n))).status == "ok"
            stale._last = 2
        untouched = await collect(client.substrate, time.time())
        assert (untouched.executions, untouched.blobs) == (0, 0), "nothing is a month old"
        planned = await collect(client.substrate, time.time() + LATER, remove=False)
        assert planned.executions <= 5, "one that ended as it was looked at for a cancel goes once that is settled"
        done = await collect(client.substrate, time.time() + LATER)
        assert done.executions == 5
        assert done.promises >= max(planned.promises, 10)
        assert done.blobs >= 5, "what five executions left, and nothing else names"
        assert (await check(client.substrate)).problems == ()
        assert [info.id for info in await client.executions("s")] == ["s@6"]
        with pytest.raises(ExecutionNotFound):
            await client.execution("s@5").result()
        again = await (await stale.submit("n, len(big)")).result()
        assert again.execution == "s@7", "a number is never given twice"
        assert again.value == (5, 100_000)
    async with Client.open(tmp_path / "state") as client:
        result = await run(client, "s", "n, len(big), len(open('file', 'rb').read())")
        assert result.execution == "s@8"
        assert result.value == (5, 100_000, 100_000), "the checkpoint was kept"


async def test_what_the_last_checkpoint_builds_on_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.workers.checkpoints.CHAIN", 4)
    async with Client.open(tmp_path / "state") as client:
        for n in range(7):
            assert (await run(client, "s", BIG.format(n=n) + f"; v{n} = [{n}]")).status == "ok"
        done = await collect(client.substrate, time.time() + LATER, grace=0)
        assert 1 <= done.executions <= 5, "the last checkpoint adds to those since the last whole one"
        assert (await check(client.substrate)).problems == ()
    async with Client.open(tmp_path / "state") as client:
        result = await run(client, "s", "n, len(big), len(open('file', 'rb').read()), [v0, v3, v6]")
        assert result.value == (6, 100_000, 100_000, [[0], [3], [6]])


async def test_a_number_that_was_collected_is_refused_to_whoever_makes_it_again(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state") as client:
        for _ in range(3):
            await run(client, "s", "1")
        await collect(client.substrate, time.time() + LATER)
        head = await read_settings(client.substrate.promises, "s")
        assert head is not None
        assert head.settings.first == 3
        promises = client.substrate.promises
        param = {"func": "execute", "args": [{"code": "print('again')"}], "kwargs": {}, "version": 1}
        await promises.create("s@1", "execution", param, timeout_at=2**50, target=True)
        result = await client.execution("s@1").result()
        assert result.status == "busy"
        assert (await run(client, "s", "2")).execution == "s@4"


async def test_what_waits_is_kept_and_so_is_what_it_starts_from(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state") as client:
        await run(client, "s", BIG.format(n=1))
        await run(client, "s", "1 / 0")
        session = await client.session("s", grants=["ask"])
        execution = await session.submit("answer = ask('how many?'); answer + n")
        async with asyncio.timeout(30):
            while not await client.pending():
                await asyncio.sleep(0.01)
        await collect(client.substrate, time.time() + LATER)
        with pytest.raises(SessionBusy):
            await session.submit("2")
        await client.answer("s@3:s0.0", 41)
        assert (await execution.result()).value == 42
        assert (await check(client.substrate)).problems == ()


async def test_collecting_beside_running_sessions_takes_nothing_they_need(tmp_path: Path) -> None:
    """Removal is held to two seconds of grace here, so that what nobody had just put or named would be missed."""
    async with Client.open(tmp_path / "state") as client:
        stop = asyncio.Event()

        async def work(session: str) -> int:
            n = 0
            while not stop.is_set():
                n += 1
                if n > 1:
                    assert (await run(client, session, f"assert n == {n - 1}; x = ask")).status == "ok"
                result = await run(client, session, BIG.format(n=n))
                assert result.status == "ok", result
            return n

        async def clean() -> int:
            removed = 0
            began = time.monotonic()
            while time.monotonic() - began < 6:
                done = await collect(client.substrate, time.time() + LATER, grace=LATER + 2)
                removed += done.executions
                await asyncio.sleep(0.05)
            stop.set()
            return removed

        removed, *counts = await asyncio.gather(clean(), work("a"), work("b"))
        assert min(counts) >= 2
        assert removed >= 2
        assert (await check(client.substrate)).problems == ()


async def test_what_an_ended_execution_left_open_does_not_hold_it(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state") as client:
        await run(client, "s", BIG.format(n=1))
    stored = {path: path.read_bytes() for path in (tmp_path / "state" / "blobs").glob("??/*")}
    for path, content in stored.items():
        path.write_bytes(b"x" + content[1:])
    async with Client.open(tmp_path / "state") as client:
        refused = await run(client, "s", "n")
        assert (refused.status, refused.error and refused.error.type) == ("refused", "BlobDamaged")
        for path, content in stored.items():
            path.write_bytes(content)
        session = await client.session("s", grants=["ask"])
        await session.submit("ask('never answered')")
        async with asyncio.timeout(30):
            while not await client.pending():
                await asyncio.sleep(0.01)
        promises = client.substrate.promises
        await promises.settle("s@3", {"execution": "s@3", "status": "failed"})  # as whoever else has the store may
        assert (await run(client, "s", "n")).value == 1
        for left, over in (("s@2:s0", True), ("s@3:s0", False), ("s@3:s0.0", False)):
            found = await promises.get(left)
            assert found is not None
            assert found.settled == over, left
        for _ in range(2):  # what was settled now is as old as the horizon at the next
            await collect(client.substrate, time.time() + LATER)
        assert [info.id for info in await client.executions("s")] == ["s@4"]
        assert await client.substrate.promises.get("s@3:s0.0") is None
        assert (await run(client, "s", "n, len(big)")).value == (1, 100_000)
        assert (await check(client.substrate)).problems == ()


async def test_a_copy_made_while_it_is_used_opens_and_goes_on(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state") as client:
        await run(client, "s", BIG.format(n=1))
        running = asyncio.create_task(run(client, "s", "for i in range(200): print(i)"))
        copied = await back_up(client.substrate, tmp_path / "copy")
        assert copied.blobs >= 2
        await running
        with pytest.raises(StateUnusable, match="exists"):
            await back_up(client.substrate, tmp_path / "copy")
        with held(client.substrate.folder), pytest.raises(StateLocked):
            await back_up(client.substrate, tmp_path / "other")
        assert not (tmp_path / "other").exists()
    async with Client.open(tmp_path / "copy") as client:
        assert (await check(client.substrate)).problems == ()
        last = await (await client.session("s")).last()
        assert last is not None
        assert (await last.result()).status == "ok"
        assert (await run(client, "s", "n, len(big), len(open('file', 'rb').read())")).value == (1, 100_000, 100_000)


async def test_damage_is_named(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state") as client:
        await run(client, "s", BIG.format(n=1))
        first, second, *_ = [path for path in (tmp_path / "state" / "blobs").glob("??/*") if path.stat().st_size > 1000]
        first.write_bytes(b"x" + first.read_bytes()[1:])
        second.unlink()
        problems = (await check(client.substrate)).problems
        assert any(first.name in line and "damaged" in line for line in problems), problems
        assert any(second.name in line and "missing" in line for line in problems), problems
