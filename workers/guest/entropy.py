"""Randomness of the session: one seed at its birth, a stream derived from it where Python asks the kernel.

1. Nothing is reseeded afterwards: the state travels with the checkpoint.
2. The n-th byte of the stream depends on the seed and n alone. What C asks of the kernel has a stream of its own.
3. What a library draws as it is imported comes from another stream, and moves nothing (imports.py).
"""

from __future__ import annotations

import hashlib
import operator
import os
import random
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .shim import Shim

__all__ = ["Stream", "beside", "get_state", "install", "set_state", "settle", "undone"]

_BLOCK = 64


class Stream:
    """Bytes keyed by the seed: block n is BLAKE2b(n) under the seed as key."""

    def __init__(self, seed: int, use: str = "entropy") -> None:
        self._person = f"perdure.{use}".encode()
        self._lock = threading.Lock()
        #: Whether the code has seeded Python's own generator itself: then its numbers are not ours to change.
        self.seeded = False
        self.key(seed)

    def key(self, seed: int, position: int = 0) -> None:
        """Draw from this seed from now on."""
        self.seed, self.position = seed, position
        self._key = hashlib.blake2b(str(seed).encode(), digest_size=32, person=self._person).digest()

    def read(self, size: int) -> bytes:
        """Return the next bytes, as ``os.urandom`` would."""
        # Before anything moves: a size that is no integer would make the position none, for good.
        size = operator.index(size)
        if size < 0:
            raise ValueError("negative argument not allowed")
        with self._lock:
            start = self.position
            self.position += size
        first, last = start // _BLOCK, (start + size + _BLOCK - 1) // _BLOCK
        blocks = (hashlib.blake2b(number.to_bytes(8), key=self._key).digest() for number in range(first, last))
        return b"".join(blocks)[start - first * _BLOCK :][:size]


_stream = Stream(0)
#: What libraries draw from while they are imported, and which threads do so now.
_imports = Stream(0, "imports")
_importing: set[int] = set()
_shim: Shim | None = None


def get_state() -> dict[str, Any]:
    """Return the seed and how far its streams were read, as JSON data for a checkpoint."""
    kernel = _shim.position if _shim else 0
    return {"seed": _stream.seed, "position": _stream.position, "kernel": kernel, "seeded": _stream.seeded}


def set_state(state: dict[str, Any]) -> None:
    """Go on where a checkpoint was."""
    _key(int(state["seed"]), int(state["position"]), int(state["kernel"]))
    _stream.seeded = bool(state["seeded"])


def reseed(seed: int) -> None:
    """Go on with another seed: the session is a fork, and here it leaves the other."""
    _key(seed, 0, 0)
    if not _stream.seeded:
        _seed_generator(seed)


def _key(seed: int, position: int, kernel: int) -> None:
    _stream.key(seed, position)
    if _shim:
        _shim.key(hashlib.blake2b(str(seed).encode(), digest_size=32, person=b"perdure.kernel").digest())
        _shim.position = kernel


@contextmanager
def undone() -> Iterator[None]:
    """Return a context after which nothing was drawn: hooks of a checkpoint run in it."""
    state = get_state()
    try:
        yield
    finally:
        set_state(state)


def _seed_generator(seed: int) -> None:
    random.seed(seed)
    _stream.seeded = False


def patch() -> None:
    """Take over what Python draws from: once, before the first third-party import.

    Whoever keeps one of these functions draws from the session that the process comes to belong to.
    """
    if os.urandom is urandom:
        return
    os.urandom = urandom
    if hasattr(os, "getrandom"):
        os.getrandom = getrandom
    random._urandom = urandom  # type: ignore[attr-defined]
    seed_random = random.Random.seed

    def seeded(self: random.Random, a: Any = None, version: int = 2) -> None:
        """Seed the generator; without a seed, from the session's."""
        if self is random._inst:
            _stream.seeded = a is not None
        seed_random(self, int.from_bytes(urandom(32)) if a is None else a, version)

    seeded.__name__, seeded.__qualname__ = "seed", "Random.seed"
    random.Random.seed = seeded  # type: ignore[method-assign]


def urandom(size: int, /) -> bytes:
    """Return bytes drawn from the session's seed."""
    stream = _imports if _importing and threading.get_ident() in _importing else _stream
    return stream.read(size)


def getrandom(size: int, flags: int = 0) -> bytes:
    """Return bytes drawn from the session's seed; it never blocks, whatever the flags."""
    del flags
    return urandom(size)


def beside(*, on: bool) -> bool:
    """Have this thread draw as a library that is imported does, or as the code; return how it was."""
    me = threading.get_ident()
    before = me in _importing
    (_importing.add if on else _importing.discard)(me)
    return before


def install(seed: int, shim: Shim | None) -> None:
    """Begin the session's randomness: what was imported before, in a zygote, is seeded anew."""
    global _stream, _imports, _shim
    patch()
    _stream, _imports, _shim = Stream(seed), Stream(seed, "imports"), shim
    _key(seed, 0, 0)
    _seed_generator(seed)
    for name in _AT_IMPORT:
        settle(name)


def settle(name: str) -> None:
    """Give a module that has just been imported the randomness that it keeps of its own, if it does and is there."""
    module = sys.modules.get(name)
    if module is not None and name in _AT_IMPORT:
        _AT_IMPORT[name](module)


def _settle_numpy(module: Any) -> None:
    """Seed numpy's own generator: alike whether it was imported before the fork or comes to be imported later."""
    own = hashlib.blake2b(str(_stream.seed).encode(), digest_size=32, person=b"perdure.numpy").digest()
    module.seed([int.from_bytes(own[at : at + 4]) for at in range(0, len(own), 4)])


def _settle_uuid(module: Any) -> None:
    # The address of a network card is another on another machine.
    module._generate_time_safe = None
    own = hashlib.blake2b(str(_stream.seed).encode(), digest_size=6).digest()
    module._node = int.from_bytes(own) | 1 << 40


#: What keeps randomness of its own from its import on, by module.
_AT_IMPORT: dict[str, Callable[[Any], None]] = {"numpy.random": _settle_numpy, "uuid": _settle_uuid}
