"""Values beyond four gigabytes: places so far out are told and checked, and what is too large to cross says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perdure.engine.settings import Limits
from tests.whole.kit import opened, outcome

from .fuzz import ROOT

FAR = """
import json, sys, types
sys.path.insert(0, sys.argv[1])
from perdure.engine.checkpoints import Composed
from perdure.engine.packs import cut, live
from tests.checkpoint.fuzz import load_guest
checkpoint = load_guest()
from _perdure_guest.checkpoints.packs import pack_of
FAR = 5 << 30
namespace = {"a": [1, 2], "b": b"x" * 100_000, "c": {"k": 1.5}}
namespace["d"] = namespace["a"]
delta = checkpoint.Checkpoints(namespace).save()
pack = b"".join(delta.chunks)
data = json.loads(json.dumps(delta.data))
lists = [unit["stream"] for unit in data["units"].values()] + list(data.get("texts", {}).values())
lists += [buffer[2] for unit in data["units"].values() for buffer in unit.get("buffers", ())]
for extents in lists:
    for extent in extents:
        extent[1] += FAR
composed = Composed()
composed.apply(data, {1: [(0, "place", 0, FAR + len(pack))]})
(span,) = live(extent for extents in lists for extent in extents)[1]
((start, _place, offset, size),) = cut(composed.packs[1], [span])
assert start == offset >= FAR and size <= len(pack)
try:
    Composed().apply(data, {1: [(0, "place", 0, FAR + 1)]})
except ValueError as error:
    assert str(FAR)[:4] in str(error), error
else:
    assert False, "bytes that are not there were taken"
again = {}
memory = memoryview(bytearray(pack))
checkpoint.Checkpoints(again).restore(composed.manifest(), {1: pack_of([(FAR, memory)])})
assert again["a"] == [1, 2] and again["d"] is again["a"] and again["b"] == b"x" * 100_000 and again["c"] == {"k": 1.5}
"""


def test_places_beyond_four_gigabytes_are_told_and_checked(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAR, str(ROOT)], capture_output=True, text=True, timeout=55, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.grid
@pytest.mark.timeout(1200)
async def test_more_than_four_gigabytes(tmp_path: Path) -> None:
    """It takes some 10 GB of memory, and as much of the disk as the largest value."""
    state = tmp_path / "state"
    async with opened(state) as client:
        await client.session("large", limits=Limits(memory_bytes=16 << 30))
        assert (await outcome(client, "large", "import os; kept = [5]; part = os.urandom(1 << 20)")).status == "ok"
        for code in (
            "big = bytearray(4200 << 20)",
            "big = bytearray(part * 4200)",
            "big = [part + b'x'] * 2; big *= 2500",
        ):
            result = await outcome(client, "large", code)
            if code.startswith("big = ["):
                assert result.status == "ok", "it is one value five thousand times"
                continue
            assert (result.status, result.error and result.error.type) == ("crashed", "LimitExceeded"), result
            assert result.error is not None
            assert "the limit namespace_bytes of the session can be raised" in result.error.message
        code = "big = bytearray(part * 1024); import hashlib; digest = hashlib.sha256(big).digest()"
        assert (await outcome(client, "large", code)).status == "ok"
    async with opened(state) as client:
        look = "kept, len(big), hashlib.sha256(big).digest() == digest"
        assert (await outcome(client, "large", look)).value == ([5], 1 << 30, True)
