from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from perdure.engine import Client
from perdure.engine.store import StoreForeign

from .kit import children

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_worker_that_cannot_start_leaves_no_process(tmp_path: Path) -> None:
    before = set(children())
    client = Client.open(tmp_path / "state")
    client.substrate.folder.database.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreForeign):
        await client.__aenter__()
    assert set(children()) == before
