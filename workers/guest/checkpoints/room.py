"""Memory for a load, in huge pages where the kernel gives them.

A page of 4 kB costs a fault when it is first touched, which takes longer than to fill it: half the time of loading
many small objects went there. Without the compiled extension, or where the kernel has no huge pages, memory is as
everywhere.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ..native_parts import load

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["roomy", "stretched"]

#: Streams of fewer bytes make objects that fill no more than a few huge pages: a small session keeps its small pages.
WORTH: Final = 1 << 20
#: Bytes of objects that a byte of a stream may come to; what more there is has small pages. Only addresses are set
#: aside for it.
GROWTH: Final = 64

_native: Any = load("_room")


@contextmanager
def roomy(stream_bytes: int) -> Iterator[None]:
    """Run the body, which makes objects of pickles of so many bytes in all."""
    if _native is None or stream_bytes < WORTH:
        yield
        return
    _native.begin(stream_bytes * GROWTH)
    try:
        yield
    finally:
        _native.end()


def stretched[Memory: bytearray](memory: Memory, size: int) -> Memory:
    """Return a bytearray with so many bytes, whatever they are: who asks fills all of it."""
    if _native is None:
        memory.extend(bytes(size - len(memory)))
    else:
        _native.stretch(memory, size)
    return memory
