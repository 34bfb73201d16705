"""Waiting with no process: local deadlines, eviction, answers while nobody works, answers that come too late."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from perdure.engine import Client, WorkerSettings
from perdure.engine.errors import AlreadySettled

from .kit import FAST, guests, opened

if TYPE_CHECKING:
    from pathlib import Path

    from perdure.engine import Execution

DEADLINE = """
import asyncio, time
async def patient(n):
    try:
        return await asyncio.wait_for(ask(f"{n}?"), 3600)
    except TimeoutError:
        return "nobody"
began = time.time()
said = await asyncio.gather(*(patient(n) for n in range(3)))
[said, time.time() > began]
"""


async def waits(execution: Execution) -> None:
    async with asyncio.timeout(30):
        while (await execution.info()).state != "waiting":
            await asyncio.sleep(0.02)


async def test_waits_with_local_deadlines_outlive_guest_and_worker(tmp_path: Path) -> None:
    state = tmp_path / "state"
    evicting = WorkerSettings(lease_seconds=2.0, lease_margin_seconds=0.3, kept_guests=0)
    async with opened(state, settings=evicting) as client:
        session = await client.session("s", grants=["ask"])
        execution = await session.submit(DEADLINE)
        await waits(execution)
        first, *_ = await client.pending()
        await client.answer(first.id, "zero")
        async with asyncio.timeout(30):
            while len(await client.pending()) != 2:
                await asyncio.sleep(0.02)
        await waits(execution)
        async with asyncio.timeout(10):
            while guests():
                await asyncio.sleep(0.02)
    # Nobody works: answers are taken all the same, once.
    async with Client.open(state, worker=False) as client:
        for call in await client.pending():
            await client.answer(call.id, call.prompt)
            with pytest.raises(AlreadySettled):
                await client.answer(call.id, "again")
    async with opened(state, settings=FAST) as client:
        execution = client.execution("s@1")
        async with asyncio.timeout(30):
            result = await execution.result()
        assert result.value == [["zero", "1?", "2?"], True]
        records = (await execution.tree()).children[0].children
        # Three questions with one deadline each: recorded once, whatever woke it in between.
        assert sum(len(record.param["timers"]) for record in records if record.kind == "timer") == 3


async def test_a_sleep_of_a_week_is_two_writes(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        session = await client.session("s")
        execution = await session.submit("import time\ntime.sleep(7 * 86400)")
        await waits(execution)
        records = (await execution.tree()).children[0].children
        assert [record.kind for record in records] == ["timer"]
        log = next((tmp_path / "state").glob("*-wal"))
        before = log.stat().st_size
        await asyncio.sleep(0.5)
        assert log.stat().st_size == before
        await execution.cancel()
        async with asyncio.timeout(30):
            assert (await execution.result()).status == "cancelled"
