"""Which object is which, whether bytes changed, and where a stream is cut: in C where it was built, else in Python.

The pickler asks the table about every object. It answers with the persistent id of a *root* (an object that has a
unit of its own), and notes every other object that can change together with the unit it was met in: met again in
another unit, the two units are a *pair*, and must become one unit, or the object would come back as two.

Both versions lead to checkpoints that hold the same values; the one in C is faster by far. Digests differ between the
two, and never leave the process.
"""

from __future__ import annotations

import hashlib
import types
from typing import TYPE_CHECKING, Any, Final

from ..native_parts import load
from . import layouts

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ASK",
    "COUNT",
    "DIGEST",
    "LIVE",
    "SKIP",
    "Table",
    "changed_names",
    "cuts",
    "digests",
    "extension",
    "globals_named",
    "native",
    "plain_names",
]

#: What a type is to the table: its instances are counted, never counted, or asked about one by one.
COUNT: Final = 1
SKIP: Final = 2
ASK: Final = 3
#: The unit of objects that are stored by name only: those of the runtime.
LIVE: Final = -1
NEVER: Final = -2
#: Bytes of a digest.
DIGEST: Final = 16

#: Streams longer than this are cut at fixed places by the version in Python, which reads a megabyte in half a second.
_SLOW_CUTS = 1 << 20

_COUNTED = frozenset({dict, list, set})
_SKIPPED = frozenset({str, int, float, tuple, bool, type(None), bytes, frozenset})


class PythonTable:
    """The table of identities; holds what it has seen until `forget`, so that no address is given twice."""

    def __init__(
        self,
        judge_type: Callable[[type], int],
        judge_object: Callable[[Any], bool],
        _judge_open: Callable[[type], int],
        _parts_of: Callable[[Any], list[Any]],
    ) -> None:
        self._judge_type = judge_type
        self._judge_object = judge_object
        self._roots: dict[int, tuple[Any, int]] = {}
        self._seen: dict[int, tuple[Any, int]] = {}
        self._types: dict[int, tuple[type, int]] = {}
        self._joined: dict[int, int] = {}
        self._unit = 0
        self._hits: set[Any] = set()
        self._noted: set[int] = set()
        self._layouts: list[tuple[Any, bytes]] = []
        self.pairs: set[tuple[int, int]] = set()

    def __call__(self, thing: Any) -> Any:
        """Return the persistent id of `thing`; None if it is stored where it is met."""
        known = self._roots.get(id(thing))
        own = known is None or known[1] in (self._unit, NEVER)
        if own and issubclass(type(thing), (set, frozenset)):
            self._note_layout(thing)
        if known is not None:
            pid, unit = known
            if own:
                return None
            if unit != LIVE:
                self._hits.add(pid)
            return pid
        self._see(thing)
        return None

    def _note_layout(self, thing: Any) -> None:
        if id(thing) not in self._noted:
            self._noted.add(id(thing))
            plan = layouts.python_layout(thing)
            if plan is not None:
                self._layouts.append((thing, plan))

    def _see(self, thing: Any) -> None:
        verdict = self._verdict(type(thing))
        if verdict == SKIP:
            return
        known = self._seen.get(id(thing))
        if known is None:
            unit = self._unit if verdict == COUNT or self._judge_object(thing) else NEVER
            self._seen.setdefault(id(thing), (thing, unit))
        elif known[1] != NEVER:
            unit = known[1]
            while unit in self._joined:
                unit = self._joined[unit]
            if unit != self._unit:
                self.pairs.add((unit, self._unit))

    def _verdict(self, kind: type) -> int:
        if kind in _COUNTED:
            return COUNT
        if kind in _SKIPPED:
            return SKIP
        known = self._types.get(id(kind))
        if known is None:
            known = self._types[id(kind)] = kind, self._judge_type(kind)
        return known[1]

    def begin(self, unit: int) -> set[Any]:
        """Enter a unit; returns the set that its references to other roots will be in."""
        self._unit = unit
        self._hits = set()
        self._noted = set()
        return self._hits

    def segment(self, again: bool) -> list[tuple[Any, bytes]]:  # noqa: FBT001 - the one in C takes no names
        """Enter a part of the unit; returns the list that its sets will be in which must be laid out by a plan.

        With `again`, what was met in this unit is met anew.
        """
        if again:
            self._noted = set()
        self._layouts = []
        return self._layouts

    def glance(self, _values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return what is equal as long as the roots of the unit are stored as they are; None if only pickling tells.

        To walk through them in Python takes longer than to pickle them.
        """
        return None

    def differing(self, units: list[tuple[int, tuple[str, ...], Any]], _values: dict[str, Any]) -> dict[int, Any]:
        """Glance at units (number, names, what a glance gave); return what it gives where that differs, by number."""
        return dict.fromkeys([number for number, _names, _before in units])

    def root(self, thing: Any, pid: Any, unit: int) -> None:
        """Make `thing` (which is not held) a root of `unit`, met elsewhere as `pid`."""
        self._roots[id(thing)] = pid, unit

    def bind(self, values: dict[str, Any], roots: dict[str, int], unit_of: dict[int, int], never: list[Any]) -> None:
        """Make the values of names roots, as `root` does; what is in `never` counts as shared nowhere."""
        for thing in never:
            self.never(thing)
        for name, root in roots.items():
            self.root(values[name], root, unit_of[root])

    def live(self, things: dict[str, object]) -> None:
        """Make the objects of the runtime roots, by name; of two names of one object, the first stands for it."""
        for key, thing in reversed(things.items()):
            self.root(thing, key, LIVE)

    def never(self, thing: Any) -> None:
        """Never count `thing` as shared, wherever it is met; it must live on."""
        self._roots.setdefault(id(thing), (None, NEVER))

    def clear(self) -> None:
        """Forget all roots."""
        self._roots = {}

    def join(self, old: int, into: int) -> None:
        """From now on, what was met in unit `old` belongs to unit `into`."""
        self._joined[old] = into

    def forget(self) -> None:
        """Let go of everything seen."""
        self._joined.clear()
        self.pairs.clear()
        self.segment(True)
        self._seen = {}


def python_digests(data: Any, block: int) -> bytes:
    """Return the digests of the blocks of `data` (0: of all of it), one after another."""
    view = memoryview(data).cast("B")
    block = block or max(1, len(view))
    return b"".join(
        hashlib.blake2b(view[start : start + block], digest_size=DIGEST).digest()
        for start in range(0, len(view), block)
    )


def _gear() -> list[int]:
    state, made = 88172645463325252, []
    for _ in range(256):
        state ^= state << 13 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 7
        state ^= state << 17 & 0xFFFFFFFFFFFFFFFF
        made.append(state)
    return made


def python_cuts(data: Any, bits: int) -> list[int]:
    """Return where the pieces of `data` end, of about ``1 << bits`` bytes each, decided by the bytes before the end."""
    view = bytes(memoryview(data).cast("B"))
    least, most = 1 << (bits - 2), 1 << (bits + 2)
    size, ends = len(view), []
    if size > _SLOW_CUTS:
        return [*range(most, size, most), size]
    gear, wrap = _gear(), 0xFFFFFFFFFFFFFFFF
    mask = ((1 << bits) - 1) << (63 - bits)
    start = 0
    while start < size:
        at, limit, number = min(start + least, size), min(start + most, size), 0
        for byte in view[max(start, at - 64) : at]:
            number = (number << 1) + gear[byte] & wrap
        while at < limit:
            number = (number << 1) + gear[view[at]] & wrap
            at += 1
            if not number & mask:
                break
        ends.append(at)
        start = at
    return ends


def python_plain_names(namespace: dict[Any, Any]) -> dict[str, Any]:
    """Return a copy of a namespace without the names that are no texts."""
    return {name: value for name, value in list(namespace.items()) if type(name) is str}


def python_changed_names(values: dict[str, Any], ids: dict[str, int]) -> list[str]:
    """Return the names whose values lie elsewhere than `ids` says."""
    return [name for name, value in values.items() if ids.get(name) != id(value)]


def python_globals_named(modules: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    """Return which modules have a global of that name, with its value; no code of theirs runs."""
    found: list[tuple[str, Any]] = []
    for home, module in list(modules.items()):
        if issubclass(type(module), types.ModuleType):
            # A module that loads itself when it is first asked for something is not asked.
            names = object.__getattribute__(module, "__dict__")
            if name in names:
                found.append((home, names[name]))
    return found


#: The version in C, if it was built.
extension: Any = load("_checkpoint")
#: Whether it is used.
native: Final[bool] = extension is not None
Table: Any = extension.Table if native else PythonTable
layout: Callable[[Any], bytes | None] = extension.layout if native else layouts.python_layout
arrange: Callable[[Any, bytes], bool] = extension.arrange if native else layouts.python_arrange
if native and not layouts.works(extension.layout, extension.arrange):
    extension.no_layouts()
digests: Callable[[Any, int], bytes] = extension.digests if native else python_digests
cuts: Callable[[Any, int], list[int]] = extension.cuts if native else python_cuts
plain_names: Callable[[dict[Any, Any]], dict[str, Any]] = extension.plain_names if native else python_plain_names
changed_names: Callable[[dict[str, Any], dict[str, int]], list[str]] = (
    extension.changed_names if native else python_changed_names
)
globals_named: Callable[[dict[str, Any], str], list[tuple[str, Any]]] = (
    extension.globals_named if native else python_globals_named
)
#: A digest of the memory of an object itself. There is no substitute: who asks must do without it.
memory: Callable[[Any], bytes] = extension.memory if native else bytes
