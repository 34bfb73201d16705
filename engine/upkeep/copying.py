"""``perdure backup``: a copy of a state folder as it was at one moment, made while it is used."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..blobs import MARKER
from ..blobs_folder import FolderBlobs
from ..errors import StateUnusable
from ..state import StateFolder
from ..store import SqliteConnection
from .holding import held

if TYPE_CHECKING:
    from ..substrate import Substrate

__all__ = ["Copied", "back_up"]


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds."""

    target: str
    file_bytes: int
    blobs: int


async def back_up(substrate: Substrate, target: Path) -> Copied:
    """Copy a state folder to a new one; it appears whole or not at all.

    Each blob is checked on its way. Workspaces are not copied: they are made from checkpoints. Raises
    NotImplementedError where the store is not a folder's, StateUnusable, StateLocked, BlobDamaged, the store's errors.
    """
    network = substrate.network
    if not isinstance(network, SqliteConnection):
        msg = "only the store of a state folder can be copied: back up the server, or Postgres, with its own tools"
        raise NotImplementedError(msg)
    if await asyncio.to_thread(target.exists):
        msg = f"{target} exists: name a folder that does not"
        raise StateUnusable(msg)
    part = target.with_name(f"{target.name}.part")
    try:
        with held(substrate.folder):
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
            copy = StateFolder(part)
            part.mkdir(mode=0o700, parents=True)
            # The store first: every blob it names is there before, and none is removed while this is held.
            await network.back_up(copy.database)
            blobs = await _copy_blobs(substrate, FolderBlobs(copy.blobs), part)
            # Without it the copy would be taken for a folder that nothing is mounted on.
            copy.blobs.mkdir(mode=0o700, exist_ok=True)
            await asyncio.to_thread(_copy_file, substrate.folder.blobs / MARKER, copy.blobs / MARKER)
            for name in ("format", "key"):
                await asyncio.to_thread(_copy_file, substrate.folder.root / name, part / name)
            await asyncio.to_thread(_sync, part)
            part.rename(target)
            await asyncio.to_thread(_sync, target.parent)
    except OSError as exc:
        msg = f"{target} cannot be written ({exc.strerror}): choose another place"
        raise StateUnusable(msg) from None
    finally:
        await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
    return Copied(str(target), StateFolder(target).database.stat().st_size, blobs)


async def _copy_blobs(substrate: Substrate, copy: FolderBlobs, part: Path) -> int:
    refs = await substrate.blobs.refs()
    for ref in refs:
        with tempfile.TemporaryFile(dir=part) as file:
            await substrate.blobs.write_to(ref, file.fileno())
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            await copy.put_file(file.fileno(), size)
    return len(refs)


def _copy_file(source: Path, target: Path) -> None:
    if not source.exists():
        return
    with source.open("rb") as old, target.open("xb") as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fchmod(new.fileno(), 0o600)
        os.fsync(new.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
