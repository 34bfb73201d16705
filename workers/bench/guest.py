"""The same code in a guest and outside, in one run; what a submission, output and a cancel cost besides."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from perdure.engine.bench.yardstick import Rows, commit_times, fresh, row
from perdure.engine.client import Client

from ..guest.launch import environment
from ..recording import OUTPUT_DELAY

if TYPE_CHECKING:
    from perdure.engine.client import Session

__all__ = ["bench_guest"]

PROGRAMS = Path(__file__).with_name("programs.py")
NAMES = (
    "nbody", "scheduler", "json", "regex", "pickle", "constraints", "generators", "asyncio tree", "floats", "strings",
)  # fmt: skip
#: CPU seconds of one measurement, how often it is taken, and in how many turns: the two sides take turns, so that what
#: else the machine does meets both.
TARGET, REPEATS, TURNS = 0.05, 3, 3
#: Times `1+1` is submitted, and a loop cancelled.
SUBMISSIONS, CANCELS = 40, 8
#: Output: lines of that many characters.
LINES, LINE = 40_000, 100
#: Lines whose way to a client is timed.
LIVE = 20

#: What both sides run besides the programs: calibrated once, outside, so that both do the same work.
_TIMING = """
def measure(name, rounds, repeats):
    import gc, time
    gc.collect()
    best = None
    for _ in range(repeats):
        began = time.process_time()
        PROGRAMS[name](rounds)
        spent = time.process_time() - began
        best = spent if best is None else min(best, spent)
    return best
"""

_OUTSIDE = """
import json, sys
for line in sys.stdin:
    print(json.dumps(measure(*json.loads(line))), flush=True)
"""


class Outside:
    """A plain interpreter with the environment of a guest, asked line by line."""

    def __init__(self, folder: Path) -> None:
        script = folder / "outside.py"
        script.write_text(PROGRAMS.read_text() + _TIMING + _OUTSIDE)
        env = {**environment(), "HOME": str(folder), "TMPDIR": str(folder)}
        command = [sys.executable, "-s", "-X", "utf8", str(script)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)

    def measure(self, name: str, rounds: int, repeats: int) -> float:
        """Return the best CPU seconds of some runs."""
        asked: Any = self._process.stdin
        told: Any = self._process.stdout
        asked.write(json.dumps([name, rounds, repeats]) + "\n")
        asked.flush()
        seconds: float = json.loads(told.readline())
        return seconds

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


async def bench_guest(folder: Path) -> Rows:
    """Pure Python inside and outside; `1+1` from submission to result; output; the time a cancel takes."""
    async with Client.open(folder / "state") as client:
        rows = await _speed(await client.session("speed"), fresh(folder, "outside"))
        commit = median(commit_times(fresh(folder, "commits")))
        rows += await _submissions(await client.session("warm"), commit)
        rows += await _output(await client.session("output"))
        rows += await _cancel(client, commit)
    return rows


async def _value(session: Session, code: str) -> Any:
    result = await (await session.submit(code)).result()
    if result.status != "ok":
        msg = f"the benchmark's own code ended as {result.status}: {result.error}"
        raise RuntimeError(msg)
    return result.value


async def _speed(session: Session, folder: Path) -> Rows:
    await _value(session, PROGRAMS.read_text() + _TIMING)
    plain = await asyncio.to_thread(Outside, folder)
    rows: Rows = []
    try:
        for name in NAMES:
            once = await asyncio.to_thread(plain.measure, name, 2, 3)
            rounds = max(2, int(2 * TARGET / once))
            inside, outside = [], []
            for _ in range(TURNS):
                outside.append(await asyncio.to_thread(plain.measure, name, rounds, REPEATS))
                inside.append(await _value(session, f"measure({name!r}, {rounds}, {REPEATS})"))
            rows.append(row(name, min(inside), "the same outside", min(outside), "1.00"))
    finally:
        await asyncio.to_thread(plain.close)
    total = [sum(each[key] for each in rows) / 1000 for key in ("ms", "yardstick_ms")]
    return [*rows, row("all of these", total[0], "the same outside", total[1], "1.00 +- 0.02")]


async def _submissions(session: Session, commit: float) -> Rows:
    times = []
    for n in range(SUBMISSIONS + 5):
        began = time.perf_counter()
        await _value(session, "1+1")
        if n >= 5:  # noqa: PLR2004 - the first ones warm up
            times.append(time.perf_counter() - began)
    return [row("1+1, submit to result", median(times), "one durable SQLite commit", commit, "<= 10 ms")]


async def _output(session: Session) -> Rows:
    code = f"for n in range({LINES}): print('x' * {LINE - 1})"
    await _value(session, "print('warm')")
    began = time.perf_counter()
    await _value(session, code)
    spent = time.perf_counter() - began
    plain = await asyncio.to_thread(_print_outside, code)
    what = f"{LINES} lines, {LINES * LINE / spent / 1e6:.1f} MB/s recorded"
    return [
        row(what, spent, "print to a pipe outside, flushed", plain, ">= 5 MB/s"),
        row(
            "a line, from print to the client", await _live(session), "recorded output waits", OUTPUT_DELAY, "<= 30 ms"
        ),
    ]


async def _live(session: Session) -> float:
    """Return the median seconds from a print to its being shown: both sides read the same monotonic clock."""
    code = f"import time\nfor _ in range({LIVE}):\n    print(time.monotonic())\n    time.sleep(0.05)"
    execution = await session.submit(code, wait=True)
    times = []
    async for event in execution.events():
        if event.type == "output":
            times += [time.monotonic() - float(line) for line in event.text.split()]
    return median(times)


def _print_outside(code: str) -> float:
    command = [sys.executable, "-u", "-X", "utf8", "-c", code]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        pipe: Any = process.stdout
        while pipe.read(1 << 16):
            pass
    return time.perf_counter() - began


async def _cancel(client: Client, commit: float) -> Rows:
    rows: Rows = []
    for what, code in (
        ("cancel of a loop", "while True: pass"),
        ("cancel of an await", "import asyncio\nawait asyncio.Event().wait()"),
    ):
        session = await client.session(what.replace(" ", "-"))
        times = [await _cancelled(session, code) for _ in range(CANCELS)]
        rows.append(row(what, median(times), "one durable SQLite commit", commit, "<= 100 ms"))
    return rows


async def _cancelled(session: Session, code: str) -> float:
    execution = await session.submit(f"print('on')\n{code}", wait=True)
    async for event in execution.events():
        if event.type == "output":
            break
    began = time.perf_counter()
    await execution.cancel()
    result = await execution.result()
    if result.status != "cancelled":
        msg = f"a cancel ended as {result.status}"
        raise RuntimeError(msg)
    return time.perf_counter() - began
