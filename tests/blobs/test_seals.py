"""A checkpoint that is not this state's own never reaches a guest, and what it costs is one refused execution."""

from __future__ import annotations

import json
import shutil
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.engine import Client
from perdure.engine.records import Result
from perdure.engine.upkeep import check

#: An image of its own each time, too large for its step; and a file.
CODE = "import os; n = {n}; big = os.urandom(90_000); open('file', 'wb').write(big)"


async def run(client: Client, code: str) -> Result:
    return await (await (await client.session("s")).submit(code)).result()


async def made(state: Path) -> None:
    async with Client.open(state) as client:
        for n in (1, 2):
            assert (await run(client, CODE.format(n=n))).status == "ok"


def change(state: Path, step: str, how: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a step holds, as somebody could who can write to the store."""
    database = sqlite3.connect(state / "perdure.db")
    with database:
        (data,) = database.execute("SELECT value_data FROM promises WHERE id = ?", (step,)).fetchone()
        value = how(json.loads(b64decode(data)))
        text = b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()
        database.execute("UPDATE promises SET value_data = ? WHERE id = ?", (text, step))
    database.close()


def held(state: Path, step: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def keep(value: dict[str, Any]) -> dict[str, Any]:
        found.append(value)
        return value

    change(state, step, keep)
    return found[0]


async def refused(state: Path, error: str) -> str:
    async with Client.open(state) as client:
        result = await run(client, "n")
        assert result.status == "refused", result
        assert result.error is not None
        assert result.error.type == error
        step = await client.substrate.promises.get(f"{result.execution}:s0")
        assert step is None or step.settled, "what is refused leaves nothing open"
        return result.error.message


def changed_size(value: dict[str, Any]) -> dict[str, Any]:
    value["checkpoint"]["size"] += 1
    return value


def changed_link(value: dict[str, Any]) -> dict[str, Any]:
    value["seal"]["previous"] = "0" * 64
    return value


def without_seal(value: dict[str, Any]) -> dict[str, Any]:
    del value["seal"]
    return value


@pytest.mark.parametrize("how", [changed_size, changed_link, without_seal])
async def test_a_changed_checkpoint_is_refused_and_its_original_is_gone_on_from(
    tmp_path: Path, how: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    state = tmp_path / "state"
    await made(state)
    original = held(state, "s@2:s0")
    change(state, "s@2:s0", how)
    async with Client.open(state, worker=False) as client:
        assert "s@2:s0" in (await check(client.substrate)).problems[0]
    assert "s@2:s0" in await refused(state, "CheckpointForged")
    change(state, "s@2:s0", lambda _: original)
    async with Client.open(state) as client:
        assert (await run(client, "n")).value == 2


async def test_an_older_checkpoint_in_the_place_of_a_newer_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    await made(state)
    older = held(state, "s@1:s0")
    change(state, "s@2:s0", lambda value: {**value, "checkpoint": older["checkpoint"], "seal": older["seal"]})
    await refused(state, "CheckpointForged")


async def test_another_states_checkpoint_is_refused(tmp_path: Path) -> None:
    await made(tmp_path / "state")
    await made(tmp_path / "other")
    other = held(tmp_path / "other", "s@2:s0")
    change(tmp_path / "state", "s@2:s0", lambda _: other)
    await refused(tmp_path / "state", "CheckpointForged")


@pytest.mark.parametrize("harm", ["flipped", "torn", "swapped", "gone"])
async def test_a_damaged_blob_is_named_and_nothing_of_it_is_used(tmp_path: Path, harm: str) -> None:
    state = tmp_path / "state"
    await made(state)
    before, after = (refs(json.dumps(held(state, step)["checkpoint"])) for step in ("s@1:s0", "s@2:s0"))
    path = next(path for path in sorted((state / "blobs").glob("??/*")) if path.name in after - before)
    shutil.rmtree(state / "workspaces")  # or what is in place would do
    original = path.read_bytes()
    match harm:
        case "flipped":
            path.write_bytes(original[:1000] + bytes([original[1000] ^ 1]) + original[1001:])
        case "torn":
            path.write_bytes(original[: len(original) // 2])
        case "swapped":
            path.write_bytes(next(p for p in (state / "blobs").glob("??/*") if p != path).read_bytes())
        case _:
            path.unlink()
    message = await refused(state, "BlobMissing" if harm == "gone" else "BlobDamaged")
    assert path.name in message
    path.write_bytes(original)
    async with Client.open(state) as client:
        assert (await run(client, "n, len(big), open('file', 'rb').read() == big")).value == (2, 90_000, True)
        assert (await check(client.substrate)).problems == ()


def refs(text: str) -> set[str]:
    return {part[:64] for part in text.split("blake3:")[1:]}


async def test_the_key_is_the_states_own_and_no_guest_sees_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    await made(state)
    key = state / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    async with Client.open(state) as client:
        result = await run(client, f"open({str(key)!r}, 'rb').read()")
        assert result.error is not None
        assert result.error.type in ("PermissionError", "FileNotFoundError")
