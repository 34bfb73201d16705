"""What this machine gives to guests, found out by having it: each layer alone, then a real guest with them all."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.engine.errors import PerdureError
from perdure.engine.settings import SessionSettings

from .confine import probe
from .confine.probe import Finding, Findings
from .guests import GuestFailed, WorkspaceLock
from .launching import guest_config
from .zygote import ZygoteFailed, ZygoteGone
from .zygotes import Kind, Source, Zygotes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["examine"]

_ORDINARY = ("run the worker as an ordinary user",)
_OWN = (
    "install bubblewrap, and allow user namespaces in the container's filter",
    "or do without: checkpoints are then written by the guest itself, which waits for them",
)


async def examine() -> Findings:
    """Try every layer, then start a guest; takes about a second."""
    found, (guest, own, notes) = await asyncio.gather(asyncio.to_thread(probe.probe_all), _try_guest())
    return Findings(found.seccomp, found.landlock, found.namespaces, (own, guest), (*found.notes, *notes))


async def _try_guest() -> tuple[Finding, Finding, Sequence[str]]:
    own = Finding("own-processes", available=False, reason="no guest could be started to try it", ways_out=_OWN)
    with tempfile.TemporaryDirectory(prefix="perdure-doctor-") as folder:
        root, workspace = _place(folder)
        zygotes = Zygotes(root, workspace.parent)
        try:
            source = await zygotes.get(Kind(Path(sys.executable)))
            own = _own_processes(source)
            milliseconds = await _start(source, root, workspace)
        except (PerdureError, ZygoteFailed, ZygoteGone, GuestFailed) as exc:
            return Finding("guest", available=False, reason=str(exc), ways_out=probe.CORE_WAYS_OUT), own, ()
        finally:
            await zygotes.close()
    said = f"forked, confined and tried in {milliseconds:.0f} ms, within {', '.join(source.layers)}"
    refused = source.readable.refused if source.readable else ()
    notes = [f"{each.path} cannot be imported from by guests: {each.why}" for each in refused]
    return Finding("guest", available=True, reason=said), own, notes


def _place(folder: str) -> tuple[Path, Path]:
    root = Path(folder).resolve()
    workspace = root / "workspaces" / "doctor"
    workspace.mkdir(parents=True)
    return root, workspace


async def _start(source: Source, root: Path, workspace: Path) -> float:
    config = guest_config(SessionSettings(incarnation="doctor"), "doctor", workspace, [], source)
    lock = await WorkspaceLock.take(root / "doctor.lock")
    try:
        began = time.perf_counter()
        guest = await source.guest()
        await guest.begin(config, lock)
        took = time.perf_counter() - began
    finally:
        lock.release()
    await guest.kill("it was only tried")
    return took * 1000


def _own_processes(source: Source) -> Finding:
    zygote = source.zygote
    if zygote.own_processes:
        return Finding("own-processes", available=True)
    ways_out = _ORDINARY if "root" in zygote.why_not else _OWN
    return Finding("own-processes", available=False, reason=zygote.why_not, ways_out=ways_out)
