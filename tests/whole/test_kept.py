"""Guests that are kept: how many, how much memory, who goes first, and that nothing is left of any of them.

The worker is a process of its own, looked at from outside.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perdure.engine import Client
from perdure.workers import watchdog

from .kit import guests, opened, outcome
from .test_walls import everything, is_alive, worker

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable

MEGABYTE = 1_000_000


@asynccontextmanager
async def working(folder: Path, *more: str) -> AsyncIterator[tuple[Client, subprocess.Popen[bytes]]]:
    """A client, and a worker in a process of its own with nothing of anybody else's in its folder for such files."""
    temporary = folder / "temporary"
    temporary.mkdir()
    async with Client.open(folder / "state", worker=False) as client:
        process = worker(folder / "state", temporary, *more)
        try:
            yield client, process
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
    assert list(temporary.iterdir()) == []


async def until(true: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)
    assert true(), what


def zombies(pid: int) -> list[int]:
    """Processes beneath one that have ended and that nobody buried."""
    found, parents = [], {pid, *everything(pid)}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state == "Z" and int(parent) in parents:
                found.append(int(entry.name))
    return found


async def test_of_too_many_guests_the_least_recently_used_goes(tmp_path: Path) -> None:
    async with working(tmp_path, "--kept-guests", "2") as (client, process):
        waiting = await (await client.session("asks", grants=["ask"])).submit("before = 1\nask('?') + before")
        await until(lambda: len(guests(process.pid)) == 1, "it waits in a guest")
        async with asyncio.timeout(20):
            while not (pending := await client.pending()):
                await asyncio.sleep(0.02)
        for name in ("a", "b"):
            assert (await outcome(client, name, f"{name} = 1")).status == "ok"
        await until(lambda: len(guests(process.pid)) == 2, "the one that waits is gone")
        assert (await outcome(client, "a", "a")).kept_guest
        assert not (await outcome(client, "c", "c = 1")).kept_guest
        await until(lambda: len(guests(process.pid)) == 2, "two are kept")
        served = [(await outcome(client, name, name)) for name in ("a", "c", "b")]
        assert [(each.value, each.kept_guest) for each in served] == [(1, True), (1, True), (1, False)]
        await client.answer(pending[0].id, 41)
        async with asyncio.timeout(20):
            assert (await waiting.result()).value == 42
        await until(lambda: len(guests(process.pid)) == 2, "two are kept")
        await until(lambda: not zombies(process.pid), "those that went were buried")


async def test_kept_guests_hold_no_more_memory_than_they_may_and_a_giant_costs_nobody_else(tmp_path: Path) -> None:
    async with working(tmp_path, "--kept-bytes", str(140 * MEGABYTE)) as (client, process):
        for name, size in (("small", 1), ("first", 60), ("second", 60)):
            assert (await outcome(client, name, f"x = b'x' * {size * MEGABYTE}")).status == "ok"
        await until(lambda: len(guests(process.pid)) == 1, "two large ones are too much together")
        assert not (await outcome(client, "small", "len(x)")).kept_guest
        giant = await outcome(client, "giant", f"x = b'x' * {150 * MEGABYTE}")
        assert giant.status == "ok"
        await until(lambda: len(guests(process.pid)) == 2, "it alone is not kept")
        served = [(await outcome(client, name, "len(x)")) for name in ("small", "second", "giant")]
        sizes = [1 * MEGABYTE, 60 * MEGABYTE, 150 * MEGABYTE]
        assert [(each.value, each.kept_guest) for each in served] == list(zip(sizes, (True, True, False), strict=True))


async def test_a_machine_short_of_memory_takes_the_least_recently_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "state") as client:
        for name in ("a", "b", "c"):
            assert (await outcome(client, name, "x = 1")).status == "ok"
        assert len(guests()) == 3
        with monkeypatch.context() as patch:
            patch.setattr(watchdog, "_short_of_memory", lambda: len(guests()) > 2)
            await until(lambda: len(guests()) == 2, "one is given up")
            # Several looks later, there is memory again.
            await asyncio.sleep(4 * watchdog.INTERVAL)
        assert len(guests()) == 2
        assert [(await outcome(client, name, "x")).kept_guest for name in ("b", "c", "a")] == [True, True, False]


async def test_a_kept_guest_that_died_takes_nobody_s_place(tmp_path: Path) -> None:
    async with working(tmp_path, "--kept-guests", "2") as (client, process):
        for name in ("a", "b"):
            assert (await outcome(client, name, "x = 1")).status == "ok"
        await until(lambda: len(guests(process.pid)) == 2, "both are kept")
        (of_b,) = (each for each in guests(process.pid) if Path(f"/proc/{each}/cwd").readlink().name == "b")
        os.kill(of_b, signal.SIGKILL)
        await until(lambda: len(guests(process.pid)) == 1, "one is gone")
        assert (await outcome(client, "c", "x = 1")).status == "ok"
        assert [(await outcome(client, name, "x")).kept_guest for name in ("a", "c", "b")] == [True, True, False]


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
async def test_what_runs_may_end_where_the_worker_is_asked_to_and_nothing_is_left(tmp_path: Path, end: str) -> None:
    shared = set(os.listdir("/dev/shm"))
    folder = tmp_path / "state" / "workspaces"
    async with working(tmp_path) as (client, process):
        assert (await outcome(client, "kept", "import tempfile; f = tempfile.TemporaryFile()")).status == "ok"
        code = "import time\nopen('begun', 'w').close()\nuntil = time.process_time() + 1\n"
        running = await (await client.session("busy")).submit(f"{code}while time.process_time() < until: pass\n7")
        await until((folder / "busy" / "begun").exists, "it runs")
        family = everything(process.pid)
        process.send_signal(getattr(signal, end))
        await until(lambda: process.poll() is not None, "it ends")
        await until(lambda: not any(is_alive(each) for each in family), "all of it has ended")
        assert len(family) >= 3
        settled = (await running.info()).state == "settled"
        assert (settled, process.returncode) == ((True, 0) if end == "SIGTERM" else (False, -signal.SIGKILL))
        if settled:
            result = await running.result()
            assert (result.value, result.status) == (7, "ok"), result
    assert set(os.listdir("/dev/shm")) <= shared
    # One of each a session, which its next execution takes over; what it was doing is of an execution that goes on.
    left = {path.suffix for path in (tmp_path / "state" / "run").iterdir()}
    assert left <= ({".lock"} if end == "SIGTERM" else {".lock", ".beat"})
