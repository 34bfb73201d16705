"""Blobs as files in a folder: the embedded state's, or one that a fleet shares.

1. A reference that was returned can be read after any crash: the file, its name and every folder above it are
   synced before it is returned, whoever wrote them.
2. Nothing here blocks the event loop, and any number of processes may use one folder at once.
3. Who relies on a blob that is there already makes it young again under the lock under which old ones are removed.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from .blobs import (
    ABANDONED_SECONDS,
    MARKER,
    BlobDamaged,
    BlobMissing,
    BlobsFull,
    digest_of,
    not_there,
    pieces_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from .blobs import Data

__all__ = ["FolderBlobs", "file_pieces", "write_all"]

#: Files are spread over this many leading characters of the digest: 256 folders.
_SPREAD = 2

#: Files being written, in the same file system so that a rename can finish them.
_UNFINISHED = ".unfinished"

#: Held by whoever removes blobs, and shared by those who rely on one that is there already.
_LOCK = ".lock"

#: Bytes of a file that are in memory at once while it is copied; larger pieces are not faster.
_PIECE = 1 << 20


class FolderBlobs:
    """Blobs as files in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Folders whose names this process has synced: another process may have made one and died before it did.
        self._synced: set[Path] = set()
        self._marker: str | None = None

    async def mark(self, id: str) -> str:
        """Leave a marker if there is none; of several processes one wins, and all are told the same."""
        return await asyncio.to_thread(self._mark, id)

    def expect(self, marker: str) -> None:
        """Take a folder without this marker for one that is not mounted."""
        self._marker = marker

    async def put(self, data: Data | Iterable[Data]) -> str:
        """Store bytes durably; the same bytes twice are one file."""
        return (await asyncio.to_thread(self._put, pieces_of(data)))[0]

    async def put_file(self, descriptor: int, limit: int) -> tuple[str, int]:
        """Store an open file's bytes from where it stands, never more than ``limit``, a piece in memory at a time."""
        return await asyncio.to_thread(self._put, file_pieces(descriptor, limit))

    async def get(self, ref: str) -> bytes:
        """Return the bytes, checked."""
        return await asyncio.to_thread(self._get, ref)

    async def write_to(self, ref: str, descriptor: int) -> None:
        """Copy the bytes into an open file, checked once all are written."""
        await asyncio.to_thread(self._write_to, ref, descriptor)

    async def has(self, ref: str) -> bool:
        """Whether the file is there."""
        return await asyncio.to_thread(self._has, ref)

    async def sweep(self, now: float, older_than: float = ABANDONED_SECONDS) -> int:
        """Remove what writers that died have left unfinished for so long; returns how many files it was."""
        return await asyncio.to_thread(self._sweep, now - older_than)

    async def collect(self, live: Callable[[str], bool], before: float, *, remove: bool = True) -> tuple[int, int]:
        """Remove blobs that nothing names and nobody put since ``before``; returns how many, and their bytes."""
        return await asyncio.to_thread(self._collect, live, before, remove=remove)

    async def refs(self) -> list[str]:
        """Return the reference of every blob there is."""
        return await asyncio.to_thread(lambda: [f"blake3:{path.name}" for path in self._all()])

    async def head(self, ref: str, size: int) -> bytes:
        """Return the first bytes, unchecked."""
        return await asyncio.to_thread(self._head, ref, size)

    def _path(self, ref: str) -> Path:
        digest = digest_of(ref)
        return self._root / digest[:_SPREAD] / digest

    def _mark(self, id: str) -> str:
        path = self._root / MARKER
        if not path.exists():
            unfinished = self._root / _UNFINISHED / secrets.token_hex(16)
            self._folder(unfinished.parent)
            _write(unfinished, [id.encode()])
            with suppress(FileExistsError):
                path.hardlink_to(unfinished)
            unfinished.unlink()
            _sync_folder(self._root)
        return path.read_text()

    def _look(self) -> None:
        """See whether the folder is the one that was marked. Raises BlobsUnavailable."""
        if self._marker is None:
            return
        try:
            found = (self._root / MARKER).read_text(errors="replace")
        except FileNotFoundError:
            found = None
        if found != self._marker:
            raise not_there(self._root, found)

    def _has(self, ref: str) -> bool:
        if self._path(ref).exists():
            return True
        self._look()
        return False

    def _put(self, pieces: Iterable[Data]) -> tuple[str, int]:
        self._look()
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
        with self._lock(fcntl.LOCK_SH):
            try:
                os.utime(path)  # it may be old and named by nothing: its remover looks at this
            except FileNotFoundError:
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
        with self._reading(ref):
            data = self._path(ref).read_bytes()
        if f"blake3:{blake3(data).hexdigest()}" != ref:
            raise self._damaged(ref)
        return data

    def _head(self, ref: str, size: int) -> bytes:
        with self._reading(ref), self._path(ref).open("rb") as file:
            return file.read(size)

    def _write_to(self, ref: str, descriptor: int) -> None:
        digest = blake3()
        with self._reading(ref):
            source = os.open(self._path(ref), os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces = file_pieces(source, os.fstat(source).st_size)
            while True:
                with self._reading(ref):
                    piece = next(pieces, None)
                if piece is None:
                    break
                digest.update(piece)
                write_all(descriptor, piece)
        finally:
            os.close(source)
        if f"blake3:{digest.hexdigest()}" != ref:
            raise self._damaged(ref)

    @contextmanager
    def _reading(self, ref: str) -> Generator[None]:
        try:
            yield
        except FileNotFoundError:
            self._look()
            msg = f"the blob {ref} is missing from {self._root}: restore the folder from a backup"
            raise BlobMissing(msg) from None
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            # The disk has lost it: whoever asks again gets the same answer.
            msg = f"the blob {ref} in {self._root} cannot be read ({exc.strerror}): restore it from a backup"
            raise BlobDamaged(msg) from None

    def _damaged(self, ref: str) -> BlobDamaged:
        return BlobDamaged(f"the blob {ref} in {self._root} is damaged: restore it from a backup")

    def _all(self) -> Iterator[Path]:
        self._look()
        for folder in sorted(self._root.glob("[0-9a-f]" * _SPREAD)):
            yield from sorted(folder.glob("[0-9a-f]" * 64))

    def _collect(self, live: Callable[[str], bool], before: float, *, remove: bool) -> tuple[int, int]:
        count = size = 0
        for path in self._all():
            if live(f"blake3:{path.name}"):
                continue
            with self._lock(fcntl.LOCK_EX), suppress(FileNotFoundError):
                found = path.stat()
                if found.st_mtime >= before:
                    continue
                if remove:
                    path.unlink()
                count, size = count + 1, size + found.st_size
        return count, size

    @contextmanager
    def _lock(self, how: int) -> Generator[None]:
        descriptor = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

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
            size += write_all(descriptor, piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest(), size


def write_all(descriptor: int, piece: Data) -> int:
    """Write all of a piece; returns its bytes."""
    view = memoryview(piece).cast("B")
    size = len(view)
    while view:
        view = view[os.write(descriptor, view) :]
    return size


def file_pieces(descriptor: int, limit: int) -> Iterator[bytes]:
    """Yield what an open file holds from where it stands, at most ``limit`` bytes."""
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
