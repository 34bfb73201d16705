"""What a guest costs: from nothing, from a zygote, waiting ready, kept, and a hundred of them at once."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from perdure.engine.bench.peers import jupyter_start_times, monty_times
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
    from collections.abc import Callable

    from perdure.engine.bench.yardstick import Rows

__all__ = ["bench_spawn"]

#: Guests of one series, idle guests at once, guests started side by side, and those that wait.
STARTS, IDLE, ABREAST, READY = 40, 100, 8, 4
#: Seconds in which guests that were forked have prepared what they can without a session, and only wait.
SETTLED = 0.03
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
    peers = fresh(folder, "peers")
    jupyter, monty = "Jupyter kernel, start to first answer", "Monty (a subset of Python), session to answer"
    rows.append(await _peer(jupyter, "jupyter_client and ipykernel", jupyter_start_times, peers, python))
    rows.append(await _peer(monty, "pydantic-monty", monty_times, peers, python))
    return rows


class Field:
    """Workspaces and zygotes of one series, and the guests started in them."""

    def __init__(self, folder: Path, preload: tuple[str, ...]) -> None:
        self._root = folder.resolve()
        self._workspaces = self._root / "workspaces"
        self._workspaces.mkdir()
        self._guests: list[Guest] = []
        self._started = 0
        self.zygotes = Zygotes(self._root, self._workspaces, preload, ready=READY)

    async def wait(self, source: Source) -> Guest:
        """Have a guest forked that waits for a session."""
        guest = await Guest.fork(source.zygote)
        self._guests.append(guest)
        return guest

    async def start(self, source: Source, *, waited: bool = False) -> Guest:
        """Start a guest, confined and ready: a new one, or one that waited."""
        self._started += 1
        name = f"bench-{self._started}"
        workspace = self._workspaces / name
        workspace.mkdir()
        config = guest_config(SessionSettings(incarnation=name), name, workspace, [], source)
        lock = await WorkspaceLock.take(self._root / f"{name}.lock")
        try:
            guest = await (source.guest() if waited else Guest.fork(source.zygote))
            await guest.begin(config, lock)
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
        await _until_ready(source)
        starts = [await _timed_start(field, source) for _ in range(STARTS)]
        handed = [await _timed_start(field, source, waited=True) for _ in range(STARTS)]
        await field.clear()
        warm = await _warm(await field.start(source))
        await field.clear()
        rate = await _rate(field, source)
        await field.clear()
        waiting = await _memory([await field.wait(source) for _ in range(IDLE)])
        await field.clear()
        begun = await _memory([await field.start(source) for _ in range(IDLE)])
    finally:
        await field.clear()
        await field.zygotes.close()
    return [
        row(f"zygote {words}, once", boot, BARE, python, ""),
        row(f"guest {words}: fork to ready", median(starts), BARE, python, ""),
        row(f"guest {words}: one that waited, handed out", median(handed), BARE, python, ""),
        row(f"guest {words}: one of {ABREAST} at once", rate, BARE, python, ""),
        _figure(f"guest {words}: guests a second, {ABREAST} at once", round(1 / rate)),
        row(f"guest {words}: kept, code to done", warm, BARE, python, ""),
        _figure(f"guest {words}: MB (PSS) each, {IDLE} waiting for a session", round(waiting / 1e6, 2), "<= 3 MB"),
        _figure(f"guest {words}: MB (PSS) each, {IDLE} idle in sessions", round(begun / 1e6, 2), "<= 3 MB"),
    ]


async def _timed_start(field: Field, source: Source, *, waited: bool = False) -> float:
    if waited:
        await _until_ready(source)
    began = time.perf_counter()
    guest = await field.start(source, waited=waited)
    took = time.perf_counter() - began
    await guest.kill("measured")
    return took


async def _until_ready(source: Source) -> None:
    """Wait until there are more than those at which others are forked: these would take part of what is measured."""
    while len(source.ready) <= READY // 2:  # noqa: ASYNC110 - nothing tells of it, and nothing needs to
        await asyncio.sleep(SETTLED)
    await asyncio.sleep(SETTLED)


async def _memory(guests: list[Guest]) -> float:
    await asyncio.sleep(SETTLED * len(guests))
    return sum(_pss(guest.pid) for guest in guests) / len(guests)


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


async def _peer(
    what: str, package: str, times: Callable[[Path], list[float] | None], folder: Path, python: float
) -> dict[str, Any]:
    taken = await asyncio.to_thread(times, folder)
    if taken is None:
        return _absent(what, package)
    return row(what, median(taken), BARE, python, "")


def _absent(what: str, package: str) -> dict[str, Any]:
    return _figure(what, "", f"{package}: not installed")


def _figure(what: str, figure: float | str, bar: str = "") -> dict[str, Any]:
    return {"what": what, "ms": figure, "yardstick": "", "yardstick_ms": "", "ratio": "", "bar": bar}
