"""What guests use, measured from outside: memory, CPU, threads, disk. Whoever uses too much is ended.

The kernel's own limits come first and raise errors in the code; this sees what they do not count (shared memory, many
files, deleted files that are still open) and says which limit it was.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from perdure.engine.settings import Limits

    from .guests import Guest

__all__ = ["Disk", "Usage", "Watchdog", "disk_of", "switches_of", "usage_of"]

log = structlog.get_logger()

#: Seconds between two looks at a guest: a fork bomb or a leak grows for no longer than this unseen.
INTERVAL = 0.25
#: A workspace is looked through at most this often (s), and for at most this part of the time.
DISK_INTERVAL, DISK_SHARE = 1.0, 0.05
#: Memory the machine must have left; with less, kept guests are given up.
MEMORY_LEFT = 0.08
#: CPU seconds beyond the limit before a guest is ended from outside: the kernel's signal comes first, where it can.
CPU_GRACE = 1.0

#: Up to so many processes the largest counts: a fork shares its memory with its origin.
FEW = 2

#: What is read of a process's status.
_LINES = re.compile(rb"^(RssAnon|RssShmem|VmSwap|Threads):\s+([0-9]+)", re.MULTILINE)
_PIECE = 16 << 10
_TICKS = os.sysconf("SC_CLK_TCK")
#: How the kernel names a file that is in memory alone.
_OF_MEMORY = "/memfd:"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of a guest use now; ``cpu`` is seconds since its start."""

    memory: int = 0
    threads: int = 0
    cpu: float = 0.0
    processes: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """What a guest holds on disk: bytes that take room, and files and folders."""

    bytes: int = 0
    files: int = 0
    #: Bytes in files of memory, which no process need have mapped.
    memory: int = 0


def switches_of(pid: int) -> int:
    """Count how often the threads of a process have been given up the processor, so far; 0 for one that is gone.

    The same count twice: none of them has run in between, nor waited for the interpreter's lock, which is done in
    slices of milliseconds.
    """
    switches = 0
    with suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            lines = (task / "status").read_text("ascii", "replace").splitlines()
            switches += sum(int(line.rpartition("\t")[2]) for line in lines if "ctxt_switches" in line)
            if any(line.startswith("State:\tR") for line in lines):
                return -time.monotonic_ns()  # About to run: never the same as before.
    return switches


def usage_of(pid: int) -> Usage:
    """Measure a process and those it started; nothing for one that is gone.

    A fork shares its memory with its origin until one of them writes: one is counted with the guest, not beside it, and
    more than one by their shares.
    """
    threads = 0
    cpu = 0.0
    held: dict[int, int] = {}
    todo = [pid]
    while todo:
        process = todo.pop()
        try:
            status = _read(f"/proc/{process}/status")
            fields = _read(f"/proc/{process}/stat").rpartition(b")")[2].split()
            todo += map(int, _read(f"/proc/{process}/task/{process}/children").split())
        except (OSError, ValueError):
            continue
        lines = dict(_LINES.findall(status))
        held[process] = sum(int(lines.get(name, 0)) for name in (b"RssAnon", b"RssShmem", b"VmSwap")) << 10
        threads += int(lines.get(b"Threads", 0))
        cpu += (int(fields[11]) + int(fields[12])) / _TICKS
    memory = max(held.values(), default=0) if len(held) <= FEW else sum(map(_share, held))
    return Usage(memory, threads, cpu, len(held))


def _read(path: str) -> bytes:
    """Read a file of the kernel's: a guest is measured twice in each execution, which a file object would double."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while piece := os.read(descriptor, _PIECE):
            data += piece
        return data
    finally:
        os.close(descriptor)


def _share(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii", "replace").splitlines()
    except OSError:
        return 0
    wanted = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
    return sum(int(line.split()[1]) for line in lines if line.startswith(wanted)) << 10


def disk_of(workspace: Path, pid: int, enough: int) -> Disk:
    """Measure a workspace and the deleted files its guest still has open; stops counting at ``enough`` files."""
    taken, files = 0, 0
    todo = [str(workspace)]
    while todo and files <= enough:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    files += 1
                    with suppress(OSError):
                        taken += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            # It was removed meanwhile, or the guest made it unreadable even to itself.
            continue
    deleted, memory = _nameless(pid)
    return Disk(taken + deleted, files, memory)


def _nameless(pid: int) -> tuple[int, int]:
    """Return how many bytes are in open files that have no name: on a disk, and in memory."""
    held: dict[tuple[int, int], tuple[bool, int]] = {}
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found = descriptor.stat()
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                    in_memory = str(descriptor.readlink()).startswith(_OF_MEMORY)
                    held[found.st_dev, found.st_ino] = in_memory, found.st_blocks * 512
    disk, memory = (sum(size for where, size in held.values() if where is wanted) for wanted in (False, True))
    return disk, memory


@dataclass(slots=True)
class _Watched:
    limits: Limits
    workspace: Path
    disk_at: float = 0.0
    looking: bool = False
    disk: Disk = field(default_factory=Disk)


class Watchdog:
    """Looks at every guest of a worker; ``relieve`` is called when the machine runs short of memory."""

    def __init__(self, relieve: Callable[[], Coroutine[None, None, None]]) -> None:
        self._relieve = relieve
        self._watched: dict[Guest, _Watched] = {}
        self._task: asyncio.Task[None] | None = None

    def watch(self, guest: Guest, limits: Limits, workspace: Path) -> None:
        """Look at a guest from now until it is dead."""
        self._watched[guest] = _Watched(limits, workspace)
        guest.died.add_done_callback(lambda _: self._watched.pop(guest, None))
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            for guest, watched in list(self._watched.items()):
                if guest.frozen or not guest.alive:
                    continue
                try:
                    await self._look(guest, watched)
                except Exception:  # what watches must not end: the next look may work
                    log.exception("watchdog.failed", session=guest.session)
            if self._watched and _short_of_memory():
                await self._relieve()

    async def _look(self, guest: Guest, watched: _Watched) -> None:
        limits, now = watched.limits, asyncio.get_running_loop().time()
        usage = usage_of(guest.pid)
        excess = _excess(usage, watched.disk, limits)
        if excess is None and now >= watched.disk_at:
            began = asyncio.get_running_loop().time()
            watched.disk = await asyncio.to_thread(disk_of, watched.workspace, guest.pid, limits.files)
            took = asyncio.get_running_loop().time() - began
            watched.disk_at = now + max(DISK_INTERVAL, took / DISK_SHARE)
            excess = _excess(usage, watched.disk, limits) or _excess_of_disk(watched.disk, limits)
        if excess is not None and guest.alive:
            name, what = excess
            log.warning("guest.limit", session=guest.session, limit=name, reason=what)
            await guest.exceed(name, what)


def _excess(usage: Usage, disk: Disk, limits: Limits) -> tuple[str, str] | None:
    memory = usage.memory + disk.memory
    if memory > limits.memory_bytes:
        return "memory_bytes", f"it used {memory} bytes of memory, above its limit of {limits.memory_bytes}"
    if usage.threads > limits.threads:
        return "threads", f"it had {usage.threads} threads, above its limit of {limits.threads}"
    if limits.cpu_seconds is not None and usage.cpu > limits.cpu_seconds + CPU_GRACE:
        return "cpu_seconds", f"it used {usage.cpu:.1f} s of CPU, above its limit of {limits.cpu_seconds}"
    return None


def _excess_of_disk(disk: Disk, limits: Limits) -> tuple[str, str] | None:
    if disk.bytes > limits.workspace_bytes:
        what = f"its workspace and open files held {disk.bytes} bytes, above its limit of {limits.workspace_bytes}"
        return "workspace_bytes", what
    if disk.files > limits.files:
        return "files", f"its workspace held {disk.files} files and folders or more, above its limit of {limits.files}"
    return None


def _short_of_memory() -> bool:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text("ascii").splitlines())
    total, left = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return left < total * MEMORY_LEFT
