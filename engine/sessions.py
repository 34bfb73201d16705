"""Sessions: their settings, their last execution, and what the next one builds on.

1. Creating the promise of execution n is the claim to it, and is done only when n-1 is settled.
2. A session's settings only grow by versions; whoever reads them reads the newest.
3. What an execution left is found from promises alone, so that any worker on any substrate finds the same.
4. Old executions may be collected; the settings say first which are kept, so that a number is never given twice.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from blake3 import blake3
from pydantic import ValidationError

from .blobs import BlobsUnavailable
from .durable import now_ms
from .errors import RecordDamaged, StateNewer, StateUnusable
from .ids import BLOBS_ID, STATE_ID, base_id, execution_id, parse_step, settings_id, step_id
from .settings import EXECUTION_TIMEOUT_MS, Limits, SessionSettings
from .state import FORMAT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .blobs import BlobStore
    from .durable import Promise, Promises

log = structlog.get_logger()

__all__ = [
    "Base",
    "Head",
    "base_of",
    "ensure_session",
    "find_head",
    "know_blobs",
    "last_step",
    "read_settings",
    "seed_of",
    "state_identity",
]

#: Settings and the state's own promise outlive everything: a hundred years.
FOREVER_MS = 100 * EXECUTION_TIMEOUT_MS
#: An execution that settled this lately is not being collected: no horizon is shorter.
SETTLED_LATELY_MS = 3600 * 1000
#: Statuses of executions that never ran: what they leave is what was there before them.
NEVER_RAN = ("busy", "refused")


class Head(NamedTuple):
    """The newest settings of a session, their version, and when it was made (ms since 1970)."""

    settings: SessionSettings
    version: int
    created_at: int


class Base(NamedTuple):
    """What an execution starts from: the step that holds the checkpoint (None at birth), and its value."""

    step: str | None
    value: Any


async def state_identity(promises: Promises) -> str:
    """Return the state's own id, made by whoever opens it first. Raises StateNewer."""
    found = await promises.get(STATE_ID)
    if found is None:
        born = {"id": secrets.token_hex(16), "format": FORMAT}
        found = await promises.create(STATE_ID, "state", born, timeout_at=now_ms() + FOREVER_MS)
    param = found.param
    if not isinstance(param, dict) or not isinstance(param.get("id"), str):
        msg = f"the promise {STATE_ID} is not ours: this store is used by something else"
        raise StateUnusable(msg)
    if param.get("format", 0) > FORMAT:
        msg = f"the state was written by a newer version (format {param['format']}, this one knows {FORMAT})"
        raise StateNewer(msg)
    return str(param["id"])


async def know_blobs(promises: Promises, blobs: BlobStore, state: str) -> None:
    """Have the blobs tell where they are by the marker that is recorded; it is left by whoever opens a state first.

    Where it cannot be left now, whoever opens the state next tries.
    """
    found = await promises.get(BLOBS_ID)
    if found is None:
        try:
            marker = await blobs.mark(state)
        except (BlobsUnavailable, OSError) as exc:
            log.warning("blobs.not_marked", reason=str(exc))
            return
        param = {"marker": marker}
        found = await promises.create(BLOBS_ID, "blobs", param, timeout_at=now_ms() + FOREVER_MS)
    if isinstance(found.param, dict) and isinstance(found.param.get("marker"), str):
        blobs.expect(found.param["marker"])


async def read_settings(promises: Promises, session: str) -> Head | None:
    """Return the newest settings of a session, or None if there is no such session."""
    count, newest = await _newest(lambda number: promises.get(settings_id(session, number - 1)), 1)
    if newest is None:
        return None
    born = newest if count == 1 else await promises.get(settings_id(session, 0))
    return Head(_settings(newest), count - 1, born.created_at if born else newest.created_at)


def _settings(promise: Promise) -> SessionSettings:
    try:
        return SessionSettings.model_validate(promise.param)
    except ValidationError as exc:
        msg = f"the settings in {promise.id} cannot be read ({exc.error_count()} errors): written by another version?"
        raise StateUnusable(msg) from None


async def ensure_session(
    promises: Promises,
    session: str,
    *,
    grants: Sequence[str] | None = None,
    isolation: str | None = None,
    limits: Limits | None = None,
    first: int = 1,
    **others: str | None,
) -> Head:
    """Return a session's settings, making the session or a new version of its settings where they differ.

    What is None stays as it is (or is the default of a new session); ``first`` only grows. ``others`` are further
    fields of SessionSettings.
    """
    while True:
        head = await read_settings(promises, session)
        old = head.settings if head else SessionSettings(incarnation=secrets.token_hex(16))
        change: dict[str, Any] = {}
        if grants is not None:
            change["grants"] = tuple(sorted(set(grants)))
        if isolation is not None:
            change["isolation"] = isolation
        if limits is not None:
            change["limits"] = limits
        if first > old.first:
            change["first"] = first
        change |= {name: value for name, value in others.items() if value is not None}
        wanted = SessionSettings.model_validate({**dict(old), **change, "nonce": old.nonce})
        if head is not None and wanted == old:
            return head
        wanted = wanted.model_copy(update={"nonce": secrets.token_hex(8)})
        version = head.version + 1 if head else 0
        made = await promises.create(
            settings_id(session, version), "settings", wanted.model_dump(mode="json"), timeout_at=now_ms() + FOREVER_MS
        )
        if _settings(made).nonce == wanted.nonce:
            return Head(wanted, version, head.created_at if head else made.created_at)


async def find_head(
    promises: Promises, session: str, at_least: int = 0, *, strict: bool = True
) -> tuple[int, Promise | None]:
    """Return the number and root promise of a session's last execution; (0, None) if there is none.

    ``at_least`` is one known to exist: the search asks as many questions as the number of executions since has bits.
    Raises RecordDamaged if it is ``strict``, for that one: those before it only have to be there.
    """
    while True:
        last, root = await _newest(lambda number: _execution(promises, session, number), at_least)
        if root is not None and root.problem and strict:
            raise RecordDamaged(root.problem)
        if root is not None and (root.settled_at is None or now_ms() - root.settled_at < SETTLED_LATELY_MS):
            return last, root
        # What looks like the end may be a gap: executions that others have collected, perhaps just now.
        try:
            head = await read_settings(promises, session)
        except RecordDamaged:
            if strict:
                raise
            head = None
        if head is None or head.settings.first <= max(last, 1):
            return last, root
        at_least = head.settings.first


async def _newest(fetch: Callable[[int], Awaitable[Promise | None]], at_least: int) -> tuple[int, Promise | None]:
    """Return the last of what is numbered without gaps, and its number: doubling steps, then halving."""
    low, stride = at_least, 1
    last, found = await asyncio.gather(fetch(low), fetch(low + 1))
    while found is not None:
        low, last = low + stride, found
        stride *= 2
        found = await fetch(low + stride)
    high = low + stride
    while high - low > 1:
        middle = (low + high) // 2
        found = await fetch(middle)
        if found is None:
            high = middle
        else:
            low, last = middle, found
    return low, last


async def _execution(promises: Promises, session: str, n: int) -> Promise | None:
    return await promises.get(execution_id(session, n), strict=False) if n else None


async def base_of(promises: Promises, session: str, n: int) -> Base | None:
    """Return what execution n starts from, or None if an execution before it is not settled."""
    for before in range(n - 1, 0, -1):
        execution = execution_id(session, before)
        # Most executions are one step: asked for along with it, that costs no time.
        likely = step_id(execution, 0)
        root, first = await asyncio.gather(promises.get(execution), promises.get(likely, strict=False))
        if root is None or not root.settled:
            return None
        result = root.value if root.state == "resolved" and isinstance(root.value, dict) else {}
        step = result.get("checkpoint")
        if isinstance(step, str):
            known = step == likely and first is not None and first.settled and not first.problem
            held = first if known else await promises.get(step)
            if held is None or not isinstance(held.value, dict):
                msg = f"the checkpoint of {execution} is gone: {step} cannot be read"
                raise StateUnusable(msg)
            return Base(step, held.value)
        if result.get("status") in NEVER_RAN:
            continue
        last = await _last_step(promises, execution)
        if last is not None:
            return last
    forked = await promises.get(base_id(session))
    return Base(None, None) if forked is None else Base(forked.id, forked.value)


async def _last_step(promises: Promises, execution: str) -> Base | None:
    """Return the last settled step of an execution that others ended, if it has one."""
    first = await promises.get(step_id(execution, 0))
    if first is None:
        return None
    step: Promise | None = await last_step(promises.get, execution, first)
    number = parse_step(step.id) if step else 0
    while step is not None:
        if step.state == "resolved" and isinstance(step.value, dict) and step.value.get("checkpoint"):
            return Base(step.id, step.value)
        number -= 1
        step = await promises.get(step_id(execution, number)) if number >= 0 else None
    return None


async def last_step(get: Callable[[str], Awaitable[Promise | None]], execution: str, first: Promise) -> Promise:
    """Return an execution's last step. They have no gaps: doubling, then halving, asks for few of many."""
    last, low, high = first, 0, 1
    while (there := await get(step_id(execution, high))) is not None:
        last, low, high = there, high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        there = await get(step_id(execution, middle))
        if there is None:
            high = middle
        else:
            last, low = there, middle
    return last


def seed_of(incarnation: str) -> int:
    """Return the 128-bit seed of a session: it is born with it, or changes to it where it forks from another."""
    return int.from_bytes(blake3(b"perdure seed\0" + incarnation.encode()).digest(16), "big")
