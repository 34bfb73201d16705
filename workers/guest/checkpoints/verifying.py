"""Looking, while nothing runs, at what a checkpoint leaves alone as long as no name leads to it: large values.

1. Nothing is stored, noted or run: a value of which code of the session says how it is stored is left out.
2. What is not as it was stored is a suspect: the next checkpoint looks at it, stores it and counts it.
3. It stops within a millisecond once there is something else to do, however large the value is.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from . import ambient, pickler
from .hooks import unwarned
from .identity import DIGEST, changed_names, digests, plain_names
from .known import AMBIENT
from .lost import Lost
from .pages import whole_pages
from .pieces import BLOCK
from .stream import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from .hooks import Watch
    from .known import Known
    from .pages import Pages
    from .pieces import Record
    from .units import Unit

__all__ = ["Verifying", "written_to"]

#: Blocks of a buffer that are read between two looks at whether there is something else to do.
BLOCKS = 128


def written_to(known: Known, pages: Pages | None, expected: AbstractSet[int]) -> set[int]:
    """Return the units that have a large buffer which was written to, whoever did it, by what the kernel says.

    Of those `expected` it is not asked: they are looked at in any case, and the kernel then walks through them.
    """
    if pages is None:
        return set()
    large = known.units.keys() - known.small
    places = [
        (number, *whole_pages(record.address, record.size))
        for number in large - expected
        for record in known.units[number].buffers
        if record.armed
    ]
    return pages.written(places, all_=large.isdisjoint(expected)) if places else set()


class _Stopped(BaseException):
    """There is something else to do; not an `Exception`, which hooks of libraries swallow."""


class _File(io.BytesIO):
    """A file in memory that takes no more once there is something else to do: a pickler writes every 64 kB."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        super().__init__()
        self._stop = stop

    def write(self, data: Any, /) -> int:
        if self._stop():
            raise _Stopped
        return super().write(data)


class Verifying:
    """One look at all large values."""

    def __init__(
        self,
        known: Known,
        namespace: dict[str, Any],
        protected: frozenset[str],
        table: Any,
        stop: Callable[[], bool],
    ) -> None:
        self._known = known
        self._namespace = namespace
        self._protected = protected
        self._table = table
        self._stop = stop
        self.stopped = False

    def run(self, watch: Watch, live: Mapping[str, object]) -> set[int]:
        """Return the units that are not as they were stored."""
        values = self._values()
        waiting = [unit for unit in self._known.units.values() if not (unit.small or unit.hooked or _opaque(unit))]
        if values is None or not waiting:
            return set()
        known, writer = self._known, Writer(self._table, lambda: _File(self._asked))
        writer.begin(self._namespace, watch, hooks=False)
        try:
            self._table.bind(values, known.roots, known.unit_of, pickler.library_values)
            self._table.live(dict(live))
            names = {root: name for name, root in reversed(known.roots.items())}
            with unwarned():
                asked, differs = self._asked, self._differs
                return {unit.number for unit in waiting if not asked() and differs(unit, writer, names, values)}
        finally:
            writer.close()
            self._table.pairs.clear()
            self._table.clear()
            self._table.forget()

    def _asked(self) -> bool:
        self.stopped = self.stopped or self._stop()
        return self.stopped

    def _values(self) -> dict[str, Any] | None:
        """Return what the names are bound to; None if that is not what it was: the next checkpoint looks there."""
        values = plain_names(self._namespace)
        for name in self._protected:
            values.pop(name, None)
        known = {name: address for name, address in self._known.ids.items() if not name.startswith(AMBIENT)}
        if values.keys() != known.keys() or changed_names(values, known):
            return None
        return {AMBIENT + key: value for key, value in ambient.capture_late(self._known.peeks).items()} | values

    def _differs(self, unit: Unit, writer: Writer, names: Mapping[int, str], values: Mapping[str, Any]) -> bool:
        if any(names[root.number].startswith(AMBIENT) for root in unit.roots) or unit.stream is None:
            return False
        self._table.begin(unit.number)
        try:
            written = writer.write([values[names[root.number]] for root in unit.roots], _stand_in)
        except _Stopped:
            return False
        unit.hooked = written.hooked
        if self.stopped or written.hooked or written.failures:
            return False
        if not unit.stream.holds(written.stream) or len(unit.buffers) != len(written.buffers):
            return True
        return any(map(self._buffer_differs, unit.buffers, written.buffers))

    def _buffer_differs(self, record: Record, buffer: memoryview) -> bool:
        if record.size != buffer.nbytes or record.readonly != buffer.readonly:
            return True
        data, step = buffer.cast("B"), BLOCK * BLOCKS
        if record.armed:
            # Writes to whole pages are told at every checkpoint; of the first and the last it may have a part.
            return any(self._block_differs(record, data, block) for block in (0, record.pieces() - 1))
        for start in range(0, len(data) if record.known else 0, step):
            if self._asked():
                return False
            found = digests(data[start : start + step], BLOCK)
            if found != record.digest[start // BLOCK * DIGEST :][: len(found)]:
                return True
        return False

    @staticmethod
    def _block_differs(record: Record, data: memoryview, block: int) -> bool:
        start, end = record.bounds(block)
        return record.digest_of(block) not in (bytes(DIGEST), digests(data[start:end], 0))


def _opaque(unit: Unit) -> bool:
    """Whether it leads to what runs, and is never twice the same, or to what could not be loaded."""
    return unit.salvaged or any(loss.opaque for loss in unit.losses)


def _stand_in(_which: int, why: str) -> Lost:
    return Lost("a value", why)
