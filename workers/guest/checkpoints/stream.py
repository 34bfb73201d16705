"""The pickle stream of a unit: one segment per root, one memo for all of them.

1. Within a unit, a value met twice is stored once: segments share the pickler's memo.
2. A segment that fails, when written or when read, costs itself and not the others.
3. What has a unit of its own, and what belongs to the runtime (the namespace itself, the standard streams, ...), is
   stored as a persistent id, wherever it hides.

A segment is a pickle of a list holding the value, and the sets in it whose elements would lie in other places if they
were only inserted again. The list is the first thing the segment memoizes, which tells where its memo entries begin.
The frames that pickle puts around its opcodes are taken out, so that a change in one place moves nothing elsewhere; a
reader puts one around each segment.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .identity import arrange
from .lost import Lost
from .pickler import PROTOCOL, CPickler, Finding, PyPickler
from .salvage import salvage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .hooks import Watch

# Buffers below this stay inside the stream: a buffer of its own costs a page and a mapping.
IN_BAND = 32 << 10

# Calls that the Python pickler may be deep in. They need no C stack, so only memory bounds them: a hook that never
# stops calling itself then costs 200 MB for a moment. Five calls are made for each level of nesting.
DEEP = 2_000_000

# A stream of more bytes may have made a memo that is large to empty.
_LARGE = 64 << 10

_INT = struct.Struct("<i")
_FRAME = struct.Struct("<Q")
_FRAME_OPCODE = pickle.FRAME[0]
_HEAD = 2
_FRAME_HEAD = 9


def _by_number(number: int) -> bytes:
    """Opcodes that give the next memo entry what entry `number` was; negative, so that no root has that number."""
    return pickle.BININT + _INT.pack(-1 - number) + pickle.BINPERSID + pickle.MEMOIZE + pickle.POP


def without_frames(data: bytes) -> bytes:
    """Return one pickle without its frames."""
    # Views: a copy of a value of four gigabytes, and then another, is more than a session may have of memory.
    view = memoryview(data)
    at, size = _HEAD, len(data)
    if size > _HEAD + _FRAME_HEAD and data[at] == _FRAME_OPCODE:
        (length,) = _FRAME.unpack_from(data, at + 1)
        if at + _FRAME_HEAD + length == size:
            return data[:at] + data[at + _FRAME_HEAD :]
    parts = [view[:_HEAD]]
    while at < size:
        if data[at] == _FRAME_OPCODE:
            (length,) = _FRAME.unpack_from(data, at + 1)
            at += _FRAME_HEAD
            end = at + length
        else:
            # What is too large for a frame stands between two of them, after opcode and length.
            end = at + _unframed(data, at)
        parts.append(view[at:end])
        at = end
    return b"".join(parts)


#: Bytes of the length behind each opcode that may stand outside a frame.
_LENGTHS = {
    pickle.BINBYTES8[0]: 8,
    pickle.BINUNICODE8[0]: 8,
    pickle.BYTEARRAY8[0]: 8,
    pickle.BINBYTES[0]: 4,
    pickle.BINUNICODE[0]: 4,
}


def _unframed(data: bytes, at: int) -> int:
    width = _LENGTHS.get(data[at])
    if width is None:
        return 1
    return 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")


#: Why a value is lost that takes more memory to pickle than there is.
NO_MEMORY = "no memory was left to pickle it; raise the limit memory_bytes, or keep it in a file of the workspace"


@dataclass(slots=True)
class Written:
    """One unit as it was pickled."""

    stream: bytes
    ends: list[int]
    """Where each root's segment ends."""
    buffers: list[memoryview]
    buffer_ends: list[int]
    findings: list[Finding]
    found_in: list[int]
    """How many of the findings were made by the end of each root's segment."""
    failures: dict[int, str]
    """Roots that could not be stored at all, and why."""
    sources: set[str] = field(default_factory=set)
    code: frozenset[tuple[str, int, str]] = frozenset()
    late: bool = False
    """Whether some of it is made again, when everything else is there."""
    hooked: bool = False
    """Whether code of the session had a say in it."""


class Writer:
    """Pickles the units of one checkpoint, through a file in memory that `open_file` makes."""

    def __init__(self, table: Any, open_file: Callable[[], io.BytesIO] = io.BytesIO) -> None:
        self._open = open_file
        self._file = open_file()
        self._table = table
        self._buffers: list[memoryview] = []
        # The C pickler calls a table that is an attribute of its class without making a method of it first.
        self._kind = type("Pickler", (CPickler,), {"persistent_id": table})
        self._pickler: Any = None
        self._memo_grew: bool = False

    def begin(self, namespace: dict[str, Any], watch: Watch, *, hooks: bool = True) -> None:
        """Start a checkpoint of `namespace`; without `hooks`, code of the session's own is not run."""
        self._renew()
        self._pickler.begin(namespace, watch, self._table)
        self._pickler.hooks_run = hooks

    def write(self, values: list[Any], stand_in: Callable[[int, str], Lost]) -> Written:
        """Pickle the roots of one unit; never raises for what they do, and stores `stand_in(which, why)` instead."""
        if self._memo_grew:
            # The memo of a large unit stays as large as it was, and is emptied slot by slot.
            self._renew_within()
        try:
            return self._write(values, stand_in)
        except (MemoryError, ValueError):
            # Which of its roots share what is not known any more. And a memory file that could not grow is closed.
            self._renew_within()
        made = self._write([stand_in(which, NO_MEMORY) for which in range(len(values))], stand_in)
        made.failures.update(dict.fromkeys(range(len(values)), NO_MEMORY))
        return made

    def _write(self, values: list[Any], stand_in: Callable[[int, str], Lost]) -> Written:
        pickler = self._pickler
        pickler.clear_memo()
        pickler.begin_unit()
        self._buffers = []
        parts: list[bytes] = []
        made = Written(b"", [], self._buffers, [], pickler.findings, [], {})
        size = 0
        for which, value in enumerate(values):
            self._file.seek(0)
            self._file.truncate()
            try:
                self._segment(value)
            except BaseException as error:
                why = f"it could not be stored: {type(error).__name__}: {error}"
                made.failures[which] = why = NO_MEMORY if isinstance(error, MemoryError) else why
                self._segment(stand_in(which, why))
            parts.append(without_frames(self._file.getvalue()))
            size += len(parts[-1])
            made.ends.append(size)
            made.buffer_ends.append(len(self._buffers))
            made.found_in.append(len(pickler.findings))
        made.stream = parts[0] if len(parts) == 1 else b"".join(parts)
        self._memo_grew = size > _LARGE
        made.sources = pickler.used_sources
        made.code = frozenset(pickler.code)
        made.late = pickler.remakes
        made.hooked = pickler.hooked
        return made

    def close(self) -> None:
        """Let go of every value: the pickler and its callback would keep them until the next collection."""
        self._pickler = None
        self._buffers = []
        self._file = self._open()

    def _renew_within(self) -> None:
        """Take another pickler in the middle of a checkpoint."""
        state = vars(self._pickler)
        self._file = self._open()
        self._renew()
        vars(self._pickler).update(state)

    def _renew(self) -> None:
        self._pickler = self._kind(self._file, PROTOCOL, buffer_callback=self._take_buffer)
        self._memo_grew = False

    def _segment(self, value: Any) -> None:
        """Write one segment; raises what pickling raised, with everything as it was before the call."""
        before = len(self._buffers), len(self._pickler.findings)
        box = [value, self._table.segment(False)]
        try:
            self._pickler.dump(box)
        except RecursionError:
            self._undo(box, *before)
            self._write_deep(box, *before)
        except BaseException:
            self._undo(box, *before)
            raise

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < IN_BAND:
            return True
        self._buffers.append(raw)
        return False

    def _undo(self, box: list[Any], buffers: int, findings: int) -> None:
        memo: dict[int, tuple[int, Any]] = self._pickler.memo.copy()
        if id(box) in memo:
            first = memo[id(box)][0]
            self._pickler.memo = {key: entry for key, entry in memo.items() if entry[0] < first}
        self._file.seek(0)
        self._file.truncate()
        del self._buffers[buffers:]
        del self._pickler.findings[findings:]
        box[1] = self._table.segment(True)

    def _write_deep(self, box: list[Any], buffers: int, findings: int) -> None:
        deep: Any = PyPickler(self._file, PROTOCOL, buffer_callback=self._take_buffer)
        vars(deep).update(vars(self._pickler))
        deep.persistent_id = self._table
        deep.deep = True
        deep.memo = self._pickler.memo.copy()
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(DEEP)
        try:
            deep.dump(box)
        except BaseException:
            self._undo(box, buffers, findings)
            raise
        finally:
            sys.setrecursionlimit(limit)
        self._pickler.memo = deep.memo
        self._pickler.hooked |= deep.hooked


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, buffers: Iterator[Any], look_up: Callable[[Any], Any]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._look_up = look_up

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Find a function or class of a library, also where this version keeps it in the public module above."""
        try:
            return super().find_class(module_name, global_name)
        except (ImportError, AttributeError):
            parent, _, private = module_name.rpartition(".")
            if not parent or not private.startswith("_"):
                raise
            return super().find_class(parent, global_name)

    def persistent_load(self, pid: Any) -> Any:
        return self._look_up(pid)


class Reader:
    """Reads the segments of one unit in order; after one that fails, the next goes on."""

    def __init__(
        self,
        stream: bytes | memoryview,
        ends: Sequence[tuple[int, int]],
        buffers: Sequence[Any],
        look_up: Callable[[Any], Any],
    ) -> None:
        """`ends` has where each segment ends in the stream, and how many buffers are used up by then."""
        self._ends = ends
        self._stream = memoryview(stream)
        self._buffers = buffers
        self._outside = look_up
        self._memo: list[Any] = []
        self._boxes: dict[int, list[Any]] = {}
        self._unpickler = _Unpickler(self._framed(0), iter(buffers), self._look_up)

    def read(self, number: int) -> Any:
        """Return the value of segment `number`, the next one; raises whatever its loading raised.

        It is then to be salvaged or skipped.
        """
        box = self._unpickler.load()
        self._boxes = {number: box}
        self._arrange(box)
        return box[0]

    def salvage(self, number: int, guard: Callable[..., Any]) -> Any:
        """Return what can be loaded of a segment that failed, with stand-ins for the rest. Raises NotSalvaged."""
        memo = self._memo_before(number)
        begin = self._ends[number - 1][1] if number else 0
        buffers = self._buffers[begin : self._ends[number][1]]
        segment = bytes(self._segment(number))
        box, after = salvage(segment, buffers, memo, self._unpickler.find_class, self._look_up, guard)
        self._go_on(number, after)
        self._arrange(box)
        return box[0]

    def skip(self, number: int) -> None:
        """Go on after a failed segment with a memo in which stand-ins take the places of its objects."""
        memo = self._memo_before(number)
        part = Lost("part of another value", "the value it belongs to could not be restored")
        self._replay(memo, bytes(self._segment(number)), part)
        self._go_on(number, memo)

    @staticmethod
    def _arrange(box: list[Any]) -> None:
        # Segments that were written when the order of sets was not kept hold nothing but the value.
        for sets in box[1:]:
            for thing, plan in sets:
                if type(thing) is not Lost:
                    arrange(thing, plan)

    def _look_up(self, pid: Any) -> Any:
        if isinstance(pid, int) and pid < 0:
            return self._memo[-1 - pid]
        return self._outside(pid)

    def _framed(self, first: int) -> bytes:
        """Return the segments from `first` on, each in one frame: an opcode is then no read of its own."""
        parts: list[bytes | memoryview] = []
        for number in range(first, len(self._ends)):
            segment = self._segment(number)
            parts += segment[:_HEAD], pickle.FRAME, _FRAME.pack(len(segment) - _HEAD), segment[_HEAD:]
        return b"".join(parts)

    def _memo_before(self, number: int) -> list[Any]:
        reached: dict[int, Any] = self._unpickler.memo.copy()
        return [reached[entry] for entry in range(self._first_entry(number, reached))]

    def _go_on(self, number: int, memo: list[Any]) -> None:
        """Go on with the next segment, after one that was not loaded by the unpickler."""
        self._memo = memo
        self._boxes = {}
        if number + 1 == len(self._ends):
            return
        prologue = b"".join(map(_by_number, range(len(memo))))
        rest = prologue + self._framed(number + 1)
        self._unpickler = _Unpickler(rest, iter(self._buffers[self._ends[number][1] :]), self._look_up)

    def _first_entry(self, number: int, memo: dict[int, Any]) -> int:
        """Return the number of memo entries there were before segment `number`."""
        if not number:
            return 0
        previous = number - 1
        if previous not in self._boxes:
            return len(self._memo)
        box = self._boxes[previous]
        entry = next(entry for entry, thing in memo.items() if thing is box)
        made = [opcode for opcode, _, _ in _opcodes(bytes(self._segment(previous))) if opcode.name == "MEMOIZE"]
        return entry + len(made)

    def _segment(self, number: int) -> memoryview:
        begin = self._ends[number - 1][0] if number else 0
        return self._stream[begin : self._ends[number][0]]

    def _replay(self, memo: list[Any], segment: bytes, part: Lost) -> None:
        """Append what a failed segment would have memoized: texts and named things are known without running it.

        Later segments share these (names of attributes, functions of libraries) and would fail without them.
        """
        texts: list[Any] = []
        latest: Any = part
        for opcode, argument, _position in _opcodes(segment):
            if opcode.name == "MEMOIZE":
                memo.append(latest)
            elif opcode.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
                latest = memo[argument]
                texts.append(latest)
            elif isinstance(argument, str | bytes) and opcode.name != "FRAME":
                latest = argument
                texts.append(latest)
            elif opcode.name == "STACK_GLOBAL":
                latest = self._named(texts[-2:], part)
            else:
                latest = part

    def _named(self, texts: list[Any], part: Lost) -> Any:
        try:
            module, name = texts
            return self._unpickler.find_class(module, name)
        except Exception:
            return part


def _opcodes(segment: bytes) -> Iterator[tuple[Any, Any, int | None]]:
    import pickletools  # only for an image with a segment that failed

    return pickletools.genops(segment)
