"""The bytes of a pack as a guest is given them: all of it, or the pieces that something still refers to."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Pack", "Sparse", "holds", "pack_of"]


class Pack(Protocol):
    """A memory, or what has the same offsets and not every byte."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> memoryview: ...

    @property
    def readonly(self) -> bool:
        """Whether nothing may be written to it."""
        ...


class Sparse:
    """What is left of a pack; a slice lies within one piece of it."""

    def __init__(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        self._starts = [start for start, _memory in pieces]
        self._pieces = [memory for _start, memory in pieces]
        self.readonly = any(memory.readonly for memory in self._pieces)

    def __len__(self) -> int:
        return self._starts[-1] + len(self._pieces[-1]) if self._pieces else 0

    def _at(self, offset: int) -> int:
        return max(0, bisect_right(self._starts, offset) - 1)

    def holds(self, offset: int, length: int) -> bool:
        """Whether all of that is here."""
        at = self._at(offset)
        return bool(self._pieces) and self._starts[at] <= offset <= offset + length <= self._starts[at] + len(
            self._pieces[at]
        )

    def __getitem__(self, span: slice) -> memoryview:
        at = self._at(span.start)
        return self._pieces[at][span.start - self._starts[at] : span.stop - self._starts[at]]


def pack_of(pieces: Sequence[tuple[int, memoryview]]) -> Pack:
    """Return a pack of which these pieces are there, in order; its memory itself if it begins at the start."""
    if len(pieces) == 1 and not pieces[0][0]:
        return pieces[0][1]
    return Sparse(pieces)


def holds(pack: Pack, offset: int, length: int) -> bool:
    """Whether a pack has these bytes."""
    if isinstance(pack, Sparse):
        return pack.holds(offset, length)
    return 0 <= offset <= offset + length <= len(pack)
