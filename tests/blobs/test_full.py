"""A disk that is full or fails while a checkpoint is written: the execution goes on when it can, and nothing twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from perdure.capabilities import capability
from perdure.engine import Client, blobs_folder
from perdure.workers import executions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "error"),
    [
        pytest.param("write_all", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), id="no room"),
        pytest.param("write_all", OSError(errno.EIO, os.strerror(errno.EIO)), id="a write that fails"),
        pytest.param("fsync", OSError(errno.EIO, os.strerror(errno.EIO)), id="a sync that fails"),
        pytest.param("write_all", OSError(errno.EACCES, os.strerror(errno.EACCES)), id="permission lost"),
        pytest.param("write_all", MemoryError(), id="no memory"),
    ],
)
async def test_a_commit_that_cannot_be_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    paid: list[int] = []
    failures = 1

    @capability("pay", effect="unknown")
    async def pay(cents: int) -> int:
        """Pay."""
        paid.append(cents)
        return len(paid)

    monkeypatch.setattr(executions, "BACK_OFF", 0.1)
    home: Any = blobs_folder if where == "write_all" else os
    write = getattr(home, where)

    def failing(*arguments: Any) -> Any:
        nonlocal failures
        if not failures:
            return write(*arguments)
        failures -= 1
        raise error

    async with Client.open(tmp_path / "state", capabilities=[pay]) as client:
        session = await client.session("s", grants=["pay"])
        assert (await (await session.submit("kept = 'before'")).result()).status == "ok"
        monkeypatch.setattr(home, where, failing)
        execution = await session.submit("import os; n = pay(5); big = os.urandom(200_000); n")
        result = await execution.result()
        assert (result.status, result.value, paid) == ("ok", 1, [5])
        assert result.attempts == 2
        assert failures == 0
        assert (await (await session.submit("kept, n, len(big)")).result()).value == ("before", 1, 200_000)
