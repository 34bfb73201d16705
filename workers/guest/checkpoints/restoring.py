"""Making a namespace what a checkpoint holds, in place.

1. Every name is there before any code runs.
2. What cannot be loaded costs its own name, and speaks when it is used.
3. The memory of the data is used for arrays without a copy where nothing else refers to it.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import ambient, atoms, rebuild, report, sources, texts, versions
from .known import AMBIENT, FORMAT, unescaped
from .lost import Kept, Lost, describe, kept_of, place
from .packs import holds
from .pieces import Record, cut
from .room import roomy, stretched
from .salvage import NotSalvaged
from .storage import Storage
from .stream import Reader
from .units import Loss, Root, Unit, closure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .hooks import Watch
    from .packs import Pack
    from .pages import Pages

__all__ = ["CheckpointDamaged", "CheckpointError", "CheckpointTooNew", "CheckpointTooOld", "Loaded", "Restoration"]


class CheckpointError(Exception):
    """A checkpoint cannot be read."""


class CheckpointDamaged(CheckpointError):
    """The bytes are not a whole checkpoint: restore an older one."""


class CheckpointTooNew(CheckpointError):
    """The checkpoint was written by a newer Perdure: run that version, or a later one."""


class CheckpointTooOld(CheckpointError):
    """The checkpoint was written by a Perdure whose format is read no more."""


def check_format(version: object) -> None:
    """Raise what is to be said of a version of the format that this Perdure does not read."""
    if type(version) is not int:
        message = f"a checkpoint says it has format {version!r}"
        raise CheckpointDamaged(message)
    if version > FORMAT:
        message = f"the checkpoint has format {version}, this Perdure reads format {FORMAT}"
        raise CheckpointTooNew(message)
    if version < FORMAT:
        message = f"the checkpoint has format {version}, which is read no more (now {FORMAT}): run its code again"
        raise CheckpointTooOld(message)


@dataclass(slots=True)
class Loaded:
    """What the keeper of the next checkpoint must know of the one that was loaded."""

    units: dict[int, Unit] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    unloaded: dict[str, Lost] = field(default_factory=dict)
    """What stands for imports that failed, by name."""
    texts: dict[str, tuple[int, int, Record]] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    """The texts of the guest's own."""
    reports: list[report.NameReport] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)
    """What is lost although it is stored, by name: [status, why, where]."""


class Restoration:
    """One load: the process as it was, every name, then the order and the generators."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        packs: Mapping[int, Pack],
        namespace: dict[str, Any],
        protected: frozenset[str],
        live: Mapping[str, object],
        watch: Watch,
        pages: Pages | None,
    ) -> None:
        check_format(manifest.get("format"))
        self._manifest = manifest
        self._packs = packs
        self._namespace = namespace
        self._protected = protected
        self._live = live
        self._watch = watch
        self._pages = pages
        self._loaded = Loaded()
        self._names = {unescaped(name): value for name, value in manifest["names"].items()}
        self._data = {int(number): data for number, data in manifest["units"].items()}
        self._unit_of = {root[0]: number for number, data in self._data.items() for root in data["roots"]}
        self._name_of = {value[0]: name for name, value in reversed(self._names.items()) if type(value) is list}
        self._values: dict[int, Any] = {}
        self._unloaded: dict[int, Lost] = {}
        self._losses: dict[int, tuple[str, str]] = {}
        self._stand_ins: list[tuple[Lost, int]] = []
        self._salvaged = False
        self._check()
        self._late = self._find_late()
        self._shared = _shared_extents(self._data.values())

    def _check(self) -> None:
        """Refuse extents that are not there, before anything is touched."""
        lists = [data["stream"] for data in self._data.values()]
        lists += [extents for data in self._data.values() for _size, _readonly, extents in data.get("buffers", ())]
        lists += self._manifest["texts"].values()
        for pack, offset, length, *_times in (extent for extents in lists for extent in extents):
            if pack not in self._packs or not (length >= 0 and holds(self._packs[pack], offset, length)):
                message = f"a checkpoint refers to bytes {offset} to {offset + length} of part {pack}, which it has not"
                raise CheckpointDamaged(message)

    def run(self) -> Loaded:
        """Load everything; raises nothing for what a value does."""
        self._clear()
        ambient.apply_early(self._manifest["early"])
        self._take_texts()
        bound: dict[str, Any] = {}
        for name, atom in self._names.items():
            if type(atom) is not list and name not in self._protected:
                alias = atom.get("=") if isinstance(atom, dict) else None
                bound[name] = bound[unescaped(alias)] if alias is not None else self._atom(name, atom)
                self._bind(name, bound[name])
        by_unit: dict[int, list[str]] = {}
        for name, value in self._names.items():
            if type(value) is list:
                by_unit.setdefault(self._unit_of[value[0]], []).append(name)
        with roomy(sum(extent[2] for data in self._data.values() for extent in data["stream"])):
            for number in self._order():
                self._load_unit(number)
                for name in by_unit.get(number, ()):
                    self._bind(name, self._values[self._names[name][0]])
        if self._salvaged:
            # What was made in vain is found by `__subclasses__` and its like until it is collected.
            gc.collect()
        self._put_in_order()
        versions.adapt(rebuild.rebuilt_classes())
        self._report()
        return self._loaded

    def _clear(self) -> None:
        for name in set(self._namespace) - self._protected:
            del self._namespace[name]

    def _bind(self, name: str, value: Any) -> None:
        self._loaded.ids[name] = id(value)
        if not name.startswith(AMBIENT) and name not in self._protected:
            self._namespace[name] = value

    def _atom(self, name: str, atom: Any) -> Any:
        try:
            return atoms.decode(atom, rebuild.find)
        except BaseException as error:
            what = " ".join(map(str, next(iter(atom.values())))) if isinstance(atom, dict) else name
            why = f"it could not be imported: {type(error).__name__}: {error}"
            lost = Lost(f"the import {what}", why, name, _kept_atom(atom))
            self._loaded.unloaded[name] = lost
            return lost

    # -- texts ----------------------------------------------------------------------------------------------------

    def _take_texts(self) -> None:
        known: dict[str, tuple[str, str]] = {}
        for escaped_key, extents in self._manifest["texts"].items():
            key = unescaped(escaped_key)
            data = self._bytes(extents)
            text = str(data, "utf-8", "surrogatepass")
            kind, _, rest = key.partition(":")
            record = Record.loaded(memoryview(data), extents, cut(data), complete=True)
            if kind == "source":
                filename, _, source = text.partition("\0")
                known[rest] = filename, source
                self._loaded.texts[key] = 0, 0, record
            else:
                self._loaded.text[rest] = text
                self._loaded.texts[key] = len(text), hash(text), record
        sources.remember(known)

    # -- units ----------------------------------------------------------------------------------------------------

    def _order(self) -> list[int]:
        """Return the units so that each comes after those it refers to, and definitions as early as that allows."""
        order: list[int] = []
        state: dict[int, bool] = {}
        for start in sorted(self._data, key=self._rank):
            waiting = [(start, iter(self._needs(start)))] if start not in state else []
            state.setdefault(start, False)
            while waiting:
                number, needs = waiting[-1]
                for other in needs:
                    if other not in state:
                        state[other] = False
                        waiting.append((other, iter(self._needs(other))))
                        break
                else:
                    waiting.pop()
                    if not state[number]:
                        state[number] = True
                        order.append(number)
        return order

    def _rank(self, number: int) -> tuple[bool, bool, int]:
        return number in self._late, self._data[number]["roots"][0][1] not in _DEFINITIONS, number

    def _find_late(self) -> set[int]:
        """Return the units of which something is made again, and those that lead to them."""
        late = {number for number, data in self._data.items() if data.get("late")}
        while late and (more := {n for n in self._data.keys() - late if not late.isdisjoint(self._needs(n))}):
            late |= more
        return late

    def _needs(self, number: int) -> list[int]:
        return [self._unit_of[ref] for ref in self._data[number].get("refs", ()) if ref in self._unit_of]

    def _load_unit(self, number: int) -> None:
        data, before = self._data[number], len(self._stand_ins)
        roots = [Root(*root) for root in data["roots"]]
        stream = self._bytes(data["stream"])
        unit = Unit(number, roots, set(data.get("refs", ())), places=dict(data.get("places", {})))
        unit.sources, unit.late = set(data.get("sources", ())), bool(data.get("late"))
        unit.stream = Record.loaded(memoryview(stream), data["stream"], cut(stream), complete=True)
        buffers = [self._buffer(unit, *buffer) for buffer in data.get("buffers", ())]
        reader = Reader(stream, [(root.end, root.buffers) for root in roots], buffers, self._look_up)
        with rebuild.loading({int(at): path for at, path in unit.places.items()}):
            for which, root in enumerate(roots):
                self._values[root.number] = self._read(reader, which, root)
            unit.code = frozenset(rebuild.codes)
            unit.salvaged = bool(set(self._losses).intersection(root.number for root in roots))
        if all(root.number in self._unloaded for root in roots):
            unit.unloaded = tuple(self._unloaded[root.number] for root in roots)
        told = [describe(lost) for lost, _home in self._stand_ins[before:]]
        unit.losses = [Loss("lost", what, why, stored=True) for what, why, _where in told]
        self._loaded.units[number] = unit

    def _read(self, reader: Reader, which: int, root: Root) -> Any:
        before = len(rebuild.stand_ins)
        name = self._name_of.get(root.number, "")
        try:
            value = self._watch.call(reader.read, which)
        except BaseException as error:
            del rebuild.stand_ins[before:]
            self._salvaged = True
            try:
                value = reader.salvage(which, self._watch.call)
            except NotSalvaged:
                reader.skip(which)
                value = self._whole(root, name, error)
        if type(value) is Lost and kept_of(value) is not None:
            self._unloaded[root.number] = value
        made = {id(stand_in): stand_in for stand_in in rebuild.stand_ins[before:] if not describe(stand_in)[2]}
        if made:
            self._place(root, name, value, made)
        return value

    def _whole(self, root: Root, name: str, error: BaseException) -> Lost:
        """Return what stands for a value of which nothing could be loaded."""
        why = f"it could not be restored: {type(error).__name__}: {error}"
        self._losses[root.number] = why, ""
        lost = Lost(f"an object of type {root.type}" if root.type else "a value", why, name)
        self._stand_ins.append((lost, self._unit_of[root.number]))
        self._unloaded[root.number] = lost
        return lost

    def _place(self, root: Root, name: str, value: Any, made: dict[int, Lost]) -> None:
        """Say where stand-ins hang, and what the report says of the value."""
        for number, path in report.find(name, value, set(made)).items():
            lost = made.pop(number)
            place(lost, path)
            self._note(root, name, lost, path)
        for lost in made.values():
            self._note(root, name, lost, "")

    def _note(self, root: Root, name: str, lost: Lost, path: str) -> None:
        self._stand_ins.append((lost, self._unit_of[root.number]))
        what, why, _where = describe(lost)
        self._losses.setdefault(root.number, (why, "") if path == name else (f"{what}: {why}", path))

    def _look_up(self, pid: Any) -> Any:
        if isinstance(pid, int):
            return self._values[pid]
        try:
            return self._live[pid]
        except KeyError:
            text = texts.named(pid)
            return text if text is not None else Lost(f"the live object {pid!r}", "nothing of this name is here")

    # -- bytes ----------------------------------------------------------------------------------------------------

    def _bytes(self, extents: list[list[int]]) -> bytes | memoryview:
        """Return bytes that lie in packs; where they lie, if in one piece."""
        if len(extents) == 1 and len(extents[0]) == _ONE_PIECE:
            pack, offset, length = extents[0]
            return self._packs[pack][offset : offset + length]
        parts: list[bytes | memoryview] = []
        for pack, offset, length, *times in extents:
            part = self._packs[pack][offset : offset + length]
            parts.append(bytes(part) * times[0] if times else part)
        return b"".join(parts)

    def _buffer(self, unit: Unit, size: int, readonly: bool, extents: list[list[int]]) -> memoryview:  # noqa: FBT001 - from data
        """Return the memory of a buffer: where it lies, if it lies there in one piece and for itself alone."""
        first = extents[0] if extents else [0, 0, 0]
        pack = self._packs.get(first[0])
        if (
            len(extents) == 1
            and len(first) == _ONE_PIECE  # equal blocks are stored once
            and tuple(first) not in self._shared
            and pack is not None
            and (readonly or not pack.readonly)
        ):
            view = pack[first[1] : first[1] + size]
        else:
            made = stretched(Storage(), size)
            at = 0
            for extent in extents:
                part = self._bytes([extent])
                made[at : at + len(part)] = part
                at += len(part)
            view = memoryview(made)
        if readonly:
            view = view.toreadonly()
        unit.buffers.append(self._watched(view, extents))
        return view

    def _watched(self, view: memoryview, extents: list[list[int]]) -> Record:
        """Return the record of a buffer, from now on watched: code that loads a value may write to it already."""
        pages = self._pages
        address = pages.address(view) if pages is not None else 0
        armed = pages is not None and pages.arm(address, len(view))
        record = Record.loaded(view, extents, None, complete=not armed)
        record.address, record.armed = address, armed
        return record

    # -- the end --------------------------------------------------------------------------------------------------

    def _put_in_order(self) -> None:
        names = [name for name in self._names if not name.startswith(AMBIENT) and name not in self._protected]
        for name in set(self._namespace) - set(names) - self._protected:
            del self._namespace[name]
        for name in names:
            self._namespace[name] = self._namespace.pop(name, None)

    def finish(self) -> None:
        """Put back generators and contexts, outside of what undoes what hooks drew: it would undo this too."""
        late = {}
        for name, value in self._names.items():
            if name.startswith(AMBIENT):
                found = self._values[value[0]] if type(value) is list else self._atom(name, value)
                # With a stand-in anywhere in it, it is no state that can be put back.
                whole = type(value) is not list or not self._loaded.units[self._unit_of[value[0]]].losses
                if type(found) is not Lost and whole:
                    late[name.removeprefix(AMBIENT)] = found
        ambient.apply_late(late, self._manifest["early"])

    def _report(self) -> None:
        losses, absent = self._manifest["losses"], self._loaded.absent
        for name, value in self._names.items():
            if name.startswith(AMBIENT):
                continue
            root = value[0] if type(value) is list else None
            status, why, where = losses.get(name, ("kept", "", ""))
            if status != "lost" and (loss := self._absent(name, root)) is not None:
                status, why, where = absent[name] = loss
            kind, size = self._described(name, root)
            self._loaded.reports.append(report.NameReport(name, kind, size, status, why, where))

    def _absent(self, name: str, root: int | None) -> list[str] | None:
        """Return what of a name's value is stored and could not be loaded."""
        if root is None:
            value = self._namespace.get(name)
            return ["lost", describe(value)[1], ""] if type(value) is Lost else None
        if root in self._losses:
            return ["lost", *self._losses[root]]
        reached = closure([self._unit_of[root]], self._needs) if self._stand_ins else set()
        found = {id(lost): lost for lost, home in self._stand_ins if home in reached}
        if not found:
            return None
        paths = report.find(name, self._values[root], set(found)) if len(self._loaded.absent) < PLACED else {}
        number, path = next(iter(paths.items()), (next(iter(found)), ""))
        what, why, _where = describe(found[number])
        return ["lost", f"{what}: {why}", path]

    def _described(self, name: str, root: int | None) -> tuple[str, int]:
        if root is None:
            return report.type_name(self._namespace.get(name)), 0
        found = next(each for each in self._loaded.units[self._unit_of[root]].roots if each.number == root)
        return found.type, found.size


#: Names whose values are searched for where in them hangs what could not be loaded: it takes time for each.
PLACED = 100
#: Numbers of an extent that stands for itself once.
_ONE_PIECE = 3
_DEFINITIONS = frozenset({"function", "type"})


def _kept_atom(atom: Any) -> Kept | None:
    """Return how the value of an atom is stored that could not be imported, where it hangs in something else."""
    match atom:
        case {"g": [str(module), str(name), *_]}:
            return Kept(rebuild.found, (module, name))
        case {"m": str(name)}:
            return Kept(rebuild.module, (name,))
    return None


def _shared_extents(units: Iterable[Mapping[str, Any]]) -> set[tuple[int, ...]]:
    """Return the extents of buffers that overlap with another extent: they cannot be used where they lie."""
    every = sorted(_extents(units))
    shared: set[tuple[int, ...]] = set()
    reach: tuple[int, ...] | None = None
    for extent in every:
        if reach is not None and extent[0] == reach[0] and extent[1] < reach[1] + reach[2]:
            shared |= {extent, reach}
        if reach is None or extent[0] != reach[0] or extent[1] + extent[2] > reach[1] + reach[2]:
            reach = extent
    return shared


def _extents(units: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, ...]]:
    for unit in units:
        for extents in (unit["stream"], *(buffer[2] for buffer in unit.get("buffers", ()))):
            yield from map(tuple, extents)
