"""Large values, images and files by their content: written once, never changed, checked whenever they are read.

1. A reference that was returned can be read after any crash.
2. The name is the digest of the content; what does not have its digest is damage, and said so.
3. A blob that names other blobs is JSON that spells their digests out: what nothing names is removed in the end, and
   that is all the remover reads (``named_in``).
4. A store that is not the one a state's blobs are in (a folder that is not mounted, another bucket) is out of reach,
   not empty: it is known by its marker, and nothing is called missing, or put, where that is not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from .errors import PerdureError

__all__ = [
    "MARKER",
    "BlobDamaged",
    "BlobMissing",
    "BlobStore",
    "BlobsFull",
    "BlobsUnavailable",
    "Data",
    "digest_of",
    "named_in",
    "not_there",
    "open_blobs",
    "pieces_of",
]

type Data = bytes | bytearray | memoryview
"""What a blob is made of."""

_REF = re.compile(r"blake3:([0-9a-f]{64})")
_NAMED = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

#: The name of what tells a state's blobs from an empty folder in their place; it holds an id.
MARKER = "marker"

#: What writers that died left unfinished is removed after this long: no single blob takes a day to write.
ABANDONED_SECONDS = 24 * 3600.0


class BlobMissing(PerdureError):
    """A value that was recorded is not in the blob store."""


class BlobDamaged(PerdureError):
    """What is stored does not have the digest it was stored under."""


class BlobsFull(PerdureError):
    """There is no room for another blob."""


class BlobsUnavailable(PerdureError):
    """The blob store could not be reached, or refused; nothing is known to be lost."""


class BlobStore(Protocol):
    """Where large values live; safe for several processes. Everything raises BlobsUnavailable where it is not there."""

    async def mark(self, id: str) -> str:
        """Leave a marker if there is none, durably; returns what it says, whoever left it."""
        ...

    def expect(self, marker: str) -> None:
        """Be told what its marker says: from now on a store without it is unavailable."""
        ...

    async def put(self, data: Data | Iterable[Data]) -> str:
        """Store bytes, or the pieces of one value, durably; returns ``blake3:<hex>``. Raises BlobsFull."""
        ...

    async def put_file(self, descriptor: int, limit: int) -> tuple[str, int]:
        """Store at most ``limit`` bytes of an open file durably; returns reference and size. Raises BlobsFull."""
        ...

    async def get(self, ref: str) -> bytes:
        """Return the bytes of a reference. Raises BlobMissing, BlobDamaged."""
        ...

    async def write_to(self, ref: str, descriptor: int) -> None:
        """Write the bytes of a reference into an open file; it is no use if this raises BlobMissing, BlobDamaged."""
        ...

    async def has(self, ref: str) -> bool:
        """Whether a reference is stored."""
        ...

    async def collect(self, live: Callable[[str], bool], before: float, *, remove: bool = True) -> tuple[int, int]:
        """Remove blobs that nothing names (not ``live``) and nobody put since ``before`` (s since 1970).

        Returns how many, and their bytes; without ``remove`` only counts.
        """
        ...

    async def refs(self) -> list[str]:
        """Return the reference of every blob there is."""
        ...

    async def head(self, ref: str, size: int) -> bytes:
        """Return the first bytes of a reference, unchecked. Raises BlobMissing."""
        ...

    async def sweep(self, now: float, older_than: float = ABANDONED_SECONDS) -> int:
        """Remove what writers that died have left unfinished for so long; returns how many pieces it was."""
        ...


def digest_of(ref: str) -> str:
    """Return the hexadecimal digest in a reference. Raises BlobMissing for what is none."""
    match = _REF.fullmatch(ref)
    if match is None:
        msg = f"{ref!r} is not the reference of a blob"
        raise BlobMissing(msg)
    return match[1]


def named_in(text: bytes) -> set[str]:
    """Return the references in JSON, or in anything else: whatever looks like one counts as one."""
    return {f"blake3:{digest.decode()}" for digest in _NAMED.findall(text)}


def not_there(name: object, found: str | None) -> BlobsUnavailable:
    """Return the error of a store that has no marker, or another one."""
    what = "has no file" if found is None else "has another state's"
    return BlobsUnavailable(
        f"the blobs are not in {name}: it {what} '{MARKER}'. Mount what was there, or restore it from a backup; "
        "nothing is lost by waiting"
    )


def pieces_of(data: Data | Iterable[Data]) -> Iterable[Data]:
    """Return what is to be put as pieces; bytes are a list of one."""
    return [memoryview(data)] if isinstance(data, bytes | bytearray | memoryview) else data


def open_blobs(where: str | Path) -> BlobStore:
    """Open a folder (a path or ``file://``), or a bucket: ``s3://bucket/prefix``, ``gs://``, ``az://``.

    Raises BlobsUnavailable.
    """
    scheme, colon, rest = str(where).partition("://")
    if not colon or scheme == "file":
        from .blobs_folder import FolderBlobs

        return FolderBlobs(Path(rest if colon else where))
    from .blobs_objects import ObjectBlobs

    return ObjectBlobs.at(str(where))
