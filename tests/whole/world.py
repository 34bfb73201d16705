"""Capabilities for a worker in a process of its own; what they do is seen in files, and they kill on request.

``PERDURE_WORLD`` names a folder: ``effects`` there gets a line for every effect; ``kill`` says once ``WHO WHEN N``:
kill the worker or its guests, before or after effect number N.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from perdure.capabilities import Registry, capability

from .kit import kill_guests

__all__ = ["REGISTRY"]

FOLDER = Path(os.environ.get("PERDURE_WORLD", "."))


def act(what: str) -> None:
    """Have an effect, and die beside it if that was asked for."""
    effects = FOLDER / "effects"
    number = len(effects.read_text().splitlines()) if effects.exists() else 0
    die("before", number)
    with effects.open("a") as file:
        file.write(what + "\n")
        file.flush()
        os.fsync(file.fileno())
    die("after", number)


def die(when: str, number: int) -> None:
    order = FOLDER / "kill"
    try:
        who, asked, at = order.read_text().split()
    except (FileNotFoundError, ValueError):
        return
    if asked != when or int(at) != number:
        return
    order.unlink()
    (FOLDER / "killed").touch()
    if who == "worker":
        os.kill(os.getpid(), signal.SIGKILL)
    assert kill_guests() > 0


@capability("pay", effect="unknown")
async def pay(what: str) -> dict[str, Any]:
    """An effect that may not be repeated."""
    act(f"pay {what}")
    return {"paid": what}


@capability("look", effect="repeat")
async def look(what: str, *, key: str) -> str:
    """An effect that may be repeated under its key."""
    act(f"look {what} {key}")
    await asyncio.sleep(0.02)
    return what


REGISTRY = Registry([pay, look])
