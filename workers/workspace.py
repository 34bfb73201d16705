"""Workspaces as data: what files a session has, stored by content, and put back exactly.

1. The guest is hostile and may still be running: nothing is opened through a link, waited for, or read or listed
   without a bound; every name is resolved from the descriptor of the folder that holds it.
2. A file is not read again only if its size, times and inode are those of the last snapshot, the last snapshot was
   surely taken after its last change, and nobody can be writing to it through a descriptor or a mapping.
3. A restore makes the folder exactly what was recorded: names, bytes, modes, times, links, and nothing more.

A tree is plain JSON data, `{"entries": {path: entry}}`. A path is the names joined by `/`; a byte of a name that is
not UTF-8 is written `//` and two hexadecimal digits, which no joined path contains.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.engine.errors import PerdureError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from perdure.engine.blobs import BlobStore

__all__ = ["WorkspaceTooLarge", "add_files", "open_files", "restore", "snapshot"]

#: How deep folders may be nested: beyond, names no longer fit a path.
MAX_DEPTH = 100
#: Notes about single files that a result carries; more are counted.
MAX_NOTES = 20
#: A file changed this short before a snapshot may change again without its time stamp moving: the clock that stamps
#: files ticks every 4 to 10 ms.
_TICK_NS = 20_000_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: Only what a file lets its own user, group and others do: a restored file never runs as somebody else.
_MODE = 0o777

_NOT_TEXT = re.compile("[\udc80-\udcff]")
_ESCAPED = re.compile("//([89a-f][0-9a-f])")

_SPECIAL = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


class WorkspaceTooLarge(PerdureError):
    """The workspace has more files or bytes than the session's limits allow."""

    #: The name of the limit.
    limit = ""


async def snapshot(
    folder: Path,
    blobs: BlobStore,
    previous: Mapping[str, Any] | None,
    *,
    max_files: int,
    max_bytes: int,
    in_use: Collection[tuple[int, int]] | None = frozenset(),
) -> tuple[dict[str, Any], list[str]]:
    """Store a workspace's files; returns its tree and notes on what was left out. Raises WorkspaceTooLarge.

    ``in_use`` are files (device, inode) that a process may be writing to without their times moving, as `open_files`
    finds them; None if that is not known: then every file is read.
    """
    walk = _Walk(folder, (previous or {}).get("entries", {}), max_files, max_bytes, in_use)
    await asyncio.to_thread(walk.run)
    for path in walk.to_read:
        await _store(folder, path, walk, blobs, max_bytes)
    entries = dict(sorted(walk.entries.items()))
    if walk.left_out > MAX_NOTES:
        walk.notes.append(f"{walk.left_out - MAX_NOTES} more files are not kept")
    return {"entries": entries}, walk.notes


class _Walk:
    """One pass over a folder that may change meanwhile: entries, what must be read, and what is left out."""

    def __init__(
        self,
        folder: Path,
        known: Mapping[str, Any],
        max_files: int,
        max_bytes: int,
        in_use: Collection[tuple[int, int]] | None,
    ) -> None:
        self.folder = folder
        self.known = known
        self.max_files = max_files
        self.max_bytes = max_bytes
        self.in_use = in_use
        self.began = time.time_ns()
        self.entries: dict[str, dict[str, Any]] = {}
        self.to_read: list[str] = []
        self.notes: list[str] = []
        self.left_out = 0
        self.bytes = 0

    def run(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._enter(descriptor, "", 0)
        finally:
            os.close(descriptor)

    def leave_out(self, path: str, why: str) -> None:
        self.left_out += 1
        if self.left_out <= MAX_NOTES:
            self.notes.append(f"{path} is not kept: {why}")

    def may_be_written(self, info: os.stat_result) -> bool:
        return self.in_use is None or (info.st_dev, info.st_ino) in self.in_use

    def count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.max_bytes:
            msg = (
                f"the workspace holds more than {self.max_bytes} bytes: remove files, "
                "or raise the limit 'workspace_bytes'"
            )
            raise _beyond("workspace_bytes", msg)

    def _enter(self, descriptor: int, prefix: str, depth: int) -> None:
        with os.scandir(descriptor) as listing:
            for item in listing:
                if len(self.entries) + self.left_out >= self.max_files:
                    msg = (
                        f"the workspace has more than {self.max_files} files and folders: remove some, "
                        "or raise the limit 'files'"
                    )
                    raise _beyond("files", msg)
                path = prefix + _escaped(item.name)
                try:
                    info = os.stat(item.name, dir_fd=descriptor, follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        self._folder(descriptor, item.name, path, depth, info)
                    elif stat.S_ISLNK(info.st_mode):
                        target = _escaped(os.readlink(item.name, dir_fd=descriptor))
                        self.entries[path] = {"kind": "link", "target": target, "mtime": info.st_mtime_ns}
                    elif stat.S_ISREG(info.st_mode):
                        self._file(path, info)
                    else:
                        self.leave_out(path, f"it is {_SPECIAL.get(stat.S_IFMT(info.st_mode), 'no ordinary file')}")
                except OSError as exc:
                    self.leave_out(path, f"it cannot be read ({exc.strerror})")

    def _folder(self, parent: int, name: str, path: str, depth: int, info: os.stat_result) -> None:
        if depth >= MAX_DEPTH:
            self.leave_out(path, f"it lies deeper than {MAX_DEPTH} folders")
            return
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
        try:
            self.entries[path] = {"kind": "folder", "mode": info.st_mode & _MODE, "mtime": info.st_mtime_ns}
            self._enter(descriptor, path + "/", depth + 1)
        finally:
            os.close(descriptor)

    def _file(self, path: str, info: os.stat_result) -> None:
        entry = _file_entry(info)
        known = self.known.get(path)
        if (
            isinstance(known, dict)
            and all(known.get(key) == entry[key] for key in ("kind", "size", "mtime", "seen"))
            and not self.may_be_written(info)
        ):
            entry["blob"] = known["blob"]
            self.count(info.st_size)
        else:
            self.to_read.append(path)
        self.entries[path] = entry


def _beyond(limit: str, message: str) -> WorkspaceTooLarge:
    problem = WorkspaceTooLarge(message)
    problem.limit = limit
    return problem


def _file_entry(info: os.stat_result) -> dict[str, Any]:
    return {
        "kind": "file",
        "mode": info.st_mode & _MODE,
        "size": info.st_size,
        "mtime": info.st_mtime_ns,
        "seen": [info.st_ino, info.st_ctime_ns],
    }


async def _store(folder: Path, path: str, walk: _Walk, blobs: BlobStore, max_bytes: int) -> None:
    """Store the content of one file as it is now, which may be later than the walk saw it."""
    try:
        descriptor = await asyncio.to_thread(_open, folder, path)
    except OSError as exc:
        del walk.entries[path]
        walk.leave_out(path, f"it cannot be read ({exc.strerror})")
        return
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            del walk.entries[path]
            walk.leave_out(path, "it is no ordinary file any more")
            return
        walk.count(before.st_size)
        # Not beyond the size it had: whoever writes on while it is read is stopped by the next snapshot.
        ref, size = await blobs.put_file(descriptor, min(before.st_size, max_bytes))
        entry = _file_entry(before)
        entry["size"], entry["blob"] = size, ref
        after = os.fstat(descriptor)
        changing = _file_entry(after) != _file_entry(before) or size != before.st_size
        if changing or before.st_ctime_ns > walk.began - _TICK_NS or walk.may_be_written(after):
            # It may come to have other bytes with the same times: neither snapshot nor restore may rely on them.
            del entry["seen"]
        walk.entries[path] = entry
    finally:
        os.close(descriptor)


@contextmanager
def _parent(folder: Path, path: str) -> Iterator[tuple[int, str]]:
    """Give the descriptor of the folder that holds `path`, reached without following a link, and the last name."""
    names = _names(path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            below = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor, names[-1]
    finally:
        os.close(descriptor)


def _open(folder: Path, path: str) -> int:
    with _parent(folder, path) as (parent, name):
        return os.open(name, _READ, dir_fd=parent)


def _escaped(name: str) -> str:
    return _NOT_TEXT.sub(lambda found: f"//{ord(found[0]) - 0xDC00:02x}", name)


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), text)


def _names(path: str) -> list[str]:
    names = _plain(path).split("/")
    if any(name in ("", ".", "..") or "\0" in name for name in names):
        msg = f"{path!r} does not name a file in the workspace"
        raise WorkspaceTooLarge(msg)
    return names


# --- who may be writing ----------------------------------------------------------------------------------


def open_files(processes: Collection[int]) -> frozenset[tuple[int, int]] | None:
    """Return the files (device, inode) that processes hold open for writing or mapped; None if that cannot be seen.

    A store through a shared mapping need not move a file's times, so these are always read.
    """
    found: set[tuple[int, int]] = set()
    for process in processes:
        place = Path("/proc", str(process))
        try:
            for line in (place / "maps").read_text(errors="surrogateescape").splitlines():
                _range, permissions, _offset, device, inode, *_name = line.split(maxsplit=5)
                if permissions.endswith("s") and inode != "0":
                    major, _, minor = device.partition(":")
                    found.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
            for descriptor in (place / "fd").iterdir():
                try:
                    info = descriptor.stat()
                except OSError:
                    continue
                found.add((info.st_dev, info.st_ino))
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return frozenset(found)


# --- putting back ----------------------------------------------------------------------------------------


async def restore(tree: Mapping[str, Any] | None, folder: Path, blobs: BlobStore) -> dict[str, Any]:
    """Make the folder hold exactly what the tree says; no guest works in it meanwhile.

    Returns the tree with the times and inodes the files have now: given to the next `snapshot`, it spares reading
    them. Raises BlobMissing or BlobDamaged, with the folder unfinished.
    """
    entries: dict[str, Any] = {path: dict(entry) for path, entry in sorted((tree or {}).get("entries", {}).items())}
    kept = await asyncio.to_thread(_clear, folder, entries)
    for path, entry in entries.items():
        if entry["kind"] == "file" and path not in kept:
            await _write_file(folder, path, entry, blobs)
    await asyncio.to_thread(_settle, folder, entries)
    return {"entries": entries}


def _clear(folder: Path, entries: Mapping[str, Any]) -> set[str]:
    """Remove what does not belong, make folders and links, and return the files that are right already."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept: set[str] = set()
    _remove_others(folder, "", entries, kept)
    for path, entry in entries.items():
        with _parent(folder, path) as (parent, name):
            if entry["kind"] == "folder":
                try:
                    os.mkdir(name, 0o700, dir_fd=parent)
                except FileExistsError:
                    pass
            elif entry["kind"] == "link" and not _exists(name, parent):
                os.symlink(_plain(entry["target"]), name, dir_fd=parent)
    return kept


def _remove_others(folder: Path, prefix: str, entries: Mapping[str, Any], kept: set[str]) -> None:
    with os.scandir(folder) as listing:
        found = list(listing)
    for item in found:
        path = prefix + _escaped(item.name)
        entry = entries.get(path)
        place = folder / item.name
        info = place.lstat()
        if entry is None or not _is_right(entry, info, place):
            _remove(place)
        elif entry["kind"] == "folder":
            place.chmod(0o700)
            _remove_others(place, path + "/", entries, kept)
        elif entry["kind"] == "file":
            kept.add(path)


def _is_right(entry: Mapping[str, Any], info: os.stat_result, place: Path) -> bool:
    """Whether what is in place can stay: a folder as such, a file or link only unchanged."""
    if entry["kind"] == "folder":
        return stat.S_ISDIR(info.st_mode)
    if entry["kind"] == "link":
        return stat.S_ISLNK(info.st_mode) and _escaped(os.readlink(place)) == entry["target"]  # noqa: PTH115 - text
    same = _file_entry(info)
    return stat.S_ISREG(info.st_mode) and all(entry.get(key) == same[key] for key in same)


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove(place: Path) -> None:
    if place.is_symlink() or not place.is_dir():
        place.unlink()
        return
    place.chmod(0o700)
    for root, folders, _files in place.walk():
        for name in folders:
            if not (root / name).is_symlink():
                (root / name).chmod(0o700)
    shutil.rmtree(place)


async def _write_file(folder: Path, path: str, entry: dict[str, Any], blobs: BlobStore) -> None:
    def create() -> int:
        with _parent(folder, path) as (parent, name):
            return os.open(name, _WRITE, 0o600, dir_fd=parent)

    descriptor = await asyncio.to_thread(create)
    try:
        await blobs.write_to(entry["blob"], descriptor)
        os.fchmod(descriptor, entry["mode"] & _MODE)
        os.utime(descriptor, ns=(entry["mtime"], entry["mtime"]))
        info = os.fstat(descriptor)
        entry["seen"] = [info.st_ino, info.st_ctime_ns]
    finally:
        os.close(descriptor)


def _settle(folder: Path, entries: Mapping[str, Any]) -> None:
    """Give links and folders their times and modes, the deepest first: making what is inside moves them."""
    for path, entry in sorted(entries.items(), reverse=True):
        if "mtime" not in entry:
            continue
        times = entry["mtime"], entry["mtime"]
        with _parent(folder, path) as (parent, name):
            if entry["kind"] == "link":
                os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
            elif entry["kind"] == "folder":
                os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
                os.chmod(name, entry["mode"] & _MODE, dir_fd=parent)


async def add_files(folder: Path, blobs: BlobStore, files: Mapping[str, str]) -> None:
    """Write files that come with a submission over what is there; no guest works in the folder meanwhile.

    Raises WorkspaceTooLarge for a path that leaves the workspace.
    """
    for path, ref in files.items():
        names = _names(path)
        await asyncio.to_thread(_make_way, folder, names)
        now = time.time_ns()
        await _write_file(folder, path, {"blob": ref, "mode": 0o600, "mtime": now}, blobs)


def _make_way(folder: Path, names: list[str]) -> None:
    """Make the folders that lead to a file, and remove what stands in its place; links are replaced, not followed."""
    place = folder
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names[:-1]:
        place = place / name
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            place.unlink()
        place.mkdir(mode=0o700, exist_ok=True)
    last = place / names[-1]
    if last.is_symlink() or last.exists():
        _remove(last)
