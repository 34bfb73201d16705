"""A guest with the namespace and the workspace of a checkpoint.

1. The workspace's lock proves that its predecessor is gone before anything in it is touched.
2. A guest that could not be restored is killed: none is half of what it should be.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from perdure.engine.checkpoints import compose, recorded
from perdure.engine.records import NameReport

from .checkpoints import held_by, packed, restore_workspace
from .guests import Guest, GuestDied, GuestFailed, WorkspaceLock
from .link import LinkClosed
from .messages import Restored
from .orders import Restore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perdure.engine.checkpoints import Composed
    from perdure.engine.sessions import Base

    from .admission import Job
    from .service import Services

__all__ = ["fresh_guest"]


async def fresh_guest(
    services: Services,
    job: Job,
    base: Base,
    files: Mapping[str, str],
    isolation: dict[str, Any] | None = None,
) -> Guest:
    """Start a guest from a checkpoint (that of no step: the session's birth), with ``files`` put over the workspace's.

    It has no less around it than ``isolation`` says. Raises GuestDied, GuestFailed, WorkspaceTaken, IsolationWeaker,
    CheckpointUnusable.
    """
    session = job.id.session
    workspace = services.workspace(session)
    composed = await compose(services.promises, services.blobs, base.value) if base.value else None
    lock = await WorkspaceLock.take(services.run_folder / f"{session}.lock")
    try:
        await restore_workspace(composed, workspace, services.blobs, files)
        guest = await services.start_guest(job, workspace, lock, isolation)
    finally:
        lock.release()
    if composed is not None and base.step is not None and base.value is not None:
        answer = await _restore(guest, await packed(composed, services.blobs))
        guest.not_restored = _not_restored(composed, answer)
        record = recorded(base.value)
        if record is not None:
            held_by(guest, base.step, record, composed)
    return guest


async def _restore(guest: Guest, content: Sequence[bytes | memoryview]) -> Restored:
    try:
        stream = await guest.link.send_stream(content)
        await guest.link.send(Restore(stream=stream))
        answer = await guest.link.receive()
    except LinkClosed:
        raise GuestDied(await asyncio.shield(guest.died)) from None
    except BaseException:
        await guest.kill("its namespace could not be restored")
        raise
    if not isinstance(answer, Restored):
        await guest.kill("it spoke while it was restored")
        msg = f"the guest answered a restore with {answer.t}"
        raise GuestFailed(msg)
    return answer


def _not_restored(composed: Composed, answer: Restored) -> tuple[NameReport, ...]:
    """Return what the guest says that it could not load, as far as it is about variables that there are."""
    if not answer.absent:
        return ()
    known = {report.name: report for report in composed.reports()}
    told = [
        known[name].model_copy(update={"status": status, "why": why, "where": where, "stored": True})
        for name, status, why, where in answer.absent
        if name in known
    ]
    if answer.more:
        told.append(NameReport(name=f"and {answer.more} more", type="", status="lost", stored=True))
    return tuple(told)
