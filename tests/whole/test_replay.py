"""What a replay sees again, through a worker: the clock, entropy below Python, and what the journal says of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from perdure.engine import WorkerSettings
from perdure.engine.durable import Attempt
from perdure.engine.errors import AlreadySettled
from perdure.workers.tenure import Tenure

from .kit import FAST, World, bury_guests, kill_guests, opened, outcome

if TYPE_CHECKING:
    from pathlib import Path

    from perdure.engine.durable import Promise

CLOCK = """
import ctypes, datetime, random, time, uuid
room = ctypes.create_string_buffer(8)
ctypes.CDLL(None).getrandom(room, 8, 0)
seen = [time.time(), str(datetime.datetime.now()), str(uuid.uuid1()), room.raw.hex()]
look(seen)
for n in range(3):
    print(time.time_ns())
    seen.append([look([n, time.time_ns()]), random.random()])
pay(str(time.time()))
[*seen, time.time()]
"""


async def test_a_killed_guest_finds_the_times_it_had_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:

        def die(what: str) -> None:
            if what.startswith("look [2"):
                world.on_effect = lambda _: None
                assert kill_guests()

        world.on_effect = die
        result = await outcome(client, "clock", CLOCK, grants=["look", "pay"])
        assert result.ok, result.error
        assert result.notes == ()
        # All before the kill was asked once; the call under way may be repeated, with the same time in it.
        effects = world.effects()
        assert len(set(effects)) == 5
        assert len(effects) <= 6
        assert effects[0] == f"look {result.value[:4]}"
        assert result.value[-1] > result.value[0]


GIVEN_UP = """
import asyncio
try:
    said = await asyncio.wait_for(ask("Quick?"), 0.3)
except TimeoutError:
    said = "nobody"
slow_one = asyncio.create_task(asyncio.sleep(0, "x"))
try:
    await asyncio.wait_for(asyncio.shield(look("late", wait=0.6)), 0.1)
except TimeoutError:
    pass
said + ask("And now?")
"""


async def test_a_question_that_nobody_waits_for_is_closed_and_keeps_nothing_awake(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("given-up", grants=["look", "ask"])
        execution = await session.submit(GIVEN_UP)
        async with asyncio.timeout(30):
            while (await execution.info()).state != "waiting":
                await asyncio.sleep(0.02)
        (waiting,) = await client.pending()
        assert waiting.prompt == "And now?"
        with pytest.raises(AlreadySettled):
            await client.answer("given-up@1:s0.0", "too late")
        kill_guests()
        await client.answer(waiting.id, "!")
        async with asyncio.timeout(30):
            result = await execution.result()
        assert result.ok, result.error
        assert result.value == "nobody!"
        kinds = [record.kind for record in (await execution.tree()).children[0].children]
        assert kinds.count("cancelled") == 1


@pytest.mark.parametrize("strict", [False, True])
async def test_output_that_differs_is_noted_or_a_divergence(tmp_path: Path, strict: bool) -> None:
    world = World(tmp_path)

    def die(_what: str) -> None:
        world.on_effect = lambda _: None
        assert kill_guests()

    world.on_effect = die
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("s", grants=["look"])
        # Addresses are not the same twice; neither is what is made of them.
        code = "import time, os\nprint(time.perf_counter_ns(), flush=True)\ntime.sleep(0.1)\nlook(1)\nprint('end')"
        execution = await session.submit(code, strict_output=strict)
        async with asyncio.timeout(30):
            result = await execution.result()
    if strict:
        assert result.status == "diverged"
        assert result.error is not None
        assert "the first run wrote" in result.error.message
    else:
        assert result.ok
        assert any("differed on replay" in note for note in result.notes)


async def test_a_record_under_way_when_the_guest_dies_is_written_before_the_replay_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    listed, attempts = asyncio.Event(), set()
    create, records = Attempt.create, Tenure._records

    async def slow(self: Attempt, id: str, kind: str, param: Any, **how: Any) -> Promise:
        if kind == "call" and param["args"] == {"what": 1} and not listed.is_set():
            await bury_guests()
            # The store is slow just now: whoever reads what is recorded without waiting for it has read by then.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.7):
                    await listed.wait()
            listed.set()
        return await create(self, id, kind, param, **how)

    async def held(self: Attempt, *what: Any, **how: Any) -> Promise:
        attempts.add(self.version)
        # What was sent to the store is not unsent by nobody waiting for it.
        return await asyncio.shield(asyncio.ensure_future(slow(self, *what, **how)))

    async def listing(self: Tenure) -> list[Promise]:
        found = await records(self)
        if found:
            listed.set()
        return found

    monkeypatch.setattr(Attempt, "create", held)
    monkeypatch.setattr(Tenure, "_records", listing)
    # A lease that no busy machine outlives: another attempt is then the record's doing.
    async with opened(tmp_path / "state", world, settings=WorkerSettings(lease_seconds=60.0)) as client:
        result = await outcome(client, "s", "[look(n) for n in range(3)]", grants=["look"])
    assert result.ok, result.error
    assert result.value == [0, 1, 2]
    assert sorted(world.effects()) == ["look 0", "look 1", "look 2"]
    assert attempts == {1}, "the record's number was taken by the write under way: the attempt was lost by it"


DRAWS = """
import sys
print("numpy.random" in sys.modules, flush=True)
import numpy, secrets, uuid
seen = [numpy.random.random(), secrets.token_hex(4), str(uuid.uuid4()), uuid.getnode()]
look(seen)
ask("Go on?")
[*seen, numpy.random.random(), secrets.token_hex(4)]
"""


async def test_a_worker_that_preloads_other_packages_draws_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    for preload in ((), ("numpy.random", "uuid")):
        world = World(tmp_path)
        async with opened(tmp_path / "state", world, settings=FAST.model_copy(update={"preload": preload})) as client:
            session = await client.session("s", grants=["look", "ask"])
            if not preload:
                await session.submit(DRAWS)
                async with asyncio.timeout(30):
                    while not await client.pending():
                        await asyncio.sleep(0.02)
                continue
            (asked,) = await client.pending()
            await client.answer(asked.id, "yes")
            async with asyncio.timeout(30):
                result = await client.execution("s@1").result()
    assert result.ok, result.error
    assert world.effects() == [f"look {result.value[:4]}"]
    assert any("differed on replay" in note for note in result.notes), "nothing was preloaded: the test proved nothing"


IMPORTS = """
import os, random, sys, time
print("pandas" in sys.modules, flush=True)
seen = [time.time(), sorted(os.environ.items())]
import pandas
seen += [time.time(), random.Random().random(), str(pandas.Timestamp.now())]
look(seen)
ask("Go on?")
[*seen, time.time() > seen[0]]
"""


@pytest.mark.parametrize("order", [((), ("pandas",)), (("pandas",), ())], ids=["imported first", "preloaded first"])
async def test_a_worker_with_other_packages_and_another_environment_replays_the_same(
    tmp_path: Path, order: tuple[tuple[str, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    world = World(tmp_path)
    first, then = (FAST.model_copy(update={"preload": each}) for each in order)
    async with opened(tmp_path / "state", world, settings=first) as client:
        session = await client.session("s", grants=["look", "ask"])
        await session.submit(IMPORTS)
        async with asyncio.timeout(30):
            while not await client.pending():
                await asyncio.sleep(0.02)
        await bury_guests()
    for name in ("TZ", "LANG", "LC_ALL", "USER", "HOME", "PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "MINE"):
        monkeypatch.setenv(name, "7")
    async with opened(tmp_path / "state", world, settings=then) as client:
        (asked,) = await client.pending()
        await client.answer(asked.id, "yes")
        async with asyncio.timeout(30):
            result = await client.execution("s@1").result()
    assert result.ok, result.error
    assert world.effects() == [f"look {result.value[:5]}"]
    assert result.value[-1] is True
    assert any("differed on replay" in note for note in result.notes), "both had it preloaded, or none"
