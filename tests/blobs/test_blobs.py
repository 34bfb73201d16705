"""The blob store: what was returned can be read, by anybody, after anything."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from blake3 import blake3

from perdure.engine.blobs import BlobDamaged, BlobMissing, BlobsFull, Data
from perdure.engine.blobs_folder import FolderBlobs

ROOT = Path(__file__).resolve().parents[2]


def reference(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "a" / "blobs")


@pytest.mark.no_blocking
async def test_what_was_put_comes_back(blobs: FolderBlobs, tmp_path: Path) -> None:
    for data in (b"", b"x", os.urandom(3_000_000)):
        ref = await blobs.put(data)
        assert ref == reference(data)
        assert await blobs.get(ref) == data
        assert await blobs.has(ref)
        assert await FolderBlobs(tmp_path / "a" / "blobs").get(ref) == data


async def test_pieces_are_one_value(blobs: FolderBlobs) -> None:
    pieces: list[Data] = [b"ab", memoryview(bytearray(b"cd")), bytearray(b""), b"e"]
    assert await blobs.put(pieces) == await blobs.put(b"abcde")
    assert await blobs.put(iter(pieces)) == reference(b"abcde")


async def test_the_same_bytes_are_one_file(blobs: FolderBlobs, tmp_path: Path) -> None:
    await asyncio.gather(*(blobs.put(b"same") for _ in range(20)))
    assert [path.name for path in files(tmp_path)] == [reference(b"same")[7:]]


async def test_files_go_in_and_out_in_pieces(blobs: FolderBlobs, tmp_path: Path) -> None:
    data = os.urandom((1 << 20) * 2 + 5)
    source = tmp_path / "source"
    source.write_bytes(data)
    with source.open("rb") as file:
        assert await blobs.put_file(file.fileno(), 1 << 30) == (reference(data), len(data))
        file.seek(0)
        assert await blobs.put_file(file.fileno(), 10) == (reference(data[:10]), 10)
    with (tmp_path / "target").open("wb") as file:
        await blobs.write_to(reference(data), file.fileno())
    assert (tmp_path / "target").read_bytes() == data


async def test_what_is_not_there_is_missing(blobs: FolderBlobs, tmp_path: Path) -> None:
    assert not await blobs.has(reference(b"never"))
    for ref in (reference(b"never"), "blake3:../../etc/passwd", "sha256:00", "", reference(b"x") + "\n"):
        with pytest.raises(BlobMissing):
            await blobs.get(ref)
    with (tmp_path / "target").open("wb") as file, pytest.raises(BlobMissing):
        await blobs.write_to(reference(b"never"), file.fileno())


@pytest.mark.parametrize("harm", ["flip", "cut", "grow", "empty"])
async def test_damage_is_said_and_mended_by_the_next_put(blobs: FolderBlobs, tmp_path: Path, harm: str) -> None:
    data = os.urandom(5000)
    ref = await blobs.put(data)
    (path,) = files(tmp_path)
    changed = {"flip": data[:9] + bytes([data[9] ^ 1]) + data[10:], "cut": data[:-1], "grow": data + b"x", "empty": b""}
    path.write_bytes(changed[harm])
    with pytest.raises(BlobDamaged):
        await blobs.get(ref)
    with (tmp_path / "target").open("wb") as file, pytest.raises(BlobDamaged):
        await blobs.write_to(ref, file.fileno())
    if harm != "flip":
        assert await blobs.put(data) == ref
        assert await blobs.get(ref) == data


async def test_no_room_is_an_error_of_its_own_and_leaves_nothing(blobs: FolderBlobs, tmp_path: Path) -> None:
    script = """
        import asyncio, os, sys
        from pathlib import Path
        from perdure.engine import blobs, blobs_folder
        def full(descriptor, piece):
            raise OSError(28, "No space left on device")
        blobs_folder.write_all = full
        try: asyncio.run(blobs_folder.FolderBlobs(Path(sys.argv[1])).put(b"x" * 100))
        except blobs.BlobsFull as error: print("full:", error)
    """
    done = await run(script, tmp_path / "full")
    assert done.startswith("full: no room")
    assert files(tmp_path / "full") == []


async def test_a_file_system_that_refuses_to_write_is_not_swallowed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "file" / "blobs")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        await blobs.put(b"x")
    assert BlobsFull.__doc__


#: For each of its system calls, one child that puts a blob and dies before that call; a line for each that was done.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from perdure.engine.blobs_folder import FolderBlobs
    def count(function):
        def counted(*args, **kwargs):
            global left
            if left == 0: os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return function(*args, **kwargs)
        return counted
    for number in range(100):
        child = os.fork()
        if child == 0:
            left = number
            for name in ("open", "write", "fsync", "close", "replace", "mkdir", "unlink", "stat"):
                setattr(os, name, count(getattr(os, name)))
            FolderBlobs(Path(sys.argv[1], str(number)))._put([b"precious" * 1000])
            left = 1
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            print(number)
            break
"""


async def test_killed_before_any_system_call_nothing_half_written_is_found(tmp_path: Path) -> None:
    data = b"precious" * 1000
    calls = int(await run(KILLED, tmp_path))
    assert calls > 10
    for call in range(calls + 1):
        blobs = FolderBlobs(tmp_path / str(call))
        assert call < calls or await blobs.has(reference(data))
        if await blobs.has(reference(data)):
            assert await blobs.get(reference(data)) == data
        assert await blobs.put(data) == reference(data)
        assert await blobs.get(reference(data)) == data


async def test_several_processes_write_the_same_and_different_blobs(tmp_path: Path) -> None:
    script = """
        import asyncio, sys
        from pathlib import Path
        from perdure.engine.blobs_folder import FolderBlobs
        async def main():
            blobs = FolderBlobs(Path(sys.argv[1]))
            for number in range(60):
                ref = await blobs.put(b"%d" % number * 1000)
                assert await blobs.get(ref) == b"%d" % number * 1000
        asyncio.run(main())
        print("done")
    """
    assert await asyncio.gather(*(run(script, tmp_path / "blobs") for _ in range(4))) == ["done\n"] * 4
    assert len(files(tmp_path)) == 60


async def test_what_a_dead_writer_left_is_swept_and_what_is_being_written_is_not(
    blobs: FolderBlobs, tmp_path: Path
) -> None:
    await blobs.put(b"x")
    unfinished = tmp_path / "a" / "blobs" / ".unfinished"
    for name, age in (("old", 100_000.0), ("new", 10.0)):
        (unfinished / name).write_bytes(b"")
        os.utime(unfinished / name, (1_000_000 - age, 1_000_000 - age))
    assert await blobs.sweep(1_000_000.0) == 1
    assert [path.name for path in unfinished.iterdir()] == ["new"]


async def test_a_large_file_is_not_read_into_memory(blobs: FolderBlobs, tmp_path: Path) -> None:
    size = 256 << 20
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (tmp_path / "large").open("rb") as file:
        assert (await blobs.put_file(file.fileno(), size))[1] == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


async def run(script: str, *args: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(script), *map(str, args)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "deploy" / "dev")},
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()
