"""The preloaded library that takes over clock, entropy and directories at libc (native/libclock.c), if it is there."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from .readings import Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Shim", "preloaded"]

#: Entries that a lane of the library holds at the most.
_ENTRIES = 4096


class _Entry(ctypes.Structure):
    _fields_ = (("value", ctypes.c_int64), ("count", ctypes.c_uint32), ("window", ctypes.c_uint32))


class Shim:
    """The library's functions, in the terms of ``Readings``."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._room = (_Entry * _ENTRIES)()
        library.perdure_clock_drain.restype = ctypes.c_uint32
        library.perdure_entropy_position.restype = ctypes.c_uint64
        library.perdure_entropy_seek.argtypes = (ctypes.c_uint64,)
        #: A delivery is consumed in this thread: the next window begins.
        self.next = library.perdure_clock_next
        #: Has this thread read and draw beside the code (1), or as the code (0); returns how it was.
        self.beside = library.perdure_beside

    def switch(self, *, on: bool) -> None:
        """Switch readings on or off."""
        self._library.perdure_clock_switch(on)

    def reset(self) -> None:
        """Forget every reading: an execution begins."""
        self._library.perdure_clock_reset()

    def enter(self, number: int) -> bool:
        """Make this thread read in a lane from now on; below 0: in none. False if there are no more lanes."""
        return bool(self._library.perdure_clock_enter(number))

    def feed(self, number: int, entries: Sequence[Entry]) -> None:
        """Give a lane what it replays. Raises MemoryError."""
        data = (_Entry * len(entries))(*(_Entry(*entry) for entry in entries))
        if not self._library.perdure_clock_feed(number, len(entries), data):
            raise MemoryError("no room for the recorded readings of the clock")

    def renew(self, number: int) -> None:
        """Forget how far a lane is."""
        self._library.perdure_clock_renew(number)

    def drain(self, number: int) -> list[Entry]:
        """Take what was read in a lane since the last time."""
        count = self._library.perdure_clock_drain(number, self._room)
        return [Entry(each.value, each.count, each.window) for each in self._room[:count]] if count else []

    # -- entropy and directories -------------------------------------------------

    def key(self, key: bytes) -> None:
        """Draw what C asks of the kernel from this key (32 bytes)."""
        self._library.perdure_entropy_key(key)

    @property
    def position(self) -> int:
        """How many bytes were drawn."""
        return int(self._library.perdure_entropy_position())

    @position.setter
    def position(self, position: int) -> None:
        self._library.perdure_entropy_seek(position)

    def sort_directories(self) -> None:
        """Give the entries of directories by name from now on."""
        self._library.perdure_sort_directories(1)


def preloaded() -> Shim | None:
    """Return the library if it was preloaded into this process."""
    # Not a CDLL: its calls would give up the lock that keeps the runtime's threads apart.
    library = ctypes.PyDLL(None)
    return Shim(library) if hasattr(library, "perdure_beside") else None
