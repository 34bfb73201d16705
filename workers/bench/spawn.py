"""What a guest costs: from nothing, from a zygote, kept, and a hundred of them at once."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from perdure.engine.bench.yardstick import fresh, row
from perdure.engine.settings import SessionSettings

from ..confine.bwrap import find_bwrap
from ..confine.policy import Namespaces
from ..guests import Guest, WorkspaceLock
from ..launching import guest_config
from ..messages import Done
from ..orders import Execute
from ..zygotes import Kind, Source, Zygotes

if TYPE_CHECKING:
    from perdure.engine.bench.yardstick import Rows

__all__ = ["bench_spawn"]

#: Guests of one series, idle guests at once, and guests started side by side.
STARTS, IDLE, ABREAST = 40, 100, 8
PANDAS = ("numpy", "pandas")
BARE = "python -c pass"


async def bench_spawn(folder: Path) -> Rows:
    """Starting guests: fork to ready, warm hand-out, memory of a hundred, guests a second."""
    python = await asyncio.to_thread(_median_of, [sys.executable, "-c", "pass"], 10)
    rows: Rows = []
    series: list[tuple[str, Namespaces, tuple[str, ...]]] = [("confined by the core", Namespaces.OFF, ())]
    if find_bwrap() is not None:
        series.append(("in namespaces too", Namespaces.AUTO, ()))
    if all(importlib.util.find_spec(name) for name in PANDAS):
        series.append(("with pandas imported", Namespaces.OFF, PANDAS))
    else:
        rows.append(_absent("guest with pandas imported", "numpy and pandas"))
    for number, (words, namespaces, preload) in enumerate(series):
        rows += await _measure(Field(fresh(folder, f"field-{number}"), preload), words, namespaces, python)
    rows.append(_jupyter(python))
    rows.append(_monty(python))
    return rows


class Field:
    """Workspaces and zygotes of one series, and the guests started in them."""

    def __init__(self, folder: Path, preload: tuple[str, ...]) -> None:
        self._root = folder.resolve()
        self._workspaces = self._root / "workspaces"
        self._workspaces.mkdir()
        self._guests: list[Guest] = []
        self._started = 0
        self.zygotes = Zygotes(self._root, self._workspaces, preload)

    async def start(self, source: Source) -> Guest:
        """Start a guest, confined and ready."""
        self._started += 1
        name = f"bench-{self._started}"
        workspace = self._workspaces / name
        workspace.mkdir()
        config = guest_config(SessionSettings(incarnation=name), name, workspace, [], source)
        lock = await WorkspaceLock.take(self._root / f"{name}.lock")
        try:
            guest = await Guest.start(config, lock, source.zygote)
        finally:
            lock.release()
        self._guests.append(guest)
        return guest

    async def clear(self) -> None:
        """End every guest."""
        await asyncio.gather(*(guest.kill("measured") for guest in self._guests))
        self._guests.clear()


async def _measure(field: Field, words: str, namespaces: Namespaces, python: float) -> Rows:
    kind = Kind(Path(sys.executable), namespaces=namespaces)
    try:
        began = time.perf_counter()
        source = await field.zygotes.get(kind)
        boot = time.perf_counter() - began
        starts = [await _timed_start(field, source) for _ in range(STARTS)]
        await field.clear()
        warm = await _warm(await field.start(source))
        await field.clear()
        rate = await _rate(field, source)
        await field.clear()
        guests = [await field.start(source) for _ in range(IDLE)]
        memory = sum(_pss(guest.pid) for guest in guests) / len(guests)
        await field.clear()
    finally:
        await field.clear()
        await field.zygotes.close()
    return [
        row(f"zygote {words}, once", boot, BARE, python, ""),
        row(f"guest {words}: fork to ready", median(starts), BARE, python, ""),
        row(f"guest {words}: one of {ABREAST} at once", rate, BARE, python, ""),
        row(f"guest {words}: kept, code to done", warm, BARE, python, ""),
        {**_bare_row(f"guest {words}: MB (PSS) each, {IDLE} idle"), "ms": round(memory / 1e6, 2), "bar": "<= 3 MB"},
    ]


async def _timed_start(field: Field, source: Source) -> float:
    began = time.perf_counter()
    guest = await field.start(source)
    took = time.perf_counter() - began
    await guest.kill("measured")
    return took


async def _rate(field: Field, source: Source) -> float:
    async def some() -> None:
        for _ in range(STARTS // ABREAST):
            guest = await field.start(source)
            await guest.kill("measured")

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(ABREAST)))
    return (time.perf_counter() - began) / STARTS


async def _warm(guest: Guest) -> float:
    times = []
    for number in range(1, 51):
        order = Execute(execution=f"{guest.session}@{number}", code="1 + 1", flags={}, step=0, grants=[])
        began = time.perf_counter()
        await guest.link.send(order)
        while not isinstance(await guest.link.receive(), Done):
            pass
        times.append(time.perf_counter() - began)
    return median(times)


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10


def _median_of(command: list[str], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return median(taken)


def _jupyter(python: float) -> dict[str, Any]:
    what = "Jupyter kernel, start to first answer"
    if not (importlib.util.find_spec("jupyter_client") and importlib.util.find_spec("ipykernel")):
        return _absent(what, "jupyter_client and ipykernel")
    jupyter = importlib.import_module("jupyter_client")
    began = time.perf_counter()
    manager, client = jupyter.manager.start_new_kernel()
    try:
        client.execute_interactive("1 + 1", timeout=60, output_hook=lambda _: None)
        return row(what, time.perf_counter() - began, BARE, python, "")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _monty(python: float) -> dict[str, Any]:
    what = "Monty, made and run"
    if not importlib.util.find_spec("pydantic_monty"):
        return _absent(what, "pydantic-monty")
    monty = importlib.import_module("pydantic_monty")
    times = []
    for _ in range(20):
        began = time.perf_counter()
        monty.Monty("1 + 1").run()
        times.append(time.perf_counter() - began)
    return row(what, median(times), BARE, python, "")


def _absent(what: str, package: str) -> dict[str, Any]:
    return {**_bare_row(what), "bar": f"{package}: not installed"}


def _bare_row(what: str) -> dict[str, Any]:
    return {"what": what, "ms": "", "yardstick": "", "yardstick_ms": "", "ratio": "", "bar": ""}
