"""Locks of `multiprocessing` for a process that cannot have children.

The C library keeps named semaphores in a folder that all processes share, which a confined guest cannot open, and some
start methods keep a process to clean up after them. A guest's threads are all that can share a lock here, so one kept
in the process does the same: `multiprocessing.pool.ThreadPool`, queues and locks work.
"""

from __future__ import annotations

__all__ = ["LocalSemaphore", "install"]

import importlib
import threading
from typing import Any, Self

_RECURSIVE = 0


class LocalSemaphore:
    """What `_multiprocessing.SemLock` is, without a name and within one process."""

    SEM_VALUE_MAX = 2**31 - 1

    def __init__(self, kind: int, value: int, maxvalue: int, name: str | None, unlink: bool) -> None:  # noqa: FBT001
        """Take the arguments of the original, by its names; the last two mean nothing where nobody else can open it."""
        del name, unlink
        if kind not in (0, 1):
            raise ValueError("unrecognized kind")
        self.kind = kind
        self.maxvalue = maxvalue
        # No name: a name would be handed to the process that tidies up.
        self.name = None
        self.handle = id(self)
        self._value = value
        self._held = 0
        self._holder: int | None = None
        self._changed = threading.Condition(threading.Lock())

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002
        """Take one; False where it could not be had in time."""
        if self.kind == _RECURSIVE and self._is_mine():
            self._held += 1
            return True
        wait = None if block else 0.0
        if block and timeout is not None:
            wait = max(timeout, 0.0)
        with self._changed:
            if not self._changed.wait_for(lambda: self._value > 0, wait):
                return False
            self._value -= 1
            self._held += 1
            self._holder = threading.get_ident()
        return True

    def release(self) -> None:
        """Give one back."""
        if self.kind == _RECURSIVE:
            if not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self._held > 1:
                self._held -= 1
                return
        with self._changed:
            if self._value >= self.maxvalue:
                raise ValueError("semaphore or lock released too many times")
            self._value += 1
            self._held -= 1
            self._changed.notify()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _count(self) -> int:
        return self._held

    def _is_mine(self) -> bool:
        return self._held > 0 and self._holder == threading.get_ident()

    def _get_value(self) -> int:
        return self._value

    def _is_zero(self) -> bool:
        return self._value == 0

    def _after_fork(self) -> None:
        self._held = 0

    @classmethod
    def _rebuild(cls, *_original: object) -> Self:
        raise RuntimeError("a lock cannot be sent to another process from a confined guest")


def install() -> None:
    """Make `multiprocessing` use it from now on; it must not have been imported yet."""
    try:
        module: Any = importlib.import_module("_multiprocessing")
    except ImportError:
        # An interpreter built without semaphores: multiprocessing says so itself.
        return
    module.SemLock = LocalSemaphore
