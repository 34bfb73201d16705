"""Other systems, measured beside ours where they are installed; none is a dependency."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

__all__ = ["dbos_step_times"]

#: One workflow of so many steps, each timed: what DBOS makes durable is a step's outcome, one write.
_DBOS = """
import json, sys, time
from dbos import DBOS
DBOS(config={"name": "bench", "system_database_url": "sqlite:///" + sys.argv[1], "log_level": "ERROR"})
times = []
@DBOS.step()
def step(n): return "x" * 300
@DBOS.workflow()
def workflow():
    for n in range(300):
        began = time.perf_counter()
        step(n)
        times.append(time.perf_counter() - began)
DBOS.launch()
workflow()
print(json.dumps(times), flush=True)
DBOS.destroy()
"""


def dbos_step_times(folder: Path) -> list[float] | None:
    """Return the seconds of DBOS's steps on SQLite, in a process of their own; None where DBOS is not installed."""
    if importlib.util.find_spec("dbos") is None:
        return None
    done = subprocess.run(
        [sys.executable, "-c", _DBOS, str(folder / "dbos.sqlite")],
        capture_output=True, text=True, check=True, timeout=120, cwd=folder,
    )  # fmt: skip
    times: list[float] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    return times
