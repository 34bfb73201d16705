"""Forking a session at a call: what was seen before it stays, the changed answer is delivered, the rest is new."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from perdure.engine.errors import ForkRefused, PromiseNotFound

from .kit import World, kill_guests, opened, outcome

if TYPE_CHECKING:
    from pathlib import Path

    from perdure.engine import Client, Result, Session

SCRIPT = """
import random, time
before = random.random()
began = time.time()
first = pay("rent", cents=5)
answer = ask("Go on?")
after = random.random()
if answer == "yes":
    pay("food")
else:
    look("nothing")
[before, began, first, answer, after]
"""


async def settled(session: Session) -> Result:
    last = await session.last()
    assert last is not None
    async with asyncio.timeout(30):
        return await last.result()


async def ran(client: Client, world: World) -> list[Any]:
    session = await client.session("analysis", grants=["pay", "look", "ask", "slow"])
    assert (await outcome(client, "analysis", "start = 1")).ok
    execution = await session.submit(SCRIPT)
    async with asyncio.timeout(20):
        while not (waiting := await client.pending()):
            await asyncio.sleep(0.02)
    await client.answer(waiting[0].id, "yes")
    result = await execution.result()
    assert result.ok, result
    assert world.effects() == ["pay rent", "pay food"]
    return list(result.value)


async def test_a_fork_sees_what_was_before_it_and_goes_its_own_way(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        before, began, first, _, after = await ran(client, world)
        session = await client.session("analysis")
        other = await session.fork(at="analysis@2:s0.1", answer="no", name="what-if")
        result = await settled(other)
        assert result.ok, result
        assert result.value[:4] == [before, began, first, "no"]
        assert result.value[4] != after
        assert world.effects() == ["pay rent", "pay food", "look nothing"]
        # Again under the same name it is the same fork; the name is taken for any other.
        assert (await session.fork(at="analysis@2:s0.1", answer="no", name="what-if")).name == "what-if"
        with pytest.raises(ForkRefused):
            await session.fork(at="analysis@2:s0.1", answer="maybe", name="what-if")
        # It goes on as a session of its own, from what its execution left.
        more = await outcome(client, "what-if", "[start, answer, __import__('random').random()]")
        assert more.value[:2] == [1, "no"]
        left = await outcome(client, "analysis", "[start, answer, __import__('random').random()]")
        assert left.value[:2] == [1, "yes"]
        assert left.value[2] != more.value[2]


async def test_a_fork_without_an_answer_asks_again_and_a_waiting_execution_can_be_forked(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("analysis", grants=["pay", "look", "ask"])
        await session.submit(SCRIPT)
        async with asyncio.timeout(20):
            while not await client.pending():
                await asyncio.sleep(0.02)
        told = await session.fork(at="analysis@1:s0.1", answer="no", name="told")
        again = await session.fork(at="analysis@1:s0.1", name="again")
        assert (await settled(told)).value[3] == "no"
        async with asyncio.timeout(20):
            while not (mine := [c for c in await client.pending() if c.id.startswith("again@1")]):
                await asyncio.sleep(0.02)
        await client.answer(mine[0].id, "yes")
        assert (await settled(again)).value[3] == "yes"
        assert world.effects() == ["pay rent", "look nothing", "pay food"]
        assert [call.id.partition("@")[0] for call in await client.pending()] == ["analysis"]


async def test_a_fork_whose_guest_is_killed_reseeds_at_the_same_point(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        await ran(client, world)
        session = await client.session("analysis")
        code_effects = len(world.effects())

        def die(_what: str) -> None:
            world.on_effect = lambda _: None
            assert kill_guests()

        undisturbed = await settled(await session.fork(at="analysis@2:s0.1", answer="no", name="calm"))
        world.on_effect = die
        other = await session.fork(at="analysis@2:s0.1", answer="no", name="storm")
        result = await settled(other)
        assert result.ok, result
        assert result.value[:4] == undisturbed.value[:4]
        assert world.effects()[code_effects:].count("look nothing") in (2, 3)
        last = await other.last()
        assert last is not None
        assert "death" in {child.kind for child in (await last.tree()).children}


async def test_what_was_under_way_is_in_doubt_in_the_fork(tmp_path: Path) -> None:
    world = World(tmp_path)
    code = """
import asyncio
async def rent():
    return await slow("rent", 30.0)
paid = asyncio.create_task(rent())
answer = await ask("Go on?")
try:
    got = await paid
except Exception as error:
    got = type(error).__name__
[answer, got]
"""
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("analysis", grants=["slow", "ask"])
        execution = await session.submit(code)
        async with asyncio.timeout(20):
            while not (waiting := await client.pending()):
                await asyncio.sleep(0.02)
        other = await session.fork(at=waiting[0].id, answer="no", name="what-if")
        assert (await settled(other)).value == ["no", "CallInDoubt"]
        assert world.effects() == ["slow rent"]
        await execution.cancel()
        await execution.result()


async def test_what_cannot_be_forked_is_said(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        session = await client.session("analysis")
        assert (await outcome(client, "analysis", "1")).ok
        with pytest.raises(PromiseNotFound):
            await session.fork(at="analysis@1:s0.7", name="what-if")
        with pytest.raises(PromiseNotFound):
            await session.fork(at="analysis@9:s0.0", name="what-if")
        with pytest.raises(ForkRefused):
            await session.fork(at="other@1:s0.0", name="what-if")


@pytest.mark.parametrize("choice", ["fail", "fork"])
async def test_where_a_replay_does_something_else_the_caller_may_have_it_forked(tmp_path: Path, choice: Any) -> None:
    world = World(tmp_path)
    code = "import os\npay('a')\nflag = os.path.exists('../../flag')\nlook('b' if flag else 'x')\npay('c')\nflag"

    def kill(what: str) -> None:
        if what == "pay c":
            world.on_effect = lambda _: None
            (tmp_path / "state" / "flag").touch()
            kill_guests()

    world.on_effect = kill
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("s", grants=["pay", "look"], isolation="process")
        execution = await session.submit(code, on_divergence=choice)
        async with asyncio.timeout(30):
            result = await execution.result()
        assert result.status == "diverged"
        assert result.error is not None
        assert result.error.data["call"] == "s@1:s0.1"
        if choice == "fail":
            assert "perdure fork s@1:s0.1 NAME" in result.error.message
            assert world.effects() == ["pay a", "look x", "pay c"]
            return
        async with asyncio.timeout(30):
            forked = await client.execution(result.error.data["fork"]).result()
        assert forked.value is True
        assert world.effects() == ["pay a", "look x", "pay c", "look b", "pay c"]
