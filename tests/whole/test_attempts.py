"""Attempts at one execution, and what is kept between executions: one guest in a workspace, one state to go on from."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from perdure.engine.beats import keep_beat
from perdure.workers import beats, executions
from perdure.workers.guests import WorkspaceLock
from perdure.workers.service import Services

from .kit import opened, outcome

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_kept_guest_serves_only_the_state_that_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session went on at another host meanwhile: here one with locks of its own, in the same worker."""
    async with opened(tmp_path / "state") as client:
        pool = client._worker._services.pool
        assert (await outcome(client, "s", "n = 1")).ok
        stale = pool._kept.pop("s").what
        with monkeypatch.context() as elsewhere:
            other = tmp_path / "other"
            other.mkdir()
            elsewhere.setattr(Services, "run_folder", property(lambda _self: other))
            assert (await outcome(client, "s", "n = 2")).ok
        await pool.drop("s", "that host is another")
        await pool.rest("s", stale)
        assert stale.guest.alive
        result = await outcome(client, "s", "n")
        assert result.value == 2
        assert not result.kept_guest
        assert not stale.guest.alive


async def test_a_guest_that_nobody_stopped_is_gone_before_the_next_one_has_its_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker stands still and does not stop it; frozen, it could go on at any moment."""
    async with opened(tmp_path / "state") as client:
        pool = client._worker._services.pool
        assert (await outcome(client, "s", "n = 1\nopen('kept', 'w').close()")).ok
        before = pool._kept.pop("s").guest
        before.signal(signal.SIGSTOP)
        workspace = tmp_path / "state" / "workspaces" / "s"
        (workspace / "not recorded").touch()
        take, seen = WorkspaceLock.take, list[bool]()

        async def taken(path: Path) -> WorkspaceLock:
            lock = await take(path)
            seen.append(_runs(before.pid))
            return lock

        monkeypatch.setattr(WorkspaceLock, "take", taken)
        result = await outcome(client, "s", "import os\nn, os.listdir()")
        assert seen == [False], "two guests in one workspace"
        assert result.value == (1, ["kept"]), "the workspace is that of the checkpoint"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (ProcessLookupError, FileNotFoundError):
        return False


async def test_a_workspace_lock_that_the_disk_refuses_is_no_other_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0
    flock = fcntl.flock

    def failing(fd: int, how: int) -> None:
        nonlocal refused
        if refused < 1 and os.readlink(f"/proc/self/fd/{fd}").endswith("s.lock"):
            refused += 1
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(fd, how)

    monkeypatch.setattr(executions, "BACK_OFF", 0.1)
    monkeypatch.setattr(fcntl, "flock", failing)
    with pytest.raises(OSError, match="the workspace's lock cannot be taken: No locks available"):
        await WorkspaceLock.take(tmp_path / "s.lock")
    refused = 0
    async with opened(tmp_path / "state") as client:
        result = await outcome(client, "s", "1 + 1")
    assert (result.value, result.attempts, refused) == (2, 2, 1)


async def test_who_stops_waiting_for_a_workspace_holds_nothing(tmp_path: Path) -> None:
    held = await WorkspaceLock.take(tmp_path / "s.lock")
    before = set(os.listdir("/proc/self/fd"))
    waiting = asyncio.create_task(WorkspaceLock.take(tmp_path / "s.lock"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert set(os.listdir("/proc/self/fd")) == before
    held.release()
    (await WorkspaceLock.take(tmp_path / "s.lock")).release()


async def test_a_worker_forgets_what_killed_ones_said_last(tmp_path: Path) -> None:
    run = tmp_path / "state" / "run"
    async with opened(tmp_path / "state"):
        pass
    for name, age in (("gone.beat", 60), ("gone.beat.new", 60), ("gone.lock", 60), ("lives.beat", 0)):
        (run / name).touch()
        os.utime(run / name, (time.time() - age, time.time() - age))
    async with opened(tmp_path / "state"):
        assert {path.name for path in run.iterdir()} >= {"gone.lock", "lives.beat"}
        assert not [*run.glob("gone.beat*")]


async def test_a_beat_that_cannot_be_written_is_written_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, refused = keep_beat, 2

    def failing(*what: Any) -> None:
        nonlocal refused
        if refused:
            refused -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        keep(*what)

    monkeypatch.setattr(beats, "keep_beat", failing)
    monkeypatch.setattr(beats, "EVERY", 0.05)
    async with opened(tmp_path / "state") as client, asyncio.timeout(30):
        execution = await (await client.session("s")).submit("while True: pass")
        while (await execution.info()).beat is None:
            await asyncio.sleep(0.02)
        assert refused == 0
        await execution.cancel()
