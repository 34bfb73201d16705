"""What the whole tests share: an outside world that counts, and ways to break things."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.capabilities import Capability, NotPerformed, capability
from perdure.engine import Client, Result, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["FAST", "HIJACK", "World", "children", "kill_guests", "opened", "outcome", "zombies"]

#: Short leases, so that tests of failover do not wait; margins as in life.
FAST = WorkerSettings(lease_seconds=2.0, lease_margin_seconds=0.3)

#: Code that finds the runtime's own end of the channel, and says there what it likes.
HIJACK = """
import sys
frame = sys._getframe()
while not hasattr(frame.f_locals.get('self'), 'channel'):
    frame = frame.f_back
channel = frame.f_locals['self'].channel
"""


class World:
    """Effects seen from outside: every time a handler really acts, a line is appended to a file and synced."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "effects"
        self.file.touch()
        self.on_effect: Callable[[str], None] = lambda _: None

    def effects(self) -> list[str]:
        return self.file.read_text().splitlines()

    def act(self, what: str) -> None:
        with self.file.open("a") as file:
            file.write(what + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.on_effect(what)

    def capabilities(self) -> list[Capability]:
        """``pay`` (unknown), ``look`` (repeat), ``slow`` (unknown), ``flaky`` (fails unperformed, once)."""
        failed: set[str] = set()

        @capability("pay", effect="unknown")
        async def pay(what: str, cents: int = 0) -> dict[str, Any]:
            self.act(f"pay {what}")
            return {"paid": what, "cents": cents}

        @capability("look", effect="repeat")
        async def look(what: Any, wait: float = 0.0) -> Any:
            if wait:
                await asyncio.sleep(wait)
            self.act(f"look {what}")
            return what

        @capability("slow", effect="unknown")
        async def slow(what: str, seconds: float) -> str:
            self.act(f"slow {what}")
            await asyncio.sleep(seconds)
            return what

        @capability("flaky", effect="unknown")
        async def flaky(what: str) -> str:
            if what not in failed:
                failed.add(what)
                raise NotPerformed("the line was busy")
            self.act(f"flaky {what}")
            return what

        @capability("keyed", effect="repeat")
        async def keyed(what: str, *, key: str) -> str:
            self.act(f"keyed {what} {key}")
            return key

        return [pay, look, slow, flaky, keyed]


@asynccontextmanager
async def opened(state: Path, world: World | None = None, **more: Any) -> AsyncIterator[Client]:
    """Open a state with a worker in this process."""
    capabilities = world.capabilities() if world else []
    async with Client.open(state, capabilities=capabilities, settings=more.pop("settings", FAST), **more) as client:
        yield client


async def outcome(client: Client, session: str, code: str, *, grants: list[Any] | None = None, **more: Any) -> Result:
    """Run code to its end."""
    made = await client.session(session, grants=grants)
    execution = await made.submit(code, wait=True, **more)
    async with asyncio.timeout(40):
        return await execution.result()


def children(pid: int | None = None) -> list[int]:
    """Return the processes that a process started and that still live."""
    parent = str(pid or os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[1] == parent and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def zombies() -> list[int]:
    """Processes beneath this one that have ended, and that nobody has taken notice of."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.parent.name)] = int(fields[1]), fields[0]
    beneath, known = {os.getpid()}, 0
    while len(beneath) > known:
        known = len(beneath)
        beneath |= {pid for pid, (parent, _) in parents.items() if parent in beneath}
    return [pid for pid in beneath if pid in parents and parents[pid][1] == "Z"]


def kill_guests(pid: int | None = None) -> int:
    """SIGKILL every guest of this process; returns how many there were."""
    found = guests(pid)
    for each in found:
        os.kill(each, signal.SIGKILL)
    return len(found)


async def bury_guests() -> None:
    """SIGKILL every guest of this process, and wait until its worker has seen them gone."""
    kill_guests()
    async with asyncio.timeout(20):
        while guests():
            await asyncio.sleep(0.01)


def guests(pid: int | None = None, *, waiting: bool = False) -> list[int]:
    """Guests of this process, or of another: what is beneath it and was forked, not started.

    Only those that have a session, or with ``waiting`` also those that others are replaced by at once.
    """
    found, todo = [], [(each, b"") for each in children(pid)]
    while todo:
        process, above = todo.pop()
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            within = Path(f"/proc/{process}/cwd").readlink().parent.name
        except (FileNotFoundError, ProcessLookupError):
            continue
        forked = command == above and b"_perdure_guest.zygote" in command and b"bwrap" not in command.split(b"\0")[0]
        if forked and (waiting or within == "workspaces"):
            found.append(process)
        todo += [(each, command) for each in children(process)]
    return found
