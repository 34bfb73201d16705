"""What programs of the corpus may ask for; whatever has an effect has it in the outside world's process."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.capabilities import CallContext, Capability, NotPerformed, capability

from .outside import SOCKET

__all__ = ["capabilities"]


@dataclass(frozen=True)
class Outside:
    """The way to the world that listens in a folder."""

    folder: Path

    async def ask(self, do: str, name: str, what: Any, key: str, ctx: CallContext, behind: str = "") -> int:
        """Have something done, or looked up; return how often that key was seen before."""
        began = time.monotonic()
        reader, writer = await asyncio.open_unix_connection(self.folder / SOCKET)
        request = {"do": do, "session": ctx.session, "name": name, "what": str(what), "key": key, "behind": behind}
        by: dict[str, Any] = {
            "attempt": ctx.attempt,
            "execution": ctx.execution,
            "worker": os.getpid(),
            "retry": ctx.retry,
        }
        by["began"] = began
        try:
            writer.write(json.dumps(request | by).encode() + b"\n")
            return int(json.loads(await reader.readline())["before"])
        finally:
            writer.close()


def capabilities(folder: Path) -> list[Capability]:
    """Return them, acting on the world that listens in this folder."""
    outside = Outside(folder)
    return [*may_repeat(outside), *may_not_repeat(outside), *may_look_up(outside)]


def may_repeat(outside: Outside) -> list[Capability]:
    """Effects that may be repeated under their key."""

    @capability("look", effect="repeat", timeout=1.0)
    async def look(what: Any, behind: str = "", *, key: str, ctx: CallContext) -> Any:
        """Reply with what was asked; ``behind`` names the effect that it replies after."""
        await outside.ask("act", "look", what, key, ctx, behind)
        return what

    @capability("stamp", effect="repeat", timeout=1.0)
    async def stamp(what: str, value: Any, *, key: str, ctx: CallContext) -> Any:
        """Reply with a value that differs from run to run, under a name that does not."""
        await outside.ask("act", "stamp", what, key, ctx)
        return value

    @capability("number", effect="repeat", timeout=1.0)
    async def number(*, key: str, ctx: CallContext) -> int:
        """Requests are all alike, and the reply says whose it is: a hundred for each birth, one for each call."""
        path = ctx.call.rpartition("!")[2]
        await outside.ask("act", "number", path, key, ctx)
        asker, _, call = path.rpartition(".")
        return 100 * sum(map(int, asker.split("/")[1:])) + int(call)

    @capability("refuse", effect="repeat", timeout=1.0)
    async def refuse(what: str, *, key: str, ctx: CallContext) -> str:
        """Performed, and answered with an error."""
        await outside.ask("act", "refuse", what, key, ctx)
        msg = f"{what} is refused"
        raise ValueError(msg)

    @capability("large", effect="repeat", timeout=2.0)
    async def large(what: str, size: int, *, key: str, ctx: CallContext) -> str:
        """A reply of any size."""
        await outside.ask("act", "large", what, key, ctx)
        return (what * (size // len(what) + 1))[:size]

    @capability("plain", effect="repeat", timeout=1.0)
    def plain(what: str, *, key: str, ctx: CallContext) -> str:
        """A handler that is an ordinary function, run in a thread."""
        asyncio.run(_spare(outside.ask("act", "plain", what, key, ctx)))
        return what

    return [look, stamp, number, refuse, large, plain]


async def _spare(work: Any) -> Any:
    return await work


def may_not_repeat(outside: Outside) -> list[Capability]:
    """Effects of which nobody can say later whether they were had."""

    @capability("pay", effect="unknown", timeout=1.0)
    async def pay(what: str, behind: str = "", *, key: str, ctx: CallContext) -> dict[str, Any]:
        """An effect that may not be repeated."""
        await outside.ask("act", "pay", what, key, ctx, behind)
        return {"paid": what}

    @capability("slow", effect="unknown", timeout=30.0)
    async def slow(what: str, behind: str, *, key: str, ctx: CallContext) -> str:
        """One whose reply comes when something else was done."""
        await outside.ask("act", "slow", what, key, ctx, behind)
        return what

    return [pay, slow]


def may_look_up(outside: Outside) -> list[Capability]:
    """Effects that can be looked up."""

    async def booked(what: str, *, key: str, ctx: CallContext) -> str:
        if not await outside.ask("seen", "book", what, key, ctx):
            msg = "it is not in the book"
            raise NotPerformed(msg)
        return f"booked {what}"

    @capability("book", effect="reconcile", probe=booked, timeout=1.0)
    async def book(what: str, *, key: str, ctx: CallContext) -> str:
        """An effect that its probe knows."""
        await outside.ask("act", "book", what, key, ctx)
        return f"booked {what}"

    async def gone_through(what: str, *, key: str, ctx: CallContext) -> str:
        await booked(what, key=key, ctx=ctx)
        return what

    @capability("flaky", effect="reconcile", probe=gone_through, timeout=1.0)
    async def flaky(what: str, *, key: str, ctx: CallContext) -> str:
        """One that says at first that it was not performed, and is tried again by the host."""
        if not ctx.retry:
            msg = "the line was busy"
            raise NotPerformed(msg)
        await outside.ask("act", "flaky", what, key, ctx)
        return what

    return [book, flaky]
