"""Checkpoints as they are recorded: what a step added to the one before, and what the steps up to it add up to.

1. A checkpoint is plain data. Its bytes, which are code, are only named here; nobody but a confined guest loads them.
2. What a guest says of it is not believed: every extent lies in a pack that is stored.
3. Bytes first, then the step that names them: a recorded checkpoint can always be put together.

A step holds a `Recorded`. It is whole, or it adds to that of its ``base``; a whole one comes every so often, so that a
restore reads few of them. New bytes of a checkpoint are its *pack*: in the record itself while they are
few, else a blob.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .blobs import BlobDamaged, BlobMissing
from .errors import PerdureError, RecordDamaged
from .packs import INLINE, Pieces, compacted, fetch, holds, in_record, inline, live
from .records import NameReport
from .seals import CheckpointForged

if TYPE_CHECKING:
    from .blobs import BlobStore
    from .durable import Promises

__all__ = [
    "DAMAGED",
    "FORMAT",
    "INLINE",
    "INTERNAL_NAMES",
    "CheckpointUnusable",
    "Composed",
    "Delta",
    "Recorded",
    "alone",
    "compose",
    "fetch",
    "inline",
    "kept",
    "recorded",
    "whole_record",
]

FORMAT = 2
#: Names that the guest keeps for itself in the namespace: histories, which are no variables of the user.
INTERNAL_NAMES = frozenset({
    "_", "__", "___", "_i", "_ii", "_iii", "In", "Out", "_ih", "_oh", "_exit_code", "_exception",
})  # fmt: skip
#: What begins the names of state of the process.
_AMBIENT = "\0"

#: Equal blocks that one extent may stand for: half a terabyte.
_TIMES = 1 << 24

type Extent = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=3, max_length=4)]
"""Pack, offset, length, and how many times if more than once."""


class CheckpointUnusable(PerdureError):
    """A recorded checkpoint cannot be put together; the message says what is missing, or which version can."""


#: What says that a checkpoint, or a value that was recorded, is not there any more: no attempt will find it.
DAMAGED = (BlobDamaged, BlobMissing, CheckpointForged, CheckpointUnusable, RecordDamaged)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Unit(_Model):
    roots: list[tuple[int, str, int, int, int]]
    stream: list[Extent]
    buffers: list[tuple[int, bool, list[Extent]]] = []
    refs: list[int] = []
    places: dict[str, str] = {}
    sources: list[str] = []
    late: bool = False

    def size(self) -> int:
        """Return how many bytes its values have, as it says."""
        return sum(root[4] for root in self.roots)

    def extents(self) -> Iterator[Extent]:
        yield from self.stream
        for _size, _readonly, extents in self.buffers:
            yield from extents


class Delta(_Model):
    """What a guest says changed since its last checkpoint (``since``); 0 is the birth of its process."""

    format: Literal[2]
    generation: Annotated[int, Field(ge=1)]
    since: Annotated[int, Field(ge=0)]
    python: str = ""
    magic: str = ""
    names: dict[str, Any] = {}
    gone: list[str] = []
    order: list[str] | None = None
    units: dict[str, _Unit] = {}
    dead: list[int] = []
    losses: dict[str, tuple[Literal["lost", "rebuilt"], str, str] | None] = {}
    #: What is stored and the guest that made this could not load.
    absent: dict[str, tuple[Literal["lost"], str, str] | None] = {}
    early: dict[str, Any] = {}
    runtime: dict[str, Any] = {}
    texts: dict[str, list[Extent] | None] = {}
    pack: Annotated[int, Field(ge=0)] = 0
    #: Values that had changed at an earlier checkpoint, unseen by it.
    missed: Annotated[int, Field(ge=0)] = 0
    #: Variables that lead to them, the first of them.
    missed_names: Annotated[list[str], Field(max_length=20)] = []


class Recorded(_Model):
    """A checkpoint as its step holds it."""

    format: Literal[2] = 2
    #: The step whose checkpoint this one adds to; None: it is whole.
    base: str | None = None
    #: How many records are read to put it together.
    depth: int = 1
    generation: int
    python: str
    #: What it adds, or all there is: in here, or as the reference of a blob.
    data: dict[str, Any] | str
    #: Where packs are, by number: (blob or inline bytes, offset in it, size), or the pieces that are left of one. One
    #: that adds has at most its own.
    packs: dict[str, tuple[str, int, int] | list[tuple[int, str, int, int]]] = {}
    #: The workspace's tree; None: that of the base.
    workspace: dict[str, Any] | None = None
    names: int = 0
    size: int = 0
    lost: int = 0

    def references(self) -> list[str]:
        """Return the blobs that it names, those of its workspace apart."""
        named = dict.fromkeys(place for pieces in self.pieces().values() for _start, place, _offset, _size in pieces)
        return [
            *filter(lambda place: not in_record(place), named),
            *([self.data] if isinstance(self.data, str) else []),
        ]

    def pieces(self) -> dict[int, Pieces]:
        """Return what there is of each pack."""
        return {
            int(number): [(0, *place)] if isinstance(place, tuple) else place for number, place in self.packs.items()
        }


def recorded(step: dict[str, Any]) -> Recorded | None:
    """Return the checkpoint in the value of a step, if it has one. Raises CheckpointUnusable."""
    held = step.get("checkpoint")
    if held is None:
        return None
    version = held.get("format") if isinstance(held, dict) else None
    if version != FORMAT:
        msg = (
            f"the checkpoint has format {version!r}, and this Perdure reads format {FORMAT}: run the one that wrote it"
        )
        raise CheckpointUnusable(msg)
    try:
        return Recorded.model_validate(held)
    except ValidationError as exc:
        msg = f"a recorded checkpoint cannot be read: {_in_words(exc)}"
        raise CheckpointUnusable(msg) from None


def _in_words(problem: Exception) -> str:
    """Return what is wrong with what was recorded: it is newer, if it has what this version does not know."""
    if not isinstance(problem, ValidationError):
        return str(problem)
    wrong = problem.errors(include_url=False, include_input=False)
    new = [".".join(map(str, each["loc"])) for each in wrong if each["type"] in ("extra_forbidden", "literal_error")]
    if new:
        return f"it has {', '.join(new)}, which this version of Perdure does not know: run the one that wrote it"
    return f"{'.'.join(map(str, wrong[0]['loc']))}: {wrong[0]['msg']}"


@dataclass(slots=True)
class Composed:
    """A whole checkpoint: what a guest is given, where its packs are, and the workspace's tree."""

    generation: int = 0
    python: str = ""
    magic: str = ""
    names: dict[str, Any] = field(default_factory=dict)
    units: dict[str, dict[str, Any]] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, Any] = field(default_factory=dict)
    early: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[Extent]] = field(default_factory=dict)
    packs: dict[int, Pieces] = field(default_factory=dict)
    workspace: dict[str, Any] | None = None

    def apply(self, data: dict[str, Any], packs: Mapping[int, Pieces]) -> None:
        """Add what a checkpoint changed. Raises ValueError for what does not fit, with nothing changed."""
        delta = Delta.model_validate(data)
        known = {**self.packs, **packs}
        for extent in _extents(delta):
            _check(extent, known)
        for number, unit in delta.units.items():
            # What it comes to when it is loaded: few bytes may stand for any number of them.
            expanded = sum(length * (times[0] if times else 1) for _pack, _at, length, *times in unit.extents())
            if expanded > unit.size():
                msg = f"a checkpoint says that unit {number} has {unit.size()} bytes, and it comes to {expanded}"
                raise ValueError(msg)
        if delta.since != self.generation:
            msg = f"a checkpoint adds to generation {delta.since}, and the last one is {self.generation}"
            raise ValueError(msg)
        names = {name: value for name, value in self.names.items() if name not in set(delta.gone)} | delta.names
        if delta.order is not None:
            if names.keys() != set(delta.order) or len(names) != len(delta.order):
                msg = "a checkpoint puts other names in order than it has"
                raise ValueError(msg)
            names = {name: names[name] for name in delta.order}
        self.names = names
        self.packs = known
        self.generation = delta.generation
        self.python, self.magic = delta.python or self.python, delta.magic or self.magic
        dead = set(map(str, delta.dead))
        self.units = {number: unit for number, unit in self.units.items() if number not in dead} | data.get("units", {})
        for what in ("losses", "absent", "early", "runtime", "texts"):
            setattr(self, what, _merged(getattr(self, what), data.get(what, {})))

    def manifest(self) -> dict[str, Any]:
        """Return it as data, as a guest is given it."""
        held = ("generation", "python", "magic", "names", "units", "losses", "absent", "early", "runtime", "texts")
        return {"format": FORMAT, **{key: getattr(self, key) for key in held}}

    def whole(self) -> dict[str, Any]:
        """Return it as the data of a record that is whole."""
        return {**self.manifest(), "since": 0}

    def needed(self) -> dict[int, list[tuple[int, int]]]:
        """Return what something refers to of each pack: (start, end)."""
        return live(extent for extents in self._every() for extent in extents)

    def _every(self) -> Iterator[Any]:
        yield from self.texts.values()
        for unit in self.units.values():
            yield unit["stream"]
            for buffer in unit.get("buffers", ()):
                yield buffer[2]

    def described(self) -> dict[str, Any]:
        """Return what its record says of it."""
        return {
            "generation": self.generation,
            "python": self.python,
            "names": len(self.names),
            "size": self.size(),
            "lost": len(self.losses.keys() | self.absent.keys()),
        }

    def size(self) -> int:
        """Return how many bytes all values have."""
        return sum(root[4] for unit in self.units.values() for root in unit["roots"])

    def reports(self) -> list[NameReport]:
        """Return what became of each variable of the user's."""
        roots = {root[0]: root for unit in self.units.values() for root in unit["roots"]}
        made = []
        for escaped, value in self.names.items():
            name = _unescaped(escaped)
            if escaped.startswith(_AMBIENT) or name in INTERNAL_NAMES or (name[:2] == "__" == name[-2:]):
                continue
            kind, size = _described(value, roots, self.names)
            status, why, where = self.losses.get(name, ("kept", "", ""))
            stored = status != "lost" and name in self.absent
            if stored:
                status, why, where = self.absent[name]
            made.append(NameReport(name=name, type=kind, size=size, status=status, why=why, where=where, stored=stored))
        return made


def _merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (table | changes).items() if value is not None} if changes else table


def _extents(delta: Delta) -> Iterator[Extent]:
    for unit in delta.units.values():
        yield from unit.extents()
    for extents in delta.texts.values():
        yield from extents or ()


def _check(extent: Extent, packs: Mapping[int, Pieces]) -> None:
    pack, offset, length, times = (*extent, 1)[:4]
    if pack not in packs or not holds(packs[pack], offset, length) or times > _TIMES:
        msg = f"a checkpoint refers to bytes {offset} to {offset + length} of pack {pack}, which are not there"
        raise ValueError(msg)


_KINDS = {"i": "int", "f": "float", "s": "str", "b": "bytes", "c": "complex", "m": "module"}


def _described(value: Any, roots: dict[int, Any], names: dict[str, Any]) -> tuple[str, int]:
    """Return type and size of a name's value, from how a manifest has it."""
    if isinstance(value, dict) and "=" in value:
        value = names.get(value["="])
    if isinstance(value, list):
        root = roots.get(value[0]) if value else None
        return (root[1], root[4]) if root else ("object", 0)
    if not isinstance(value, dict):
        return type(value).__name__, len(json.dumps(value))
    ((kind, content),) = value.items()
    if kind == "g":
        return str(content[2]), 0
    return _KINDS.get(kind, "object"), len(str(content))


def shown(escaped_name: str) -> str:
    """Return the name of a variable, as a guest spells it, in a form that a log and a terminal can have."""
    try:
        name = _unescaped(escaped_name)
    except ValueError:  # a guest that tries what becomes of it
        name = escaped_name
    if name.startswith(_AMBIENT):
        name = f"the state of {name[1:]}"
    return name[:_LONGEST_NAME].encode("unicode_escape" if not name.isprintable() else "utf-8").decode()


_LONGEST_NAME = 80


def _unescaped(name: str) -> str:
    if not name.startswith("\1"):
        return name
    return bytes.fromhex(name[1:]).decode("utf-8", "backslashreplace")


async def kept(data: dict[str, Any], blobs: BlobStore) -> dict[str, Any] | str:
    """Return the data of a checkpoint as its record has it: itself, or the reference of a blob."""
    text = json.dumps(data, separators=(",", ":")).encode()
    return data if len(text) <= INLINE else await blobs.put(text)


async def whole_record(composed: Composed, blobs: BlobStore) -> Recorded:
    """Return the record of a whole checkpoint, which stands without any step before it."""
    return Recorded(
        data=await kept(composed.whole(), blobs),
        packs={str(number): _placed(pieces) for number, pieces in composed.packs.items()},
        workspace=composed.workspace,
        **composed.described(),
    )


def _placed(pieces: Pieces) -> tuple[str, int, int] | list[tuple[int, str, int, int]]:
    return pieces[0][1:] if len(pieces) == 1 and not pieces[0][0] else list(pieces)


async def alone(promises: Promises, blobs: BlobStore, value: dict[str, Any]) -> dict[str, Any]:
    """Return the value of a step with its checkpoint whole: it can be kept where the steps before it are not."""
    composed = await compose(promises, blobs, value)
    if composed is None:
        return value
    composed.packs = await compacted(composed.packs, composed.needed(), blobs)
    return {**value, "checkpoint": (await whole_record(composed, blobs)).model_dump(mode="json")}


async def compose(promises: Promises, blobs: BlobStore, value: dict[str, Any]) -> Composed | None:
    """Return what the steps up to the one with this value add up to; None if it has no checkpoint.

    Raises CheckpointUnusable, BlobMissing, BlobDamaged.
    """
    held = recorded(value)
    if held is None:
        return None
    chain = [held]
    while chain[-1].base is not None:
        step = await promises.get(chain[-1].base)
        before = recorded(step.value) if step is not None and isinstance(step.value, dict) else None
        if before is None:
            msg = f"the checkpoint adds to {chain[-1].base}, which is gone: restore the state from a backup"
            raise CheckpointUnusable(msg)
        chain.append(before)
    composed = Composed()
    for each in reversed(chain):
        content = each.data if isinstance(each.data, dict) else await blobs.get(each.data)
        try:
            data = content if isinstance(content, dict) else json.loads(content)
            composed.apply(data, each.pieces())
        except (ValueError, ValidationError) as exc:
            msg = f"a recorded checkpoint cannot be put together: {_in_words(exc)}"
            raise CheckpointUnusable(msg) from None
        if each.workspace is not None:
            composed.workspace = each.workspace
    return composed
