"""Commands that keep a state small, sound and copied."""

from __future__ import annotations

import json as json_text
import sys
import time
from dataclasses import asdict
from pathlib import Path

from ..upkeep import back_up, check, collect
from .opening import client_of

__all__ = ["backup", "check_state", "gc"]

_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1000


def size(count: float) -> str:
    """Show bytes as people say them."""
    unit = 0
    while count >= _STEP and unit < len(_UNITS) - 1:
        count, unit = count / _STEP, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def gc(state: Path, days: float, *, dry_run: bool, json: bool) -> None:
    """Remove what is old and nothing needs."""
    async with client_of(state) as client:
        done = await collect(client.substrate, time.time(), days * 24 * 3600, remove=not dry_run)
    if json:
        _say(json_text.dumps(asdict(done)))
        return
    removed = "would be removed" if dry_run else "removed"
    _say(f"{done.executions} executions ({done.promises} promises) that ended more than {days:g} days ago {removed}")
    _say(f"{done.blobs} blobs that nothing names {removed}: {size(done.blob_bytes)}")
    if done.file_bytes:
        _say(f"the store's file is smaller by {size(done.file_bytes)}")


async def backup(state: Path, target: Path, *, json: bool) -> None:
    """Copy a state folder while it is used."""
    async with client_of(state) as client:
        done = await back_up(client.substrate, target)
    if json:
        _say(json_text.dumps(asdict(done)))
        return
    _say(f"{done.target}: the store ({size(done.file_bytes)}) and {done.blobs} blobs, as they were at one moment")
    _say(f"to go on from it: stop what works on the original, then --state {target}")


async def check_state(state: Path, *, json: bool) -> int:
    """Read everything durable and say what is wrong with it; 1 if anything is."""
    async with client_of(state) as client:
        found = await check(client.substrate)
    if json:
        _say(json_text.dumps({"state": str(state), **asdict(found)}))
    else:
        for line in found.problems:
            _say(f"damaged {line}")
        if not found.problems:
            unnamed = f", {found.unnamed} of them named by nothing: 'perdure gc' removes them" if found.unnamed else ""
            _say(f"ok      {state}: {found.promises} promises, {found.blobs} blobs{unnamed}")
    return 1 if found.problems else 0
