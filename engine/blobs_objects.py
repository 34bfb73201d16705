"""Blobs as objects of a bucket: S3, Google Cloud Storage, Azure, through obstore.

1. A put that returned is as durable as the bucket is; credentials and region come from the environment, as each
   provider's own tools take them.
2. An object is written whole or not at all: no reader sees half of one.
3. Who relies on an object that is there already and not young writes it again, so that it is not removed as old.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from .blobs import (
    ABANDONED_SECONDS,
    MARKER,
    BlobDamaged,
    BlobMissing,
    BlobsUnavailable,
    digest_of,
    not_there,
    pieces_of,
)
from .blobs_folder import file_pieces, write_all

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable
    from typing import IO

    from obstore.store import ObjectStore

    from .blobs import Data

__all__ = ["ObjectBlobs"]

#: Bytes that are kept in memory until the digest is known; more go through a file.
SPOOL = 8 << 20

#: An object that is put again is left as it is only within this of its last writing (s): far less than what is spared
#: from removal, so that an object somebody has just relied on is never removed.
YOUNG_SECONDS = 12 * 3600.0

#: What can be in a bucket's address.
SCHEMES = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")


class ObjectBlobs:
    """Blobs in an object store."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self._name = name
        self._marker: str | None = None
        #: Whether the marker was seen by this process: a bucket is not exchanged under it, as a mounted folder may be.
        self._seen = False

    async def mark(self, id: str) -> str:
        """Leave a marker if there is none."""
        with _errors(self._name, MARKER):
            found = await self._found()
            if found is None:
                # Whoever does so at the same time is of the same state, and writes the same.
                await self._store.put_async(MARKER, id.encode())
        return found or id

    def expect(self, marker: str) -> None:
        """Take a bucket without this marker for another one."""
        self._marker = marker

    async def _found(self) -> str | None:
        try:
            with _errors(self._name, MARKER):
                return bytes(await (await self._store.get_async(MARKER)).bytes_async()).decode(errors="replace")
        except BlobMissing:
            return None

    async def _look(self) -> None:
        """See whether the bucket is the one that was marked. Raises BlobsUnavailable."""
        if self._marker is not None and (found := await self._found()) != self._marker:
            raise not_there(self._name, found)

    @classmethod
    def at(cls, url: str) -> ObjectBlobs:
        """Open a bucket by its address. Raises BlobsUnavailable."""
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES:
            msg = f"{url!r} names no kind of blob store: use a folder, s3://, gs:// or az://"
            raise BlobsUnavailable(msg)
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            msg = "blobs in a bucket need an extra: install 'perdure[objects]'"
            raise BlobsUnavailable(msg) from None
        try:
            return cls(from_url(url), url)
        except (BaseError, ValueError) as exc:
            msg = f"{url} cannot be used: {_line(exc)}"
            raise BlobsUnavailable(msg) from None

    async def put(self, data: Data | Iterable[Data]) -> str:
        """Store bytes; the same bytes twice are one object."""
        pieces = pieces_of(data)
        if isinstance(pieces, list) and len(pieces) == 1:
            piece = pieces[0]
            digest = await asyncio.to_thread(lambda: blake3(piece).hexdigest())
            return await self._write(f"blake3:{digest}", memoryview(piece).nbytes, piece)
        return (await self._spool(pieces))[0]

    async def put_file(self, descriptor: int, limit: int) -> tuple[str, int]:
        """Store an open file's bytes from where it stands, never more than ``limit``."""
        return await self._spool(file_pieces(descriptor, limit))

    async def get(self, ref: str) -> bytes:
        """Return the bytes, checked."""
        async with self._reading(ref):
            data = bytes(await (await self._store.get_async(_path(ref))).bytes_async())
        if f"blake3:{await asyncio.to_thread(lambda: blake3(data).hexdigest())}" != ref:
            raise self._damaged(ref)
        return data

    async def write_to(self, ref: str, descriptor: int) -> None:
        """Copy the bytes into an open file, checked once all are written."""
        digest = blake3()

        def take(piece: bytes) -> None:
            digest.update(piece)
            write_all(descriptor, piece)

        async with self._reading(ref):
            async for piece in await self._store.get_async(_path(ref)):
                await asyncio.to_thread(take, bytes(piece))
        if f"blake3:{digest.hexdigest()}" != ref:
            raise self._damaged(ref)

    async def has(self, ref: str) -> bool:
        """Whether the object is there."""
        if await self._meta(ref) is not None:
            return True
        await self._look()
        return False

    async def collect(self, live: Callable[[str], bool], before: float, *, remove: bool = True) -> tuple[int, int]:
        """Remove objects that nothing names and nobody put since ``before``; returns how many, and their bytes."""
        count = size = 0
        for found in await self._list():
            ref = f"blake3:{found['path']}"
            if live(ref) or found["last_modified"].timestamp() >= before:
                continue
            if remove:
                again = await self._meta(ref)  # somebody may have put it since it was listed
                if again is None or again["last_modified"].timestamp() >= before:
                    continue
                with _errors(self._name, ref):
                    await self._store.delete_async(_path(ref))
            count, size = count + 1, size + found["size"]
        return count, size

    async def refs(self) -> list[str]:
        """Return the reference of every blob there is."""
        return [f"blake3:{found['path']}" for found in await self._list()]

    async def head(self, ref: str, size: int) -> bytes:
        """Return the first bytes, unchecked."""
        found = await self._meta(ref)
        if found is None:
            await self._look()
            msg = f"the blob {ref} is missing from {self._name}: restore it from a backup"
            raise BlobMissing(msg)
        if not found["size"]:
            return b""  # a range of nothing is refused
        with _errors(self._name, ref):
            return bytes(await self._store.get_range_async(_path(ref), start=0, end=min(size, found["size"])))

    async def sweep(self, now: float, older_than: float = ABANDONED_SECONDS) -> int:
        """Do nothing: an unfinished upload is no object, and buckets have rules of their own for its parts."""
        del now, older_than
        return 0

    async def _list(self) -> list[dict[str, Any]]:
        await self._look()
        listed: list[dict[str, Any]] = []
        with _errors(self._name, ""):
            async for page in self._store.list():
                listed += [{**found} for found in page if _is_ours(found["path"])]
        return listed

    async def _meta(self, ref: str) -> Any | None:
        try:
            with _errors(self._name, ref):
                return await self._store.head_async(_path(ref))
        except BlobMissing:
            return None

    async def _spool(self, pieces: Iterable[Data]) -> tuple[str, int]:
        with tempfile.SpooledTemporaryFile(SPOOL) as file:
            ref, size = await asyncio.to_thread(_fill, file, pieces)
            return await self._write(ref, size, file), size

    async def _write(self, ref: str, size: int, data: Any) -> str:
        found = await self._meta(ref)
        young = found is not None and time.time() - found["last_modified"].timestamp() < YOUNG_SECONDS
        if found is not None and found["size"] == size and young:
            return ref
        if not self._seen:
            await self._look()
            self._seen = True
        with _errors(self._name, ref):
            await self._store.put_async(_path(ref), data)
        return ref

    @asynccontextmanager
    async def _reading(self, ref: str) -> AsyncGenerator[None]:
        try:
            with _errors(self._name, ref):
                yield
        except BlobMissing:
            await self._look()
            raise

    def _damaged(self, ref: str) -> BlobDamaged:
        return BlobDamaged(f"the blob {ref} in {self._name} is damaged: restore it from a backup")


def _path(ref: str) -> str:
    return digest_of(ref)


def _is_ours(path: str) -> bool:
    try:
        digest_of(f"blake3:{path}")
    except BlobMissing:
        return False
    return True


def _fill(file: IO[bytes], pieces: Iterable[Data]) -> tuple[str, int]:
    digest, size = blake3(), 0
    for piece in pieces:
        digest.update(piece)
        size += file.write(piece)
    file.seek(0)
    return f"blake3:{digest.hexdigest()}", size


@contextmanager
def _errors(name: str, ref: str) -> Generator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        msg = f"the blob {ref} is missing from {name}: restore it from a backup"
        raise BlobMissing(msg) from None
    except BaseError as exc:
        msg = f"{name} cannot be reached or refused ({_line(exc)}): check its address, the network and the credentials"
        raise BlobsUnavailable(msg) from None


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]
