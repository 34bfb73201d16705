"""C. The channel: nothing that code does to its descriptors and streams touches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .kit import Talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("print('plain')", "plain\n"),
        ("import os\nos.write(1, b'raw\\n')", "raw\n"),
        ("import ctypes\nctypes.CDLL(None).puts(b'from C')\nctypes.CDLL(None).fflush(None)", "from C\n"),
        ("import threading\nt = threading.Thread(target=print, args=('thread',))\nt.start()\nt.join()", "thread\n"),
        ("import threading\nthreading.Timer(0.01, print, ('late',)).start()", ""),
        ("import os\nos.close(1)", ""),
        ("import os\nos.closerange(0, 3)", ""),
        ("import sys\nsys.stdin.read()", ""),
        ("import sys\nsys.stdout.close()", ""),
        ("import sys\nsys.stdout = sys.stderr = None", ""),
    ],
)
async def test_c3_the_channel_cannot_be_corrupted(talk: Talk, other: Talk, code: str, shown: str) -> None:
    await talk.run("import sys\nsys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__")
    result = await talk.run(code)
    assert shown in await talk.output(result.execution, "stdout")
    await talk.answers()
    kept = await other.run("untouched")
    assert (kept.value, kept.kept_guest) == (41, True)
