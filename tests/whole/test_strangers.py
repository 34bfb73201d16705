"""A worker that does not know a capability takes no execution away from those that do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from perdure.engine import WorkerSettings

from .kit import FAST, World, opened, outcome

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_has_begun_waits_for_a_worker_that_knows_its_capabilities(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("mine", grants=["pay", "ask"])
        execution = await session.submit("a = pay('a')\nb = ask('Go on?')\nc = pay('c')\n[a['paid'], b, c['paid']]")
        async with asyncio.timeout(20):
            while not await client.pending():
                await asyncio.sleep(0.02)
    async with opened(tmp_path / "state", settings=FAST) as client:
        (question,) = await client.pending()
        await client.answer(question.id, "yes")
        assert (await outcome(client, "other", "1 + 1")).value == 2
        await asyncio.sleep(1.0)
        assert (await client.execution(execution.id).tree()).state == "pending"
    async with opened(tmp_path / "state", world) as client:
        async with asyncio.timeout(30):
            result = await client.execution(execution.id).result()
    assert result.value == ["a", "yes", "c"], result.error
    assert world.effects() == ["pay a", "pay c"]


async def test_what_nobody_knows_is_refused_in_the_end_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "state", World(tmp_path)) as client:
        await client.session("mine", grants=["pay"])
    began = time.monotonic()
    async with opened(tmp_path / "state", settings=WorkerSettings()) as client:
        session = await client.session("mine", create=False)
        result = await (await session.submit("1")).result()
    assert (result.status, result.error and result.error.type) == ("refused", "UnknownGrant")
    assert "pay" in str(result.error)
    assert time.monotonic() - began > 1
