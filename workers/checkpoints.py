"""Checkpoints on the host's side: from a guest into the store, and from the store into a guest.

1. Blobs first, then the promise that names them: a recorded checkpoint can always be loaded.
2. The host never reads what a guest stores of its namespace: it keeps the bytes and gives them to a guest again.
3. A guest sends only what changed, as long as it and the host mean the same last checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from perdure.engine.checkpoints import CheckpointUnusable, Composed, Recorded, kept, shown, whole_record
from perdure.engine.errors import PerdureError
from perdure.engine.packs import INLINE, PAGE, compacted, cut, fetch, inline

from . import workspace as workspaces
from .guests import GuestDied
from .messages import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from perdure.engine.blobs import BlobStore, Data
    from perdure.engine.packs import Piece, Pieces
    from perdure.engine.records import NameReport
    from perdure.engine.settings import Limits

    from .guests import Guest
    from .run import Run

__all__ = ["CHAIN", "MISSED", "Held", "Saved", "packed", "restore_workspace", "save"]

log = structlog.get_logger()

#: A whole checkpoint is recorded after so many that only add, or so many bytes in their promises: a restore reads them
#: all.
CHAIN = 32
CHAIN_BYTES = 512 * 1024
#: Or once what was added is more than what there was at the last whole one, and than this: most of it may be lost by
#: now, and what the chain names is kept.
CHAIN_ADDED = 4 << 20

#: Counts the values that a checkpoint left as they were although they had changed: found since, and stored then.
MISSED = "checkpoint.missed_mutations"

#: Variables that a result names of those whose change was missed; the log names more.
MOST_NAMED = 5

_LARGE = "delete some, keep them in files of the workspace, or raise the limit"

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Held:
    """The last checkpoint of a live guest: the step it is recorded in, and all that it adds up to."""

    step: str
    depth: int
    inline: int
    """Bytes in the promises of the chain."""
    live: int
    """Bytes of packs that were referred to at the last whole checkpoint, and that were added since."""
    added: int
    composed: Composed

    @property
    def goes_on(self) -> bool:
        """Whether another one may add to it."""
        few = self.depth < CHAIN and self.inline < CHAIN_BYTES
        return few and self.added <= max(self.live, CHAIN_ADDED)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is ready to be recorded."""

    record: Recorded
    lost: tuple[NameReport, ...]
    absent: tuple[NameReport, ...]
    """What is stored and its guest could not load."""
    notes: list[str]


async def save(
    run: Run,
    step: str,
    folder: Path,
    blobs: BlobStore,
    limits: Limits,
    *,
    content: Data | None = None,
    imaged: Callable[[], None] = lambda: None,
    alarms: Counter[str] | None = None,
) -> Saved:
    """Checkpoint a guest that is between statements, against the last one it made or was restored from.

    ``step`` is the step that the caller will record it in, ``content`` what the guest has sent of its own accord,
    ``imaged`` is called when the guest has sent everything, and ``alarms`` counts what should never be.
    Raises GuestDied, ProtocolViolation, OSError.
    """
    held = run.guest.held
    composed = held.composed if held else Composed()
    if content is None:
        content = await run.image(limits.checkpoint_seconds, composed.generation)
    data, pack = _unpacked(content)
    imaged()
    whole = data.get("since") == 0
    composed = Composed(workspace=composed.workspace) if whole else replace(composed)
    packs: dict[int, Pieces] = {}
    if pack:
        place = inline(bytes(pack)) if len(pack) <= INLINE else await blobs.put(pack)
        packs[data["generation"]] = [(0, place, 0, len(pack))]
    try:
        composed.apply(data, packs)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        msg = f"the guest sent a checkpoint that does not fit: {exc}"
        raise ProtocolViolation(msg) from None
    if (size := composed.size()) > limits.namespace_bytes:
        raise GuestDied(await run.guest.exceed("namespace_bytes", f"its variables have {size} bytes: {_LARGE}"))
    try:
        tree, notes = await workspaces.snapshot(
            folder,
            blobs,
            composed.workspace,
            max_files=limits.files,
            max_bytes=limits.workspace_bytes,
            in_use=await asyncio.to_thread(_in_use, folder, run.guest.pid),
        )
    except workspaces.WorkspaceTooLarge as exc:
        # No error of the outside: the code would fill it again, each time it is tried.
        raise GuestDied(await run.guest.exceed(exc.limit, str(exc))) from None
    missed = data.get("missed")
    if missed:
        alarms = Counter() if alarms is None else alarms
        alarms[MISSED] += missed
        names = [shown(name) for name in data.get("missed_names", ())]
        log.warning("checkpoint.missed", step=step, values=missed, names=names, in_all=alarms[MISSED])
        notes = [*notes, _missed_note(missed, names)]
    changed = None if tree == composed.workspace else tree
    composed.workspace = tree
    if held is not None and not whole and held.goes_on:
        record = await _adding(held, composed, data, packs, changed, blobs)
        live, added = held.live, held.added + len(pack)
        depth, inside = record.depth, held.inline + _inline_size(record)
    else:
        notes = [*notes, *await _compact(composed, step, blobs)]
        record = await whole_record(composed, blobs)
        live, added, depth, inside = _live(composed), 0, 1, _inline_size(record)
    run.guest.held = Held(step, depth, inside, live, added, composed)
    lost = [report for report in composed.reports() if report.status == "lost"] if record.lost else []
    not_kept, absent = ([report for report in lost if report.stored is stored] for stored in (False, True))
    return Saved(record, tuple(not_kept), tuple(absent), notes)


def _missed_note(missed: int, names: list[str]) -> str:
    what = "1 value" if missed == 1 else f"{missed} values"
    which = f" ({', '.join(names[:MOST_NAMED])}{', ...' if len(names) > MOST_NAMED else ''})" if names else ""
    return (
        f"{what}{which} had changed unseen by an earlier checkpoint, and {'is' if missed == 1 else 'are'} stored now; "
        "where a library changes values behind their names, --limit verify_every=1 looks at everything each time"
    )


def _unpacked(content: Data) -> tuple[dict[str, Any], memoryview]:
    """Return what a guest sent: the data of its checkpoint, and its pack. Raises ProtocolViolation."""
    # No part of it is copied: the pack may be half a gigabyte.
    memory = memoryview(content)
    try:
        (size,) = _LENGTH.unpack_from(memory)
        data = json.loads(bytes(memory[_LENGTH.size : _LENGTH.size + size]))
    except (struct.error, ValueError, RecursionError) as exc:
        msg = f"a checkpoint that cannot be read: {exc}"
        raise ProtocolViolation(msg) from None
    pack = memory[_LENGTH.size + size :]
    if not isinstance(data, dict) or data.get("pack", 0) != len(pack) or not isinstance(data.get("generation"), int):
        msg = "a checkpoint that is not what it says"
        raise ProtocolViolation(msg)
    return data, pack


async def _adding(
    held: Held,
    composed: Composed,
    data: dict[str, Any],
    packs: dict[int, Pieces],
    workspace: dict[str, Any] | None,
    blobs: BlobStore,
) -> Recorded:
    return Recorded(
        base=held.step,
        depth=held.depth + 1,
        data=await kept(data, blobs),
        packs={str(number): pieces[0][1:] for number, pieces in packs.items()},
        workspace=workspace,
        **composed.described(),
    )


async def _compact(composed: Composed, step: str, blobs: BlobStore) -> list[str]:
    """Let go of what nothing refers to any more; where that cannot be done, everything stays where it is."""
    used = composed.needed()
    try:
        composed.packs = await compacted(composed.packs, used, blobs)
    except (PerdureError, OSError, MemoryError) as exc:
        log.warning("checkpoint.not_compacted", step=step, reason=str(exc))
        composed.packs = {number: composed.packs[number] for number in used}
        return [f"what is stored of the session could not be put together: {str(exc) or 'no memory is left'}"]
    return []


def _live(composed: Composed) -> int:
    return sum(end - start for spans in composed.needed().values() for start, end in spans)


def _inline_size(record: Recorded) -> int:
    data = len(json.dumps(record.data)) if isinstance(record.data, dict) else 0
    return data + sum(len(piece[1]) for pieces in record.pieces().values() for piece in pieces)


def _in_use(folder: Path, guest: int) -> Collection[tuple[int, int]] | None:
    # An empty folder has nothing in use, and the look at a process costs more than the rest of a small checkpoint.
    return workspaces.open_files([guest]) if any(folder.iterdir()) else frozenset()


async def packed(composed: Composed, blobs: BlobStore) -> list[bytes | memoryview]:
    """Return a checkpoint as a guest is given it: length and JSON of what it holds, then its bytes.

    Of each pack only what something refers to, as pieces that lie on pages: [where it starts in the pack, where it is
    here, its bytes].
    """
    used = composed.needed()
    wanted = [(number, piece) for number, spans in used.items() for piece in cut(composed.packs[number], spans)]
    packs: dict[str, list[tuple[int, int, int]]] = {str(number): [] for number in used}
    pieces: list[bytes | memoryview] = []
    at, last, content = 0, "", b""
    for number, (start, place, offset, size) in sorted(wanted, key=_by_place):
        if place != last:
            last, content = place, await fetch(place, blobs)
        if len(content) < offset + size:
            msg = f"pack {number} of a checkpoint has {len(content) - offset} of {size} bytes: the store is damaged"
            raise CheckpointUnusable(msg)
        piece = memoryview(content)[offset : offset + size]
        packs[str(number)].append((start, at, size))
        pieces += piece, bytes(-size % PAGE)
        at += size + -size % PAGE
    for held in packs.values():
        held.sort()
    head = json.dumps({"manifest": composed.manifest(), "packs": packs}, separators=(",", ":")).encode()
    start = _LENGTH.size + len(head)
    return [_LENGTH.pack(len(head)), head, bytes(-start % PAGE), *pieces]


def _by_place(wanted: tuple[int, Piece]) -> tuple[str, int]:
    return wanted[1][1], wanted[1][2]


async def restore_workspace(
    composed: Composed | None, folder: Path, blobs: BlobStore, files: Mapping[str, str]
) -> None:
    """Make the workspace hold exactly the checkpoint's files, and then those that came with the submission."""
    await workspaces.restore(composed.workspace if composed else None, folder, blobs)
    await workspaces.add_files(folder, blobs, files)


def held_by(guest: Guest, step: str, record: Recorded, composed: Composed) -> None:
    """Note that a guest was restored from the checkpoint of a step: its next one adds to it."""
    live, stored = _live(composed), sum(piece[3] for pieces in composed.packs.values() for piece in pieces)
    guest.held = Held(step, record.depth, _inline_size(record), live, max(0, stored - live), composed)
