"""Files that come with a submission: read once, stored as blobs, bounded, named."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FileRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .blobs import BlobStore

__all__ = ["MAX_FILES", "MAX_FILE_BYTES", "gather_files"]

#: Files of one submission: their names travel in its promise.
MAX_FILES = 1000
#: One file, and all of them together: they are read into memory one at a time, and copied for every session.
MAX_FILE_BYTES = 1 << 30
MAX_ALL_BYTES = 4 << 30


async def gather_files(paths: Sequence[str | Path], blobs: BlobStore) -> dict[str, str]:
    """Store files and folders; returns their path in the workspace, and blob, by name. Raises FileRefused."""
    found: dict[str, str] = {}
    total = 0
    for given in paths:
        for name, path in await asyncio.to_thread(_listed, Path(given)):
            if len(found) >= MAX_FILES:
                msg = f"more than {MAX_FILES} files: bring an archive instead"
                raise FileRefused(msg)
            try:
                data = await asyncio.to_thread(path.read_bytes)
            except OSError as exc:
                msg = f"{path} cannot be read ({exc.strerror})"
                raise FileRefused(msg) from None
            total += len(data)
            if total > MAX_ALL_BYTES:
                msg = f"the files are larger than {MAX_ALL_BYTES >> 30} GiB together"
                raise FileRefused(msg)
            found[name] = await blobs.put(data)
    return found


def _listed(given: Path) -> list[tuple[str, Path]]:
    return list(_walk(given))


def _walk(given: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the workspace, path) of a file, or of every file in a folder; links are not followed."""
    if not given.exists():
        msg = f"there is no file {given}"
        raise FileRefused(msg)
    root = given.resolve()
    every = sorted(root.rglob("*")) if root.is_dir() else [root]
    for path in every:
        info = path.lstat()
        if stat.S_ISDIR(info.st_mode):
            continue
        if not stat.S_ISREG(info.st_mode):
            msg = f"{path} is neither a file nor a folder: only those can be brought in"
            raise FileRefused(msg)
        if info.st_size > MAX_FILE_BYTES:
            msg = f"{path} is larger than {MAX_FILE_BYTES >> 30} GiB"
            raise FileRefused(msg)
        yield path.relative_to(root.parent).as_posix(), path
