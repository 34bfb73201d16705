"""Which pages of memory were written to, as the kernel knows it.

1. A page is watched from the moment its bytes are stored; the kernel notes the first write to it, whoever writes.
2. What is not known counts as written: a buffer that moved, memory that is not watched, a descriptor that code closed.
3. Descriptors are opened by the process itself, between its fork and its confinement, which takes the right away.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

from . import identity
from .pieces import BLOCK, PAGE

__all__ = ["LEAST", "Pages", "whole_pages"]

#: Buffers below this are compared by their bytes: a write to a watched page costs a microsecond the first time.
LEAST = 256 << 10


class Pages:
    """Tells of large buffers which of their blocks were written to."""

    def __init__(self, native: Any, faults: int, map_: int) -> None:
        self._native = native
        self._faults = faults
        self._map = map_
        self._identities = _identity(faults), _identity(map_)
        self._counts: bool | None = None
        #: How many faults there had been when no watched page was found written to.
        self._clean: int | None = None

    @classmethod
    def open(cls) -> Pages | None:
        """Return what watches this process; None where the kernel does not (before 6.7, or by its settings)."""
        native = identity.extension
        if native is None:
            return None
        try:
            return cls(native, *native.pages_open())
        except OSError:
            return None

    def descriptors(self) -> list[int]:
        """Return the descriptors that stay open."""
        return [self._faults, self._map]

    def address(self, buffer: memoryview) -> int:
        """Return where a buffer is."""
        return int(self._native.address(buffer))

    def arm(self, address: int, size: int) -> bool:
        """Watch memory from now on; whether that is possible."""
        start, end = whole_pages(address, size)
        if size < LEAST or not self._ours():
            return False
        try:
            self._native.pages_arm(self._faults, start, end)
        except OSError:
            return False
        return True

    def dirty(self, address: int, size: int) -> list[int] | None:
        """Return the blocks of watched memory that may have been written to, and watch on; None if it is not known.

        The first and the last are among them where they have part of a page: that part is not watched.
        """
        start, end = whole_pages(address, size)
        if not self._ours():
            return None
        try:
            written = self._native.pages_written(self._map, start, end, 1)
        except OSError:
            return None
        blocks: set[int] = set()
        if start > address:
            blocks.add(0)
        if end < address + size:
            blocks.add((size - 1) // BLOCK)
        for first, after in written:
            blocks.update(range((first - address) // BLOCK, (after - 1 - address) // BLOCK + 1))
        return sorted(blocks)

    def written(self, places: list[tuple[int, int, int]], *, all_: bool) -> set[int]:
        """Return what of watched memory, `(key, start, end)`, may have been written to; they stay as they are.

        Where it was `all_` of it and none was, it is asked again only after a fault: without one, nobody can have
        written to a page that is watched. To look through half a gigabyte takes longer than a small checkpoint.
        """
        if not self._ours():
            return {key for key, _start, _end in places}
        if self._counts is None:
            self._counts = bool(places) and self._faults_are_counted()
        # Before the look: what is written meanwhile is a fault after it.
        faults = self._native.pages_faults() if self._counts else None
        if faults is not None and faults == self._clean:
            return set()
        found: set[int] = self._native.pages_touched(self._map, places)
        self._clean = faults if all_ and not found else None
        return found

    def _faults_are_counted(self) -> bool:
        """Whether a write to a watched page counts as a fault, also one by the kernel: tried with memory of our own."""
        try:
            source, sink = os.pipe()
        except OSError:
            return False
        try:
            with mmap.mmap(-1, 2 * PAGE) as memory:
                start, end = whole_pages(self.address(memoryview(memory)), len(memory))
                memory[0] = memory[PAGE] = 1
                self._native.pages_arm(self._faults, start, end)
                counts = [self._native.pages_faults()]
                memory[0] = 2
                counts.append(self._native.pages_faults())
                os.write(sink, b"3")
                os.readv(source, [memoryview(memory)[PAGE:]])
                counts.append(self._native.pages_faults())
                return bool(counts[0] < counts[1] < counts[2])
        except OSError:
            return False
        finally:
            os.close(source)
            os.close(sink)

    def _ours(self) -> bool:
        """Whether the descriptors are still what was opened: code can close them, and open others in their place."""
        return bool(self._native.pages_are(*self._identities))


def _identity(descriptor: int) -> tuple[int, int, int, int]:
    found = os.fstat(descriptor)
    return descriptor, found.st_dev, found.st_ino, found.st_mode


def whole_pages(address: int, size: int) -> tuple[int, int]:
    return address + -address % PAGE, (address + size) // PAGE * PAGE
