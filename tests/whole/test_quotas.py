"""What a session may keep is bounded: whoever keeps more is told which bound it was, once, and its session goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perdure.engine.settings import Limits

from .kit import opened, outcome

#: The bound, code that ends before anybody has measured, and the name of the bound.
CASES = {
    "files": (Limits(files=16), "for n in range(40): open(f'file-{n}', 'w').close()", "files"),
    # With hardly a block on the disk.
    "bytes": (Limits(workspace_bytes=1 << 20), "open('file', 'wb').truncate(1 << 32)", "workspace_bytes"),
    "variables": (Limits(namespace_bytes=1 << 20), "import os; big = os.urandom(2 << 20)", "namespace_bytes"),
    # It is sent in a few bytes.
    "equal bytes": (Limits(namespace_bytes=1 << 20), "big = bytearray(2 << 20)", "namespace_bytes"),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_is_too_much_to_keep_ends_its_execution_by_name(tmp_path: Path, case: str) -> None:
    limits, code, name = CASES[case]
    async with opened(tmp_path / "state") as client:
        await client.session("greedy", limits=limits)
        assert (await outcome(client, "greedy", "kept = [5]")).status == "ok"
        result = await outcome(client, "greedy", code)
        assert (result.status, result.error and result.error.type) == ("crashed", "LimitExceeded"), result
        assert result.error is not None
        assert f"the limit {name} of the session can be raised" in result.error.message, result.error
        assert (await outcome(client, "greedy", "import os; kept, 'big' in globals(), os.listdir()")).value == (
            *([5], False, []),
        )


async def test_a_file_beyond_its_bound_is_refused_to_the_code(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        await client.session("greedy", limits=Limits(file_bytes=1 << 20))
        result = await outcome(client, "greedy", "open('file', 'wb').write(b'x' * (2 << 20))")
        assert (result.status, result.error and result.error.type) == ("error", "OSError"), result


async def test_special_files_are_left_out_by_name(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state) as client:
        made = await outcome(client, "s", "import os; open('kept', 'w').write('k'); os.mkdir('folder')")
        assert made.status == "ok", made
        # The walls refuse to make one; somebody else may.
        os.mkfifo(next((state / "workspaces").glob("*/folder")) / "pipe")
        result = await outcome(client, "s", "os.symlink('kept', 'link')")
        assert result.status == "ok", result
        assert "folder/pipe is not kept: it is a pipe" in result.notes
    async with opened(state) as client:
        look = "sorted(os.listdir()), os.listdir('folder'), open('link').read()"
        assert (await outcome(client, "s", look)).value == (["folder", "kept", "link"], [], "k")
