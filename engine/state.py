"""The state folder: where everything durable lives when there is no server.

``format`` says what wrote it; ``perdure.db`` is the store, ``blobs`` the large values, ``key`` what checkpoints are
sealed with, ``workspaces`` the files of sessions, ``run`` what only living processes need.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from .errors import StateNewer, StateNotFound, StateUnusable

__all__ = ["FORMAT", "KEY_BYTES", "StateFolder", "read_key"]

#: Version of everything stored; a state of a newer one is refused.
FORMAT = 1

#: Bytes of the key that checkpoints are sealed with.
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths inside a state folder that was checked."""

    root: Path

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True) -> StateFolder:
        """Check the folder, and make it if it is missing and ``create`` is set.

        Raises StateNotFound, StateNewer, StateUnusable.
        """
        root = Path(path).absolute()
        state = cls(root)
        marker = root / "format"
        try:
            found = json.loads(marker.read_text())
        except FileNotFoundError:
            if not create:
                msg = f"there is no state in {path}: name it with --state, or start one with 'perdure run'"
                raise StateNotFound(msg) from None
            state._make(marker)
            return state
        except (OSError, ValueError) as exc:
            msg = f"{marker} cannot be read ({_reason(exc)}): {path} is not a state folder, or is damaged"
            raise StateUnusable(msg) from None
        version = found.get("format") if isinstance(found, dict) else None
        if not isinstance(version, int):
            msg = f"{marker} does not say a format: {path} is not a state folder, or is damaged"
            raise StateUnusable(msg)
        if version > FORMAT:
            msg = f"{path} was written by a newer version (format {version}, this one knows {FORMAT}): upgrade perdure"
            raise StateNewer(msg)
        state._folders()
        return state

    def _make(self, marker: Path) -> None:
        if self.root.exists() and self.root.is_dir() and any(self.root.iterdir()) and not self.database.exists():
            msg = f"{self.root} is not empty and not a state folder: name another with --state"
            raise StateUnusable(msg)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            msg = f"cannot make a state folder at {self.root} ({_reason(exc)}): name another with --state"
            raise StateUnusable(msg) from None
        self._folders()
        try:
            _write_durably(marker, json.dumps({"format": FORMAT}).encode() + b"\n")
        except OSError as exc:
            msg = f"cannot write to the state folder {self.root} ({_reason(exc)})"
            raise StateUnusable(msg) from None

    def _folders(self) -> None:
        try:
            for folder in (self.blobs, self.workspaces, self.run):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            msg = f"cannot write to the state folder {self.root} ({_reason(exc)})"
            raise StateUnusable(msg) from None

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.root / "perdure.db"

    def key(self) -> bytes:
        """Return the key that checkpoints are sealed with, made by whoever asks first. Raises StateUnusable."""
        path = self.root / "key"
        try:
            if not path.exists():
                _make_durably(path, secrets.token_bytes(KEY_BYTES))
            return read_key(path)
        except OSError as exc:
            msg = f"{path} cannot be read or written ({_reason(exc)}): check its permissions"
            raise StateUnusable(msg) from None

    @property
    def blobs(self) -> Path:
        """The folder of large values and images."""
        return self.root / "blobs"

    @property
    def workspaces(self) -> Path:
        """The folder with one workspace a session."""
        return self.root / "workspaces"

    @property
    def run(self) -> Path:
        """What living processes need: locks, sockets; of no value when none lives."""
        return self.root / "run"


def _reason(exc: Exception) -> str:
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else str(exc)


def read_key(path: Path) -> bytes:
    """Read a key's file. Raises StateUnusable, OSError."""
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        msg = f"{path} has {len(key)} bytes and a key {KEY_BYTES}: restore it from a backup"
        raise StateUnusable(msg)
    return key


def _make_durably(path: Path, data: bytes) -> None:
    """Write a file that nobody has; of several at once, one wins and all read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    _write_durably(temporary, data)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def _write_durably(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
