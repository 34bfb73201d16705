"""Where the bytes of units are: written once, found again by what they hold.

New bytes go into the *pack* of the checkpoint that brings them. A stream or a buffer is a list of extents of packs;
what did not change keeps its extents, and what is equal to a piece that is stored already refers to that piece.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from .identity import DIGEST, cuts, digests

__all__ = ["BLOCK", "Library", "Record", "cut"]

#: Buffers are compared and stored in blocks of this size: a changed number costs one of them.
BLOCK: Final = 32 << 10
#: A buffer that is stored whole begins on a page, so that it can be mapped.
PAGE: Final = 4096

#: (shortest stream, bits of the usual piece): small pieces for small streams, since a piece costs bytes to name.
_CUTS = ((16 << 20, 14), (1 << 16, 12), (1 << 13, 10))

#: Pieces that are known without a look at whether they are still used.
_FEW = 1024

#: Numbers of an extent that stands for itself once.
_ONCE = 3

type Run = tuple[int, int, int, int]
"""(where it starts in the record, pack, offset in the pack, length)."""


class Record:
    """The bytes of one stream or buffer as they are stored: digests of its pieces, and where each is."""

    __slots__ = ("address", "alive", "armed", "digest", "ends", "known", "readonly", "runs", "size", "successor")

    def __init__(self, size: int, ends: list[int] | None, digest: bytes, *, readonly: bool = False) -> None:
        self.size = size
        self.ends = ends
        """Where its pieces end; None if they are blocks of one size."""
        self.digest = digest
        """The digests of its pieces, one after another; zero where it is not known."""
        self.known = True
        """Whether all digests are known."""
        self.readonly = readonly
        self.runs: list[Run] = []
        self.alive = True
        self.successor: Record | None = None
        """The record that has what this one had, in the same places, but for a few blocks."""
        self.address = 0
        self.armed = False

    @classmethod
    def loaded(cls, data: memoryview, extents: list[list[int]], ends: list[int] | None, *, complete: bool) -> Record:
        """Return the record of bytes that were loaded; unless `complete`, of a buffer only the ends are read.

        They may have part of a page that is not watched.
        """
        if ends is not None:
            digest = b"".join(digests(data[start:end], 0) for start, end in _spans(ends))
        elif complete:
            digest = digests(data, BLOCK)
        else:
            last = (len(data) - 1) // BLOCK
            first = digests(data[:BLOCK], 0) if last > 0 else b""
            digest = first + bytes(DIGEST * (last - 1)) + digests(data[last * BLOCK :], 0)
        record = cls(len(data), ends, digest, readonly=data.readonly)
        record.known = complete or ends is not None
        at = 0
        for pack, offset, length, *times in extents:
            for _ in range(times[0] if times else 1):
                record.runs.append((at, pack, offset, length))
                at += length
        return record

    def retire(self) -> None:
        """Be referred to no more: what was known of it is let go."""
        self.alive = False
        self.digest, self.runs, self.ends = b"", [], None

    def holds(self, data: bytes) -> bool:
        """Whether the stream of which it is the record is this."""
        if self.size != len(data):
            return False
        if len(self.digest) == DIGEST:
            return digests(data, 0) == self.digest
        ends = cut(data)
        view = memoryview(data)
        return ends == self.ends and b"".join(digests(view[a:b], 0) for a, b in _spans(ends)) == self.digest

    def pieces(self) -> int:
        """Return of how many pieces it is."""
        return len(self.ends) if self.ends is not None else -(-self.size // BLOCK)

    def bounds(self, piece: int) -> tuple[int, int]:
        """Return where a piece starts and ends."""
        if self.ends is not None:
            return (self.ends[piece - 1] if piece else 0), self.ends[piece]
        return piece * BLOCK, min(self.size, piece * BLOCK + BLOCK)

    def digest_of(self, piece: int) -> bytes:
        """Return the digest of a piece."""
        return self.digest[piece * DIGEST : piece * DIGEST + DIGEST]

    def place(self, piece: int) -> tuple[int, int] | None:
        """Return pack and offset of a piece; None if it lies in more than one place."""
        start, end = self.bounds(piece)
        at, pack, offset, length = self.runs[bisect_right(self.runs, start, key=lambda run: run[0]) - 1]
        return (pack, offset + start - at) if end <= at + length else None

    def extents(self) -> list[list[int]]:
        """Return the runs as they stand in a manifest: pack, offset, length, and how many times if more than once."""
        made: list[list[int]] = []
        for _start, pack, offset, length in self.runs:
            if made and made[-1][:3] == [pack, offset, length]:
                made[-1][3:] = [made[-1][3] + 1 if len(made[-1]) > _ONCE else 2]
            else:
                made.append([pack, offset, length])
        return made


def appended(runs: list[Run], run: Run) -> None:
    """Add a run at the end of others, in one piece with the last where the two are neighbours."""
    start, pack, offset, length = run
    if runs:
        before, last_pack, last_offset, last_length = runs[-1]
        if last_pack == pack and last_offset + last_length == offset and before + last_length == start:
            runs[-1] = before, pack, last_offset, last_length + length
            return
    runs.append(run)


def replaced(runs: list[Run], run: Run) -> list[Run]:
    """Return the runs with the bytes of `run` in place of those that were there."""
    start, _pack, _offset, length = run
    end = start + length
    made: list[Run] = []
    put = False
    for old in runs:
        at, pack, offset, size = old
        if at < start:
            appended(made, (at, pack, offset, min(size, start - at)))
        if not put and at + size >= end:
            appended(made, run)
            put = True
        if at + size > end:
            cut = max(0, end - at)
            appended(made, (at + cut, pack, offset + cut, size - cut))
    return made


def cut(data: bytes | memoryview) -> list[int]:
    """Return where the pieces of a stream end."""
    for shortest, bits in _CUTS:
        if len(data) >= shortest:
            return cuts(data, bits)
    return [len(data)]


class Library:
    """All pieces that are stored, by digest, and the pack being written."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Record, int]] = {}
        self._limit = _FEW
        self.pack = 0
        self.chunks: list[bytes | memoryview] = []
        self.size = 0

    def begin(self, pack: int) -> None:
        """Start the pack of a new checkpoint."""
        self.pack = pack
        self.chunks = []
        self.size = 0

    def close(self) -> list[bytes | memoryview]:
        """Return the pack's bytes in order, and hold them no longer."""
        chunks, self.chunks = self.chunks, []
        return chunks

    def crowded(self) -> bool:
        """Whether most of what is known may be pieces that nothing refers to any more."""
        return len(self._known) > self._limit

    def prune(self, records: list[Record]) -> None:
        """Know only the pieces of these records."""
        self._known = {}
        self.note(records)
        self._limit = 2 * len(self._known) + _FEW

    def note(self, records: list[Record]) -> None:
        """Take records that are stored for what can be referred to."""
        for record in records:
            if record.known:
                for piece in range(record.pieces()):
                    self._known.setdefault(record.digest_of(piece), (record, piece))

    def _find(self, digest: bytes, size: int) -> tuple[int, int] | None:
        known = self._known.get(digest)
        if known is None:
            return None
        record, piece = known
        while not record.alive and record.successor is not None:
            record = record.successor
        if not record.alive or piece >= record.pieces():
            return None
        start, end = record.bounds(piece)
        if record.digest_of(piece) != digest or end - start != size:
            return None
        return record.place(piece)

    def _write(self, data: memoryview) -> tuple[int, int]:
        offset = self.size
        self.chunks.append(data)
        self.size += len(data)
        return self.pack, offset

    def stream(self, data: bytes, old: Record | None) -> Record:
        """Store a stream; returns `old` itself if nothing changed."""
        if len(data) < _CUTS[-1][0]:
            return self._piece(data, old)
        if old is not None and old.size == len(data):
            digest = digests(data, 0)
            if len(old.digest) == DIGEST and digest == old.digest:
                return old
        ends = cut(data)
        found = b"".join(digests(memoryview(data)[start:end], 0) for start, end in _spans(ends))
        if old is not None and old.ends == ends and old.digest == found:
            return old
        record = Record(len(data), ends, found)
        self._place(record, memoryview(data))
        return record

    def _piece(self, data: bytes, old: Record | None) -> Record:
        """Store a stream that is too short to be cut, as most of what changes is."""
        digest, size = digests(data, 0), len(data)
        if old is not None and (old.digest, old.size) == (digest, size):
            return old
        record = Record(size, [size], digest)
        if size:
            place = self._find(digest, size) or self._write(memoryview(data))
            record.runs.append((0, *place, size))
            # The record that had it may be replaced by this one: the next is to find it here.
            self._known[digest] = record, 0
        return record

    def buffer(self, data: memoryview, old: Record | None, dirty: list[int] | None) -> Record:
        """Store a buffer; `dirty` are the blocks that may differ from `old`, None if that is not known."""
        data = data.cast("B")
        if old is not None and (old.size, old.readonly) == (len(data), data.readonly):
            if dirty is None:
                found = digests(data, BLOCK)
                if found == old.digest:
                    return old
                blocks = [
                    at // DIGEST
                    for at in range(0, len(found), DIGEST)
                    if found[at : at + DIGEST] != old.digest[at : at + DIGEST]
                ]
            else:
                found, blocks = self._again(data, old, dirty)
                if not blocks:
                    return old
            return self._patched(data, old, found, blocks, complete=old.known or dirty is None)
        return self._whole(data, Record(len(data), None, digests(data, BLOCK), readonly=data.readonly))

    def _whole(self, data: memoryview, record: Record) -> Record:
        first = self._find(record.digest_of(0), record.bounds(0)[1])
        if first is None:
            self._pad()
        self._place(record, data)
        return record

    @staticmethod
    def _again(data: memoryview, old: Record, dirty: list[int]) -> tuple[bytes, list[int]]:
        found, blocks = bytearray(old.digest), []
        for block in dirty:
            start, end = old.bounds(block)
            digest = digests(data[start:end], 0)
            if digest != old.digest_of(block):
                found[block * DIGEST : block * DIGEST + DIGEST] = digest
                blocks.append(block)
        return bytes(found), blocks

    def _patched(self, data: memoryview, old: Record, found: bytes, blocks: list[int], *, complete: bool) -> Record:
        record = Record(old.size, None, found, readonly=old.readonly)
        record.known = complete
        if len(blocks) * 4 > old.pieces():
            return self._whole(data, record)
        record.runs = list(old.runs)
        old.successor = record
        for block in blocks:
            start, end = record.bounds(block)
            digest = record.digest_of(block)
            place = self._find(digest, end - start) or self._write(data[start:end])
            record.runs = replaced(record.runs, (start, *place, end - start))
            self._known[digest] = record, block
        return record

    def _pad(self) -> None:
        gap = -self.size % PAGE
        if gap:
            self.chunks.append(bytes(gap))
            self.size += gap

    def _place(self, record: Record, data: memoryview) -> None:
        """Find or write every piece of a record that is new as a whole; neighbours that are new are one write."""
        known, runs = self._known, record.runs
        pending = 0
        for piece in range(record.pieces()):
            start, end = record.bounds(piece)
            digest = record.digest_of(piece)
            if digest in known and known[digest][0] is record:
                # The same bytes earlier in what is about to be written: write that, then refer to it.
                self._flush(record, data, pending, start)
                pending = start
            place = self._find(digest, end - start)
            if place is None:
                known[digest] = record, piece
                continue
            self._flush(record, data, pending, start)
            appended(runs, (start, *place, end - start))
            pending = end
            if known[digest][0] is not record:
                # The record that had it may be replaced by this one: the next is to find it here.
                known[digest] = record, piece
        self._flush(record, data, pending, record.size)

    def _flush(self, record: Record, data: memoryview, start: int, end: int) -> None:
        if start < end:
            appended(record.runs, (start, *self._write(data[start:end]), end - start))


def _spans(ends: list[int]) -> list[tuple[int, int]]:
    return list(zip([0, *ends[:-1]], ends, strict=True))
