"""Checkpoints of half a gigabyte: what a change costs, beside full dumps of the same namespace and of other systems.

Everything is measured in one fresh process that holds the guest's runtime and one namespace. A durable write is one
SQLite commit with the disk told to keep it, as a step's promise is, and for more than 48 kB a synced file before it.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from perdure.engine.bench.yardstick import Rows, row, said

__all__ = ["bench_checkpoint"]

_MEASURE = Path(__file__).with_name("checkpoint_process.py")
_PEERS = Path(__file__).with_name("checkpoint_peers.py")
_GUEST = Path(__file__).parents[1] / "guest"

#: What is measured: the case, what it is held against, and the bar.
_ROWS = (
    ("small", "a small change, durable, p50", "commit", "<= 0.5 ms; one commit is the floor"),
    ("small cpu", "a small change, not written, p50", "commit", "<= 0.1 ms"),
    ("small", "a small change, durable, p50", "full", "<= 0.001x"),
    ("element", "8 bytes in 200 MB, durable", "commit", "<= 2 ms; one commit is the floor"),
    ("element stop", "8 bytes in 200 MB: stop of the guest", "commit", ""),
    ("touch", "a read-only touch of 200 MB, durable", "commit", "one commit, of nothing"),
    ("touch stop", "a read-only touch of 200 MB: stop of the guest", "commit", "<= 1.5 ms"),
    ("field", "one field in 200,000 dicts, durable", "full", "<= 0.5x: inline, no fork"),
    ("everything", "all of it looked at again, nothing changed", "full", "inline, no fork"),
    ("dirty stop", "all of it changed: stop of the guest, inline", "full", "<= 10 ms with a fork, which there is not"),
    ("first", "the first checkpoint, durable", "full", "<= 2x"),
    ("restore", "all of it restored", "pickle.load", "<= 0.35x"),
    ("restore arrays", "arrays and frames restored", "pickle.load", "<= 5 ms"),
    ("first statement", "first statement after that", "pickle.load", "<= 5 ms"),
    ("loop", "a hot loop of calls while watched", "loop alone", "<= 1.01x"),
)
_BYTES = (
    ("small beside", 256, "beside the data"),
    ("element", 64_000, ""),
    ("field", 16_000, ""),
    ("touch beside", 256, "beside the data"),
)


#: What other systems are timed at.
_CHANGES = {"small": "a small change", "element": "8 bytes in 200 MB"}
#: Seconds that one of them has: all three and our own rows then end in five minutes, as all benchmarks together do.
#: It is ended then, and its rows have what was timed by that time: what takes longer would only be slower still.
PEER_SECONDS = 75


async def bench_checkpoint(folder: Path) -> Rows:
    """Changes in a namespace of 0.5 GB, and restores of it, against full dumps, dill and Kishu.

    `PERDURE_PEERS` may name the Python of an environment that holds them.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(_MEASURE), str(_GUEST), str(folder), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        return [said("checkpoints", "the measuring process failed", "")]
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    if "missing" in found:
        return [said("checkpoints", f"not installed: {found['missing']}", "")]
    times, sizes = found["seconds"], found["bytes"]
    # A commit that was timed beside the case, where one was.
    yards = {(case, against): times.get(f"{case} {against}", times[against]) for case, _, against, _ in _ROWS}
    rows = [row(text, times[case], against, yards[case, against], bar) for case, text, against, bar in _ROWS]
    rows += [
        said(f"{case}: bytes written", f"{sizes[case]} of {sizes['full']}", f"<= {most} {beside}".strip())
        for case, most, beside in _BYTES
    ]
    for system in ("cloudpickle", "dill", "kishu"):
        rows += await _peer(system, folder, times)
    return rows


async def _peer(system: str, folder: Path, ours: dict[str, float]) -> Rows:
    """Return the rows of another system on the same namespace, which is held against ours."""
    own = folder / system
    own.mkdir()
    output, problems = own / "output", own / "problems"
    with output.open("wb") as to_output, problems.open("wb") as to_problems:
        process = await asyncio.create_subprocess_exec(
            *(os.environ.get("PERDURE_PEERS", sys.executable), str(_PEERS), system, str(own)),
            stdout=to_output, stderr=to_problems, cwd=own,
            env={**os.environ, "HOME": str(own), "KISHU_PATH_ROOT": str(own)},
        )  # fmt: skip
        ended = f"ended after {PEER_SECONDS} s"
        try:
            if await asyncio.wait_for(process.wait(), PEER_SECONDS):
                ended = f"failed with {process.returncode}: {problems.read_text(errors='replace').splitlines()[-1:]}"
        except TimeoutError:
            process.kill()
        code = await process.wait()
    # Its last line may be cut off where it was ended.
    lines = [line for line in output.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    timed = [json.loads(line) for line in lines if line.startswith((b"{", b"null"))]
    if timed == [None]:
        return [said(f"a small change, {system}", "not installed")]
    rows: Rows = []
    for what, text in _CHANGES.items():
        times = [each[what] for each in timed if what in each]
        note = "" if not code else f"{len(times)} times, then {ended}"
        name = f"{text}, {system}"
        rows.append(row(name, statistics.median(times), "ours", ours[what], note) if times else said(name, ended))
    return rows
