from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from perdure.engine import Client
from perdure.engine.store import StoreForeign
from perdure.workers.zygote import ZygoteGone
from perdure.workers.zygotes import Kind, Zygotes

from .kit import children


async def test_a_worker_that_cannot_start_leaves_no_process(tmp_path: Path) -> None:
    before = set(children())
    client = Client.open(tmp_path / "state")
    client.substrate.folder.database.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreForeign):
        await client.__aenter__()
    assert set(children()) == before


async def test_an_interpreter_still_being_asked_about_itself_ends_with_the_zygotes(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n: > {asked}\nsleep 1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    before = set(children())
    zygotes = Zygotes(tmp_path / "state", tmp_path / "state" / "workspaces")
    wanted = asyncio.create_task(zygotes.get(Kind(python)))
    while not asked.exists():
        await asyncio.sleep(0.01)
    await zygotes.close()
    assert set(children()) == before
    with pytest.raises(asyncio.CancelledError):
        await wanted


async def test_a_worker_that_has_stopped_starts_no_zygote_for_a_task_handed_to_it_late(tmp_path: Path) -> None:
    before = set(children())
    zygotes = Zygotes(tmp_path / "state", tmp_path / "state" / "workspaces")
    await zygotes.close()
    with pytest.raises(ZygoteGone):
        await zygotes.get(Kind(Path(sys.executable)))
    assert set(children()) == before
