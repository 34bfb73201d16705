"""Workspace files: what was there comes back exactly, and only what changed is read."""

from __future__ import annotations

import json
import mmap
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from perdure.engine.blobs import BlobMissing
from perdure.engine.blobs_folder import FolderBlobs
from perdure.workers.workspace import WorkspaceTooLarge, add_files, open_files, restore, snapshot

LONG_AGO = 1_000_000_000_123_456_789


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "workspace"
    made.mkdir()
    return made


async def snap(
    folder: Path, blobs: FolderBlobs, previous: Any = None, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    tree, notes = await snapshot(folder, blobs, previous, **{"max_files": 1000, "max_bytes": 1 << 30, **options})
    return json.loads(json.dumps(tree)), notes


def describe(folder: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything a program can see of a folder."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for root, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = root + b"/" + name
            info = os.lstat(path)
            content: Any = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            found[os.path.relpath(path, os.fsencode(folder))] = (info.st_mode, info.st_mtime_ns, content)
    return found


def fill(folder: Path) -> None:
    (folder / "a" / "b" / "empty").mkdir(parents=True)
    (folder / "a" / "one.txt").write_bytes(b"one")
    (folder / "a" / "b" / "two.bin").write_bytes(bytes(range(256)) * 500)
    (folder / "nothing").write_bytes(b"")
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o751)
    (folder / "a" / "one.txt").chmod(0o440)
    (folder / "link").symlink_to("a/one.txt")
    (folder / "up").symlink_to("../elsewhere")
    (folder / "dangling").symlink_to("/no/such\udcfffile")
    (folder / "name\udcff\n odd").write_bytes(b"odd")
    (folder / "ünï").write_bytes(b"text")
    os.utime(folder / "a" / "one.txt", ns=(LONG_AGO, LONG_AGO))
    os.utime(folder / "link", ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
    os.utime(folder / "a", ns=(LONG_AGO, LONG_AGO + 1))
    (folder / "a" / "b").chmod(0o500)


@pytest.mark.no_blocking
async def test_everything_comes_back_in_another_folder(folder: Path, blobs: FolderBlobs, tmp_path: Path) -> None:
    fill(folder)
    tree, notes = await snap(folder, blobs)
    assert notes == []
    await restore(tree, tmp_path / "other", blobs)
    assert describe(tmp_path / "other") == describe(folder)
    assert (await snap(tmp_path / "other", blobs))[0]["entries"].keys() == tree["entries"].keys()


async def test_a_restore_undoes_every_kind_of_change(folder: Path, blobs: FolderBlobs) -> None:
    fill(folder)
    before = describe(folder)
    tree, _ = await snap(folder, blobs)
    (folder / "a" / "b").chmod(0o700)
    (folder / "a" / "b" / "two.bin").unlink()
    (folder / "a" / "b" / "two.bin").mkdir()
    (folder / "a" / "one.txt").chmod(0o600)
    (folder / "a" / "one.txt").write_bytes(b"two")
    os.utime(folder / "a" / "one.txt", ns=(LONG_AGO, LONG_AGO))
    (folder / "link").unlink()
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "run.sh").unlink()
    (folder / "run.sh").symlink_to("/etc/passwd")
    (folder / "extra" / "deep").mkdir(parents=True)
    (folder / "extra" / "deep" / "file").write_bytes(b"x")
    (folder / "extra" / "deep").chmod(0)
    os.mkfifo(folder / "pipe")
    await restore(tree, folder, blobs)
    assert describe(folder) == before
    await restore(None, folder, blobs)
    assert describe(folder) == {}


class Counting(FolderBlobs):
    """A store that knows which content it was given and asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.files = 0
        self.fetched = 0

    async def put_file(self, descriptor: int, limit: int) -> tuple[str, int]:
        self.files += 1
        return await super().put_file(descriptor, limit)

    async def write_to(self, ref: str, descriptor: int) -> None:
        self.fetched += 1
        await super().write_to(ref, descriptor)


async def test_only_what_changed_is_read_and_written(folder: Path, tmp_path: Path) -> None:
    blobs = Counting(tmp_path / "blobs")
    for number in range(50):
        (folder / str(number)).write_bytes(b"%d" % number)
    wait_out_the_clock(folder)
    tree, _ = await snap(folder, blobs)
    assert blobs.files == 50
    again, _ = await snap(folder, blobs, tree)
    assert again == tree
    assert blobs.files == 50
    times = (folder / "7").stat()
    (folder / "7").write_bytes(b"8")
    os.utime(folder / "7", ns=(times.st_atime_ns, times.st_mtime_ns))
    third, _ = await snap(folder, blobs, tree)
    assert blobs.files == 51
    assert third["entries"]["7"]["blob"] == tree["entries"]["8"]["blob"]
    fresh = await restore(tree, folder, blobs)
    assert blobs.fetched == 1
    assert (folder / "7").read_bytes() == b"7"
    wait_out_the_clock(folder)
    blobs.files = 0
    await snap(folder, blobs, fresh)
    assert blobs.files == 0


def wait_out_the_clock(folder: Path) -> None:
    """Let the clock that stamps files move on, so that what is there is surely older than what follows."""
    latest = max(path.lstat().st_ctime_ns for path in folder.iterdir())
    while time.time_ns() < latest + 25_000_000:
        threading.Event().wait(0.005)


async def test_a_file_changed_just_before_a_snapshot_is_read_again(folder: Path, tmp_path: Path) -> None:
    blobs = Counting(tmp_path / "blobs")
    (folder / "x").write_bytes(b"1")
    tree, _ = await snap(folder, blobs)
    assert "seen" not in tree["entries"]["x"]
    await snap(folder, blobs, tree)
    assert blobs.files == 2


async def test_a_store_through_a_mapping_is_seen(folder: Path, blobs: FolderBlobs) -> None:
    (folder / "mapped").write_bytes(bytes(8192))
    with (folder / "mapped").open("r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        mapped[0] = 1
        wait_out_the_clock(folder)
        in_use = open_files([os.getpid()])
        assert in_use is not None
        info = os.fstat(file.fileno())
        assert (info.st_dev, info.st_ino) in in_use
        tree, _ = await snap(folder, blobs, in_use=in_use)
        mapped[0] = 2
        later, _ = await snap(folder, blobs, tree, in_use=in_use)
        assert later["entries"]["mapped"]["blob"] != tree["entries"]["mapped"]["blob"]
        unknown, _ = await snap(folder, blobs, later, in_use=None)
        assert unknown == later
    await restore(tree, folder, blobs)
    assert (folder / "mapped").read_bytes()[0] == 1


async def test_what_is_no_ordinary_file_is_named(folder: Path, blobs: FolderBlobs) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))
        tree, notes = await snap(folder, blobs)
    assert tree == {"entries": {}}
    assert sorted(notes) == ["pipe is not kept: it is a pipe", "socket is not kept: it is a socket"]


async def test_bounds_on_count_bytes_and_depth(folder: Path, blobs: FolderBlobs) -> None:
    for number in range(20):
        (folder / str(number)).write_bytes(b"x" * 100)
    with pytest.raises(WorkspaceTooLarge, match="more than 19 files"):
        await snap(folder, blobs, max_files=19)
    with pytest.raises(WorkspaceTooLarge, match="more than 1999 bytes"):
        await snap(folder, blobs, max_bytes=1999)
    assert len((await snap(folder, blobs, max_files=20, max_bytes=2000))[0]["entries"]) == 20
    place = folder
    for _ in range(105):
        place = place / "d"
    place.mkdir(parents=True)
    tree, notes = await snap(folder, blobs)
    assert len(notes) == 1
    assert "deeper than 100" in notes[0]
    assert max(path.count("/") for path in tree["entries"]) == 99


async def test_a_tree_that_leads_out_of_the_workspace_is_refused(
    folder: Path, blobs: FolderBlobs, tmp_path: Path
) -> None:
    ref = await blobs.put(b"evil")
    entry = {"kind": "file", "mode": 0o600, "mtime": 0, "size": 4, "blob": ref}
    for path in ("../out", "/etc/out", "a/../../out", "", ".", "a//2f", "x\0y"):
        with pytest.raises(WorkspaceTooLarge):
            await restore({"entries": {path: entry}}, folder, blobs)
        with pytest.raises(WorkspaceTooLarge):
            await add_files(folder, blobs, {path: ref})
    with pytest.raises(OSError, match=r"symbolic|directory"):
        await restore({"entries": {"l": {"kind": "link", "target": str(tmp_path)}, "l/out": entry}}, folder, blobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "workspace"]


async def test_a_missing_blob_is_said(folder: Path, blobs: FolderBlobs) -> None:
    entry = {"kind": "file", "mode": 0o600, "mtime": 0, "size": 4, "blob": "blake3:" + "0" * 64}
    with pytest.raises(BlobMissing):
        await restore({"entries": {"x": entry}}, folder, blobs)


async def test_files_of_a_submission_replace_what_stands_there(
    folder: Path, blobs: FolderBlobs, tmp_path: Path
) -> None:
    (folder / "data").symlink_to(tmp_path)
    (folder / "file").mkdir()
    (folder / "file" / "x").write_bytes(b"")
    ref = await blobs.put(b"new")
    await add_files(folder, blobs, {"data/in/csv": ref, "file": ref})
    assert (folder / "data" / "in" / "csv").read_bytes() == (folder / "file").read_bytes() == b"new"
    assert not (folder / "data").is_symlink()
    assert not (tmp_path / "in").exists()


async def test_nothing_outside_is_read_while_the_guest_swaps_folders_for_links(
    folder: Path, blobs: FolderBlobs, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x").write_bytes(b"secret")
    (folder / "a").mkdir()
    (folder / "a" / "x").write_bytes(b"public")
    (folder / "l").symlink_to(secret)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (folder / "a").rename(folder / "b")
            (folder / "l").rename(folder / "a")
            (folder / "a").rename(folder / "l")
            (folder / "b").rename(folder / "a")

    racing = threading.Thread(target=swap)
    racing.start()
    try:
        public = await blobs.put(b"public")
        for _ in range(50):
            tree, _notes = await snap(folder, blobs)
            for entry in tree["entries"].values():
                assert entry.get("blob", public) == public
    finally:
        stop.set()
        racing.join()


async def test_a_folder_that_becomes_a_link_while_it_is_kept_leads_nowhere(
    tmp_path: Path, folder: Path, blobs: FolderBlobs
) -> None:
    secret, over, swaps = tmp_path / "secret", threading.Event(), 0
    for each, content in ((secret, "a secret"), (folder / "out", "own")):
        each.mkdir()
        (each / "file").write_text(content)

    def swap() -> None:
        nonlocal swaps
        while not over.is_set():
            (folder / "out").rename(tmp_path / "aside")
            (folder / "out").symlink_to(secret)
            (folder / "out").unlink()
            (tmp_path / "aside").rename(folder / "out")
            swaps += 1
            time.sleep(0.001)

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen: set[str] = set()
    try:
        for _ in range(50):
            tree, _ = await snap(folder, blobs, in_use=None)
            seen |= {entry["blob"] for entry in tree["entries"].values() if "blob" in entry}
    finally:
        over.set()
        swapping.join()
    tree, _ = await snap(folder, blobs)
    seen.add(tree["entries"]["out/file"]["blob"])
    assert swaps
    assert [await blobs.get(each) for each in seen] == [b"own"]
