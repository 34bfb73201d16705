"""Guests started as a worker starts them: forked from a zygote, confined, told what to run over their link."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.engine.settings import Limits, SessionSettings
from perdure.workers.confine.policy import IsolationLevel, Namespaces
from perdure.workers.guests import Guest, WorkspaceLock
from perdure.workers.launching import guest_config
from perdure.workers.link import LinkClosed
from perdure.workers.messages import Done, Output, Written
from perdure.workers.orders import Execute
from perdure.workers.watchdog import Watchdog
from perdure.workers.zygotes import Kind, Source, Zygotes

HERE = Path(sys.executable)
#: For code that says what it finds.
SAY = """
def say(**message):
    import json
    print(json.dumps(message), flush=True)
"""
KINDS = {
    "process": Kind(HERE, IsolationLevel.PROCESS),
    "core": Kind(HERE, IsolationLevel.STRICT, Namespaces.OFF),
    "full": Kind(HERE, IsolationLevel.STRICT, Namespaces.REQUIRE),
}


@dataclass
class Ran:
    """What came of code: its end, what it printed, how its process ended if it did."""

    done: Done | None = None
    printed: str = ""
    death: str = ""

    def said(self) -> list[Any]:
        """What the code said with ``print(json)``, line by line."""
        return [json.loads(line) for line in self.printed.splitlines() if line.startswith(("{", "["))]


async def _nothing_kept() -> None:
    pass


@dataclass
class Place:
    """A folder for state and workspaces, and the zygotes over it; ``close`` it."""

    root: Path
    preload: tuple[str, ...] = ()
    also_readable: tuple[Path, ...] = ()
    ready: int = 0
    started: int = 0
    guests: list[Guest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(_nothing_kept)
        self.workspaces = self.root / "workspaces"
        self.workspaces.mkdir(parents=True, exist_ok=True)
        self.zygotes = Zygotes(self.root, self.workspaces, self.preload, self.also_readable, self.ready)

    async def start(self, kind: Kind, *, seed: str = "x", limits: Limits | None = None) -> Guest:
        """Start a guest in a workspace of its own."""
        self.started += 1
        name = f"workspace-{self.started}"
        workspace = self.workspaces / name
        workspace.mkdir()
        settings = SessionSettings(incarnation=seed, limits=limits or Limits())
        lock = await WorkspaceLock.take(self.root / f"{name}.lock")

        async def begin(source: Source) -> Guest:
            guest = await source.guest()
            await guest.begin(guest_config(settings, name, workspace, [], source), lock)
            return guest

        try:
            guest = await self.zygotes.start(kind, begin)
        finally:
            lock.release()
        self.watchdog.watch(guest, settings.limits, workspace)
        self.guests.append(guest)
        return guest

    async def close(self) -> None:
        """End everything, and see that it ends."""
        await self.watchdog.close()
        await asyncio.gather(*(guest.kill("the test is over") for guest in self.guests))
        await self.zygotes.close()


async def run(guest: Guest, code: str, *, patience: float = 120.0) -> Ran:
    """Run code in a guest to its end, or to the guest's."""
    order = Execute(execution=f"{guest.session}@1", code=code, flags={}, step=0, grants=[])
    ran = Ran()
    try:
        await guest.link.send(order)
        async with asyncio.timeout(patience):
            while ran.done is None:
                match await guest.link.receive():
                    case Output(text=text):
                        ran.printed += text
                    case Written(texts=texts):
                        ran.printed += "".join(texts)
                    case Done() as done:
                        ran.done = done
                    case _:
                        continue
    except LinkClosed:
        ran.death = str(await asyncio.shield(guest.died))
    return ran
