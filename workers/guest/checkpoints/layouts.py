"""Where the elements of a set lie: what decides in which order it is iterated, and in which it grows.

1. A set depends on how it was filled: where hashes collide, and by what was removed. Inserted again one by one,
   its elements may lie in other places, and code that goes on after a restore would see another order.
2. A *plan* says where they are to lie, if inserting them in their order does not put them there by itself.
3. A plan is followed exactly, or not at all: where hashes are others than they were (elements that hash by address),
   the set keeps the order it got.

This is the substitute in Python for what is in C. It needs ctypes, and sets that work as those of CPython 3.12 and 3.13
do, which is tried before it is relied on; elsewhere there are no plans.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["python_arrange", "python_layout", "trusted"]

VERSION = 1
SMALLEST = 8
_BY_ADDRESS: Any = object.__hash__
_WORD = (1 << 64) - 1
#: How a plan begins: version, logarithm of the slots, check sum, finger.
_HEAD = struct.Struct("<BBQQ")
#: Where the fields of a set begin, in words: elements and removed ones, elements, slots but one, table, hash, finger.
_FILL, _USED, _MASK, _TABLE, _FINGER, _SMALL = 2, 3, 4, 5, 7, 8


class _Alike:
    """An element of a set that hashes as another does."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    def __hash__(self) -> int:
        return self.value


class _Raw:
    """The memory of a set."""

    def __init__(self, thing: Any) -> None:
        import ctypes  # only where the extension is missing

        self._words = (ctypes.c_ssize_t * (_SMALL + 2 * SMALLEST)).from_address(id(thing))
        self.fill, self.used, self.slots = self._words[_FILL], self._words[_USED], self._words[_MASK] + 1
        self.finger = self._words[_FINGER]
        self._thing = thing

    def entries(self) -> list[tuple[int, int]]:
        """Return address and hash of what is in each slot; address 0 where nothing is."""
        import ctypes

        table = (ctypes.c_ssize_t * (2 * self.slots)).from_address(self._words[_TABLE])
        words = list(table)
        return list(zip(words[::2], words[1::2], strict=True))

    def put(self, entries: list[tuple[int, int]], fill: int, finger: int) -> None:
        """Take another table, with the same elements."""
        import ctypes

        words = [word for entry in entries for word in entry]
        table = (ctypes.c_ssize_t * len(words))(*words)
        old, small = self._words[_TABLE], id(self._thing) + 8 * _SMALL
        place = small
        if len(entries) > SMALLEST:
            allocate = ctypes.pythonapi.PyMem_Calloc
            allocate.restype, allocate.argtypes = ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]
            place = allocate(len(entries), 16)
            if not place:
                raise MemoryError
        ctypes.memmove(place, table, ctypes.sizeof(table))
        self._words[_TABLE], self._words[_MASK] = place, len(entries) - 1
        self._words[_FILL], self._words[_FINGER] = fill, finger
        if old != small:
            free = ctypes.pythonapi.PyMem_Free
            free.restype, free.argtypes = None, [ctypes.c_void_p]
            free(old)


def _removed() -> int:
    sample = {1}
    sample.discard(1)
    return _Raw(sample).entries()[1][0]


def _width(slots: int) -> int:
    return 1 if slots <= 1 << 8 else 2 if slots <= 1 << 16 else 4 if slots <= 1 << 32 else 8


def _sum(holes: int, placed: list[tuple[int, int]]) -> int:
    total = 0
    for slot, number in [(holes, len(placed)), *placed]:
        total ^= (number + 0x9E3779B97F4A7C15 * (slot + 1)) & _WORD
        total = ((total << 13 | total >> 51) * 5 + 0x38495AB5) & _WORD
    return total


def python_layout(thing: Any) -> bytes | None:
    """Return how to lay a set out like this one after its elements were inserted in its order; None if they lie so."""
    return _layout(thing) if trusted() else None


def python_arrange(thing: Any, plan: bytes) -> bool:
    """Lay a set that was just made out as its plan says; returns whether it is that set, and leaves it alone if not."""
    return trusted() and _arrange(thing, plan)


def _layout(thing: Any) -> bytes | None:
    raw = _Raw(thing)
    if (not raw.fill and raw.slots == SMALLEST) or any(type(each).__hash__ is _BY_ADDRESS for each in thing):
        return None
    gone = _removed()
    entries = raw.entries()
    placed = [(slot, entry[1]) for slot, entry in enumerate(entries) if entry[0] not in (0, gone)]
    holes = [slot for slot, entry in enumerate(entries) if entry[0] == gone]
    alike = [_Alike(number) for _slot, number in placed]
    number_of = {id(each): number for number, each in enumerate(alike)}
    again = _Raw(made := set(alike))
    order = [(slot, number_of[entry[0]]) for slot, entry in enumerate(again.entries()) if entry[0]]
    del made
    targets = [placed[number][0] for _slot, number in order]
    if not raw.finger and not holes and again.slots == raw.slots and [slot for slot, _number in order] == targets:
        return None
    width = _width(raw.slots)
    head = _HEAD.pack(VERSION, raw.slots.bit_length() - 1, _sum(len(holes), placed), raw.finger)
    return b"".join((head, *(each.to_bytes(width, "little") for each in (raw.used, *targets, *holes))))


def _arrange(thing: Any, plan: bytes) -> bool:
    raw = _Raw(thing)
    if len(plan) <= _HEAD.size:
        return False
    version, bits, wanted, finger = _HEAD.unpack_from(plan)
    if version != VERSION or not 3 <= bits <= 48:  # noqa: PLR2004 - 8 slots, and no more than memory
        return False
    slots = 1 << bits
    width = _width(slots)
    used, *numbers = (int.from_bytes(plan[at : at + width], "little") for at in range(_HEAD.size, len(plan), width))
    if used != raw.used or raw.fill != used or not used <= len(numbers) < slots or max(numbers, default=0) >= slots:
        return False
    entries = [(0, 0)] * slots
    for slot, entry in zip(numbers, (entry for entry in raw.entries() if entry[0]), strict=False):
        entries[slot] = entry
    placed = [(slot, entry[1]) for slot, entry in enumerate(entries) if entry[0]]
    if len(placed) != used or _sum(len(numbers) - used, placed) != wanted:
        return False
    gone = _removed()
    for slot in numbers[used:]:
        if entries[slot][0]:
            return False
        entries[slot] = gone, -1
    raw.put(entries, len(numbers), finger)
    return True


def works(layout: Callable[[Any], bytes | None], arrange: Callable[[Any, bytes], bool]) -> bool:
    """Whether plans do what they promise with the sets of this Python."""
    for sample in _samples():
        again = set(iter(sample))
        plan = layout(sample)
        if plan is not None and not arrange(again, plan):
            return False
        if list(again) != list(sample) or layout(again) != plan:
            return False
    return True


def _samples() -> list[set[Any]]:
    numbers: set[Any] = {number * 64 for number in range(40)}
    numbers -= {number * 64 for number in range(0, 30, 3)}
    popped = set(range(100, 160))
    popped.pop()
    texts: set[Any] = {f"{number * number}" for number in range(200)} | {-1, -2, 1.5, None}
    return [numbers, popped, texts, set(), {8, 0}, {0, 8}, texts - {"4"}]


_trust: list[bool] = []


def trusted() -> bool:
    """Whether this Python's sets are what is assumed here; tried once."""
    if not _trust:
        try:
            _trust.append(works(_layout, _arrange))
        except Exception:
            _trust.append(False)
    return _trust[0]
