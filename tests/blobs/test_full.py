"""A disk that is full or fails while a checkpoint is written: the execution goes on when it can, and nothing twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from perdure.capabilities import capability
from perdure.engine import Client, blobs_folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_commit_that_finds_no_room_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    paid: list[int] = []
    failures = 2

    @capability("pay", effect="unknown")
    async def pay(cents: int) -> int:
        """Pay."""
        paid.append(cents)
        return len(paid)

    write = blobs_folder.write_all

    def failing(*arguments: Any) -> int:
        nonlocal failures
        if not failures:
            return write(*arguments)
        failures -= 1
        raise OSError(number, os.strerror(number))

    async with Client.open(tmp_path / "state", capabilities=[pay]) as client:
        session = await client.session("s", grants=["pay"])
        assert (await (await session.submit("kept = 'before'")).result()).status == "ok"
        monkeypatch.setattr(blobs_folder, "write_all", failing)
        execution = await session.submit("import os; n = pay(5); big = os.urandom(200_000); n")
        result = await execution.result()
        assert (result.status, result.value, paid) == ("ok", 1, [5])
        assert result.attempts == 3
        assert failures == 0
        assert (await (await session.submit("kept, n, len(big)")).result()).value == ("before", 1, 200_000)
