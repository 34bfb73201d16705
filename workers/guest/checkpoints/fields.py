"""Fields of objects written in C that Python does not set, or does not show: found by looking at samples.

1. A field is one only where every sample has its value at that place, and at no other. Where that is not so (another
   Python, none with `ctypes`), there is no such field, and the recipe says what it does without.
2. Nothing is set but in objects that were made just now, and that nobody else has yet.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Field", "bytes_of"]

_UNKNOWN = -1
#: Bytes at the beginning of every object: its count of references and its type.
_HEAD = 2 * 8


class Field:
    """One field of a type, so many bytes wide; `samples` makes objects and says what each has in it."""

    def __init__(self, samples: Callable[[], list[tuple[Any, int]]], width: int = 8) -> None:
        self._samples = samples
        self._width = width
        self._offset: int | None = _UNKNOWN

    @property
    def there(self) -> bool:
        """Whether it was found."""
        if self._offset == _UNKNOWN:
            try:
                self._offset = self._look()
            except ImportError:
                self._offset = None
        return self._offset is not None

    @property
    def _place(self) -> int:
        if not self.there or self._offset is None:
            raise LookupError(self._samples)
        return self._offset

    def _look(self) -> int | None:
        places: set[int] | None = None
        for thing, value in self._samples():
            content = bytes_of(thing)
            here = {
                at
                for at in range(_HEAD, len(content) - self._width + 1, self._width)
                if int.from_bytes(content[at : at + self._width], sys.byteorder) == value
            }
            places = here if places is None else places & here
        return places.pop() if places is not None and len(places) == 1 else None

    def get(self, thing: Any) -> int:
        """Return the number in it; only where it is there."""
        at = self._place
        return int.from_bytes(bytes_of(thing)[at : at + self._width], sys.byteorder)

    def set(self, thing: Any, value: int) -> None:
        """Put a number there; only where it is there."""
        import ctypes

        ctypes.memmove(id(thing) + self._place, value.to_bytes(self._width, sys.byteorder), self._width)

    def put(self, thing: Any, value: object) -> None:
        """Put an object there in place of the one that is; only where it is there."""
        import ctypes

        before = self.get(thing)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
        self.set(thing, id(value))
        if before:
            ctypes.pythonapi.Py_DecRef(ctypes.c_void_p(before))


def bytes_of(thing: Any) -> bytes:
    """Return the memory of an object, but for what has no place in its type: items, attributes."""
    import ctypes  # only for a session that has such objects

    return ctypes.string_at(id(thing), type(thing).__basicsize__)
