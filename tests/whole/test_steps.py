"""Steps inside an execution, through the client: what is settled never runs again, whoever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from perdure.engine import WorkerSettings
from perdure.engine.events import Delivering, Launched, Recorded, Recording, Settled, Settling
from perdure.engine.journal import Journal

from .kit import World, opened, outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from perdure.engine import Client
    from perdure.engine.events import Event
    from perdure.engine.records import TreeNode

#: A step ends wherever it can.
EVERY = WorkerSettings(lease_seconds=2.0, lease_margin_seconds=0.3, step_cpu_seconds=0, step_calls=0)

SCRIPT = """
import asyncio
import random
print("begin")
first = pay("a")
luck = [random.random()]
async def pair(name):
    left = await look(name + "1")
    return left + await look(name + "2")
both = await asyncio.gather(pair("x"), pair("y"))
print("both", both)
second = pay("b")
luck.append(random.random())
print("end", second["paid"])
[first["paid"], both, second["paid"], luck]
"""


async def steps_of(client: Client, execution: str) -> list[TreeNode]:
    tree = await client.execution(execution).tree()
    return [node for node in tree.children if node.kind == "step"]


async def printed(client: Client, execution: str) -> str:
    events = [event async for event in client.execution(execution).events(follow=False)]
    return "".join(event.text for event in events if event.type == "output")


async def test_an_execution_of_many_steps_is_one_to_everybody(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "one", world) as client:
        one = await outcome(client, "job", SCRIPT, grants=["pay", "look"])
        shown = await printed(client, "job@1")
    async with opened(tmp_path / "many", world, settings=EVERY) as client:
        many = await outcome(client, "job", SCRIPT, grants=["pay", "look"])
        assert await printed(client, "job@1") == shown
        steps = await steps_of(client, "job@1")
        after = await outcome(client, "job", "len(luck), both[0], first['paid']")
    assert one.commits == 0
    assert many.commits == len(steps) - 1 > 8
    assert many.checkpoint == steps[-1].id
    assert (many.value[:3], many.calls, many.writes, many.characters) == (
        one.value[:3],
        one.calls,
        one.writes,
        one.characters,
    )
    assert (one.calls, many.replayed, many.prevented) == (6, 0, ())
    assert after.value == (2, "x1x2", "a")
    assert world.effects().count("pay a") == 2
    records = [record for step in steps for record in step.children if record.kind == "call"]
    assert [record.path for record in records if record.path.startswith("main.")] == ["main.0", "main.1"]


async def test_a_word_of_waiting_that_crossed_its_answer_parks_nobody(tmp_path: Path) -> None:
    code = """
import time
first = look("a")
end = time.monotonic() + 0.5
while time.monotonic() < end: pass
first
"""

    seen: list[str] = []

    def late(event: Event) -> None:
        seen.append(type(event).__name__)
        if isinstance(event, Delivering):
            # The guest says that it waits, and the answer is on its way before that is read.
            time.sleep(0.05)

    async with opened(tmp_path / "state", World(tmp_path), settings=EVERY) as client:
        client._worker._services.observer = late
        result = await outcome(client, "job", code, grants=["look"])
    assert result.value == "a", result.error
    assert "Delivering" in seen
    assert "Suspending" not in seen


class Killer:
    """Kills the guest when a certain thing happens, each once; counts what every new guest has to replay."""

    def __init__(self, client: Client, when: Callable[[Event], bool]) -> None:
        self._when = when
        self._guest = 0
        self._done: set[str] = set()
        self.replayed: list[int] = []
        client._worker._services.observer = self.see

    @property
    def kills(self) -> int:
        return len(self._done)

    def see(self, event: Event) -> None:
        if isinstance(event, Launched):
            self._guest = event.pid
            self.replayed.append(event.replayed)
        elif self._when(event) and self._guest and str(event) not in self._done:
            self._done.add(str(event))
            with suppress(ProcessLookupError):  # It is dead already: two of these come before a new one is there.
                os.kill(self._guest, signal.SIGKILL)


def of_step(event: Event) -> bool:
    return isinstance(event, Recorded | Settled | Settling) and ":s" in event.id and "." not in event.id


def of_record(event: Event) -> bool:
    return isinstance(event, Recorded | Recording) and "." in event.id


KILLS: dict[str, Callable[[Event], bool]] = {
    "before a step is settled": lambda event: isinstance(event, Settling) and of_step(event),
    "after a step is settled": lambda event: isinstance(event, Settled) and of_step(event),
    "after a step is begun": lambda event: isinstance(event, Recorded) and of_step(event),
    "after a record of a step": lambda event: isinstance(event, Recorded) and of_record(event),
    "before a record of a step": lambda event: isinstance(event, Recording) and of_record(event),
}


@pytest.mark.timeout(150)
@pytest.mark.parametrize("when", KILLS)
async def test_settled_steps_never_run_again_though_the_guest_is_killed_at_every_one(tmp_path: Path, when: str) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world, settings=EVERY) as client:
        killer = Killer(client, KILLS[when])
        result = await outcome(client, "job", SCRIPT, grants=["pay", "look"])
        shown = await printed(client, "job@1")
    assert killer.kills > 4
    assert result.status == "ok", result.error
    assert result.value[:3] == ["a", ["x1x2", "y1y2"], "b"]
    assert shown == "begin\nboth ['x1x2', 'y1y2']\nend b\n"
    assert max(Counter(each for each in world.effects() if each.startswith("pay")).values()) == 1
    # No step of this script has more than the four calls of the pairs.
    assert max(killer.replayed) <= 4
    assert result.calls == 6


async def test_a_question_in_a_later_step_waits_and_its_answer_goes_on_elsewhere(tmp_path: Path) -> None:
    code = "x = 1\nprint('before')\ny = ask('go?')\nprint('after', y)\nx + len(y)"
    async with opened(tmp_path / "state", settings=EVERY) as client:
        session = await client.session("job", grants=["ask"])
        execution = await session.submit(code)
        async with asyncio.timeout(20):
            while not (pending := await client.pending()):
                await client.substrate.changed(0.3)
        assert pending[0].id == "job@1:s2.0"
    async with opened(tmp_path / "state", settings=EVERY) as client:
        await client.answer("job@1:s2.0", "yes")
        async with asyncio.timeout(20):
            result = await client.execution(execution.id).result()
        assert (result.value, result.commits) == (4, 4)
        assert await printed(client, "job@1") == "before\nafter yes\n"


async def test_code_that_dies_in_a_later_step_leaves_the_steps_before_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "state", settings=EVERY) as client:
        code = "x = 1\ny = 2\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nz = 3"
        result = await outcome(client, "job", code)
        assert (result.status, result.checkpoint) == ("crashed", "job@1:s2")
        after = await outcome(client, "job", "x + y, 'z' in globals()")
    assert after.value == (3, False)


async def test_a_cancel_in_a_later_step_keeps_what_there_is(tmp_path: Path) -> None:
    async with opened(tmp_path / "state", World(tmp_path), settings=EVERY) as client:
        session = await client.session("job", grants=["look"])
        execution = await session.submit("x = 1\nlook('started')\nwhile True: pass\ny = 1")
        async with asyncio.timeout(20):
            while "job@1:s2" not in [step.id for step in await steps_of(client, execution.id)]:
                await client.substrate.changed(0.2)
            await execution.cancel()
            result = await execution.result()
        assert result.status == "cancelled"
        after = await outcome(client, "job", "x")
    assert after.value == 1


@pytest.mark.parametrize("broken", [False, True], ids=["as it is", "ending a replayed step early"])
async def test_a_step_being_replayed_ends_no_earlier_than_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """The first worker never ends a step, the second wherever it can: a recorded call keeps its step, and its doubt."""
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("job", grants=["pay", "slow"])
        await session.submit("a = pay('a')\nb = slow('b', 30)\nb")
        async with asyncio.timeout(20):
            while "slow b" not in world.effects():
                await asyncio.sleep(0.02)
    if broken:
        monkeypatch.setattr(Journal, "complete", property(lambda _self: True))
        monkeypatch.setattr(Journal, "to_ask", property(lambda _self: 0))
    async with opened(tmp_path / "state", world, settings=EVERY) as client, asyncio.timeout(30):
        if broken:
            while world.effects().count("slow b") == 1:
                await asyncio.sleep(0.02)
        else:
            result = await client.execution("job@1").result()
            assert result.error is not None
            assert result.error.type == "CallInDoubt"
            assert world.effects() == ["pay a", "slow b"]


async def test_what_only_a_kept_guest_held_ends_a_replay_as_state_lost(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        first = await outcome(client, "job", "numbers = (n for n in range(9))\nnext(numbers)", grants=["look"])
        assert [lost.name for lost in first.lost] == ["numbers"]
        kept = await outcome(client, "job", "next(numbers)")
        assert (kept.value, kept.kept_guest) == (1, True)
        world.on_effect = lambda _effect: os.kill(killer._guest, signal.SIGKILL)
        killer = Killer(client, lambda _event: False)
        lost = await outcome(client, "job", "x = next(numbers)\nlook(x)\ny = next(numbers)")
        assert (lost.status, lost.kept_guest) == ("state_lost", True), lost.error
        assert lost.error is not None
        assert (lost.error.type, lost.error.line) == ("StateLost", 1)
        assert lost.error.data == {"what": "the generator of <genexpr>()", "where": "numbers", "origin": "job@2:s0"}
        world.on_effect = lambda _effect: None
        # Nobody served this one before: the code is told, and may deal with it.
        again = await outcome(client, "job", "try:\n    next(numbers)\nexcept Exception as e: print(type(e).__name__)")
        assert again.ok
        assert await printed(client, "job@4") == "LostObjectError\n"


async def test_a_task_that_only_a_kept_guest_had_is_named_when_its_calls_are_missing(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        work = "async def work():\n    for n in range(9): await look(n)\n"
        start = f"import asyncio\n{work}task = asyncio.create_task(work())"
        await outcome(client, "job", start, grants=["look"])
        killer = Killer(client, lambda event: isinstance(event, Recorded) and event.kind == "call")
        result = await outcome(client, "job", "await asyncio.sleep(0.2)")
        assert killer.kills
    assert (result.status, result.error and result.error.type) == ("state_lost", "StateLost"), result.error
    assert "job@1" in str(result.error)
