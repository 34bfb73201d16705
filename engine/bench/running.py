"""``perdure bench``: which benchmarks there are, and how their rows are printed.

Figures of a shared machine move; their ratios to a yardstick measured in between move less.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from .page import as_page
from .yardstick import Rows, said

__all__ = ["BENCHES", "run_bench"]

#: Columns where nobody looks at a terminal: a row stays a line.
UNCUT = 1000

#: Seconds that all benchmarks have together; what has not begun by then is named as not run.
TOGETHER = 300.0

type Bench = Callable[[Path], Awaitable[Rows]]

#: What can be measured: by name, where the function is. Named, not imported: some stand above this layer, and each
#: brings peers along that the others do without.
BENCHES: dict[str, str] = {
    "calls": "perdure.engine.bench.calls:bench_calls",
    "checkpoint": "perdure.workers.bench.checkpoint:bench_checkpoint",
    "execution": "perdure.engine.bench.execution:bench_execution",
    "store": "perdure.engine.bench.store:bench_store",
    "guest": "perdure.workers.bench.guest:bench_guest",
    "replay": "perdure.workers.bench.replay:bench_replay",
    "spawn": "perdure.workers.bench.spawn:bench_spawn",
}


def run_bench(what: str, *, as_json: bool = False, page: Path | None = None) -> int:
    """Run one benchmark (or ``all``), print its rows, and write them to the file ``page``; returns the exit code."""
    if what not in BENCHES and what != "all":
        names = "\n".join(f"  {name:12}{(_load(name).__doc__ or '').splitlines()[0]}" for name in BENCHES)
        sys.stdout.write(f"perdure bench NAME, where NAME is all or one of:\n{names}\n")
        return 0 if what == "list" else 2
    runs = _run_all(TOGETHER) if what == "all" else {what: _run_one(what)}
    if page is not None:
        page.write_text(as_page(runs))
    rows = [row for found in runs.values() for row in found]
    if as_json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
        return 0
    table = Table(box=None, header_style="bold")
    for header in ("what", "ms", "against", "ms ", "ratio", "bar"):
        table.add_column(header)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("what", "ms", "yardstick", "yardstick_ms", "ratio", "bar")))
    (Console() if sys.stdout.isatty() else Console(width=UNCUT)).print(table)
    return 0


def _run_all(seconds: float) -> dict[str, Rows]:
    """Run every benchmark that can begin in time; one that fails costs the others nothing."""
    ends = time.monotonic() + seconds
    runs: dict[str, Rows] = {}
    for name in BENCHES:
        began = time.monotonic()
        if began >= ends:
            runs[name] = [said("not run", f"{seconds:g} s were over: perdure bench {name}")]
            continue
        sys.stderr.write(f"{name} ... ")
        sys.stderr.flush()
        try:
            runs[name] = _run_one(name)
        except Exception as exc:  # noqa: BLE001 - the rows of all others would be lost with it
            runs[name] = [said("not run", f"it failed: {type(exc).__name__}: {exc}")]
        sys.stderr.write(f"{time.monotonic() - began:.0f} s\n")
    return runs


def _run_one(name: str) -> Rows:
    with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=Path.cwd()) as folder:
        return asyncio.run(_run(_load(name), Path(folder)), loop_factory=uvloop.new_event_loop)


def _load(name: str) -> Bench:
    module, _, function = BENCHES[name].partition(":")
    bench: Bench = getattr(importlib.import_module(module), function)
    return bench


async def _run(bench: Bench, folder: Path) -> Rows:
    return await bench(folder)
