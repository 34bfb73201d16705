"""Checkpoints that pay for what changed: what is known of the last one, and how the next is made from it.

1. No value of the session is held between checkpoints: names, numbers, digests and addresses are enough.
2. What may have changed is looked at again; what is looked at and did not change costs no byte.
3. A checkpoint never fails for what a value does: that costs the value, and the report says so.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from . import ambient, pickler, report
from .binding import begin, bind
from .dumping import dump
from .glances import judge_open, parts_of
from .hooks import unwarned
from .identity import Table
from .known import AMBIENT, FORMAT, Delta, Known, Pass, escaped
from .losing import find_losses
from .pieces import Library
from .sharing import judge_object, judge_type
from .stream import Writer, Written
from .telling import tell, tell_names, tell_texts
from .verifying import Verifying, written_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .hooks import Watch
    from .pages import Pages
    from .pieces import Record
    from .restoring import Loaded
    from .touched import Touched
    from .units import Unit

__all__ = ["Keeper"]

#: Small units that nothing names are looked at again at a checkpoint, up to this many: a glance at a thousand takes a
#: millisecond. Beyond it they take turns.
LOOKED_AT = 1000


#: Variables that are named of those whose change was missed.
MOST_NAMED = 20


class Keeper:
    """The namespace as the last checkpoint has it."""

    def __init__(
        self,
        namespace: dict[str, Any],
        *,
        protected: frozenset[str],
        live: Callable[[], Mapping[str, object]],
        pages: Pages | None = None,
    ) -> None:
        self._namespace = namespace
        self._protected = protected
        self._live = live
        self._pages = pages
        self._table: Any = Table(judge_type, judge_object, judge_open, parts_of)
        self._writer = Writer(self._table)
        self._library = Library()
        self._known = Known()
        self._turn = 0
        #: What was known before a trial, and what would be stored no more had it been none.
        self._before: tuple[Known, set[int]] | None = None
        self._retired: list[Record] = []
        #: Units that changed although nothing said that they could have.
        self._suspects: set[int] = set()

    @property
    def generation(self) -> int:
        """The number of the last checkpoint; 0 before the first."""
        return self._known.generation

    # -- one checkpoint ----------------------------------------------------------------------------------------

    def save(
        self,
        watch: Watch,
        touched: Touched | None,
        *,
        strict: bool = False,
        trial: bool = False,
        runtime: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> Delta:
        """Return what changed since the last checkpoint; with `touched` None, everything is looked at again.

        With `strict` it is, too, and what changed although nothing said that it could have is counted. A `trial` can be
        taken back until the next checkpoint. `runtime` is state of the guest's own as JSON data, and `texts` long texts
        of it: they are stored with the namespace, and only where they changed.
        """
        self._settle()
        if trial:
            self._before = self._known.copy(), set(self._suspects)
        known, live = self._known, self._live()
        run = begin(known, self._namespace, self._protected, touched, strict=strict)
        self._writer.begin(self._namespace, watch)
        self._library.begin(known.generation + 1)
        try:
            bind(known, run, touched)
            run.expected = run.expected | self._due(run)
            run.expected |= written_to(known, self._pages, run.expected)
            run.expected |= {unit.number for unit in known.units.values() if unit.salvaged}
            run.dirty = set(known.units) if strict else run.expected | (self._suspects & known.units.keys())
            _read_states(known, run)
            self._table.bind(run.values, known.roots, known.unit_of, pickler.library_values)
            self._table.live(live)
            with unwarned():
                dump(known, run, self._table, self._writer, live)
            delta = self._finish(run, live, dict(runtime or {}), dict(texts or {}))
            self._suspects.clear()
            return delta
        finally:
            self._writer.close()
            run.values = {}
            self._table.clear()
            self._table.forget()

    def verify(self, watch: Watch, stop: Callable[[], bool]) -> bool:
        """Look at the large values as they are now, and let the next checkpoint look at those that are not as stored.

        Nothing is stored. Returns whether it came to its end before `stop` said that there is something else to do.
        """
        verifying = Verifying(self._known, self._namespace, self._protected, self._table, stop)
        self._suspects |= verifying.run(watch, self._live())
        return not verifying.stopped

    def take_back(self) -> None:
        """Know again what was known before a trial: what it stored is nowhere, and the next one adds to the one before.

        The caller has the next one look again at what this one looked at.
        """
        if self._before is None:
            return
        kept = {id(record) for record in self._known.records()}
        (self._known, self._suspects), self._before, self._retired = self._before, None, []
        for record in self._known.records():
            # What was written to it was told to the trial, and will not be told again.
            record.armed = record.armed and id(record) in kept
        self._library = Library()
        self._library.note(self._known.records())

    def _settle(self) -> None:
        """Let go of what nothing refers to since the last checkpoint."""
        self._before = None
        for record in self._retired:
            record.retire()
        self._retired = []
        if self._library.crowded():
            self._library.prune(self._known.records())

    def _due(self, run: Pass) -> set[int]:
        """Return the small units: they are looked at whether anything names them or not."""
        small = self._known.small - run.steady
        if len(small) <= LOOKED_AT:
            return small
        order = sorted(small)
        self._turn = (self._turn + LOOKED_AT) % len(order)
        return set((order + order)[self._turn : self._turn + LOOKED_AT])

    def _finish(
        self,
        run: Pass,
        live: Mapping[str, object],
        runtime: dict[str, Any],
        texts: dict[str, str],
    ) -> Delta:
        known = self._known
        data: dict[str, Any] = {"format": FORMAT, "generation": known.generation + 1, "since": known.generation}
        if not known.generation:
            data.update(python=".".join(map(str, sys.version_info[:3])), magic=importlib.util.MAGIC_NUMBER.hex())
        losses, known.absent = find_losses(known, run, live)
        retired = [record for unit in run.replaced.values() for record in unit.records()]
        retired += self._store_units(run, data)
        dead = sorted(number for number, unit in run.replaced.items() if unit.stored is not None)
        if dead:
            data["dead"] = dead
        tell_names(known, run, data)
        tell("losses", known.losses, losses, data)
        tell("absent", known.told_absent, known.absent, data)
        tell("early", known.early, run.early, data)
        tell("runtime", known.runtime, runtime, data)
        retired += tell_texts(known, self._library, texts, data)
        known.settle(run)
        self._retired = retired
        if self._before is None:
            self._settle()
        size = self._library.size
        if size:
            data["pack"] = size
        return Delta(data, self._library.close())

    # -- bytes -------------------------------------------------------------------------------------------------

    def _store_units(self, run: Pass, data: dict[str, Any]) -> list[Record]:
        """Put what changed in units into the data, and its bytes into the pack; returns where bytes were before."""
        known = self._known
        units: dict[str, Any] = {}
        retired: list[Record] = []
        missed: set[int] = set()
        sources = any(unit.sources for unit in run.replaced.values())
        for number, written in run.written.items():
            unit = known.units[number]
            before = unit.records()
            sources = sources or unit.sources != written.sources
            self._store(unit, written)
            known.describe(unit)
            now = unit.records()
            retired += [record for record in before if record not in now]
            mark = unit.mark()
            if mark != unit.stored:
                if unit.stored is not None and number not in run.expected:
                    missed.add(number)
                unit.stored = mark
                units[str(number)] = unit.as_data()
        if sources:
            known.sources = {source for unit in known.units.values() for source in unit.sources}
        if units:
            data["units"] = units
        if missed:
            data["missed"] = len(missed)
            data["missed_names"] = [
                escaped(name) for name, root in known.roots.items() if known.unit_of[root] in missed
            ][:MOST_NAMED]
        return retired

    def _store(self, unit: Unit, written: Written) -> None:
        """Take over how a unit was pickled, and put the bytes that are new into the pack."""
        old = unit.buffers
        start = buffers = 0
        for which, root in enumerate(unit.roots):
            root.end, root.buffers = written.ends[which], written.buffer_ends[which]
            root.size = root.end - start + sum(buffer.nbytes for buffer in written.buffers[buffers : root.buffers])
            start, buffers = root.end, root.buffers
        unit.stream = self._library.stream(written.stream, unit.stream)
        unit.buffers = []
        for which, buffer in enumerate(written.buffers):
            known = old[which] if which < len(old) else None
            unit.buffers.append(self._store_buffer(buffer, known))
        unit.sources, unit.code, unit.late = written.sources, written.code, written.late
        unit.hooked = written.hooked
        written.buffers.clear()

    def _store_buffer(self, buffer: memoryview, known: Record | None) -> Record:
        pages = self._pages
        if pages is None:
            return self._library.buffer(buffer, known, None)
        address = pages.address(buffer)
        dirty = None
        if known is not None and known.armed and (known.address, known.size) == (address, buffer.nbytes):
            dirty = pages.dirty(address, buffer.nbytes)
        record = self._library.buffer(buffer, known, dirty)
        record.address = address
        if dirty is None:
            record.armed = pages.arm(address, buffer.nbytes)
        else:
            record.armed = True
        return record

    # -- what it adds up to ------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """Return the whole of the last checkpoint as data, as the deltas up to it add up to."""
        known = self._known
        return {
            "format": FORMAT,
            "generation": known.generation,
            "python": ".".join(map(str, sys.version_info[:3])),
            "magic": importlib.util.MAGIC_NUMBER.hex(),
            "names": {escaped(name): known.names[name] for name in known.order},
            "units": {str(number): unit.as_data() for number, unit in known.units.items()},
            "losses": known.losses,
            "absent": known.told_absent,
            "early": known.early,
            "runtime": known.runtime,
            "texts": {escaped(key): text[2].extents() for key, text in known.texts.items()},
        }

    def adopt(self, manifest: Mapping[str, Any], loaded: Loaded) -> None:
        """Take what was loaded for the last checkpoint."""
        self._library = Library()
        self._known = Known()
        self._known.adopt(manifest, loaded)
        for unit in self._known.units.values():
            self._library.note(unit.records())

    def weight(self, name: str) -> int:
        """Return how many bytes the stream has that holds a variable; 0 for one that has none."""
        unit = self._known.units.get(self._known.unit_of.get(self._known.roots.get(name, 0), 0))
        return unit.stream.size if unit is not None and unit.stream is not None else 0

    def states_lost(self) -> dict[str, str]:
        """Return which states of the process lost something at the last checkpoint, in words, and why."""
        losses = {name: loss for name, loss in self._known.losses.items() if name.startswith(AMBIENT)}
        return {
            ambient.WORDS[name.removeprefix(AMBIENT)]: why
            for name, (status, why, _) in losses.items()
            if status == "lost"
        }

    def losses(self) -> list[str]:
        """Return the names that were not kept as they are at the last checkpoint, in the order of the namespace."""
        known = self._known
        return [name for name in known.order if name in known.losses] if known.losses else []

    def reports(self, names: list[str] | None = None) -> list[report.NameReport]:
        """Return what became of some names, or of each, at the last checkpoint, which was made just now."""
        known, made = self._known, []
        for name in known.order if names is None else names:
            if name.startswith(AMBIENT):
                continue
            value = self._namespace[name]
            root = known.roots.get(name)
            size = 0
            if root is not None:
                unit = known.units[known.unit_of[root]]
                size = next(other.size for other in unit.roots if other.number == root)
            status, why, where = known.losses.get(name, ("kept", "", ""))
            made.append(report.NameReport(name, report.type_name(value), size, status, why, where))
        return made


def _read_states(known: Known, run: Pass) -> None:
    """Read the states of the process that were taken for unchanged, and are looked at nevertheless."""
    for name, value in run.values.items():
        if not name.startswith(AMBIENT):
            break
        if value is ambient.UNREAD and known.unit_of[known.roots[name]] in run.dirty:
            run.values[name] = ambient.read(name.removeprefix(AMBIENT))
