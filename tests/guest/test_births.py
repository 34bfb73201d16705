"""Tasks and futures hash by their birth, in C and in Python alike, and nothing is kept of those that are gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import perdure.workers.guest as runtime
from perdure.workers.guest.launch import environment
from perdure.workers.guest.native_parts import load

from . import harness
from .harness import Host, echo

HASHES = """
import asyncio
class Mine(asyncio.Future): pass
async def leaf(n):
    await asyncio.sleep(0)
    return await echo(n), hash(asyncio.current_task())
async def main():
    loop = asyncio.get_running_loop()
    made = [loop.create_future(), loop.create_future(), asyncio.ensure_future(leaf(0))]
    found = [hash(asyncio.current_task()), *map(hash, made), made[0].__hash__()]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leaf(n)) for n in range(5)]
    done, _ = await asyncio.wait(tasks)
    return found, [await made[2], *(task.result() for task in done)], [task.get_name() for task in tasks]
await main()
"""

GONE = """
import asyncio, gc, sys
async def nothing(): await asyncio.sleep(0)
async def main():
    for _ in range(3):
        await asyncio.gather(*(nothing() for _ in range(2000)))
    await asyncio.sleep(0)
    gc.collect()
    return sys.modules["_perdure_guest.births"]._native.size()
await main()
"""


def _of(monkeypatch: pytest.MonkeyPatch, *, pure: bool) -> tuple[Any, list[Any]]:
    theirs = environment
    monkeypatch.setattr(harness, "environment", lambda: {**theirs(), "PERDURE_PURE": str(int(pure))})
    with Host() as host:
        done = host.run(HASHES, echo)
    monkeypatch.undo()
    assert done.status == "ok", done.error
    return json.loads(json.dumps(done.result)), [call["path"] for call in done.calls]


def test_both_versions_give_the_same_numbers_names_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Path(runtime.__path__[0]) / "native" / "_births.c").exists()
    pure = _of(monkeypatch, pure=True)
    assert pure == _of(monkeypatch, pure=False)
    numbers = pure[0][0]
    assert len(set(numbers[:-1])) == len(numbers) - 1


@pytest.mark.skipif(load("_births") is None, reason="there was no C compiler: the substitute has no table")
def test_nothing_is_kept_of_tasks_that_are_gone() -> None:
    with Host() as host:
        assert host.run(GONE).result < 20
        assert host.run(
            "import asyncio\nasync def f(): return type(asyncio.current_task()) is asyncio.Task\nawait f()"
        ).result
