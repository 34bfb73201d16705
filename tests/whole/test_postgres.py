"""The spine on Resonate with Postgres: nothing changes but the address."""

import asyncio
import os
from pathlib import Path

import pytest

from perdure.engine import Client, WorkerSettings

from .kit import World, kill_guests

pytestmark = pytest.mark.postgres

CODE = """
import asyncio
print("begin")
paid = [pay("a"), pay("b")]
looked = await asyncio.gather(*[look(n) for n in range(5)])
name = ask("Who?")
await asyncio.sleep(3)
print("end")
[paid[1]["paid"], looked, name]
"""


def connected(folder: Path, world: World, group: str) -> Client:
    settings = WorkerSettings(group=group, lease_seconds=3.0, lease_margin_seconds=0.5)
    return Client.connect(
        os.environ["PERDURE_TEST_PG"],
        folder=folder / "state",
        group=group,
        worker=True,
        capabilities=world.capabilities(),
        settings=settings,
    )


async def test_killed_asked_put_to_sleep_and_restarted(tmp_path: Path) -> None:
    world = World(tmp_path)
    group, name = f"g{os.urandom(4).hex()}", f"s{os.urandom(4).hex()}"
    killed: list[str] = []

    def kill(what: str) -> None:
        if what == "pay b" and not killed:
            killed.append(what)
            assert kill_guests() > 0

    world.on_effect = kill
    async with asyncio.timeout(50):
        async with connected(tmp_path, world, group) as client:
            session = await client.session(name, grants=["pay", "look", "ask"])
            execution = await session.submit(CODE)
            while not (pending := await client.pending(execution.id)):
                await asyncio.sleep(0.1)
            assert pending[0].prompt == "Who?"
            await client.answer(pending[0].id, "Ada")
            while not await client.substrate.promises.waiting(execution.id):
                await asyncio.sleep(0.1)
        async with connected(tmp_path, world, group) as client:
            result = await client.execution(execution.id).result()
            output = [event async for event in client.execution(execution.id).events() if event.type == "output"]
    assert killed
    assert result.error is None
    assert result.value == ["b", [0, 1, 2, 3, 4], "Ada"]
    assert sorted(world.effects()) == ["look 0", "look 1", "look 2", "look 3", "look 4", "pay a", "pay b"]
    assert "".join(event.text for event in output) == "begin\nend\n"
