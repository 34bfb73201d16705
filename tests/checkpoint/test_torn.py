"""A checkpoint that is cut anywhere, or does not lie where it was made, is damage: no byte of it reaches a guest.

`PERDURE_CUTS` says how many bytes lie between two cuts of a blob (default: a few); 1 is every one.
"""

from __future__ import annotations

import json
import os
import sqlite3
from base64 import b64decode, b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from resonate.error import SerializationError

from perdure.engine import Client, packs
from perdure.engine.blobs import BlobStore
from perdure.engine.checkpoints import DAMAGED, compose, recorded
from perdure.engine.durable import Promises
from perdure.engine.errors import PerdureError
from perdure.engine.seals import CheckpointForged
from perdure.workers import checkpoints
from perdure.workers.checkpoints import packed
from perdure.workers.messages import ProtocolViolation

from .test_host import delta

CUTS = int(os.environ.get("PERDURE_CUTS", "41"))
CODES = ("a = [1, 2]; b = {'a': a}\ndef f(): return b", "a.append(3); c = 'text' * 40")


async def made(state: Path) -> str:
    """Make a session of two checkpoints, the second of which adds to the first; returns its step."""
    async with Client.open(state) as client:
        session = await client.session("s")
        results = [await (await session.submit(code)).result() for code in CODES]
        step = results[-1].checkpoint
    assert step is not None
    return step


async def loaded(promises: Promises, blobs: BlobStore, step: Any) -> list[Any]:
    """Return what a guest would be given."""
    composed = await compose(promises, blobs, step)
    assert composed is not None
    return await packed(composed, blobs)


@pytest.mark.timeout(300)
async def test_a_blob_cut_anywhere_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests and packs both: none is small enough for its record."""
    for module in (packs, checkpoints):
        monkeypatch.setattr(module, "INLINE", 16)
    monkeypatch.setattr("perdure.engine.checkpoints.INLINE", 16)
    step = await made(tmp_path / "state")
    paths = sorted((tmp_path / "state" / "blobs").glob("??/*"))
    assert len(paths) >= 4, "two manifests, two packs"
    async with Client.open(tmp_path / "state", worker=False) as client:
        blobs, promises = client.substrate.blobs, client.substrate.promises
        held = await promises.get(step)
        assert held is not None
        for path in paths:
            content = path.read_bytes()
            for size in [*range(0, len(content), CUTS), len(content) - 1]:
                path.write_bytes(content[:size])
                with pytest.raises(DAMAGED):
                    await loaded(promises, blobs, held.value)
            path.write_bytes(content)
        assert await loaded(promises, blobs, held.value)


async def test_a_record_cut_anywhere_is_refused(tmp_path: Path) -> None:
    step = await made(tmp_path / "state")
    with closing(sqlite3.connect(tmp_path / "state" / "perdure.db", isolation_level=None)) as database:
        (data,) = database.execute("SELECT value_data FROM promises WHERE id = ?", (step,)).fetchone()
        text = b64decode(data)
        assert b"inline:" in text
        async with Client.open(tmp_path / "state", worker=False) as client:
            seals, promises = client.substrate.seals(), client.substrate.promises
            await seals.verify(step)
            for size in range(0, len(text), 19):
                cut = b64encode(text[:size]).decode()
                database.execute("UPDATE promises SET value_data = ? WHERE id = ?", (cut, step))
                with pytest.raises((PerdureError, SerializationError)):
                    await seals.verify(step)
            # The text of its pack alone.
            value = json.loads(text)
            ((number, (place, offset, size)),) = value["checkpoint"]["packs"].items()
            for end in range(len("inline:"), len(place), 3):
                value["checkpoint"]["packs"][number] = (place[:end], offset, size)
                with pytest.raises(CheckpointForged):
                    seals.check(step, value)
            database.execute("UPDATE promises SET value_data = ? WHERE id = ?", (data, step))
            await seals.verify(step)
            assert await promises.get(step) is not None


async def test_steps_out_of_their_order_are_refused(tmp_path: Path) -> None:
    """One in the place of another, twice, and a chain put together from two."""
    await made(tmp_path / "state")
    async with Client.open(tmp_path / "state", worker=False) as client:
        promises, seals = client.substrate.promises, client.substrate.seals()
        steps = [await promises.get(f"s@{n}:s0") for n in (1, 2)]
        first, second = (step.value for step in steps if step is not None)
        assert recorded(second) is not None
        for step, value in (("s@1:s0", second), ("s@2:s0", first), ("s@3:s0", second), ("s@3:s0", first)):
            with pytest.raises(CheckpointForged):
                seals.check(step, value)
        spliced = {**second, "checkpoint": {**second["checkpoint"], "base": None}}
        with pytest.raises(CheckpointForged):
            seals.check("s@2:s0", spliced)
        with pytest.raises(CheckpointForged):
            seals.check("s@2:s0", {**second, "seal": first["seal"]})
        seals.check("s@2:s0", second)


def test_what_a_guest_sends_is_whole_or_refused() -> None:
    data = json.dumps(delta()).encode()
    content = len(data).to_bytes(4, "big") + data + b"0123456789"
    assert bytes(checkpoints._unpacked(content)[1]) == b"0123456789"
    for size in range(len(content)):
        with pytest.raises(ProtocolViolation):
            checkpoints._unpacked(content[:size])
    with pytest.raises(ProtocolViolation):
        checkpoints._unpacked(content + b"x")
