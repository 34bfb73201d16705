"""``perdure gc``: old executions and what nothing names any more leave a state folder, beside running workers.

1. A session keeps its head, the checkpoint its next execution starts from, all that this checkpoint builds on, and
   whatever is not settled; only executions before that, all of whose promises settled before the horizon, go.
2. That a number was given is recorded before its execution goes, so that it is never given again.
3. A blob goes if no promise and no blob that is kept names it, and nobody has put it lately. Nothing is unpickled:
   whatever looks like a digest counts as a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ..blobs import ABANDONED_SECONDS, named_in
from ..durable import damage_in
from ..errors import InvalidName, RecordDamaged
from ..ids import parse_execution
from ..sessions import base_of, ensure_session, find_head
from ..store import SqliteConnection
from ..store.reading import plain
from .holding import held

if TYPE_CHECKING:
    from ..blobs import BlobStore
    from ..durable import Promises
    from ..sessions import Base
    from ..substrate import Substrate

__all__ = ["GRACE_SECONDS", "HORIZON_DAYS", "MIN_HORIZON_SECONDS", "Collected", "collect", "named_blobs", "unreadable"]

#: Executions stay this long after they ended: whoever asks about last month's run still finds it.
HORIZON_DAYS = 30.0
#: The shortest horizon: a client may hold the number of an execution it has just seen for as long as this.
MIN_HORIZON_SECONDS = 3600.0
#: A blob put this lately may not be named yet: the longest a checkpoint takes to be written, many times over.
GRACE_SECONDS = 24 * 3600.0
#: A blob that begins so may name others, and is read.
_JSON = b"{"

#: What becomes of a promise that outlived its execution.
_OVER = {"type": "CallCancelled", "message": "the execution had ended", "data": None}

#: An execution or session, and all that is below it.
_OURS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(@[1-9][0-9]{0,11}(:.+)?|:c[0-9]+|:base)")
_STEP = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63}@[1-9][0-9]{0,11}):s[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, or would remove."""

    executions: int
    promises: int
    blobs: int
    blob_bytes: int
    file_bytes: int


@dataclass(slots=True)
class _Needs:
    """What must stay: of each session everything from an execution on, and single executions before."""

    floors: dict[str, int] = field(default_factory=dict)
    executions: set[str] = field(default_factory=set)
    doomed: dict[str, int] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)

    def keep(self, head: str) -> bool:
        try:
            id = parse_execution(head)
        except InvalidName:
            return True  # not ours: settings, or another program's workflow in the same store
        return id.n >= self.floors.get(id.session, 0) or head in self.executions

    def note(self, head: str) -> bool:
        """Say the same, and note what goes."""
        kept = self.keep(head)
        if not kept:
            self.heads.append(head)
            id = parse_execution(head)
            self.doomed[id.session] = max(id.n, self.doomed.get(id.session, 0))
        return kept


async def collect(
    substrate: Substrate,
    now: float,
    older_than: float = HORIZON_DAYS * 24 * 3600,
    *,
    grace: float = GRACE_SECONDS,
    remove: bool = True,
) -> Collected:
    """Remove what ended more than ``older_than`` seconds before ``now`` (s since 1970) and nothing needs.

    Blobs put within ``grace`` seconds stay.
    Raises NotImplementedError where the store is not a folder's, StateLocked beside another upkeep.
    """
    network = substrate.network
    if not isinstance(network, SqliteConnection):
        msg = "only the store of a state folder can be collected: a server or Postgres has its own retention"
        raise NotImplementedError(msg)
    before = int((now - max(older_than, MIN_HORIZON_SECONDS)) * 1000)
    promises = substrate.promises
    with held(substrate.folder):
        size = substrate.folder.database.stat().st_size
        needs = await _needs(promises)
        gone = await network.collect(before, needs.note, remove=False)
        if remove:
            for session, n in needs.doomed.items():
                await ensure_session(promises, session, first=n + 1)
            for head in needs.heads:
                await _settle_rest(network, promises, head)
            # Counted anew: what held a tree may just have been settled.
            gone = await network.collect(before, needs.keep)
        live = await named_blobs(network, substrate.blobs)
        blobs, blob_bytes = await substrate.blobs.collect(live.__contains__, now - grace, remove=remove)
        if remove:
            await substrate.blobs.sweep(now, max(grace, ABANDONED_SECONDS))
            await network.vacuum()
        shrunk = max(0, size - substrate.folder.database.stat().st_size)
        return Collected(gone.trees, gone.promises, blobs, blob_bytes, shrunk)


async def _settle_rest(network: SqliteConnection, promises: Promises, execution: str) -> None:
    """Settle what an ended execution left open, which would hold its tree for a year.

    That is a request to cancel that was made ready as it ended, and whatever was asked in one that others have ended.
    """
    after: str | None = None
    while page := await network.scan(f"{execution}:", after):
        for promise in page:
            if promise.state == "pending":
                await promises.settle(promise.id, _OVER, state="rejected")
        after = page[-1].id


async def _needs(promises: Promises) -> _Needs:
    needs = _Needs()
    settings = await promises.search("settings")
    for session in {promise.id.partition(":")[0] for promise in settings}:
        last, root = await find_head(promises, session)
        following = last if root is not None and not root.settled else last + 1
        base = await base_of(promises, session, following)
        floor = 1
        if base is not None and base.step is not None:
            start = parse_execution(base.step.partition(":")[0])
            # A base of another session (a fork's) leaves nothing of this one to spare.
            floor = start.n if start.session == session else 1
            await _add_base(promises, needs, base)
        needs.floors[session] = floor
        if root is not None:
            await _add_named(promises, needs, root.param)
    for promise in settings:
        await _add_named(promises, needs, promise.param)
    return needs


async def _add_base(promises: Promises, needs: _Needs, base: Base) -> None:
    assert base.step is not None  # noqa: S101 - the caller has looked
    needs.executions.add(base.step.partition(":")[0])
    await _add_named(promises, needs, base.value.get("checkpoint"))


async def _add_named(promises: Promises, needs: _Needs, data: object) -> None:
    """Add the executions whose steps are named in a checkpoint, and in the checkpoints of those, and so on."""
    waiting, seen = [data], set[str]()
    while waiting:
        text = msgspec.json.encode(waiting.pop()).decode()
        for match in _STEP.finditer(text):
            # By step, not by execution: one that is kept for another reason may build on one that is not.
            if match[0] in seen:
                continue
            seen.add(match[0])
            needs.executions.add(match[1])
            step = await promises.get(match[0])
            if step is not None and isinstance(step.value, dict):
                waiting.append(step.value.get("checkpoint"))


async def named_blobs(network: SqliteConnection, blobs: BlobStore) -> set[str]:
    """Return the reference of every blob that a promise names, or a blob that is named.

    Raises RecordDamaged: what such a one names is not known, and is needed when it is restored.
    """
    named: set[str] = set()
    after: str | None = None
    while page := await network.payloads(after):
        for id, parts in page:
            if problem := unreadable(id, parts):
                msg = f"{problem}. Until then no blob is removed: it may name some"
                raise RecordDamaged(msg)
            named |= named_in(b" ".join(map(plain, parts)))
        after = page[-1][0]
    there = set(await blobs.refs())
    waiting = list(named & there)
    while waiting:
        new = (await _named_by(blobs, waiting.pop()) & there) - named
        named |= new
        waiting += new
    return named


def unreadable(id: str, parts: list[str]) -> str | None:
    """Return what is wrong with what a promise of ours holds, if it cannot be read; others may hold anything."""
    return damage_in(id, parts) if _OURS.fullmatch(id) else None


async def _named_by(blobs: BlobStore, ref: str) -> set[str]:
    if await blobs.head(ref, len(_JSON)) != _JSON:
        return set()
    return named_in(await blobs.get(ref))
