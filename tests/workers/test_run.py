"""What a run makes of what its guest says, where only the order of messages decides."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any

from perdure.engine.journal import Journal
from perdure.workers.ends import Stepping
from perdure.workers.messages import Idle, StepEnds
from perdure.workers.run import LINGER, Run


async def test_a_guest_that_has_gone_on_to_the_next_step_is_not_at_rest() -> None:
    """It said that it waits as its reply was on the way, and the next that was heard of it is the end of the step."""
    loop = asyncio.get_running_loop()

    async def sent(_order: object) -> None: ...
    async def pump(_handle: object) -> None:
        await asyncio.Event().wait()

    guest: Any = SimpleNamespace(pid=os.getpid(), died=loop.create_future(), link=SimpleNamespace(send=sent, pump=pump))
    attempt: Any = SimpleNamespace(lost=loop.create_future())
    nothing: Any = None
    run = Run(guest, "s@1", 0, Journal(), nothing, nothing, "worker")
    driving = asyncio.create_task(run.drive(attempt))
    await asyncio.sleep(0)
    run.calls.owed.add("main.0")
    await run.handle(Idle(t="idle", waiting=["main.0"], timers=[], consumed=0))
    run.calls.owed.clear()
    await run.handle(StepEnds(t="step", stream=1, statement=1))
    assert isinstance(await driving, Stepping)
    await run.go_on(1)
    driving = asyncio.create_task(run.drive(attempt))
    done, _ = await asyncio.wait({driving}, timeout=4 * LINGER)
    assert not done, "it computes, and was taken to wait for ever"
    driving.cancel()
    await asyncio.gather(driving, return_exceptions=True)
