"""Other systems, measured beside ours where they are installed; none is a dependency.

`PERDURE_PEERS` may name the Python of an environment that holds them:
`python -m venv peers; peers/bin/pip install dbos pysqlite3-binary`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["dbos_step_times"]

#: One workflow of so many steps, each timed: what DBOS makes durable is a step's outcome, one write.
_DBOS = """
import importlib.util, json, sys, time
if importlib.util.find_spec("dbos") is None:
    print("null", flush=True)
    sys.exit()
if importlib.util.find_spec("pysqlite3"):  # DBOS asks for functions that SQLite has since 3.42
    import pysqlite3
    sys.modules["sqlite3"] = pysqlite3
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
    done = subprocess.run(
        [os.environ.get("PERDURE_PEERS", sys.executable), "-c", _DBOS, str(folder / "dbos.sqlite")],
        capture_output=True, text=True, check=True, timeout=120, cwd=folder,
    )  # fmt: skip
    times: list[float] | None = json.loads(next(line for line in done.stdout.splitlines() if line[:1] in {"[", "n"}))
    return times
