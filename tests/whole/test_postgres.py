"""The spine on Resonate with Postgres: nothing changes but the address."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.engine import Client, WorkerSettings

from .kit import World, kill_guests

pytestmark = pytest.mark.postgres

PERDURE = str(Path(sys.executable).with_name("perdure"))

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


@pytest.mark.timeout(180)
def test_every_command_works_on_a_fleet_that_the_environment_names(tmp_path: Path) -> None:
    key, group, name = tmp_path / "key", f"g{os.urandom(4).hex()}", f"s{os.urandom(4).hex()}"
    key.write_bytes(os.urandom(32))
    fleet = {"URL": os.environ["PERDURE_TEST_PG"], "BLOBS": tmp_path / "blobs", "KEY": key, "GROUP": group}
    env = os.environ | {f"PERDURE_{what}": str(value) for what, value in fleet.items()}

    def perdure(*words: str) -> str:
        command = [PERDURE, *words, "--state", str(tmp_path / "asking")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode in (0, 75), done.stderr
        return done.stdout

    script = tmp_path / f"{name}.py"
    script.write_text("kept = 'x' * 100_000\nname = input('Who? ')\nprint('hello', name)\n")
    command = [PERDURE, "worker", "--state", str(tmp_path / "working")]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as worker:
        try:
            assert perdure("run", str(script), "--detach") == "Who? "
            assert f"{name}@1:s0.1" in perdure("pending", f"{name}@1")
            perdure("answer", f"{name}@1:s0.1", "Ada")
            assert perdure("output", f"{name}@1", "--follow") == "Who? hello Ada\n"
            assert "resolved" in perdure("show", f"{name}@1")
            assert "kept" in perdure("vars", name)
            assert perdure("exec", "--session", name, "len(kept), name") == "(100000, 'Ada')\n"
            assert perdure("fork", f"{name}@1:s0.1", f"{name}-other", "Bob") == "Who? hello Bob\n"
        finally:
            worker.terminate()
