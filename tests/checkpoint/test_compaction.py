"""What a session has stored stays within what it is: dead bytes are let go of, and nothing that lives is missed."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from perdure.engine import Client
from perdure.engine.blobs_folder import FolderBlobs
from perdure.engine.checkpoints import CheckpointUnusable, compose, recorded
from perdure.engine.packs import FEW, MANY, Pieces, compacted, cut, holds, live
from perdure.engine.records import Result
from perdure.engine.upkeep import check, collect

LATER = 40 * 24 * 3600.0


async def run(client: Client, code: str) -> Result:
    result = await (await (await client.session("s")).submit(code)).result()
    assert result.status == "ok", result
    return result


async def named(client: Client, step: str) -> tuple[int, int]:
    """Return how many blobs a checkpoint names, and their bytes."""
    found = await client.substrate.promises.get(step)
    assert found is not None
    record = recorded(found.value)
    assert record is not None
    composed = await compose(client.substrate.promises, client.substrate.blobs, found.value)
    assert composed is not None
    places = {piece[1] for pieces in composed.packs.values() for piece in pieces if piece[1].startswith("blake3:")}
    sizes = [len(await client.substrate.blobs.get(place)) for place in places]
    return len(sizes), sum(sizes)


# -- pieces ---------------------------------------------------------------------------------------------------


def test_what_is_referred_to_is_told_in_whole_pages_that_never_touch() -> None:
    assert live([[1, 5000, 10], [1, 0, 1], [2, 8192, 4096, 3], [1, 200_000, 5]]) == {
        1: [(0, 5010), (196608, 200_005)],
        2: [(8192, 12288)],
    }


def test_a_pack_in_pieces_holds_what_lies_in_one_of_them() -> None:
    pieces: Pieces = [(0, "a", 50, 100), (4096, "b", 0, 10)]
    assert [holds(pieces, *each) for each in ((0, 100), (0, 101), (99, 1), (100, 0), (4096, 10), (4095, 2))] == [
        *(True, False, True, True, True, False)
    ]
    assert cut(pieces, [(10, 20), (4090, 5000)]) == [(10, "a", 60, 10), (4096, "b", 0, 10)]
    assert not holds([], 0, 0)


async def test_only_what_is_wasteful_or_scattered_is_moved(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    full, wasteful = os.urandom(2 * FEW), os.urandom(4 * FEW)
    packs: dict[int, Pieces] = {
        1: [(0, await blobs.put(full), 0, len(full))],
        2: [(0, await blobs.put(wasteful), 0, len(wasteful))],
        3: [(0, await blobs.put(b"nobody's"), 0, 8)],
    }
    used = {1: [(0, len(full))], 2: [(4096, 8192), (3 * FEW, 3 * FEW + 100)]}
    found = await compacted(packs, used, blobs)
    assert found[1] == packs[1]
    assert found.keys() == {1, 2}
    assert [(start, size) for start, _, _, size in found[2]] == [(4096, 4096), (3 * FEW, 100)]
    for start, place, offset, size in found[2]:
        assert (await blobs.get(place))[offset : offset + size] == wasteful[start : start + size]
    assert await compacted(found, used, blobs) == found, "once is enough"
    many: dict[int, Pieces] = {
        number: [(0, await blobs.put(bytes([number]) * 60_000), 0, 60_000)] for number in range(MANY + 1)
    }
    every = {number: [(0, 60_000)] for number in many}
    together = await compacted(many, every, blobs)
    (place,) = {pieces[0][1] for pieces in together.values()}
    assert len(await blobs.get(place)) == 61_440 * (MANY + 1), "whole pages"
    fewer = {number: many[number] for number in range(MANY)}
    assert await compacted(fewer, {number: every[number] for number in fewer}, blobs) == fewer


# -- sessions -------------------------------------------------------------------------------------------------


async def test_a_session_that_rewrites_itself_stores_what_it_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with Client.open(state) as client:
        await run(client, "import os; kept = os.urandom(400_000); first = kept[:9]")
        for _ in range(14):
            await run(client, "parts = [os.urandom(700_000)]; n = len(parts[0])")
        last = await run(client, "m = 1")
        assert last.checkpoint is not None
        blobs, size = await named(client, last.checkpoint)
        assert size <= 3 * 1_100_000 + (4 << 20), (blobs, size)
        await collect(client.substrate, time.time() + LATER, grace=0)
        assert sum(path.stat().st_size for path in (state / "blobs").glob("??/*")) <= 3 * 1_100_000 + (4 << 20)
        assert (await check(client.substrate)).problems == ()
    async with Client.open(state) as client:
        assert (await run(client, "n, len(parts[0]), kept[:9] == first, len(kept)")).value == (
            *(700_000, 700_000, True, 400_000),
        )


async def test_what_is_left_of_a_checkpoint_moves_and_the_live_session_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.workers.checkpoints.CHAIN", 1)
    state = tmp_path / "state"
    async with Client.open(state) as client:
        first = await run(client, "import os\nfor n in range(40): globals()[f'v{n}'] = [os.urandom(50_000)]")
        before = await run(client, "digest = hash(v3[0]), hash(v30[0])")
        assert before.checkpoint is not None
        assert (await named(client, before.checkpoint))[1] > 2_000_000
        await run(client, "for n in set(range(40)) - {3, 17, 30}: del globals()[f'v{n}']")
        after = await run(client, "v3.append(1); alias = v17")
        assert after.checkpoint is not None
        assert (await named(client, after.checkpoint))[1] < 300_000
        await run(client, "v30.append(bytes(v3[0])); again = [v17[0]]; other = v30[0][:40_000]")
        # Whoever still wants the first has all of it.
        fork = await client.session("s")
        assert first.checkpoint is not None
        assert (await named(client, first.checkpoint))[1] > 2_000_000
        del fork
    look = "digest == (hash(v3[0]), hash(v30[0])), v3[1], alias is v17, v30[1] == v3[0], again[0] == v17[0], len(other)"
    for _ in range(2):
        async with Client.open(state) as client:
            assert (await run(client, look)).value == (True, 1, True, True, True, 40_000)
            await collect(client.substrate, time.time() + LATER, grace=0)
            assert (await check(client.substrate)).problems == ()


async def test_many_small_checkpoints_become_few_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.engine.packs.MANY", 8)
    monkeypatch.setattr("perdure.workers.checkpoints.CHAIN", 5)
    async with Client.open(tmp_path / "state") as client:
        await run(client, "import os; every = {}")
        for n in range(30):
            await run(client, f"v{n} = [os.urandom(50_000), {n}]; every[{n}] = hash(v{n}[0])")
        last = await run(client, "m = 1")
        assert last.checkpoint is not None
        assert (await named(client, last.checkpoint))[0] <= 8 + 5 + 2
    async with Client.open(tmp_path / "state") as client:
        found = await run(client, "all(hash(globals()[f'v{n}'][0]) == every[n] for n in range(30)), len(every)")
        assert found.value == (True, 30)


@pytest.mark.parametrize("harm", ["damaged", "full"])
async def test_what_cannot_be_put_together_stays_where_it_is_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr("perdure.workers.checkpoints.CHAIN", 1)
    state, put = tmp_path / "state", FolderBlobs.put
    async with Client.open(state) as client:
        await run(client, "import os; a = [os.urandom(900_000)]; b = [os.urandom(90_000)]; h = hash(b[0])")
        (path,) = (path for path in (state / "blobs").glob("??/*") if path.stat().st_size > 900_000)
        content = path.read_bytes()
        if harm == "damaged":
            path.write_bytes(b"x" + content[1:])
        else:

            async def failing(self: FolderBlobs, data: Any) -> str:
                if len(data) > 80_000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return await put(self, data)

            monkeypatch.setattr(FolderBlobs, "put", failing)
        result = await run(client, "del a")
        assert any("could not be put together" in note for note in result.notes), result.notes
        monkeypatch.setattr(FolderBlobs, "put", put)
        path.write_bytes(content)
        assert not (await run(client, "c = 1")).notes
    async with Client.open(state) as client:
        assert (await run(client, "hash(b[0]) == h, c")).value == (True, 1)


COLLECTOR = """
import asyncio, sys, time
from perdure.engine import Client
from perdure.engine.errors import StateLocked
from perdure.engine.upkeep import collect
LATER = 40 * 24 * 3600.0
async def main():
    removed = blobs = 0
    async with Client.open(sys.argv[1], worker=False, create=False) as client:
        for _ in range(int(sys.argv[2])):
            try: done = await collect(client.substrate, time.time() + LATER, grace=LATER + 3600)
            except StateLocked: continue
            removed += done.executions
            blobs += done.blobs
            await asyncio.sleep(0.05)
    print(removed, blobs)
asyncio.run(main())
"""


async def test_collectors_in_other_processes_take_nothing_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes remove what a third writes, moves and lets go of.

    All that is stored is made old between two commits: what the next one relies on must have become young again.
    """
    monkeypatch.setattr("perdure.workers.checkpoints.CHAIN", 2)
    # What settled just now is collected here, which no horizon allows: the head is to be looked for accordingly.
    monkeypatch.setattr("perdure.engine.sessions.SETTLED_LATELY_MS", 0)
    state = tmp_path / "state"
    async with Client.open(state) as client:
        await run(client, "import os; kept = {}")
        others = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", COLLECTOR, str(state), "12"), stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        ends = asyncio.gather(*(other.communicate() for other in others))
        n = 0
        while not ends.done():
            n += 1
            await run(client, f"a = os.urandom(600_000); b{n} = [os.urandom(60_000)]; kept[{n}] = hash(b{n}[0])")
            if n > 3:
                await run(client, f"del b{n - 3}, kept[{n - 3}]")
            for path in (state / "blobs").glob("??/*"):
                with suppress(FileNotFoundError):
                    os.utime(path, (1, 1))
        assert all(sum(counts) >= 1 for counts in zip(*(map(int, said.split()) for said, _ in await ends), strict=True))
        assert (await check(client.substrate)).problems == ()
    async with Client.open(state) as client:
        assert (await run(client, "all(hash(globals()[f'b{n}'][0]) == kept[n] for n in kept), len(a)")).value == (
            *(True, 600_000),
        )


@pytest.mark.parametrize("where", ["the record", "what it holds", "a unit of it", "a kind of loss"])
async def test_a_checkpoint_of_a_newer_version_says_so(where: str) -> None:
    """A version that adds something to a checkpoint need not raise the number of its format to be told from damage."""
    unit: dict[str, Any] = {"roots": [[1, "list", 0, 0, 0]], "stream": []}
    data: dict[str, Any] = {"format": 2, "generation": 1, "since": 0, "units": {"1": unit}}
    record: dict[str, Any] = {"format": 2, "generation": 1, "python": "3.13", "data": data}
    promises: Any = None
    assert await compose(promises, promises, {"checkpoint": record}) is not None
    match where:
        case "the record":
            record["later"] = 1
        case "what it holds":
            data["later"] = {}
        case "a unit of it":
            unit["later"] = True
        case _:
            data["losses"] = {"later": ["asleep", "", ""]}
    with pytest.raises(CheckpointUnusable, match=r"later.* which this version of Perdure does not know: run the one"):
        await compose(promises, promises, {"checkpoint": record})
    record["format"] = 3
    with pytest.raises(CheckpointUnusable, match="has format 3, and this Perdure reads format 2: run the one"):
        await compose(promises, promises, {"checkpoint": record})
