"""Large values and images by their content: written once, never changed, checked whenever they are read.

1. A reference that was returned can be read after any crash: file, name and folder are synced before ``put`` returns.
2. The name is the digest of the content; what does not have its digest is damage, and said so.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from .errors import PerdureError

__all__ = ["BlobDamaged", "BlobMissing", "BlobStore", "BlobsFull", "FolderBlobs"]

_REF = re.compile(r"blake3:([0-9a-f]{64})")
#: Files are spread over this many leading characters of the digest: 256 folders.
_SPREAD = 2


class BlobMissing(PerdureError):
    """A value that was recorded is not in the blob store."""


class BlobDamaged(PerdureError):
    """What is stored does not have the digest it was stored under."""


class BlobsFull(PerdureError):
    """There is no room for another blob."""


class BlobStore(Protocol):
    """Where large values live; safe for several processes."""

    async def put(self, data: bytes) -> str:
        """Store bytes durably and return their reference, ``blake3:<hex>``. Raises BlobsFull."""
        ...

    async def get(self, ref: str) -> bytes:
        """Return the bytes of a reference. Raises BlobMissing, BlobDamaged."""
        ...

    async def has(self, ref: str) -> bool:
        """Whether a reference is stored."""
        ...


class FolderBlobs:
    """Blobs as files in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, data: bytes) -> str:
        """Store bytes durably; the same bytes twice are one file."""
        return await asyncio.to_thread(self._put, data)

    async def get(self, ref: str) -> bytes:
        """Return the bytes, checked."""
        return await asyncio.to_thread(self._get, ref)

    async def has(self, ref: str) -> bool:
        """Whether the file is there."""
        return await asyncio.to_thread(self._path(ref).exists)

    def _path(self, ref: str) -> Path:
        match = _REF.fullmatch(ref)
        if match is None:
            msg = f"{ref!r} is not the reference of a blob"
            raise BlobMissing(msg)
        return self._root / match[1][:_SPREAD] / match[1]

    def _put(self, data: bytes) -> str:
        ref = f"blake3:{blake3(data).hexdigest()}"
        path = self._path(ref)
        if path.exists():
            return ref
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sync_folder(self._root)
            _write(temporary, data)
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                msg = f"no room in {self._root} for a value of {len(data)} bytes: free some space, then run it again"
                raise BlobsFull(msg) from None
            raise
        return ref

    def _get(self, ref: str) -> bytes:
        path = self._path(ref)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            msg = f"the blob {ref} is missing from {self._root}: restore the folder from a backup"
            raise BlobMissing(msg) from None
        if f"blake3:{blake3(data).hexdigest()}" != ref:
            msg = f"the blob {ref} in {self._root} is damaged: restore it from a backup"
            raise BlobDamaged(msg)
        return data


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
