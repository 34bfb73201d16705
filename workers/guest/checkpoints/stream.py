"""The pickle stream of an image: one segment per name, one memo for all.

1. A value bound to two names is stored once, because segments share the pickler's memo.
2. A segment that fails, when written or when read, costs itself and not the others.
3. Live objects (the namespace itself, the standard streams, ...) are in the memo before the first segment, so
   that every reference to one, wherever it hides, leads to the live one after a restore.

A segment is a pickle of a list holding the value. The list is the first thing the segment memoizes, which tells
where its memo entries begin.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from typing import TYPE_CHECKING, Any

from .lost import Lost
from .pickler import PROTOCOL, CPickler, Finding, PyPickler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .hooks import Watch
    from .image import Header

# Buffers below this stay inside the stream: a buffer of its own costs a page and a mapping.
IN_BAND = 32 << 10

# Calls that the Python pickler may be deep in. They need no C stack, so only memory bounds them: a hook that never
# stops calling itself then costs 200 MB for a moment. Five calls are made for each level of nesting.
DEEP = 2_000_000

_INT = struct.Struct("<i")


def _by_key(key: str) -> bytes:
    """Opcodes that look up the live object `key` and give it the next memo entry."""
    text = key.encode()
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text + pickle.BINPERSID + pickle.MEMOIZE + pickle.POP


def _by_number(number: int) -> bytes:
    return pickle.BININT + _INT.pack(number) + pickle.BINPERSID + pickle.MEMOIZE + pickle.POP


class Writer:
    """Writes segments that share one memo; a segment that fails leaves nothing behind."""

    def __init__(self, namespace: dict[str, Any], live: Mapping[str, object], watch: Watch) -> None:
        self._file = io.BytesIO()
        self.buffers: list[memoryview] = []
        self._pickler = CPickler(self._file, PROTOCOL, buffer_callback=self._take_buffer)
        self._pickler.begin(namespace, watch)
        memo: dict[int, tuple[int, Any]] = {}
        for key, thing in live.items():
            if id(thing) not in memo:
                memo[id(thing)] = len(memo), thing
                self._file.write(_by_key(key))
        self._pickler.memo = memo
        self.seed_memo = len(memo)

    @property
    def findings(self) -> list[Finding]:
        """What so far could not be kept as it is, in the order of the numbers in the stream."""
        return self._pickler.findings

    @property
    def used_sources(self) -> set[str]:
        """Keys of the sources of the code objects written so far."""
        return self._pickler.used_sources

    def write(self, value: Any) -> int:
        """Write one segment and return where it ends.

        Raises what pickling raised, with everything as it was before the call.
        """
        start = self._file.tell()
        before = start, len(self.buffers), len(self.findings)
        box = [value]
        try:
            self._pickler.dump(box)
        except RecursionError:
            self._undo(box, *before)
            self._write_deep(box, *before)
        except BaseException:
            self._undo(box, *before)
            raise
        return self._file.tell()

    def stream(self) -> bytes:
        """Return everything written."""
        return self._file.getvalue()

    def close(self) -> None:
        """Let go of every value: the pickler and its callback would keep them until the next collection."""
        self._pickler.clear_memo()
        self._pickler.finish()
        del self._pickler
        self.buffers = []

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < IN_BAND:
            return True
        self.buffers.append(raw)
        return False

    def _undo(self, box: list[Any], start: int, buffers: int, findings: int) -> None:
        memo: dict[int, tuple[int, Any]] = self._pickler.memo.copy()
        if id(box) in memo:
            first = memo[id(box)][0]
            self._pickler.memo = {key: entry for key, entry in memo.items() if entry[0] < first}
        self._file.seek(start)
        self._file.truncate()
        del self.buffers[buffers:]
        del self.findings[findings:]

    def _write_deep(self, box: list[Any], start: int, buffers: int, findings: int) -> None:
        deep = PyPickler(self._file, PROTOCOL, buffer_callback=self._take_buffer)
        vars(deep).update(vars(self._pickler))
        deep.deep = True
        deep.memo = self._pickler.memo.copy()
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(DEEP)
        try:
            deep.dump(box)
        except BaseException:
            self._undo(box, start, buffers, findings)
            raise
        finally:
            sys.setrecursionlimit(limit)
        self._pickler.memo = deep.memo


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
    """Reads the segments of an image in order; after one that fails, the next goes on."""

    def __init__(self, header: Header, stream: memoryview, buffers: Sequence[Any], live: Mapping[str, object]) -> None:
        self._header = header
        self._stream = stream
        self._buffers = buffers
        self._live = live
        self._memo: list[Any] = []
        self._boxes: dict[int, list[Any]] = {}
        self._unpickler = _Unpickler(bytes(stream), iter(buffers), self._look_up)

    def read(self, number: int) -> Any:
        """Return the value of segment `number`, the next one; raises whatever its loading raised."""
        try:
            box = self._unpickler.load()
        except BaseException:
            self._skip(number)
            raise
        self._boxes = {number: box}
        return box[0]

    def _look_up(self, pid: Any) -> Any:
        if isinstance(pid, int):
            return self._memo[pid]
        try:
            return self._live[pid]
        except KeyError:
            return Lost(f"the live object {pid!r}", "nothing of this name is here")

    def _skip(self, number: int) -> None:
        """Go on after a failed segment with a memo in which stand-ins take the places of its objects."""
        segments = self._header.segments
        reached: dict[int, Any] = self._unpickler.memo.copy()
        first = self._first_entry(number, reached)
        memo = [reached[entry] for entry in range(first)]
        part = Lost(f"part of {segments[number].name!r}", "the value it belongs to could not be restored")
        self._replay(memo, self._segment(number), part)
        self._memo = memo
        self._boxes = {}
        prologue = b"".join(map(_by_number, range(len(memo))))
        rest = prologue + bytes(self._stream[segments[number].end :])
        self._unpickler = _Unpickler(rest, iter(self._buffers[segments[number].buffers :]), self._look_up)

    def _first_entry(self, number: int, memo: dict[int, Any]) -> int:
        """Return the number of memo entries there were before segment `number`."""
        if not number:
            return self._header.seed_memo
        previous = number - 1
        if previous not in self._boxes:
            return len(self._memo)
        box = self._boxes[previous]
        entry = next(entry for entry, thing in memo.items() if thing is box)
        made = [opcode for opcode, _, _ in _opcodes(self._segment(previous)) if opcode.name == "MEMOIZE"]
        return entry + len(made)

    def _segment(self, number: int) -> bytes:
        segments = self._header.segments
        begin = segments[number - 1].end if number else self._header.seeds
        return bytes(self._stream[begin : segments[number].end])

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
