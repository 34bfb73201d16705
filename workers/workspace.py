"""Workspaces as data: what files a session has, stored by content, and put back exactly.

1. The guest is hostile: nothing in its folder is opened through a link, waited for, or read without a bound.
2. A file whose size, times and inode are those of the last snapshot is not read again; anything else is.
3. A restore makes the folder exactly what was recorded: names, bytes, modes, times, links, and nothing more.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.engine.errors import PerdureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from perdure.engine.blobs import BlobStore

__all__ = ["PathRefused", "WorkspaceTooLarge", "add_files", "restore", "snapshot"]

#: How deep folders may be nested: beyond, names no longer fit a path.
MAX_DEPTH = 100
#: Notes about single files that a result carries; more are counted.
MAX_NOTES = 20

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class WorkspaceTooLarge(PerdureError):
    """The workspace has more files or bytes than the session's limits allow."""


class PathRefused(PerdureError):
    """A file that came with a submission does not belong into a workspace."""


async def snapshot(
    folder: Path, blobs: BlobStore, previous: Mapping[str, Any] | None, *, max_files: int, max_bytes: int
) -> tuple[dict[str, Any], list[str]]:
    """Store a workspace's files; returns its tree, and notes on what was left out. Raises WorkspaceTooLarge."""
    entries: dict[str, Any] = {}
    notes: list[str] = []
    total = 0
    left_out = 0
    for path, found in await asyncio.to_thread(lambda: list(_walk(folder, previous or {}))):
        if len(entries) >= max_files:
            msg = f"the workspace has more than {max_files} files and folders: remove some, or raise the limit 'files'"
            raise WorkspaceTooLarge(msg)
        if isinstance(found, str):
            left_out += 1
            if left_out <= MAX_NOTES:
                notes.append(f"{path} is not kept: {found}")
            continue
        total += found.get("size", 0)
        if total > max_bytes:
            msg = f"the workspace holds more than {max_bytes} bytes: remove files, or raise the limit 'workspace_bytes'"
            raise WorkspaceTooLarge(msg)
        if found["kind"] == "file" and "blob" not in found:
            data = await asyncio.to_thread(_read, folder, path)
            if data is None:
                notes.append(f"{path} is not kept: it changed while it was read")
                continue
            found["size"] = len(data)
            found["blob"] = await blobs.put(data)
        entries[path] = found
    if left_out > MAX_NOTES:
        notes.append(f"{left_out - MAX_NOTES} more files are not kept")
    return {"entries": entries}, notes


def _walk(folder: Path, previous: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    known = previous.get("entries", {})
    stack: list[tuple[str, int]] = [("", 0)]
    while stack:
        relative, depth = stack.pop()
        try:
            with os.scandir(folder / relative) as listing:
                found = sorted(listing, key=lambda entry: entry.name)
        except OSError as exc:
            yield relative, f"it cannot be listed ({exc.strerror})"
            continue
        for entry in found:
            path = f"{relative}/{entry.name}" if relative else entry.name
            try:
                path.encode()
                info = entry.stat(follow_symlinks=False)
            except (UnicodeEncodeError, OSError):
                yield repr(path)[1:-1], "its name is not text, or it is gone"
                continue
            described = _describe(folder, path, info, known.get(path))
            yield path, described
            if isinstance(described, dict) and described["kind"] == "folder":
                if depth >= MAX_DEPTH:
                    yield path, f"it lies deeper than {MAX_DEPTH} folders"
                else:
                    stack.append((path, depth + 1))


def _describe(folder: Path, path: str, info: os.stat_result, known: Any) -> dict[str, Any] | str:
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISDIR(info.st_mode):
        return {"kind": "folder", "mode": mode}
    if stat.S_ISLNK(info.st_mode):
        try:
            target = os.readlink(folder / path)  # noqa: PTH115 - a text, as it stands in the link
            target.encode()
        except (OSError, UnicodeEncodeError):
            return "its target is not text"
        return {"kind": "link", "target": target}
    if not stat.S_ISREG(info.st_mode):
        return "it is no ordinary file"
    entry: dict[str, Any] = {
        "kind": "file",
        "mode": mode,
        "size": info.st_size,
        "mtime": info.st_mtime_ns,
        "seen": [info.st_ino, info.st_ctime_ns],
    }
    if isinstance(known, dict) and all(known.get(key) == entry[key] for key in ("kind", "size", "mtime", "seen")):
        entry["blob"] = known["blob"]
    return entry


def _read(folder: Path, path: str) -> bytes | None:
    """Read a file beneath the folder, never through a link; None if it is no longer an ordinary file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *parents, name = path.split("/")
        for parent in parents:
            below = os.open(parent, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        file = os.open(name, _OPEN, dir_fd=descriptor)
        with os.fdopen(file, "rb") as opened:
            info = os.fstat(file)
            if not stat.S_ISREG(info.st_mode):
                return None
            # Not beyond the size it had: whoever writes on while it is read is stopped by the next snapshot.
            return opened.read(info.st_size)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EACCES):
            return None
        raise
    finally:
        os.close(descriptor)


async def restore(tree: Mapping[str, Any] | None, folder: Path, blobs: BlobStore) -> None:
    """Make the folder hold exactly what the tree says; no guest works in it meanwhile."""
    entries: dict[str, Any] = dict((tree or {}).get("entries", {}))
    kept = await asyncio.to_thread(_clear, folder, entries)
    for path, entry in entries.items():
        if entry["kind"] == "file" and path not in kept:
            data = await blobs.get(entry["blob"])
            await asyncio.to_thread(_write, folder / path, data, entry["mode"], entry["mtime"])
    await asyncio.to_thread(_folder_modes, folder, entries)


def _clear(folder: Path, entries: Mapping[str, Any]) -> set[str]:
    """Remove what does not belong, make folders and links, and return the files that are right already."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept: set[str] = set()
    for path, found in list(_walk(folder, {"entries": entries})):
        entry = entries.get(path)
        place = folder / path
        if not isinstance(found, dict) or entry is None or entry["kind"] != found["kind"]:
            _remove(place)
        elif found["kind"] == "file":
            if "blob" in found and found["mode"] == entry["mode"]:
                kept.add(path)
            else:
                _remove(place)
        elif found["kind"] == "link" and found["target"] != entry["target"]:
            _remove(place)
        elif found["kind"] == "folder":
            place.chmod(0o700)
    for path, entry in sorted(entries.items()):
        place = folder / path
        if entry["kind"] == "folder":
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif entry["kind"] == "link" and not place.is_symlink():
            place.symlink_to(entry["target"])
    return kept


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        for root, folders, _ in os.walk(place):
            for name in folders:
                inner = Path(root, name)
                if not inner.is_symlink():
                    inner.chmod(0o700)
        place.chmod(0o700)
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _write(place: Path, data: bytes, mode: int, mtime: int | None) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(place, flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, mode)
    if mtime is not None:
        os.utime(place, ns=(mtime, mtime), follow_symlinks=False)


def _folder_modes(folder: Path, entries: Mapping[str, Any]) -> None:
    for path, entry in sorted(entries.items(), reverse=True):
        if entry["kind"] == "folder":
            (folder / path).chmod(entry["mode"])


async def add_files(folder: Path, blobs: BlobStore, files: Mapping[str, str]) -> None:
    """Write files that come with a submission, over what is there. Raises PathRefused for one that would leave it."""
    for name, ref in files.items():
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in name:
            msg = f"{name!r} does not name a file in the workspace"
            raise PathRefused(msg)
        await asyncio.to_thread(_write, folder / name, await blobs.get(ref), 0o600, None)
