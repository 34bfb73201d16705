"""What every blob store promises, on each kind: the folder, and buckets as obstore's own stores play them."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest
from blake3 import blake3
from obstore.store import LocalStore, MemoryStore, S3Store

from perdure.engine.blobs import BlobDamaged, BlobMissing, BlobStore, BlobsUnavailable, Data, named_in, open_blobs
from perdure.engine.blobs_folder import FolderBlobs
from perdure.engine.blobs_objects import SPOOL, ObjectBlobs


def reference(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


@pytest.fixture(params=["folder", "memory", "local", pytest.param("bucket", marks=pytest.mark.bucket)])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return open_blobs(tmp_path / "blobs")
    if request.param == "bucket":
        return open_blobs(f"{os.environ['PERDURE_TEST_BUCKET']}/{uuid.uuid4().hex}")
    if request.param == "memory":
        return ObjectBlobs(MemoryStore(), "memory")
    return ObjectBlobs(LocalStore(tmp_path / "bucket", mkdir=True), "local")


async def test_what_was_put_comes_back_by_its_content(blobs: BlobStore) -> None:
    for data in (b"", b"x", os.urandom(3_000_000)):
        assert await blobs.put(data) == reference(data)
        assert await blobs.get(reference(data)) == data
        assert await blobs.has(reference(data))
    pieces: list[Data] = [b"ab", memoryview(bytearray(b"cd")), bytearray(b""), b"e"]
    assert await blobs.put(iter(pieces)) == await blobs.put(b"abcde") == await blobs.put(pieces)


async def test_files_go_in_and_out_in_pieces(blobs: BlobStore, tmp_path: Path) -> None:
    data = os.urandom(SPOOL + (1 << 20) + 5)
    (tmp_path / "source").write_bytes(data)
    with (tmp_path / "source").open("rb") as file:
        assert await blobs.put_file(file.fileno(), 1 << 30) == (reference(data), len(data))
        file.seek(0)
        assert await blobs.put_file(file.fileno(), 10) == (reference(data[:10]), 10)
    with (tmp_path / "target").open("wb") as file:
        await blobs.write_to(reference(data), file.fileno())
    assert (tmp_path / "target").read_bytes() == data


async def test_what_is_not_there_is_missing(blobs: BlobStore, tmp_path: Path) -> None:
    for ref in (reference(b"never"), "blake3:../../etc/passwd", "sha256:00", "", reference(b"x") + "\n"):
        with pytest.raises(BlobMissing):
            await blobs.get(ref)
    assert not await blobs.has(reference(b"never"))
    with (tmp_path / "target").open("wb") as file, pytest.raises(BlobMissing):
        await blobs.write_to(reference(b"never"), file.fileno())


async def test_what_nothing_names_is_removed_and_nothing_else(blobs: BlobStore) -> None:
    kept, old = await blobs.put(b"kept"), await blobs.put(b"old" * 10)
    assert sorted(await blobs.refs()) == sorted([kept, old])
    assert await blobs.collect({kept}.__contains__, time.time() - 60) == (0, 0), "both are young"
    assert await blobs.collect({kept}.__contains__, time.time() + 60, remove=False) == (1, 30)
    assert await blobs.has(old)
    assert await blobs.collect({kept}.__contains__, time.time() + 60) == (1, 30)
    assert await blobs.refs() == [kept]
    assert await blobs.put(b"old" * 10) == old
    assert await blobs.get(old) == b"old" * 10


async def test_a_store_without_its_marker_is_out_of_reach_and_not_empty(blobs: BlobStore, tmp_path: Path) -> None:
    assert await blobs.mark("one") == await blobs.mark("two") == "one"
    blobs.expect("one")
    kept = await blobs.put(b"kept")
    assert await blobs.refs() == [kept], "a marker is no blob"
    with pytest.raises(BlobMissing):
        await blobs.get(reference(b"never"))
    blobs.expect("another")
    ref = reference(b"never")
    with (tmp_path / "target").open("wb") as file:
        for use in (
            blobs.get(ref),
            blobs.head(ref, 1),
            blobs.has(ref),
            blobs.write_to(ref, file.fileno()),
            blobs.refs(),
        ):
            with pytest.raises(BlobsUnavailable, match="another state's 'marker'"):
                await use
    assert await blobs.get(kept) == b"kept", "what is there can be read"


@pytest.mark.parametrize("there", ["empty", "gone"])
async def test_nothing_is_put_where_nothing_is_mounted(tmp_path: Path, there: str) -> None:
    for blobs, place in (
        (FolderBlobs(tmp_path / "blobs"), tmp_path / "blobs"),
        (ObjectBlobs(LocalStore(tmp_path / "bucket", mkdir=True), "local"), tmp_path / "bucket"),
    ):
        blobs.expect(await blobs.mark("one"))
        place.rename(tmp_path / f"{place.name}, elsewhere")
        if there == "empty":
            place.mkdir()
        for use in (blobs.put(b"x"), blobs.get(reference(b"x"))):
            with pytest.raises(BlobsUnavailable, match=r"it has no file 'marker'\. Mount"):
                await use
        assert not place.exists() or not [*place.iterdir()]


async def test_an_object_that_is_not_what_its_name_says_is_damage(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "bucket", mkdir=True)
    blobs = ObjectBlobs(store, "local")
    ref = await blobs.put(b"precious" * 100)
    path = tmp_path / "bucket" / ref.removeprefix("blake3:")
    for harm in (b"Precious" + b"precious" * 99, b"precious" * 99, b""):
        path.write_bytes(harm)
        with pytest.raises(BlobDamaged):
            await blobs.get(ref)
        with (tmp_path / "target").open("wb") as file, pytest.raises(BlobDamaged):
            await blobs.write_to(ref, file.fileno())


async def test_what_is_put_again_is_young_again(tmp_path: Path) -> None:
    """A remover that was about to take an old blob finds it young, and who put it finds it."""
    for blobs, path in (
        (FolderBlobs(tmp_path / "blobs"), tmp_path / "blobs" / reference(b"x")[7:9] / reference(b"x")[7:]),
        (ObjectBlobs(LocalStore(tmp_path / "bucket", mkdir=True), "local"), tmp_path / "bucket" / reference(b"x")[7:]),
    ):
        await blobs.put(b"x")
        os.utime(path, (1, 1))
        await blobs.put(b"x")
        assert await blobs.collect(set[str]().__contains__, time.time() - 60) == (0, 0)
        assert await blobs.has(reference(b"x"))


async def test_a_bucket_out_of_reach_is_said_in_one_line() -> None:
    store = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:9",
        access_key_id="a",
        secret_access_key="b",  # noqa: S106 - nobody's
        region="x",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    blobs = ObjectBlobs(store, "s3://bucket")
    with pytest.raises(BlobsUnavailable, match="s3://bucket cannot be reached"):
        await blobs.put(b"x")


def test_an_address_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    for where in ("ftp://host/x", "memory:///", "https://example.com/x"):
        with pytest.raises(BlobsUnavailable, match="names no kind of blob store"):
            open_blobs(where)
    assert isinstance(open_blobs(f"file://{tmp_path}"), FolderBlobs)
    assert isinstance(open_blobs("s3://bucket/prefix"), ObjectBlobs)


def test_whatever_looks_like_a_digest_counts_as_named() -> None:
    digest = blake3(b"x").hexdigest()
    assert named_in(f'{{"blob": "blake3:{digest}", "other": "{digest}0", "n": 1}}'.encode()) == {f"blake3:{digest}"}
