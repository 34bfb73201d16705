"""Replay: what it costs to find out again what is recorded, and what it costs to record readings of the clock."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from perdure.capabilities import capability
from perdure.engine import Client
from perdure.engine.bench.yardstick import Rows, commit_times, fresh, row

if TYPE_CHECKING:
    from perdure.engine.client import Session

__all__ = ["bench_replay"]

#: Calls recorded when the guest is killed, all in one step: the time to be back is to grow with them and no faster.
LENGTHS = (100, 300, 900)
#: How often each is done: one that something else held up says nothing.
TIMES = 3
#: What a replayed call may take, and all the rest until a killed guest's successor is there and asks again (s).
PER_CALL = 0.0002
ANEW = 0.1
#: Readings of the clock in a loop.
READINGS = 1_000_000
#: Calls with a reading before each.
STAMPED = 300
#: Calls of one execution, and how many at each end are compared.
CALLS = 10_000
WINDOW = 100

_KILLED: dict[str, float] = {}


@capability("bench.step", effect="repeat")
async def _step(n: int) -> int:
    """Do nothing."""
    return n


@capability("bench.kill", effect="repeat")
async def _kill(what: str) -> None:
    """Kill the guest that asks, once."""
    if what not in _KILLED:
        # Found before the clock begins: to look through all of /proc takes as long as the replay. The others of its
        # zygote wait for a session.
        guest = max(_guests(os.getpid(), b""), key=_ran)
        _KILLED[what] = time.perf_counter()
        os.kill(guest, signal.SIGKILL)


@capability("bench.back", effect="repeat")
async def _back(what: str) -> float:
    """Say how long ago that was: the guest that asks has come as far as the killed one."""
    return time.perf_counter() - _KILLED[what]


def _ran(process: int) -> int:
    """Return for how long a process has run (ns)."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0])
    return 0


def _guests(process: int, command: bytes) -> list[int]:
    """Return what was forked, not started, beneath a process: guests of a zygote."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            if status.read_text().rpartition(")")[2].split()[1] != str(process):
                continue
            own = status.with_name("cmdline").read_bytes()
            forked = own == command and b"_perdure_guest.zygote" in own and b"bwrap" not in own.split(b"\0")[0]
            found += [int(status.parent.name)] if forked else []
            found += _guests(int(status.parent.name), own)
    return found


async def bench_replay(folder: Path) -> Rows:
    """Time a replay by the calls recorded before it, and code that reads the clock."""
    rows: Rows = []
    commit = median(commit_times(fresh(folder, "yardstick")))
    async with Client.open(folder / "state", capabilities=[_step, _kill, _back]) as client:
        session = await client.session("replay", grants=["bench.step", "bench.kill", "bench.back"])
        await _value(session, "1")
        took = [median([await _replayed(session, length, number) for number in range(TIMES)]) for length in LENGTHS]
        rows += [
            row(
                f"back after SIGKILL, {length} calls recorded",
                seconds,
                "100 ms and 0.2 ms a call",
                ANEW + PER_CALL * length,
                "<= 1",
            )
            for length, seconds in zip(LENGTHS, took, strict=True)
        ]
        each = [(b - a) / (m - n) for a, b, n, m in zip(took, took[1:], LENGTHS, LENGTHS[1:], strict=False)]
        rows.append(row("one replayed call", each[-1], "0.2 ms", PER_CALL, "<= 1"))
        ends = f"one replayed call, of {LENGTHS[-2]} to {LENGTHS[-1]}"
        rows.append(row(ends, each[-1], f"of {LENGTHS[0]} to {LENGTHS[1]}", each[0], "<= 1.2"))
        rows.append(await _last_call(session))
        rows += await _clock(session, commit)
    return rows


async def _last_call(session: Session) -> dict[str, Any]:
    """Compare the calls at the end of a long execution with those at its beginning."""
    code = (
        f"import time\nfrom statistics import median\ntimes = []\nfor n in range({CALLS}):\n"
        "    began = time.perf_counter()\n    bench.step(n)\n    times.append(time.perf_counter() - began)\n"
        f"median(times[10:{10 + WINDOW}]), median(times[-{WINDOW}:])"
    )
    first, last = await _value(session, code)
    return row(f"a call, the {CALLS:,}th of one execution", last, "the 10th", first, "<= 1.2")


async def _value(session: Session, code: str) -> Any:
    result = await (await session.submit(code)).result()
    if not result.ok:
        raise RuntimeError(f"the benchmark's code failed: {result.error}")
    return result.value


async def _replayed(session: Session, calls: int, number: int) -> float:
    """Return the seconds from the kill of a guest until its successor has come as far."""
    what = f"{calls}, {number}"
    code = f"for n in range({calls}): bench.step(n)\nbench.kill('{what}')\nbench.back('{what}')"
    return float(await _value(session, code))


async def _clock(session: Session, commit: float) -> Rows:
    loop = (
        "import time\nbegan = time.perf_counter()\nfor _ in range({count}): {what}()\n"
        "(time.perf_counter() - began) / {count}"
    )
    read = await _value(session, loop.format(count=READINGS, what="time.time"))
    real = await _value(session, loop.format(count=READINGS, what="time.monotonic"))
    stamped = (
        "import time\nbegan = time.perf_counter()\nfor n in range({count}): {stamp}; bench.step(n)\n"
        "(time.perf_counter() - began) / {count}"
    )
    with_stamp = await _value(session, stamped.format(count=STAMPED, stamp="time.time()"))
    without = await _value(session, stamped.format(count=STAMPED, stamp="None"))
    code = f"import time\nfor _ in range({READINGS}): time.time()\nbench.step(0)"
    execution = await session.submit(code)
    await execution.result()
    records = (await execution.tree()).children[0].children
    entered = sum(len(str((record.param or {}).get("entered", ""))) for record in records)
    return [
        row("time.time() in a loop", read, "time.monotonic(), which is not recorded", real, "<= 1.5"),
        row("a call after a reading of the clock", with_stamp, "a call without", without, "<= 2"),
        row(
            f"journal of {READINGS} readings, KiB as ms",
            entered / 1024 / 1000,
            "64 KiB",
            64 / 1000,
            "<= 1",
        ),
        row("one durable SQLite commit", commit, "itself", commit, "= 1"),
    ]
