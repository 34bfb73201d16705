"""What is not recorded yet is bounded: whoever prints waits for the store."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from perdure.engine.journal import Journal, Request
from perdure.workers.recording import OUTPUT_BACKLOG, OUTPUT_BATCH, Recorder

if TYPE_CHECKING:
    from perdure.engine.blobs import BlobStore
    from perdure.workers.recording import Owner


class StuckStore:
    """An attempt whose store does not come to write."""

    async def create(self, *_: Any, **__: Any) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("text", ["x" * 1000, "x" * 30_000, "\n"])
async def test_a_store_that_is_slow_holds_whoever_prints(text: str, blobs: BlobStore, owner: Owner) -> None:
    recorder = Recorder("s@1", 0, Journal(), blobs, "w", owner)
    recorder.attempt = StuckStore()  # type: ignore[assignment]
    recording = asyncio.create_task(recorder.run())
    taken = 0

    async def flood() -> None:
        nonlocal taken
        while True:
            await recorder.write("stdout", [text] * 10)
            taken += 10 * len(text)

    printing = asyncio.create_task(flood())
    await asyncio.wait({printing}, timeout=0.5)
    assert not printing.done()
    assert taken <= OUTPUT_BACKLOG + OUTPUT_BATCH
    at_rest = taken
    await asyncio.wait({printing}, timeout=0.1)
    assert taken == at_rest
    for task in (printing, recording):
        task.cancel()
    await asyncio.gather(printing, recording, return_exceptions=True)


@pytest.fixture
def blobs() -> Any:
    return None  # output is never stored beside its record


@pytest.fixture
def owner() -> Any:
    return None  # nobody is told while nothing gets done


async def test_nothing_of_a_step_is_recorded_before_its_beginning(blobs: BlobStore) -> None:
    created: list[str] = []
    begun = asyncio.Event()

    class Store:
        async def create(self, id: str, _kind: str, param: Any, **_: Any) -> Any:
            created.append(id)
            return SimpleNamespace(id=id, param=param)

    async def follows() -> None:
        await begun.wait()

    told: Any = SimpleNamespace(quiet=lambda: None, started=lambda *_: None, answered_in=lambda *_: None)
    recorder = Recorder("s@1", 0, Journal(), blobs, "w", told)
    recorder.attempt = Store()  # type: ignore[assignment]
    recorder.follows = follows
    recording = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    recorder.answer(Request("main.0", "c", {}, "print"), "repeat", {"value": 1}, None)
    await asyncio.sleep(0.01)
    assert not created
    begun.set()
    await recorder.flushed()
    assert created == ["s@1:s0.0"]
    recorder.stop()
    await recording
