"""One at a time: what removes from a state folder, and what copies it."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import StateLocked

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..state import StateFolder

__all__ = ["held"]


@contextmanager
def held(folder: StateFolder) -> Generator[None]:
    """Hold a state folder against other upkeep; work in it goes on. Raises StateLocked."""
    descriptor = os.open(folder.run / "upkeep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"another gc or backup is at work in {folder.root}: try again when it is done"
            raise StateLocked(msg) from None
        yield
    finally:
        os.close(descriptor)
