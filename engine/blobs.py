"""Large values, images and files by their content: written once, never changed, checked whenever they are read.

1. A reference that was returned can be read after any crash: the file, its name and every folder above it are
   synced before it is returned, whoever wrote them.
2. The name is the digest of the content; what does not have its digest is damage, and said so.
3. Nothing here blocks the event loop, and any number of processes may use one folder at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from .errors import PerdureError

__all__ = ["BlobDamaged", "BlobMissing", "BlobStore", "BlobsFull", "Data", "FolderBlobs"]

type Data = bytes | bytearray | memoryview
"""What a blob is made of."""

_REF = re.compile(r"blake3:([0-9a-f]{64})")

#: Files are spread over this many leading characters of the digest: 256 folders.
_SPREAD = 2

#: Files being written, in the same file system so that a rename can finish them.
_UNFINISHED = ".unfinished"

#: Bytes of a file that are in memory at once while it is copied; larger pieces are not faster.
_PIECE = 1 << 20

#: What `_unfinished` files are removed at: no single blob takes a day to write, so its writer is dead.
ABANDONED_SECONDS = 24 * 3600.0


class BlobMissing(PerdureError):
    """A value that was recorded is not in the blob store."""


class BlobDamaged(PerdureError):
    """What is stored does not have the digest it was stored under."""


class BlobsFull(PerdureError):
    """There is no room for another blob."""


class BlobStore(Protocol):
    """Where large values live; safe for several processes."""

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


class FolderBlobs:
    """Blobs as files in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Folders whose names this process has synced: another process may have made one and died before it did.
        self._synced: set[Path] = set()

    async def put(self, data: Data | Iterable[Data]) -> str:
        """Store bytes durably; the same bytes twice are one file."""
        pieces = [memoryview(data)] if isinstance(data, bytes | bytearray | memoryview) else data
        return (await asyncio.to_thread(self._put, pieces))[0]

    async def put_file(self, descriptor: int, limit: int) -> tuple[str, int]:
        """Store an open file's bytes from where it stands, never more than ``limit``, a piece in memory at a time."""
        return await asyncio.to_thread(self._put, _pieces(descriptor, limit))

    async def get(self, ref: str) -> bytes:
        """Return the bytes, checked."""
        return await asyncio.to_thread(self._get, ref)

    async def write_to(self, ref: str, descriptor: int) -> None:
        """Copy the bytes into an open file, checked once all are written."""
        await asyncio.to_thread(self._write_to, ref, descriptor)

    async def has(self, ref: str) -> bool:
        """Whether the file is there."""
        return await asyncio.to_thread(self._path(ref).exists)

    async def sweep(self, now: float, older_than: float = ABANDONED_SECONDS) -> int:
        """Remove what writers that died have left unfinished for so long; returns how many files it was."""
        return await asyncio.to_thread(self._sweep, now - older_than)

    def _path(self, ref: str) -> Path:
        match = _REF.fullmatch(ref)
        if match is None:
            msg = f"{ref!r} is not the reference of a blob"
            raise BlobMissing(msg)
        return self._root / match[1][:_SPREAD] / match[1]

    def _put(self, pieces: Iterable[Data]) -> tuple[str, int]:
        if isinstance(pieces, list) and len(pieces) == 1:
            # In one piece: the digest is known before anything is written.
            size = memoryview(pieces[0]).nbytes
            ref = f"blake3:{blake3(pieces[0]).hexdigest()}"
            if self._finished(self._path(ref), size):
                return ref, size
        unfinished = self._root / _UNFINISHED / secrets.token_hex(16)
        try:
            self._folder(unfinished.parent)
            digest, size = _write(unfinished, pieces)
            ref = f"blake3:{digest}"
            path = self._path(ref)
            if not self._finished(path, size):
                self._folder(path.parent)
                unfinished.replace(path)
                _sync_folder(path.parent)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                msg = f"no room for another blob in {self._root}: free some space, then run it again"
                raise BlobsFull(msg) from None
            raise
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        return ref, size

    def _finished(self, path: Path, size: int) -> bool:
        """Whether the blob is there, in full and for good; whoever wrote it may have died before syncing the folder."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        if found.st_size != size:
            return False
        self._folder(path.parent)
        _sync_folder(path.parent)
        return True

    def _folder(self, folder: Path) -> None:
        if folder in self._synced:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(folder.parent)
        _sync_folder(folder.parent.parent)
        self._synced.add(folder)

    def _get(self, ref: str) -> bytes:
        try:
            data = self._path(ref).read_bytes()
        except FileNotFoundError:
            raise self._missing(ref) from None
        if f"blake3:{blake3(data).hexdigest()}" != ref:
            raise self._damaged(ref)
        return data

    def _write_to(self, ref: str, descriptor: int) -> None:
        digest = blake3()
        try:
            source = os.open(self._path(ref), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._missing(ref) from None
        try:
            for piece in _pieces(source, os.fstat(source).st_size):
                digest.update(piece)
                _write_all(descriptor, piece)
        finally:
            os.close(source)
        if f"blake3:{digest.hexdigest()}" != ref:
            raise self._damaged(ref)

    def _missing(self, ref: str) -> BlobMissing:
        return BlobMissing(f"the blob {ref} is missing from {self._root}: restore the folder from a backup")

    def _damaged(self, ref: str) -> BlobDamaged:
        return BlobDamaged(f"the blob {ref} in {self._root} is damaged: restore it from a backup")

    def _sweep(self, before: float) -> int:
        swept = 0
        for path in sorted((self._root / _UNFINISHED).glob("*")):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    swept += 1
        return swept


def _write(path: Path, pieces: Iterable[Data]) -> tuple[str, int]:
    """Write a new file through to the disk; returns the digest and size of what it holds."""
    digest, size = blake3(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for piece in pieces:
            digest.update(piece)
            size += _write_all(descriptor, piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest(), size


def _write_all(descriptor: int, piece: Data) -> int:
    view = memoryview(piece).cast("B")
    size = len(view)
    while view:
        view = view[os.write(descriptor, view) :]
    return size


def _pieces(descriptor: int, limit: int) -> Iterator[bytes]:
    while limit > 0:
        piece = os.read(descriptor, min(_PIECE, limit))
        if not piece:
            return
        limit -= len(piece)
        yield piece


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
