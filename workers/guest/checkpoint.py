"""Checkpoints of the live namespace: `dump` turns it into bytes, `load` puts it back in place.

1. The namespace is one dict for life: functions keep it as their globals, and a load fills it in place.
2. One variable that cannot be kept never costs another; it is named, with the reason, and raises when used.
3. A dump leaves no trace: no reference to a value is kept, what hooks print or draw is discarded.

The bytes are code: they are loaded only inside a confined guest, never by the host.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import types
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .checkpoints import ambient, image, rebuild, recipes, report, sources
from .checkpoints.hooks import HOOK_SECONDS, Watch, hooks_running, untraced
from .checkpoints.image import Header, ImageDamaged, ImageError, ImageTooNew, Segment
from .checkpoints.lost import Lost, LostObjectError, describe, place
from .checkpoints.report import NameReport
from .checkpoints.stream import Reader, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .checkpoints.pickler import Finding

__all__ = [
    "Dump",
    "ImageDamaged",
    "ImageError",
    "ImageTooNew",
    "Lost",
    "LostObjectError",
    "NameReport",
    "dump",
    "hooks_running",
    "load",
]

# Names that belong to the interpreter, whatever the caller protects besides.
ALWAYS_PROTECTED = frozenset({"__builtins__", "__spec__", "__loader__"})

_NAME = "name"
_AMBIENT = "ambient"


@dataclass(frozen=True, slots=True)
class Dump:
    """A namespace image, and what became of each name in it."""

    chunks: list[bytes | memoryview]
    """The image in order. Large buffers are views of the live values: use them before code runs again."""
    names: list[NameReport]

    @property
    def data(self) -> bytes:
        """The whole image in one piece."""
        return b"".join(self.chunks)

    @property
    def size(self) -> int:
        """Bytes of the whole image."""
        return sum(len(chunk) if isinstance(chunk, bytes) else chunk.nbytes for chunk in self.chunks)


def dump(
    namespace: dict[str, Any],
    *,
    protected: frozenset[str] = frozenset(),
    live: Mapping[str, object] | None = None,
    hook_seconds: float = HOOK_SECONDS,
) -> Dump:
    """Return the image of `namespace` without the `protected` names; never raises for what a value does.

    `live` names objects of the runtime that are not stored: references to them lead to the object that `load` is
    given under the same key. A pickling hook may take `hook_seconds` (counted on the main thread only).
    """
    rebuild.install()
    watch = Watch(hook_seconds)
    everything_live = _live(namespace, live)
    with untraced(), watch.running():
        return _Dumper(namespace, protected | ALWAYS_PROTECTED, everything_live, watch).run()


def load(
    data: bytes | bytearray | memoryview,
    namespace: dict[str, Any],
    *,
    protected: frozenset[str] = frozenset(),
    live: Mapping[str, object] | None = None,
    hook_seconds: float = HOOK_SECONDS,
) -> list[NameReport]:
    """Make `namespace` what the image holds, in place, and return what became of each name.

    Names that are neither in the image nor `protected` are removed. Give a writable buffer (a private mapping, a
    bytearray) and arrays will use it instead of a copy. Raises `ImageDamaged` or `ImageTooNew` before anything
    is touched.
    """
    header, stream, buffers = image.decode(data)
    rebuild.install()
    watch = Watch(hook_seconds)
    reader = Reader(header, stream, _writable(header, buffers), _live(namespace, live))
    with untraced(), watch.running():
        return _Loader(header, namespace, protected | ALWAYS_PROTECTED, watch).run(reader)


def _live(namespace: dict[str, Any], more: Mapping[str, object] | None) -> dict[str, object]:
    """Return the objects that an image refers to and never holds."""
    known: dict[str, object] = {
        "namespace": namespace,
        "main": sys.modules["__main__"],
        "builtins": vars(sys.modules["builtins"]),
        "environ": os.environ,
        "modules": sys.modules,
        "path": sys.path,
        "argv": sys.argv,
        "meta_path": sys.meta_path,
        "path_hooks": sys.path_hooks,
        "main_thread": threading.main_thread(),
    }
    for name in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"):
        stream = getattr(sys, name, None)
        if stream is not None:
            known[name] = stream
    known.update(more or {})
    return known


def _writable(header: Header, buffers: list[memoryview]) -> list[memoryview | bytearray]:
    """Return buffers that arrays can be written through wherever the originals could be."""
    return [
        bytearray(buffer) if buffer.readonly and not readonly else buffer.toreadonly() if readonly else buffer
        for buffer, (_offset, _size, readonly) in zip(buffers, header.buffers, strict=True)
    ]


class _Dumper:
    """One dump: segments in the order they must come back, then what became of each name."""

    def __init__(
        self, namespace: dict[str, Any], protected: frozenset[str], live: Mapping[str, object], watch: Watch
    ) -> None:
        self._variables = {
            name: value for name, value in list(namespace.items()) if type(name) is str and name not in protected
        }
        self._writer = Writer(namespace, live, watch)
        self._live = {id(thing) for thing in live.values()}
        self._header = Header(
            python=".".join(map(str, sys.version_info[:3])),
            magic=importlib.util.MAGIC_NUMBER.hex(),
            seeds=len(self._writer.stream()),
            seed_memo=self._writer.seed_memo,
            order=list(self._variables),
            ambient=ambient.capture_early(),
        )
        self._whole_losses: dict[str, str] = {}
        self._found_in: dict[str, list[Finding]] = {}
        self._sizes: dict[str, int] = {}

    def run(self) -> Dump:
        with warnings.catch_warnings():
            # What Python will one day refuse to pickle is stored as long as it can be.
            warnings.simplefilter("ignore")
            for name in sorted(self._variables, key=self._rank):
                self._write(_NAME, name, self._variables[name])
        for key, value in ambient.capture_late().items():
            self._write(_AMBIENT, key, value)
        reports = self._report()
        header = self._header
        header.names = [entry.as_data() for entry in reports]
        header.sources = {key: sources.text_of(key) for key in sorted(self._writer.used_sources)}
        chunks = image.encode(header, self._writer.stream(), self._writer.buffers)
        self._writer.close()
        return Dump(chunks, reports)

    def _rank(self, name: str) -> int:
        """Definitions first: hooks that run when values come back may use them."""
        value = self._variables[name]
        if isinstance(value, types.ModuleType | int | float | str | bytes | None):
            return 0
        return 1 if isinstance(value, types.FunctionType | type) else 2

    def _write(self, kind: str, name: str, value: object) -> None:
        writer = self._writer
        start = self._header.segments[-1].end if self._header.segments else self._header.seeds
        findings, buffers = len(writer.findings), len(writer.buffers)
        try:
            end = writer.write(value)
        except BaseException as error:
            why = f"it could not be stored: {type(error).__name__}: {error}"
            self._whole_losses[name] = why
            end = writer.write(Lost(recipes.name_kind(value), why, name))
        self._header.segments.append(Segment(kind, name, end, len(writer.buffers)))
        if kind == _NAME:
            self._found_in[name] = writer.findings[findings:]
            self._sizes[name] = end - start + sum(buffer.nbytes for buffer in writer.buffers[buffers:])

    def _report(self) -> list[NameReport]:
        findings = self._writer.findings
        numbers = {id(finding.thing): number for number, finding in enumerate(findings)}
        wanted = {id(finding.thing): finding for finding in findings}
        reports = []
        for name, value in self._variables.items():
            entry = NameReport(name, report.type_name(value), self._sizes[name])
            reports.append(entry)
            if name in self._whole_losses:
                entry.status, entry.why = "lost", self._whole_losses[name]
                continue
            if not wanted:
                continue
            paths = report.find(name, value, set(wanted), self._live)
            for thing, path in paths.items():
                self._header.places.setdefault(str(numbers[thing]), path)
            found = [(wanted[thing], path) for thing, path in paths.items()]
            found += [(finding, "") for finding in self._found_in[name] if id(finding.thing) not in paths]
            _settle(entry, found)
        return reports


def _settle(entry: NameReport, found: list[tuple[Finding, str]]) -> None:
    """Let the gravest finding decide what is said of a name."""
    for status in ("rebuilt", "lost"):
        for finding, path in found:
            if finding.status == status:
                entry.status = status
                entry.where = "" if path == entry.name else path
                entry.why = finding.why if path == entry.name else f"{finding.what}: {finding.why}"
                break


class _Loader:
    """One load: the process as it was, then every name, then the order and the generators."""

    def __init__(self, header: Header, namespace: dict[str, Any], protected: frozenset[str], watch: Watch) -> None:
        self._header = header
        self._namespace = namespace
        self._protected = protected
        self._watch = watch
        self._reports = {entry["name"]: NameReport(**entry) for entry in header.names}

    def run(self, reader: Reader) -> list[NameReport]:
        self._remove(set(self._namespace))
        ambient.apply_early(self._header.ambient)
        sources.remember(self._header.sources)
        late: dict[str, Any] = {}
        with rebuild.loading({int(number): path for number, path in self._header.places.items()}):
            for number, segment in enumerate(self._header.segments):
                value = self._read(reader, number, segment)
                if segment.kind == _AMBIENT:
                    late[segment.name] = value
                elif segment.name not in self._protected:
                    self._namespace[segment.name] = value
        self._put_in_order()
        ambient.apply_late({key: value for key, value in late.items() if not isinstance(value, Lost)})
        return [self._reports[name] for name in self._header.order]

    def _read(self, reader: Reader, number: int, segment: Segment) -> Any:
        before = len(rebuild.stand_ins)
        try:
            value = self._watch.call(reader.read, number)
        except BaseException as error:
            why = f"it could not be restored: {type(error).__name__}: {error}"
            entry = self._reports.get(segment.name)
            value = Lost(f"an object of type {entry.type}" if entry else segment.kind, why, segment.name)
            self._note(segment, value, "")
            return value
        for stand_in in rebuild.stand_ins[before:]:
            if not describe(stand_in)[2]:
                path = report.find(segment.name, value, {id(stand_in)}).get(id(stand_in), "")
                place(stand_in, path)
                self._note(segment, stand_in, "" if path == segment.name else path)
        return value

    def _note(self, segment: Segment, lost: Lost, path: str) -> None:
        if segment.kind == _NAME:
            what, why, _place = describe(lost)
            text = f"{what}: {why}" if path else why
            self._reports[segment.name] = replace(self._reports[segment.name], status="lost", why=text, where=path)

    def _put_in_order(self) -> None:
        self._remove(set(self._namespace) - set(self._header.order))
        for name in self._header.order:
            if name not in self._protected:
                self._namespace[name] = self._namespace.pop(name)

    def _remove(self, names: set[str]) -> None:
        for name in names - self._protected:
            del self._namespace[name]
