"""Attempts at one execution, and what is kept between executions: one guest in a workspace, one state to go on from."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from typing import TYPE_CHECKING

import pytest

from perdure.workers import executions
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
