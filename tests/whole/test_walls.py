"""The walls around a session's guests: chosen, named in every result, and never fewer on a replay."""

import asyncio
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from perdure.engine import Client
from perdure.workers import zygotes
from perdure.workers.guest import confine_landlock

from .kit import World, children, guests, opened, outcome

ROOT = Path(__file__).parents[2]
LANDLOCK = f"landlock:{min(confine_landlock.kernel_abi(), confine_landlock.KNOWN_ABI)}"


def without_bwrap(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("PATH", str(folder))


async def test_the_walls_are_named_in_every_result(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        for name, namespaces in (("auto", None), ("required", "require"), ("off", "off")):
            await client.session(name, namespaces=namespaces)
            result = await outcome(client, name, "1 + 1")
            assert (result.value, result.isolation) == (2, "strict")
            assert set(result.layers) >= {"seccomp", LANDLOCK}
            assert ("namespaces" in result.layers) == (name != "off")
        await client.session("open", isolation="process")
        result = await outcome(client, "open", "open('/etc/passwd').close()")
        assert (result.status, result.isolation, result.layers) == ("ok", "process", ())


async def test_where_namespaces_are_missing_it_is_said_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_bwrap(monkeypatch, tmp_path)
    async with opened(tmp_path / "state") as client:
        result = await outcome(client, "auto", "1 + 1")
        assert (result.value, "namespaces" in result.layers) == (2, False)
        assert "namespaces: bwrap is not on PATH" in result.missing
        await client.session("required", namespaces="require")
        result = await outcome(client, "required", "1 + 1")
        assert result.status == "refused"
        assert result.error is not None
        assert result.error.type == "SandboxUnavailable"
        assert "install bubblewrap" in result.error.message


@pytest.mark.parametrize("killed", [1, zygotes.TRIES])
async def test_a_start_that_is_killed_does_not_make_guests_weaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    real, fake = shutil.which("bwrap"), tmp_path / "bin" / "bwrap"
    fake.parent.mkdir()
    count = tmp_path / "count"
    count.write_text("0")
    counts = f"read -r n < {count}; echo $((n + 1)) > {count}"
    fake.write_text(f'#!/bin/sh\n{counts}\n[ $n -ge {killed} ] || kill -9 $$\nexec {real} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(zygotes, "UNPROVEN", 0.0)
    async with opened(tmp_path / "state") as client:
        # Where all tries were killed a zygote without them was there, and was given up when somebody asked.
        assert "namespaces" in (await outcome(client, "first", "1 + 1")).layers
        # What began with namespaces has them, whatever else was tried and killed meanwhile.
        assert "namespaces" in (await outcome(client, "first", "2 + 2")).layers
    assert int(count.read_text()) == killed + 1


async def test_a_replay_never_has_less_around_it_than_the_record_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    state = tmp_path / "state"
    async with opened(state, world) as client:
        session = await client.session("careful", grants=["ask"])
        execution = await session.submit("a = ask('go?')\na * 2")
        async with asyncio.timeout(20):
            while not (pending := await client.pending()):
                await asyncio.sleep(0.05)
        question = pending[0].id
    with monkeypatch.context() as patch:
        without_bwrap(patch, tmp_path)
        async with opened(state, world) as client:
            await client.answer(question, "yes")
            await asyncio.sleep(2)
            assert (await client.execution(execution.id).info()).state != "settled"
            # What begins here may begin: only what began with more is held back.
            assert (await outcome(client, "new", "1 + 1")).value == 2
    async with opened(state, world) as client, asyncio.timeout(30):
        result = await client.execution(execution.id).result()
        assert (result.value, "namespaces" in result.layers) == ("yesyes", True)


async def test_a_session_has_its_own_interpreter(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    await asyncio.to_thread(venv.create, environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "only_here.py").write_text("answer = 42\n")
    async with opened(tmp_path / "state") as client:
        await client.session("own", python=environment / "bin" / "python")
        result = await outcome(client, "own", "import only_here, sys\n[only_here.answer, sys.prefix]")
        assert result.value == [42, str(environment)]
        assert (await outcome(client, "other", "import only_here")).status == "error"
        await client.session("none", python="/no/such/python")
        result = await outcome(client, "none", "1")
        assert (result.status, result.error and result.error.type) == ("refused", "InterpreterUnusable")


def worker(state: Path, temporary: Path, *more: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "deploy" / "dev")])
    command = [sys.executable, "-c", "from perdure.engine.cli import main; main()", "worker", "--state", str(state)]
    return subprocess.Popen(
        [*command, *more],
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("isolation,end", [("strict", "SIGKILL"), ("process", "SIGKILL"), ("strict", "SIGTERM")])
async def test_nothing_outlives_the_worker(tmp_path: Path, isolation: str, end: str) -> None:
    state, temporary = tmp_path / "state", tmp_path / "temporary"
    temporary.mkdir()
    async with Client.open(state, worker=False) as client:
        process = worker(state, temporary)
        try:
            for name in ("busy", "kept", "parked"):
                await client.session(name, isolation=isolation, grants=["ask"])
            assert (await outcome(client, "kept", "import tempfile; f = tempfile.NamedTemporaryFile()")).status == "ok"
            await (await client.session("parked")).submit("ask('?')")
            await (await client.session("busy")).submit("import signal\nsignal.signal(2, 1)\nwhile True: pass")
            async with asyncio.timeout(20):
                while len(guests(process.pid)) < 3 or not await client.pending():
                    await asyncio.sleep(0.05)
            family = everything(process.pid)
        finally:
            process.kill() if end == "SIGKILL" else process.terminate()
            await asyncio.to_thread(process.wait)
        async with asyncio.timeout(10):
            while any(is_alive(each) for each in family):
                await asyncio.sleep(0.02)
    assert len(family) >= 4
    assert list(temporary.iterdir()) == []


def everything(pid: int) -> list[int]:
    """All processes beneath one."""
    found, todo = [], [pid]
    while todo:
        beneath = children(todo.pop())
        found += beneath
        todo += beneath
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
