"""Randomness from the session's seed: the same for every replay and every restore.

The seed enters once, at the session's birth. What the kernel would be asked for comes from a stream of the seed,
whose position is carried by the checkpoint; generators of ``random`` are carried as they are.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading

__all__ = ["Entropy"]

_BLOCK = 64


class Entropy:
    """A stream of bytes that stands in for the kernel's; one a guest."""

    def __init__(self, seed: int) -> None:
        self._key = seed.to_bytes(16, "big")
        self._lock = threading.Lock()
        self.position = 0

    def read(self, size: int, /) -> bytes:
        """Return the next bytes of the stream; what os.urandom is here."""
        if size < 0:
            msg = "negative argument not allowed"
            raise ValueError(msg)
        with self._lock:
            at = self.position
            self.position += size
        first, last = at // _BLOCK, (at + size + _BLOCK - 1) // _BLOCK
        blocks = (
            hashlib.blake2b(number.to_bytes(8, "big"), key=self._key, digest_size=_BLOCK).digest()
            for number in range(first, last)
        )
        start = at - first * _BLOCK
        return b"".join(blocks)[start : start + size]

    def _getrandom(self, size: int, flags: int = 0) -> bytes:
        del flags  # whether to block, and which pool: there is only one, and it never blocks
        return self.read(size)

    def install(self) -> None:
        """Take the place of the kernel for everything in Python that asks it, and seed ``random``."""
        os.urandom = self.read
        if hasattr(os, "getrandom"):
            os.getrandom = self._getrandom
        random._urandom = self.read  # type: ignore[attr-defined]
        random.seed(int.from_bytes(self.read(32), "big"))
