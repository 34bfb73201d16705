"""``perdure doctor --state``: whether everything durable is there and sound. Reads all of it, and changes nothing."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..blobs import BlobDamaged, BlobMissing, BlobsUnavailable
from ..errors import RecordDamaged
from ..seals import CheckpointForged
from ..store import SqliteConnection, problems
from ..store.reading import plain
from .collecting import named_blobs, unreadable

if TYPE_CHECKING:
    from ..seals import Seals
    from ..substrate import Substrate

__all__ = ["Checked", "check"]

_STEP = re.compile(r".+:s[0-9]+")
_REF = re.compile(rb"blake3:[0-9a-f]{64}")
#: How a record of output begins, and how it holds a display by reference: in a printed text the quotes are escaped.
_OUTPUT = b'{"kind":"output"'
_DISPLAYED = re.compile(rb'\["display",\s*\{"\$ref":\s*"(blake3:[0-9a-f]{64})"')
#: Problems that are listed; more only repeat what these say.
MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Checked:
    """What was read, and what is wrong with it, one line each."""

    promises: int
    blobs: int
    unnamed: int
    problems: tuple[str, ...]


async def check(substrate: Substrate) -> Checked:
    """Read a whole state. Raises NotImplementedError where the store is not a folder's, and the store's errors."""
    network = substrate.network
    if not isinstance(network, SqliteConnection):
        msg = "only the store of a state folder can be checked: a server or Postgres has its own tools"
        raise NotImplementedError(msg)
    found = await asyncio.to_thread(problems, network.path)
    if found:
        return Checked(0, 0, 0, tuple(found[:MAX_PROBLEMS]))
    try:
        stored = set(await substrate.blobs.refs())
    except BlobsUnavailable as exc:
        return Checked(0, 0, 0, (str(exc),))
    damaged = [line for ref in sorted(stored) if (line := await _wrong(substrate, ref))]
    promises, missing = await _promises(network, substrate, stored)
    try:
        named = await named_blobs(network, substrate.blobs) if not damaged else stored
    except RecordDamaged:
        named = stored
    return Checked(promises, len(stored), len(stored - named), tuple((damaged + missing)[:MAX_PROBLEMS]))


async def _wrong(substrate: Substrate, ref: str) -> str | None:
    try:
        await substrate.blobs.get(ref)
    except (BlobDamaged, BlobMissing) as exc:  # missing: collected since it was listed
        return str(exc) if isinstance(exc, BlobDamaged) else None
    return None


async def _promises(network: SqliteConnection, substrate: Substrate, stored: set[str]) -> tuple[int, list[str]]:
    """Return how many promises there are, and a line for each wrong seal and each blob that is named and not there."""
    count, lines, seals = 0, list[str](), substrate.seals()
    after: str | None = None
    while page := await network.payloads(after):
        for id, parts in page:
            count += 1
            text = b" ".join(map(plain, parts))
            if problem := unreadable(id, parts):
                lines.append(problem)
                continue
            # What code printed names nothing, whatever it looks like; what it displayed may lie in a blob.
            named = _DISPLAYED.findall(text) if text.startswith(_OUTPUT) else _REF.findall(text)
            gone = {ref.decode() for ref in named} - stored
            lines += [f"{id} names {ref}, which is missing: restore the blobs from a backup" for ref in sorted(gone)]
            if _STEP.fullmatch(id) is not None:
                lines += await _seal(seals, id, substrate)
        after = page[-1][0]
    return count, lines


async def _seal(seals: Seals, id: str, substrate: Substrate) -> list[str]:
    step = await substrate.promises.get(id)
    if step is None or not isinstance(step.value, dict) or step.value.get("checkpoint") is None:
        return []
    try:
        seals.check(id, step.value)
    except CheckpointForged as exc:
        return [str(exc)]
    return []
