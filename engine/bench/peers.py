"""Other systems, measured beside ours where they are installed; none is a dependency.

`PERDURE_PEERS` may name the Python of an environment that holds them:
`python -m venv peers; peers/bin/pip install dbos pysqlite3-binary ipykernel jupyter_client pydantic-monty`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["dbos_step_times", "jupyter_start_times", "monty_times"]

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

#: A kernel as a notebook has one: its process started, ready, and the first answer got from it.
_JUPYTER = """
import importlib.util, json, sys, time
if not all(importlib.util.find_spec(name) for name in ("jupyter_client", "ipykernel")):
    print("null", flush=True)
    sys.exit()
from jupyter_client.manager import KernelManager
times = []
for _ in range(5):
    began = time.perf_counter()
    manager = KernelManager()
    # Not a kernel of that name which somebody registered for another interpreter.
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.execute_interactive("1 + 1", timeout=60, output_hook=lambda _: None)
    times.append(time.perf_counter() - began)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
print(json.dumps(times), flush=True)
"""

#: A session of its own in a process that Monty keeps ready, for a subset of Python.
_MONTY = """
import importlib.util, json, sys, time
if importlib.util.find_spec("pydantic_monty") is None:
    print("null", flush=True)
    sys.exit()
from pydantic_monty import Monty
times = []
with Monty() as pool:
    for _ in range(50):
        began = time.perf_counter()
        with pool.checkout() as session:
            assert session.feed_run("1 + 1") == 2
        times.append(time.perf_counter() - began)
print(json.dumps(times), flush=True)
"""


def dbos_step_times(folder: Path) -> list[float] | None:
    """Return the seconds of DBOS's steps on SQLite, in a process of their own; None where DBOS is not installed."""
    return _times(_DBOS, folder, str(folder / "dbos.sqlite"))


def jupyter_start_times(folder: Path) -> list[float] | None:
    """Return the seconds from nothing to a Jupyter kernel's first answer; None where there is no kernel."""
    return _times(_JUPYTER, folder)


def monty_times(folder: Path) -> list[float] | None:
    """Return the seconds for a session of Monty and ``1 + 1`` in it; None where it is not installed."""
    return _times(_MONTY, folder)


def _times(code: str, folder: Path, *arguments: str) -> list[float] | None:
    done = subprocess.run(
        [os.environ.get("PERDURE_PEERS", sys.executable), "-c", code, *arguments],
        capture_output=True, text=True, check=True, timeout=120, cwd=folder,
    )  # fmt: skip
    times: list[float] | None = json.loads(next(line for line in done.stdout.splitlines() if line[:1] in {"[", "n"}))
    return times
