"""Checkpoints that pay for what changed: what is known of the last one, and how the next is made from it.

1. No value of the session is held between checkpoints: names, numbers, digests and addresses are enough.
2. What may have changed is looked at again; what is looked at and did not change costs no byte.
3. A checkpoint never fails for what a value does: that costs the value, and the report says so.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import ambient, atoms, pickler, recipes, report, sources
from .hooks import unwarned
from .identity import LIVE, Table
from .lost import Lost
from .pieces import Library
from .sharing import judge_object, judge_type
from .stream import Writer, Written
from .units import Loss, Root, Unit, closure, groups

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .hooks import Watch
    from .pages import Pages
    from .pickler import Finding
    from .pieces import Record
    from .restoring import Loaded
    from .touched import CodeKey, Touched

__all__ = ["FORMAT", "Delta", "Keeper"]

#: Version of manifests; a reader refuses a later one, and says so.
FORMAT = 2

#: Small units that nothing names are looked at again at a checkpoint, up to this many: a thousand take a millisecond.
#: Beyond it they take turns.
LOOKED_AT = 1000

#: Marks the variables that are no names of the session, but state of the process.
AMBIENT = "\0"


@dataclass(slots=True)
class Delta:
    """What a checkpoint adds to the one before: plain data, and the bytes of its pack."""

    data: dict[str, Any]
    chunks: list[bytes | memoryview]
    """The pack in order. Large buffers are views of the live values: use them before code runs again."""


@dataclass(slots=True)
class _Pass:
    """One checkpoint while it is made."""

    values: dict[str, Any]
    ids: dict[str, int]
    changed: set[str]
    gone: set[str]
    full: bool
    dirty: set[int] = field(default_factory=set)
    """Units that are looked at."""
    expected: set[int] = field(default_factory=set)
    """Those of them that may have changed, as far as is known."""
    written: dict[int, Written] = field(default_factory=dict)
    replaced: dict[int, Unit] = field(default_factory=dict)
    """Units that are no more, as they were."""


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
        self._table: Any = Table(judge_type, judge_object)
        self._writer = Writer(self._table)
        self._library = Library()
        self.generation = 0
        self._next = 1
        self._ids: dict[str, int] = {}
        self._atoms: dict[str, Any] = {}
        self._roots: dict[str, int] = {}
        self._unit_of: dict[int, int] = {}
        self._units: dict[int, Unit] = {}
        self._order: list[str] = []
        self._early: dict[str, Any] = {}
        self._names: dict[str, Any] = {}
        self._texts: dict[str, tuple[int, int, Record]] = {}
        self._runtime: dict[str, Any] = {}
        self._losses: dict[str, list[str]] = {}
        self._turn = 0
        self._marks: dict[str, Any] = {}
        self._steady: set[int] = set()

    # -- one checkpoint ----------------------------------------------------------------------------------------

    def save(
        self,
        watch: Watch,
        touched: Touched | None,
        *,
        strict: bool = False,
        runtime: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> Delta:
        """Return what changed since the last checkpoint; with `touched` None, everything is looked at again.

        With `strict` it is, too, and what changed although nothing said that it could have is counted.
        `runtime` is state of the guest's own as JSON data, and `texts` long texts of it: they are stored with the
        namespace, and only where they changed.
        """
        early = ambient.capture_early()
        values = self._variables()
        live = dict(self._live())
        run = self._begin(values, touched)
        self._writer.begin(self._namespace, watch)
        self._library.begin(self.generation + 1)
        try:
            self._bind(run, touched, live)
            run.expected = set(run.dirty)
            if strict:
                run.dirty |= self._units.keys()
            with unwarned():
                self._dump(run, live)
            return self._finish(run, early, dict(runtime or {}), dict(texts or {}))
        finally:
            self._writer.close()
            run.values = {}
            self._table.clear()
            self._table.forget()

    def _variables(self) -> dict[str, Any]:
        protected = self._protected
        # First, so that a new variable is the last name.
        values = {AMBIENT + key: value for key, value in ambient.capture_late().items()}
        named = list(self._namespace.items())
        return values | {name: value for name, value in named if type(name) is str and name not in protected}

    def _begin(self, values: dict[str, Any], touched: Touched | None) -> _Pass:
        ids = {name: id(value) for name, value in values.items()}
        old = self._ids
        # What a library hands out anew each time is the same while its state is.
        self._steady = set()
        renewed: set[str] = set()
        for name in list(values):
            if not name.startswith(AMBIENT):
                break
            mark = ambient.mark(name.removeprefix(AMBIENT), values[name])
            if mark is None:
                continue
            if self._marks.get(name) == mark and name in self._roots:
                self._steady.add(self._unit_of[self._roots[name]])
            else:
                renewed.add(name)
            if name in self._roots:
                # No address: the object of the last time is gone, and a variable's value may lie where it was.
                ids[name] = -self._roots[name]
            self._marks[name] = mark
        changed = {name for name, identity in ids.items() if old.get(name) != identity} | renewed
        gone = old.keys() - ids.keys()
        full = touched is None or touched.everything or (touched.resumed and self._suspended())
        full = full or (touched is not None and touched.adrift(self._has_code))
        return _Pass(values, ids, changed, gone, full)

    def _suspended(self) -> bool:
        """Whether something that runs is kept in a variable: where it goes on, it touches what no name tells."""
        return any(loss.opaque for unit in self._units.values() for loss in unit.losses)

    def _has_code(self, key: CodeKey) -> bool:
        """Whether a variable leads to a function that runs this."""
        return any(key in unit.code for unit in self._units.values())

    def _touched_units(self, run: _Pass, touched: Touched | None) -> set[int]:
        """Return the units that may hold something that changed, as they were connected at the last checkpoint."""
        if run.full or touched is None:
            return set(self._units)
        names = (touched.names | run.changed | run.gone) & self._roots.keys()
        starts = {self._unit_of[self._roots[name]] for name in names}
        if touched.code:
            starts |= {number for number, unit in self._units.items() if not unit.code.isdisjoint(touched.code)}
        found = closure(starts, self._follow)
        if any(loss.opaque for number in found for loss in self._units[number].losses):
            # A thread pool, a socket, a generator: what it holds is not known.
            return set(self._units)
        return found

    def _follow(self, unit: int) -> list[int]:
        known = self._units.get(unit)
        return [self._unit_of[ref] for ref in known.refs if ref in self._unit_of] if known else []

    # -- names and roots ---------------------------------------------------------------------------------------

    def _bind(self, run: _Pass, touched: Touched | None, live: Mapping[str, object]) -> None:
        """Give every name an atom or a root, and choose the units that are looked at."""
        dirty = self._touched_units(run, touched)
        everything = (
            set(run.values) if run.full else run.changed | (touched.names & run.values.keys() if touched else set())
        )
        rebound = {self._roots[name] for name in run.changed | run.gone if name in self._roots}
        kept = {run.ids[name]: root for name, root in self._roots.items() if name not in run.changed | run.gone}
        for name in run.gone:
            self._atoms.pop(name, None)
        alive = set(kept.values())
        previous = {name: self._roots.pop(name) for name in run.changed | run.gone if name in self._roots}
        for name in run.values:
            if name in run.changed or (name in everything and name not in self._roots):
                self._bind_name(run, name, previous, kept, alive)
        dead = rebound - alive
        loose = rebound | {root for name, root in self._roots.items() if name in run.changed}
        dirty |= {number for number, unit in self._units.items() if not unit.refs.isdisjoint(loose)}
        self._bury(run, dead, dirty)
        for name, root in self._roots.items():
            if root not in self._unit_of:
                dirty.add(self._new_unit([Root(root)]).number)
            elif name in run.changed:
                dirty.add(self._unit_of[root])
        self._register(run, live)
        dirty |= self._due()
        run.dirty = dirty & self._units.keys()

    def _bind_name(
        self, run: _Pass, name: str, previous: dict[str, int], kept: dict[int, int], alive: set[int]
    ) -> None:
        value = run.values[name]
        atom = atoms.encode(value)
        if atom is not atoms.MISSING:
            self._atoms[name] = atom
            return
        self._atoms.pop(name, None)
        root = kept.get(run.ids[name])
        if root is None:
            # The number of the value that the name had is free if no other name has that value.
            root = previous.get(name)
            if root is None or root in alive:
                root = self._number()
            kept[run.ids[name]] = root
            alive.add(root)
        self._roots[name] = root

    def _bury(self, run: _Pass, dead: set[int], dirty: set[int]) -> None:
        """Take apart the units of roots that no name has any more; the other roots in them get units of their own."""
        for root in dead:
            number = self._unit_of.get(root)
            unit = self._units.get(number) if number is not None else None
            if unit is None:
                continue
            self._drop(run, unit)
            dirty.discard(unit.number)

    def _drop(self, run: _Pass, unit: Unit) -> None:
        run.replaced[unit.number] = self._units.pop(unit.number)
        for root in unit.roots:
            del self._unit_of[root.number]

    def _number(self) -> int:
        number = self._next
        self._next += 1
        return number

    def _new_unit(self, roots: list[Root]) -> Unit:
        unit = Unit(self._number(), roots)
        self._units[unit.number] = unit
        for root in roots:
            self._unit_of[root.number] = unit.number
        return unit

    def _register(self, run: _Pass, live: Mapping[str, object]) -> None:
        """Tell the table of identities what is a root now, and what belongs to the runtime."""
        table = self._table
        for value in pickler.library_values:
            table.never(value)
        for name, root in self._roots.items():
            table.root(run.values[name], root, self._unit_of[root])
        for key, thing in reversed(list(live.items())):
            table.root(thing, key, LIVE)

    def _due(self) -> set[int]:
        """Return the small units: they are looked at whether anything names them or not."""
        small = [number for number, unit in self._units.items() if unit.small and number not in self._steady]
        if len(small) <= LOOKED_AT:
            return set(small)
        self._turn = (self._turn + LOOKED_AT) % len(small)
        return set((small + small)[self._turn : self._turn + LOOKED_AT])

    # -- pickling ----------------------------------------------------------------------------------------------

    def _dump(self, run: _Pass, live: Mapping[str, object]) -> None:
        """Pickle what is looked at, until no two units share anything that can change."""
        names = {root: name for name, root in reversed(self._roots.items())}
        waiting = sorted(run.dirty, key=lambda number: self._rank(run, names, number))
        while waiting:
            found: set[int] = set()
            for number in waiting:
                found |= self._dump_unit(run, names, self._units[number])
            waiting = []
            for members in groups(list(run.written), self._table.pairs, self._follow):
                waiting.append(self._merge(run, members, live))
            self._table.pairs.clear()
            waiting += sorted(number for number in found if number in self._units and number not in run.written)

    def _rank(self, run: _Pass, names: dict[int, str], number: int) -> tuple[bool, int]:
        value = run.values[names[self._units[number].roots[0].number]]
        return not issubclass(type(value), types.FunctionType | type), number

    def _dump_unit(self, run: _Pass, names: dict[int, str], unit: Unit) -> set[int]:
        """Pickle one unit; returns the units it refers to now and did not before."""
        hits = self._table.begin(unit.number)
        values = [run.values[names[root.number]] for root in unit.roots]
        for root, value in zip(unit.roots, values, strict=True):
            root.type = report.type_name(value)

        def stand_in(which: int, why: str) -> Lost:
            return Lost(recipes.name_kind(values[which]), why, names[unit.roots[which].number])

        run.written[unit.number] = self._writer.write(values, stand_in)
        new = {self._unit_of[ref] for ref in hits - unit.refs if ref in self._unit_of}
        unit.refs = set(hits)
        return {number for number in new if not self._units[number].small} - run.written.keys()

    def _merge(self, run: _Pass, members: list[int], live: Mapping[str, object]) -> int:
        roots = [Root(root.number) for number in members for root in self._units[number].roots]
        old = [self._units[number] for number in members]
        for unit in old:
            self._drop(run, unit)
            run.written.pop(unit.number, None)
        made = self._new_unit(roots)
        for unit in old:
            self._table.join(unit.number, made.number)
        owned = {root.number for root in roots}
        lived = {id(thing) for thing in live.values()}
        for name, root in self._roots.items():
            if root in owned and id(run.values[name]) not in lived:
                self._table.root(run.values[name], root, made.number)
        return made.number

    # -- what changed ------------------------------------------------------------------------------------------

    def _finish(self, run: _Pass, early: dict[str, Any], runtime: dict[str, Any], texts: dict[str, str]) -> Delta:
        data: dict[str, Any] = {"format": FORMAT, "generation": self.generation + 1, "since": self.generation}
        if not self.generation:
            data.update(python=".".join(map(str, sys.version_info[:3])), magic=importlib.util.MAGIC_NUMBER.hex())
        retired = [record for unit in run.replaced.values() for record in unit.records()]
        units: dict[str, Any] = {}
        missed = 0
        losses = self._find_losses(run)
        for number, written in run.written.items():
            unit = self._units[number]
            before = unit.records()
            self._store(unit, written)
            retired += [record for record in before if record not in unit.records()]
            mark = unit.mark()
            if mark != unit.stored:
                missed += unit.stored is not None and number not in run.expected
                unit.stored = mark
                units[str(number)] = unit.as_data()
        if units:
            data["units"] = units
        if missed:
            data["missed"] = missed
        dead = sorted(number for number, unit in run.replaced.items() if unit.stored is not None)
        if dead:
            data["dead"] = dead
        self._tell_names(run, data)
        self._tell("losses", self._losses, losses, data)
        self._tell("early", self._early, early, data)
        self._tell("runtime", self._runtime, runtime, data)
        retired += self._tell_texts(texts, data)
        self.generation += 1
        self._ids = run.ids
        for record in retired:
            record.retire()
        if self._library.crowded():
            self._library.prune([record for unit in self._units.values() for record in unit.records()])
        size = self._library.size
        if size:
            data["pack"] = size
        return Delta(data, self._library.close())

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
        unit.sources, unit.code = written.sources, written.code
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

    # -- what is said of it ------------------------------------------------------------------------------------

    @staticmethod
    def _tell(what: str, known: dict[str, Any], now: dict[str, Any], data: dict[str, Any]) -> None:
        """Put the entries of a table that changed into the data; None for one that is gone."""
        if known == now:
            return
        changed = {key: value for key, value in now.items() if key not in known or known[key] != value}
        changed.update(dict.fromkeys(known.keys() - now.keys()))
        data[what] = changed
        known.clear()
        known.update(now)

    def _tell_names(self, run: _Pass, data: dict[str, Any]) -> None:
        names: dict[str, Any] = {}
        texts: dict[int, str] = {}
        for name in run.values if run.full or run.changed or run.gone else ():
            value = [self._roots[name]] if name in self._roots else self._atoms[name]
            if type(run.values[name]) in (str, bytes) and type(value) is not list:
                # Two names of one text are found by identity again: programs compare sentinels that way.
                first = texts.setdefault(run.ids[name], name)
                value = value if first is name or not run.values[name] else {"=": escaped(first)}
            known = self._names.get(name, atoms.MISSING)
            if known is not value and (known != value or type(known) is not type(value)):
                names[name] = value
                self._names[name] = value
        for name in run.gone:
            del self._names[name]
        if names:
            data["names"] = {escaped(name): value for name, value in names.items()}
        if run.gone:
            data["gone"] = [escaped(name) for name in sorted(run.gone)]
        order = list(run.values)
        expected = [name for name in self._order if name not in run.gone] if run.gone else self._order
        if order != expected + order[len(expected) :]:
            data["order"] = [escaped(name) for name in order]
        self._order = order

    def _tell_texts(self, runtime: dict[str, str], data: dict[str, Any]) -> list[Record]:
        """Store the texts that are new, and return where those were that are gone."""
        wanted: dict[str, Any] = {f"text:{key}": (len(text), hash(text), text) for key, text in runtime.items()}
        for unit in self._units.values():
            for key in unit.sources:
                if f"source:{key}" not in wanted:
                    wanted[f"source:{key}"] = (0, 0, key)
        changed: dict[str, Any] = {}
        retired: list[Record] = []
        for key, (size, number, text) in wanted.items():
            known = self._texts.get(key)
            if known is not None and known[:2] == (size, number):
                continue
            content = "\0".join(sources.text_of(text)) if key.startswith("source:") else text
            record = self._library.stream(content.encode("utf-8", "surrogatepass"), None)
            if known is not None:
                retired.append(known[2])
            self._texts[key] = size, number, record
            changed[escaped(key)] = record.extents()
        for key in self._texts.keys() - wanted.keys():
            retired.append(self._texts.pop(key)[2])
            changed[escaped(key)] = None
        if changed:
            data["texts"] = changed
        return retired

    # -- what became of the values -----------------------------------------------------------------------------

    def _find_losses(self, run: _Pass) -> dict[str, list[str]]:
        """Return, by name, what is lost or was remade: [status, why, where]."""
        losses = {name: loss for name, loss in self._losses.items() if name in self._roots}
        wanted: dict[int, Finding] = {}
        for number, written in run.written.items():
            unit = self._units[number]
            unit.places = {}
            unit.losses = [
                Loss(each.status, each.what, each.why, each.status == "lost" and type(each.thing) is not Lost)
                for each in written.findings
            ]
            unit.losses += [Loss("lost", "", why, opaque=True) for why in written.failures.values()]
            wanted.update((id(finding.thing), finding) for finding in written.findings)
        if not wanted and not losses and not any(unit.losses for unit in self._units.values()):
            return {}
        lived = {id(thing) for thing in self._live().values()}
        numbers = {
            id(finding.thing): (self._units[number], at)
            for number, written in run.written.items()
            for at, finding in enumerate(written.findings)
        }
        for name, root in self._roots.items():
            number = self._unit_of[root]
            if number in run.written:
                loss = self._loss_of(run, name, root, wanted, numbers, lived)
                losses.pop(name, None)
                if loss is not None:
                    losses[name] = loss
        return losses

    def _loss_of(
        self,
        run: _Pass,
        name: str,
        root: int,
        wanted: dict[int, Finding],
        numbers: dict[int, tuple[Unit, int]],
        lived: set[int],
    ) -> list[str] | None:
        unit = self._units[self._unit_of[root]]
        written = run.written[unit.number]
        which = next(at for at, other in enumerate(unit.roots) if other.number == root)
        if which in written.failures:
            return ["lost", written.failures[which], ""]
        reached = closure([unit.number], self._follow)
        if not any(self._units[number].losses for number in reached):
            return None
        paths = report.find(name, run.values[name], set(wanted), lived) if wanted else {}
        for thing, path in paths.items():
            home, at = numbers[thing]
            home.places.setdefault(str(at), path)
        first = written.found_in[which - 1] if which else 0
        own = written.findings[first : written.found_in[which]]
        found = [
            (Loss(wanted[thing].status, wanted[thing].what, wanted[thing].why), path) for thing, path in paths.items()
        ]
        found += [(Loss(each.status, each.what, each.why), "") for each in own if id(each.thing) not in paths]
        found += [(loss, "") for number in reached - run.written.keys() for loss in self._units[number].losses]
        for status in ("lost", "rebuilt"):
            for loss, path in found:
                if loss.status == status:
                    where = "" if path == name else path
                    return [status, loss.why if path == name or not loss.what else f"{loss.what}: {loss.why}", where]
        return None

    def manifest(self) -> dict[str, Any]:
        """Return the whole of the last checkpoint as data, as the deltas up to it add up to."""
        return {
            "format": FORMAT,
            "generation": self.generation,
            "python": ".".join(map(str, sys.version_info[:3])),
            "magic": importlib.util.MAGIC_NUMBER.hex(),
            "names": {escaped(name): self._names[name] for name in self._order},
            "units": {str(number): unit.as_data() for number, unit in self._units.items()},
            "losses": self._losses,
            "early": self._early,
            "runtime": self._runtime,
            "texts": {escaped(key): text[2].extents() for key, text in self._texts.items()},
        }

    def adopt(self, manifest: Mapping[str, Any], loaded: Loaded) -> None:
        """Take what was loaded for the last checkpoint."""
        self._library = Library()
        self.generation = manifest["generation"]
        self._names = {unescaped(name): value for name, value in manifest["names"].items()}
        self._order = list(self._names)
        self._atoms = {name: value for name, value in self._names.items() if type(value) is not list}
        self._roots = {name: value[0] for name, value in self._names.items() if type(value) is list}
        self._units = loaded.units
        self._unit_of = {root.number: unit.number for unit in loaded.units.values() for root in unit.roots}
        self._next = 1 + max([*self._units, *self._unit_of], default=0)
        self._ids = loaded.ids
        self._early = dict(manifest["early"])
        self._runtime = dict(manifest["runtime"])
        self._losses = dict(manifest["losses"])
        self._texts = loaded.texts
        for unit in self._units.values():
            for record in unit.records():
                if self._pages is not None and record.address and not record.armed:
                    record.armed = self._pages.arm(record.address, record.size)
            unit.stored = unit.mark()
            self._library.note(unit.records())

    def reports(self) -> list[report.NameReport]:
        """Return what became of each name at the last checkpoint, which was made just now."""
        made = []
        for name in self._order:
            if name.startswith(AMBIENT):
                continue
            value = self._namespace[name]
            root = self._roots.get(name)
            size = 0
            if root is not None:
                unit = self._units[self._unit_of[root]]
                size = next(other.size for other in unit.roots if other.number == root)
            status, why, where = self._losses.get(name, ("kept", "", ""))
            made.append(report.NameReport(name, report.type_name(value), size, status, why, where))
        return made


def escaped(name: str) -> str:
    """Return a name as JSON of any reader can have it; lone surrogates are no text to most."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "\1" + name.encode("utf-8", "surrogatepass").hex()
    return "\1" + name.encode().hex() if name.startswith("\1") else name


def unescaped(name: str) -> str:
    """Return the name that `escaped` was given."""
    return bytes.fromhex(name[1:]).decode("utf-8", "surrogatepass") if name.startswith("\1") else name
