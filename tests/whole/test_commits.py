"""SIGKILL at every change to files that a commit makes: what was acknowledged always restores.

`PERDURE_COMMIT_KILLS` says at how many of them (default: a few, spread over the whole); 0 is every one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.engine import Client
from perdure.engine.upkeep import check

HERE = Path(__file__).parent
KILLS = int(os.environ.get("PERDURE_COMMIT_KILLS", "4"))
NEVER = 10**9
LOOK = """
import os
kept = big == b'2' * 100_000, hash(v3[0]) == digest, 'v0' in globals()
small, *kept, open('a').read(), len(open('b', 'rb').read()), sorted(os.listdir())
"""


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("killer") / "killer.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", str(made), str(HERE / "killer.c"), "-ldl"], check=True)
    return made


def commit(killer: Path, state: Path, at: int) -> tuple[int, str]:
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, str(HERE / "commits.py"), str(state), str(at)],
        env={**os.environ, "PYTHONPATH": path, "LD_PRELOAD": str(killer)},
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600 if not KILLS else 120 + 30 * KILLS)
async def test_killed_at_any_change_to_files_the_session_is_whole(tmp_path: Path, killer: Path) -> None:
    code, said = commit(killer, tmp_path / "undisturbed", NEVER)
    assert code == 0
    changes = int(said.split()[-1])
    assert changes > 20, "the blobs, the step and the execution at least"
    step = changes / KILLS if KILLS else 1
    killed = 0
    for number in range(KILLS or changes):
        at = 1 + int(number * step)
        state = tmp_path / str(at)
        code, said = commit(killer, state, at)
        killed += code == -signal.SIGKILL
        assert said.startswith("first"), "the first was acknowledged, and is there"
        async with Client.open(state) as client:
            result = await client.execution("s@2").result()
            assert result.status == "ok", (at, result)
            found = await (await (await client.session("s")).submit(LOOK)).result()
            assert found.value == (2, True, True, False, "2", 100_000, ["a", "b"]), (at, found)
            assert (await check(client.substrate)).problems == (), at
    assert killed >= 0.8 * (KILLS or changes) - 1, "how many there are differs a little; the last may come too late"
