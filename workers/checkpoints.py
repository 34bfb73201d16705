"""Checkpoints on the host's side: the manifest that a step's promise holds, and the parts it names.

1. Blobs first, then the promise that names them: a recorded checkpoint can always be loaded.
2. The host never reads a namespace image; it stores the bytes a guest sent and sends them to a guest again.
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import TYPE_CHECKING, Any, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict

from perdure.engine.records import NameReport

from . import workspace as workspaces
from .guest.namespace import ENGINE_INTERNALS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from perdure.engine.blobs import BlobStore
    from perdure.engine.settings import Limits

__all__ = ["INLINE_IMAGE", "Manifest", "load_image", "restore_workspace", "save"]

#: Images up to this many bytes ride in the step's promise: one durable write instead of three.
INLINE_IMAGE = 48 * 1024
#: Names of variables that are listed in a manifest; a namespace of more says how many it has.
MAX_NAMES = 2000

_DUNDER = re.compile(r"__\w+__")


class Manifest(BaseModel):
    """A checkpoint: where its image and its files are, and what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    python: str
    image: str
    size: int
    digest: str
    names: tuple[NameReport, ...]
    workspace: dict[str, Any]


async def save(
    previous: Manifest | None,
    image: bytes,
    names: Sequence[Mapping[str, Any]],
    python: str,
    folder: Path,
    guest: int,
    blobs: BlobStore,
    limits: Limits,
) -> tuple[Manifest, list[str]]:
    """Store a namespace image and the workspace's files; returns the manifest and notes for the result."""
    digest = blake3(image).hexdigest()
    if previous is not None and previous.digest == digest:
        held = previous.image
    elif len(image) <= INLINE_IMAGE:
        held = "inline:" + base64.b64encode(image).decode("ascii")
    else:
        held = await blobs.put(image)
    tree, notes = await workspaces.snapshot(
        folder,
        blobs,
        previous.workspace if previous else None,
        max_files=limits.files,
        max_bytes=limits.workspace_bytes,
        in_use=await asyncio.to_thread(_in_use, folder, guest),
    )
    users = [name for name in names if name["name"] not in ENGINE_INTERNALS and not _DUNDER.fullmatch(name["name"])]
    reports = tuple(NameReport.model_validate(dict(name)) for name in users[:MAX_NAMES])
    if len(users) > MAX_NAMES:
        notes.append(f"{len(users)} variables; the first {MAX_NAMES} are listed")
    return (
        Manifest(python=python, image=held, size=len(image), digest=digest, names=reports, workspace=tree),
        notes,
    )


def _in_use(folder: Path, guest: int) -> Collection[tuple[int, int]] | None:
    # An empty folder has nothing in use, and the look at a process costs more than the rest of a small checkpoint.
    return workspaces.open_files([guest]) if any(folder.iterdir()) else frozenset()


async def load_image(manifest: Manifest, blobs: BlobStore) -> bytes:
    """Return a checkpoint's namespace image, checked against its digest."""
    if manifest.image.startswith("inline:"):
        image = base64.b64decode(manifest.image.removeprefix("inline:"), validate=True)
    else:
        image = await blobs.get(manifest.image)
    if blake3(image).hexdigest() != manifest.digest:
        msg = "the namespace image does not have the recorded digest: the store is damaged"
        raise OSError(msg)
    return image


async def restore_workspace(
    manifest: Manifest | None, folder: Path, blobs: BlobStore, files: Mapping[str, str]
) -> None:
    """Make the workspace hold exactly the checkpoint's files, and then those that came with the submission."""
    await workspaces.restore(manifest.workspace if manifest else None, folder, blobs)
    await workspaces.add_files(folder, blobs, files)
