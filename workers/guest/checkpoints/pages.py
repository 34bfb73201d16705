"""Which pages of memory were written to, as the kernel knows it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Pages"]


class Pages(Protocol):
    """Tells of large buffers which of their blocks were written to."""

    def address(self, buffer: memoryview) -> int:
        """Return where a buffer is."""
        ...

    def arm(self, address: int, size: int) -> bool:
        """Watch memory from now on; whether that is possible."""
        ...

    def dirty(self, address: int, size: int) -> list[int] | None:
        """Return the blocks of watched memory that were written to, and watch on; None if it is not known."""
        ...
