"""Limits measured from outside: whoever exceeds one is ended and told which, once, and its session goes on."""

from pathlib import Path

import pytest

from perdure.engine.settings import Limits

from .kit import opened, outcome

# time.sleep is a timer here, and what waits for one is parked.
STAY = """
import time
until = time.monotonic() + 20
while time.monotonic() < until:
    pass
"""

CASES = {
    "shared memory": (
        Limits(memory_bytes=128 << 20),
        "import mmap\nm = mmap.mmap(-1, 256 << 20)\nfor at in range(0, len(m), 4096): m[at] = 1",
        "memory_bytes",
    ),
    "threads": (
        Limits(threads=16),
        "import threading as t\ns = t.Event()\nfor _ in range(40): t.Thread(target=s.wait, daemon=True).start()",
        "threads",
    ),
    "time of the processor": (Limits(cpu_seconds=1), "", "cpu_seconds"),
    "files": (Limits(files=64), "for n in range(500): open(f'file-{n}', 'w').close()", "files"),
    "bytes": (
        Limits(workspace_bytes=4 << 20),
        "for n in range(20): open(f'file-{n}', 'wb').write(b'x' * (1 << 20))",
        "workspace_bytes",
    ),
    "deleted files": (
        Limits(workspace_bytes=4 << 20),
        "import os\nf = open('file', 'wb')\nos.unlink('file')\nf.write(b'x' * (20 << 20))\nf.flush()",
        "workspace_bytes",
    ),
    "files of memory": (
        Limits(memory_bytes=128 << 20),
        "import os\nfor _ in range(200): os.write(1, b'x' * (1 << 20))",
        "memory_bytes",
    ),
    "hard links": (
        Limits(files=64),
        "import os\nopen('one', 'w').close()\nfor n in range(500): os.link('one', f'link-{n}')",
        "files",
    ),
}

#: What nobody sees who looks from outside now and then: it is over before, or takes no room.
UNSEEN_UNTIL_KEPT = {
    "files": (Limits(files=64), "for n in range(500): open(f'file-{n}', 'w').close()", "files"),
    "hard links to much": (
        Limits(workspace_bytes=4 << 20),
        "import os\nopen('one', 'wb').write(b'x' * (1 << 20))\nfor n in range(9): os.link('one', f'link-{n}')",
        "workspace_bytes",
    ),
    "a sparse file": (Limits(workspace_bytes=4 << 20), "open('sparse', 'wb').truncate(1 << 40)", "workspace_bytes"),
}


@pytest.mark.parametrize("case", UNSEEN_UNTIL_KEPT)
async def test_what_is_too_much_to_be_kept_ends_it_and_is_not_tried_again(tmp_path: Path, case: str) -> None:
    limits, code, name = UNSEEN_UNTIL_KEPT[case]
    limits = limits.model_copy(update={"file_bytes": 1 << 42})
    async with opened(tmp_path / "state") as client:
        await client.session("greedy", limits=limits)
        assert (await outcome(client, "greedy", "kept = 5")).status == "ok"
        result = await outcome(client, "greedy", f"{code}\nkept = 6")
        assert (result.status, result.attempts) == ("crashed", 1), result
        assert result.error is not None
        assert result.error.type == "LimitExceeded"
        assert f"the limit {name} " in result.error.message
        after = await outcome(client, "greedy", "import os; kept, os.listdir()")
        assert after.value == (5, []), after


@pytest.mark.parametrize("case", CASES)
async def test_whoever_exceeds_a_limit_is_ended_and_told_which(tmp_path: Path, case: str) -> None:
    limits, code, name = CASES[case]
    async with opened(tmp_path / "state") as client:
        await client.session("greedy", limits=limits)
        assert (await outcome(client, "greedy", "kept = 5")).status == "ok"
        result = await outcome(client, "greedy", code + STAY)
        assert (result.status, result.attempts) == ("crashed", 1)
        assert result.error is not None
        assert result.error.type == "LimitExceeded"
        assert f"the limit {name} " in result.error.message
        assert (await outcome(client, "greedy", "kept")).value == 5


async def test_memory_of_its_own_is_refused_by_the_kernel_and_raises(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        await client.session("greedy", limits=Limits(memory_bytes=128 << 20))
        result = await outcome(client, "greedy", "data = bytearray(256 << 20)")
        assert (result.status, result.error and result.error.type) == ("error", "MemoryError")


UNSEEN = ["import collections; big = list(range(5000)); collections.kept = big", "collections.kept.append(1)"]


@pytest.mark.parametrize("strict", [True, False])
async def test_what_changes_behind_every_name_is_kept_where_everything_is_looked_at(
    tmp_path: Path, strict: bool
) -> None:
    limits = Limits(verify_every=1) if strict else Limits()
    async with opened(tmp_path / "state") as client:
        await client.session("careful", limits=limits)
        first, result = [await outcome(client, "careful", code) for code in UNSEEN]
        assert (first.status, result.status) == ("ok", "ok")
        assert any("changed unseen" in note for note in result.notes) == strict
    async with opened(tmp_path / "state") as client:
        assert (await outcome(client, "careful", "len(big)")).value == 5000 + strict
