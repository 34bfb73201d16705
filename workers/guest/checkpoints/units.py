"""Units: how a namespace is cut into pieces that are stored, compared and restored one by one.

1. Every value that is no atom is a *root*, with a number of its own; a unit holds one root, and refers to others by
   number.
2. Units become one only where they must: where they share what can change, or refer to each other in a circle.
3. Nothing here refers to a value of the session: a unit knows numbers, names, digests and addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .lost import Lost
    from .pieces import Record

__all__ = ["Loss", "Root", "Unit", "closure", "groups"]

#: Streams up to this many bytes make a unit small: it is looked at again at every checkpoint.
SMALL = 4096


@dataclass(slots=True)
class Loss:
    """A part of a unit that was not kept as it is: `lost`, or `rebuilt` with a difference."""

    status: str
    what: str
    why: str
    opaque: bool = False
    """Whether it may lead to anything: a thread, a generator; not a stand-in."""
    stored: bool = False
    """Whether it is lost to this process only: what is stored could not be loaded here, and stays."""


@dataclass(slots=True)
class Root:
    """One value of a unit: its number, its type in words, and where its part of the stream and the buffers ends."""

    number: int
    type: str = ""
    end: int = 0
    buffers: int = 0
    size: int = 0

    def as_data(self) -> list[Any]:
        """Return the root as it stands in a manifest."""
        return [self.number, self.type, self.end, self.buffers, self.size]


@dataclass(slots=True)
class Unit:
    """One unit as it was stored last."""

    number: int
    roots: list[Root]
    refs: set[int] = field(default_factory=set)
    stream: Record | None = None
    buffers: list[Record] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    losses: list[Loss] = field(default_factory=list)
    code: frozenset[tuple[str, int, str]] = frozenset()
    """Which code objects are in it, by file, line and name."""
    late: bool = False
    """Whether it is loaded after all that are not: some of it is made again then."""
    hooked: bool = False
    """Whether code of the session had a say in how it was pickled."""
    glance: tuple[Any, ...] | None = None
    """What a glance at its values gave when it was pickled last; None if only pickling tells whether it changed."""
    stored: tuple[Any, ...] | None = None
    """Its `mark` when it was stored last."""
    salvaged: bool = False
    """Whether stand-ins took places in it at the restore: until it is pickled again, it differs from what is stored."""
    unloaded: tuple[Lost, ...] = ()
    """What stands for its roots where none of them could be loaded: what is stored of it stays as long as they do."""

    @property
    def small(self) -> bool:
        """Whether looking at it again costs next to nothing."""
        return not self.buffers and self.stream is not None and self.stream.size <= SMALL

    def copy(self) -> Unit:
        """Return the unit as it is now, whatever becomes of this one."""
        same = replace(self, roots=[replace(root) for root in self.roots])
        same.buffers, same.places, same.losses = list(self.buffers), dict(self.places), list(self.losses)
        return same

    def records(self) -> list[Record]:
        """Return where all its bytes are."""
        return [*self.buffers, self.stream] if self.stream is not None else list(self.buffers)

    def mark(self) -> tuple[Any, ...]:
        """Return what differs between two states of the unit that are stored differently."""
        return (
            [root.as_data() for root in self.roots],
            set(self.refs),
            dict(self.places),
            set(self.sources),
            self.late,
            self.stream,
            list(self.buffers),
        )

    def as_data(self) -> dict[str, Any]:
        """Return the unit as it stands in a manifest."""
        data: dict[str, Any] = {
            "roots": [root.as_data() for root in self.roots],
            "stream": self.stream.extents() if self.stream is not None else [],
        }
        if self.buffers:
            data["buffers"] = [[buffer.size, buffer.readonly, buffer.extents()] for buffer in self.buffers]
        if self.refs:
            data["refs"] = sorted(self.refs)
        if self.places:
            data["places"] = self.places
        if self.sources:
            data["sources"] = sorted(self.sources)
        if self.late:
            data["late"] = True
        return data


def closure(start: Iterable[int], follow: Callable[[int], Iterable[int]]) -> set[int]:
    """Return everything that can be reached from `start`, itself included."""
    found = set(start)
    waiting = list(found)
    while waiting:
        for other in follow(waiting.pop()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def groups(
    starts: Iterable[int], pairs: Iterable[tuple[int, int]], follow: Callable[[int], Iterable[int]]
) -> list[list[int]]:
    """Return the sets of units that must become one: those of a pair, and those of a circle reached from `starts`."""
    # Most of what changes refers to nothing: a circle that it is in would lead on from it.
    leading, couples = list(filter(follow, starts)), list(pairs)
    circles = _circles(leading, follow) if leading else []
    if not circles and not couples:
        return []
    parent: dict[int, int] = {}

    def top(unit: int) -> int:
        while parent.get(unit, unit) != unit:
            parent[unit] = parent.get(parent[unit], parent[unit])
            unit = parent[unit]
        return unit

    def unite(one: int, other: int) -> None:
        one, other = top(one), top(other)
        parent.setdefault(one, one)
        parent.setdefault(other, other)
        if one != other:
            parent[max(one, other)] = min(one, other)

    for one, other in couples:
        unite(one, other)
    for circle in circles:
        for other in circle[1:]:
            unite(circle[0], other)
    found: dict[int, list[int]] = {}
    for unit in sorted(parent):
        found.setdefault(top(unit), []).append(unit)
    return [members for members in found.values() if len(members) > 1]


def _circles(starts: Iterable[int], follow: Callable[[int], Iterable[int]]) -> list[list[int]]:
    """Return the strongly connected components of more than one unit (Tarjan's algorithm, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for start in starts:
        if start in order:
            continue
        order[start] = low[start] = len(order)
        stack.append(start)
        on_stack.add(start)
        work = [(start, iter(follow(start)))]
        while work:
            unit, others = work[-1]
            for other in others:
                if other not in order:
                    order[other] = low[other] = len(order)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(follow(other))))
                    break
                if other in on_stack:
                    low[unit] = min(low[unit], order[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[unit])
                if low[unit] == order[unit]:
                    at = stack.index(unit)
                    on_stack.difference_update(stack[at:])
                    if len(stack) - at > 1:
                        found.append(stack[at:])
                    del stack[at:]
    return found
