"""What is known of the last checkpoint: names, numbers, digests and addresses, and no value of the session."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .units import Root, Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .lost import Lost
    from .pieces import Record
    from .restoring import Loaded
    from .standing import Standing
    from .stream import Written

__all__ = ["AMBIENT", "FORMAT", "Delta", "Known", "Pass", "escaped", "unescaped"]

#: Version of manifests; a reader refuses a later one, and says so.
FORMAT = 2

#: Marks the variables that are no names of the session, but state of the process.
AMBIENT = "\0"


@dataclass(slots=True)
class Delta:
    """What a checkpoint adds to the one before: plain data, and the bytes of its pack."""

    data: dict[str, Any]
    chunks: list[bytes | memoryview]
    """The pack in order. Large buffers are views of the live values: use them before code runs again."""


@dataclass(slots=True)
class Pass:
    """One checkpoint while it is made."""

    values: dict[str, Any]
    """By name; what code removes meanwhile is held until the checkpoint is made."""
    changed: set[str]
    gone: set[str]
    full: bool
    addresses: dict[str, int]
    """What stands for the address of a value that is made anew each time."""
    steady: set[int]
    """Units of such values whose state is what it was."""
    early: dict[str, Any]
    """The state of the process that must be in place before anything else."""
    standing: Standing
    dirty: set[int] = field(default_factory=set)
    """Units that are looked at."""
    loosened: set[int] = field(default_factory=set)
    """Units that refer to what a name was bound to and is no more."""
    expected: set[int] = field(default_factory=set)
    """Those of them that may have changed, as far as is known."""
    touched_atoms: set[str] = field(default_factory=set)
    written: dict[int, Written] = field(default_factory=dict)
    replaced: dict[int, Unit] = field(default_factory=dict)
    """Units that are no more, as they were."""


@dataclass(slots=True)
class Known:
    """The last checkpoint, as far as the next one must know it."""

    generation: int = 0
    next: int = 1
    ids: dict[str, int] = field(default_factory=dict)
    atoms: dict[str, Any] = field(default_factory=dict)
    unloaded: dict[str, Lost] = field(default_factory=dict)
    """What stands for imports that failed at the restore: their atoms stay as long as the names are bound to it."""
    roots: dict[str, int] = field(default_factory=dict)
    named: dict[int, str] | None = None
    """The first name of each root; None where it is to be found out anew."""
    unit_of: dict[int, int] = field(default_factory=dict)
    units: dict[int, Unit] = field(default_factory=dict)
    small: set[int] = field(default_factory=set)
    """Units that are looked at again at every checkpoint."""
    order: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, tuple[int, int, Record]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    """The texts of the runtime that are among them, as they were given."""
    sources: set[str] = field(default_factory=set)
    early: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    """Names of which something is stored and could not be loaded here: [status, why, where]."""
    told_absent: dict[str, list[str]] = field(default_factory=dict)
    """Those of the last checkpoint: what the process that made it could not load."""
    marks: dict[str, Any] = field(default_factory=dict)
    peeks: dict[str, Any] = field(default_factory=dict)
    standing: Standing | None = None

    def copy(self) -> Known:
        """Return what is known now, whatever the next checkpoint makes of this; no byte is copied."""
        same = copy(self)
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, dict | set | list):
                setattr(same, each.name, value.copy())
        same.units = {number: unit.copy() for number, unit in self.units.items()}
        return same

    def names_of_roots(self) -> dict[int, str]:
        """Return the first name of each root."""
        if self.named is None:
            self.named = {root: name for name, root in reversed(self.roots.items())}
        return self.named

    def number(self) -> int:
        """Return a number that no root or unit has had."""
        number = self.next
        self.next += 1
        return number

    def new_unit(self, roots: list[Root]) -> Unit:
        """Return a unit of these roots that nothing is known of yet."""
        unit = Unit(self.number(), roots)
        self.units[unit.number] = unit
        for root in roots:
            self.unit_of[root.number] = unit.number
        return unit

    def drop(self, run: Pass, unit: Unit) -> None:
        """Know of a unit no more, but for what of it is to be let go."""
        run.replaced[unit.number] = self.units.pop(unit.number)
        self.small.discard(unit.number)
        for root in unit.roots:
            del self.unit_of[root.number]

    def records(self) -> list[Record]:
        """Return where the bytes of all units are."""
        return [record for unit in self.units.values() for record in unit.records()]

    def follow(self, unit: int) -> list[int]:
        """Return the units that a unit refers to."""
        known = self.units.get(unit)
        return [self.unit_of[ref] for ref in known.refs if ref in self.unit_of] if known else []

    def describe(self, unit: Unit) -> None:
        """Note whether a unit that was stored is looked at every time."""
        if unit.small:
            self.small.add(unit.number)
        else:
            self.small.discard(unit.number)

    def settle(self, run: Pass) -> None:
        """Take the names of a checkpoint that was made for those of the last one."""
        self.generation += 1
        self.standing = run.standing
        for name in run.gone:
            del self.ids[name]
        for name in run.changed:
            # No address of what was made for this checkpoint only: a variable's value may lie there next.
            self.ids[name] = -self.roots[name] if name in self.marks else id(run.values[name])

    def adopt(self, manifest: Mapping[str, Any], loaded: Loaded) -> None:
        """Take what was loaded for the last checkpoint."""
        self.generation = manifest["generation"]
        self.names = {unescaped(name): value for name, value in manifest["names"].items()}
        self.order = list(self.names)
        self.atoms = {name: value for name, value in self.names.items() if type(value) is not list}
        self.roots = {name: value[0] for name, value in self.names.items() if type(value) is list}
        self.units = loaded.units
        self.unit_of = {root.number: unit.number for unit in loaded.units.values() for root in unit.roots}
        self.next = 1 + max([*self.units, *self.unit_of], default=0)
        self.ids = loaded.ids
        self.unloaded = loaded.unloaded
        self.early = dict(manifest["early"])
        self.runtime = dict(manifest["runtime"])
        self.losses = dict(manifest["losses"])
        self.absent, self.told_absent = loaded.absent, dict(manifest.get("absent", {}))
        self.texts = loaded.texts
        self.sources = {source for unit in self.units.values() for source in unit.sources}
        for unit in self.units.values():
            self.describe(unit)
            unit.stored = unit.mark()


def escaped(name: str) -> str:
    """Return a name as JSON of any reader can have it; lone surrogates are no text to most."""
    if name.isascii() and not name.startswith("\1"):
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        return "\1" + name.encode("utf-8", "surrogatepass").hex()
    return "\1" + name.encode().hex() if name.startswith("\1") else name


def unescaped(name: str) -> str:
    """Return the name that `escaped` was given."""
    return bytes.fromhex(name[1:]).decode("utf-8", "surrogatepass") if name.startswith("\1") else name
