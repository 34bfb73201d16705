"""A guest is kept from the end of its execution on, and serves nobody unless its last step was recorded."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

from perdure.workers.pool import Idle, Pool


def guest() -> Any:
    signals: list[int] = []
    return SimpleNamespace(
        pid=0, alive=True, died=asyncio.get_running_loop().create_future(), signals=signals, signal=signals.append
    )


async def recorded(known: asyncio.Future[None]) -> None:
    await known


async def test_it_serves_nobody_before_its_step_is_recorded() -> None:
    known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    recording = asyncio.create_task(recorded(known))
    pool, kept = Pool(4, 1 << 30), guest()
    await pool.rest("s", Idle(kept, "s@1:s0", 0, 1, recording))
    assert not pool.holds_idle("s", "s@1:s0", 0)
    known.set_result(None)
    await recording
    assert pool.holds_idle("s", "s@1:s0", 0)
    taken = await pool.take_idle("s", "s@1:s0", 0)
    assert not kept.signals
    assert taken is kept


async def test_one_whose_step_was_refused_is_ended() -> None:
    """Its successor may give the step another end, under the same name."""
    known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    recording = asyncio.create_task(recorded(known))
    pool, kept = Pool(4, 1 << 30), guest()
    await pool.rest("s", Idle(kept, "s@1:s0", 0, 1, recording))
    known.set_exception(RuntimeError("the lease has ended"))
    await asyncio.wait({recording})
    await asyncio.sleep(0)
    assert kept.signals == [signal.SIGKILL]
    assert not pool.holds_idle("s", "s@1:s0", 0)
