"""Packs: where the bytes of checkpoints are stored, and which of them something still refers to.

1. A pack is the new bytes of one checkpoint. Others refer to parts of it by its number and their offset in it, so it
   may lose the parts that nobody refers to, but never renumbers what is left: it is a list of *pieces*.
2. Bytes that are moved are stored before anything names their new place; the old place is named by older checkpoints,
   and is collected with them.
3. Nothing here reads what the bytes mean.
"""

from __future__ import annotations

import base64
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .blobs import BlobStore

__all__ = ["INLINE", "PAGE", "Piece", "Pieces", "compacted", "cut", "fetch", "holds", "in_record", "inline", "live"]

#: Packs and data up to this many bytes ride in the step's promise: one durable write instead of three.
INLINE = 48 * 1024
#: Pieces start on a page, in their pack and where they are stored: a guest uses its memory as it is.
PAGE = 4096
#: What nobody refers to stays between two pieces up to so many bytes: every piece costs some to name.
GAP = 64 * 1024
#: A blob is left if less of it than this is lost: to move the rest would cost more than it gives.
FEW = 256 * 1024
#: Blobs under this size are put together once there are so many: each costs a restore a file to open.
SMALL, MANY = 1 << 20, 64
#: Bytes that are in memory at once while they are moved.
AT_ONCE = 128 << 20

#: What marks bytes that are in the record itself.
_INLINE = "inline:"

type Piece = tuple[int, str, int, int]
"""Where it starts in its pack, where it is stored (a blob, or inline), its offset there, its bytes."""
type Pieces = Sequence[Piece]


def inline(data: bytes) -> str:
    """Return bytes as a record holds them itself."""
    return _INLINE + base64.b64encode(data).decode("ascii")


def in_record(place: str) -> bool:
    """Whether a place is the record itself."""
    return place.startswith(_INLINE)


async def fetch(place: str, blobs: BlobStore) -> bytes:
    """Return the bytes that `inline` or a blob's reference stands for. Raises BlobMissing, BlobDamaged."""
    if in_record(place):
        return base64.b64decode(place.removeprefix(_INLINE), validate=True)
    return await blobs.get(place)


def holds(pieces: Pieces, offset: int, length: int) -> bool:
    """Whether a pack has so many bytes at an offset, in one piece."""
    at = bisect_right(pieces, offset, key=lambda piece: piece[0]) - 1
    return at >= 0 and offset + length <= pieces[at][0] + pieces[at][3]


def live(extents: Iterable[Sequence[int]]) -> dict[int, list[tuple[int, int]]]:
    """Return what is referred to of each pack, in whole pages: (start, end), in order, never touching."""
    by_pack: dict[int, list[tuple[int, int]]] = {}
    for pack, offset, length, *_times in extents:
        by_pack.setdefault(pack, []).append((offset - offset % PAGE, offset + length))
    return {pack: list(_joined(sorted(spans))) for pack, spans in by_pack.items()}


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    first, last = -1, -1
    for start, end in spans:
        if first >= 0 and start <= last + GAP:
            last = max(last, end)
            continue
        if first >= 0:
            yield first, last
        first, last = start, end
    if first >= 0:
        yield first, last


def cut(pieces: Pieces, spans: Iterable[tuple[int, int]]) -> list[Piece]:
    """Return the pieces without what lies outside of spans."""
    made: list[Piece] = []
    for start, end in spans:
        for at, place, offset, size in pieces:
            first, last = max(at, start), min(at + size, end)
            if first < last:
                made.append((first, place, offset + first - at, last - first))
    return made


@dataclass(slots=True)
class _Place:
    """One blob, or what is in records: bytes that are stored there, and that are still wanted."""

    stored: int = 0
    wanted: list[tuple[int, Piece]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(piece[3] for _pack, piece in self.wanted)


async def compacted(
    packs: Mapping[int, Pieces], used: Mapping[int, Sequence[tuple[int, int]]], blobs: BlobStore
) -> dict[int, Pieces]:
    """Return the packs that something refers to, the bytes of wasteful blobs moved to new ones.

    Raises BlobMissing, BlobDamaged, BlobsFull, BlobsUnavailable, OSError, with nothing changed.
    """
    places = _places(packs, used)
    moving = _to_move(places)
    moved: dict[int, list[Piece]] = {}
    pending: list[tuple[int, int, bytes]] = []
    for place in moving:
        content = await fetch(place, blobs)
        pending += [
            (pack, start, content[offset : offset + size]) for pack, (start, _, offset, size) in places[place].wanted
        ]
        if sum(len(data) for _pack, _start, data in pending) >= AT_ONCE:
            await _put(pending, moved, blobs)
    await _put(pending, moved, blobs)
    kept = {
        pack: [piece for piece in packs[pack] if piece[1] not in moving] + moved.get(pack, [])
        for pack in used
        if pack in packs
    }
    return {pack: sorted(pieces) for pack, pieces in kept.items()}


def _places(packs: Mapping[int, Pieces], used: Mapping[int, Sequence[tuple[int, int]]]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    for pack, pieces in packs.items():
        for _start, place, offset, size in pieces:
            known = places.setdefault(place, _Place())
            known.stored = max(known.stored, offset + size)
        for piece in cut(pieces, used.get(pack, ())):
            places[piece[1]].wanted.append((pack, piece))
    return {place: known for place, known in places.items() if known.wanted}


def _to_move(places: Mapping[str, _Place]) -> list[str]:
    inside = [place for place in places if in_record(place)]
    outside = [place for place in places if not in_record(place)]
    wasteful = [
        place
        for place in outside
        if 2 * places[place].bytes < places[place].stored and places[place].stored - places[place].bytes >= FEW
    ]
    small = [place for place in outside if places[place].stored < SMALL]
    moving = wasteful + ([place for place in small if place not in wasteful] if len(small) > MANY else [])
    if moving or sum(places[place].bytes for place in inside) > INLINE:
        moving += inside
    return moving


async def _put(pending: list[tuple[int, int, bytes]], moved: dict[int, list[Piece]], blobs: BlobStore) -> None:
    """Store what is pending as one blob, and note where each piece of it is; none is pending then."""
    if not pending:
        return
    at, chunks = 0, list[bytes]()
    for _pack, _start, data in pending:
        chunks += data, bytes(-len(data) % PAGE)
    blob = await blobs.put(b"".join(chunks))
    for pack, start, data in pending:
        moved.setdefault(pack, []).append((start, blob, at, len(data)))
        at += len(data) + -len(data) % PAGE
    pending.clear()
