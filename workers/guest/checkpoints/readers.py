"""Recipes for what reads and writes through files: text that is gone through line by line, csv, gzip and the like.

The names of the rebuilders are durable data, as in `rebuild`.
"""

from __future__ import annotations

import codecs
import gc
import importlib
import io
import os
import types
from typing import TYPE_CHECKING, Any

from .fields import Field
from .rebuild import rebuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pickler import Reducers

__all__ = ["BY_LIBRARY", "REDUCERS", "newline_of", "position"]

# --- text files ------------------------------------------------------------------------------------------

#: Bytes that one character takes at the most, line ends too.
_WIDEST = 4


def newline_of(file: io.TextIOWrapper) -> str | None:
    """Return what `open` was told of line ends."""
    if not (_universal.there and _translates.there) or (_universal.get(file) and _translates.get(file)):
        return None
    if _universal.get(file):
        return ""
    ends = {id(each): each for each in gc.get_referents(file) if type(each) is str and each in ("\n", "\r", "\r\n")}
    ends.pop(_decoded.get(file) if _decoded.there else 0, None)
    return next(iter(ends.values()), "\n")


def position(file: Any) -> int:
    """Return where a file stands; of a text file that is gone through line by line, Python itself does not say it."""
    try:
        told: int = file.tell()
    except OSError:
        if type(file) is not io.TextIOWrapper:
            raise
        found = _between_lines(file)
        if found is None:
            raise
        return found
    return told


def _between_lines(file: io.TextIOWrapper) -> int | None:
    """Return where what was read ahead, and not given out yet, begins in the file; None if that is not to be told."""
    encoding = codecs.lookup(file.encoding).name
    if not _decoded.there or not _used.there or not (encoding in ("utf-8", "ascii") or encoding in _SINGLE):
        return None
    held = {id(each): each for each in gc.get_referents(file)}
    ahead: Any = held.get(_decoded.get(file), "")
    decoder: Any = next((each for each in held.values() if hasattr(each, "getstate")), None)
    pending, flags = decoder.getstate() if decoder is not None else (b"", 0)
    if flags or type(ahead) is not str:
        return None
    text = ahead[_used.get(file) :]
    under: Any = file.buffer
    end = under.tell() - len(pending)
    size = min(end, _WIDEST * len(text))
    content = os.pread(file.fileno(), size, end - size)
    start = _back(content, len(text), wide=encoding == "utf-8", joined=newline_of(file) is None)
    again = content[start:].decode(encoding, file.errors or "strict")
    if newline_of(file) is None:
        again = again.replace("\r\n", "\n").replace("\r", "\n")
    return end - size + start if again == text else None


_SINGLE = frozenset({"iso8859-1", "iso8859-15", "cp1250", "cp1251", "cp1252"})


def _back(content: bytes, characters: int, *, wide: bool, joined: bool) -> int:
    """Return where the last so many characters of it begin; with `joined`, both bytes of a line end are one."""
    at = len(content)
    while characters and at:
        at -= 1
        if wide and content[at] & 0xC0 == 0x80:  # noqa: PLR2004 - what goes on with a character in UTF-8
            continue
        if joined and content[at] == ord("\n") and at and content[at - 1] == ord("\r"):
            at -= 1
        characters -= 1
    return at


def _wrapped(**how: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(b"a" * 36 + b"\n" + b"b" * 52 + b"\n" + b"c" * 70), "ascii", **how)


def _flags(which: int) -> Iterator[tuple[Any, int]]:
    for newline, flags in [(None, (1, 1)), ("", (1, 0)), ("\n", (0, 1)), ("\r\n", (0, 1))] * 2:
        yield _wrapped(newline=newline), flags[which]


def _read_ahead() -> Iterator[tuple[Any, int, int]]:
    for lines, used in ((1, 37), (2, 90)):
        file = _wrapped()
        for _ in range(lines):
            next(file)
        (ahead,) = (each for each in gc.get_referents(file) if type(each) is str and each.endswith("c"))
        yield file, id(ahead), used


_universal = Field(lambda: list(_flags(0)), 1)
_translates = Field(lambda: list(_flags(1)), 1)
_decoded = Field(lambda: [(file, ahead) for file, ahead, _ in _read_ahead()])
_used = Field(lambda: [(file, used) for file, _, used in _read_ahead()])


# --- csv -------------------------------------------------------------------------------------------------

_DIALECT = (
    *("delimiter", "doublequote", "escapechar", "lineterminator", "quotechar", "quoting"),
    *("skipinitialspace", "strict"),
)


def _csv() -> Any:
    return importlib.import_module("_csv")


def _described(dialect: Any) -> dict[str, Any]:
    return {name: getattr(dialect, name) for name in _DIALECT}


def reduce_dialect(_reducers: Reducers, dialect: Any) -> Any:
    """Store what says how a table is written."""
    return csv_dialect, (_described(dialect),)


@rebuilder
def csv_dialect(described: dict[str, Any]) -> Any:
    return csv_writer(described, len).dialect


def reduce_csv_writer(reducers: Reducers, writer: Any) -> Any:
    """Store a writer of tables, by where it writes."""
    held = gc.get_referents(writer)
    write = next((each for each, one in zip(held[1:], held, strict=False) if one is writer.dialect), None)
    if not callable(write):
        return reducers.lose(writer, "make it again: csv.writer(file)")
    return csv_writer, (_described(writer.dialect), write)


@rebuilder
def csv_writer(described: dict[str, Any], write: Any) -> Any:
    return _csv().writer(types.SimpleNamespace(write=write), **described)


def reduce_csv_reader(reducers: Reducers, reader: Any) -> Any:
    """Store a reader of tables, by what it reads from and how many lines it has read."""
    held = gc.get_referents(reader)
    source = [each for each, one in zip(held[1:], held, strict=False) if one is reader.dialect]
    if not source or not _source.there or not _lines.there:
        return reducers.lose(reader, "make it again: csv.reader(file), or keep its rows in a list")
    return csv_reader, (_described(reader.dialect),), (source[0], reader.line_num), None, None, set_csv_reader


@rebuilder
def csv_reader(described: dict[str, Any]) -> Any:
    return _csv().reader(iter(()), **described)


@rebuilder
def set_csv_reader(made: Any, state: tuple[Any, int]) -> None:
    source, lines = state
    # A file that is closed refuses to be gone through: so it is put there.
    _source.put(made, source)
    _lines.set(made, lines)


def _readers() -> Iterator[tuple[Any, int, int]]:
    for lines in (371, 533):
        source = iter(["a"] * (lines + 1))
        reader = _csv().reader(source)
        for _ in range(lines):
            next(reader)
        yield reader, id(source), lines


_source = Field(lambda: [(reader, source) for reader, source, _ in _readers()])
_lines = Field(lambda: [(reader, lines) for reader, _, lines in _readers()])


# --- what is closed, and what is compressed --------------------------------------------------------------


def reduce_memory_file(reducers: Reducers, file: Any) -> Any:
    """Store a file in memory, closed or not."""
    from .pickler import reduce_by_hook

    return (closed_memory_file, (type(file),)) if file.closed else reduce_by_hook(reducers, file)


@rebuilder
def closed_memory_file(kind: type) -> Any:
    made: Any = kind()
    made.close()
    return made


#: How the libraries, version by version, call it that a compressed file is written.
_WRITTEN = (2, 3, "wb", "xb")


def reduce_compressed(reducers: Reducers, file: Any) -> Any:
    """Store a file of gzip, bz2 or lzma: one that is closed, and one that is read from a file."""
    if file.closed:
        written = vars(file).get("mode", vars(file).get("_mode")) in _WRITTEN
        return closed_compressed, (type(file), "wb" if written else "rb"), _shown(file), None, None, set_compressed
    path = _path_of(file)
    if not file.readable() or path is None:
        why = "what is compressed cannot be stored in the middle; close it (with ...), and open it again to go on"
        return reducers.lose(file, why)
    reducers.rebuilt(file, f"{path!r} is opened again where it stood")
    return open_compressed, (type(file), path, file.tell()), {}, None, None, set_compressed


def _shown(file: Any) -> dict[str, Any]:
    """Return what a closed one still says of itself."""
    plain = (int, float, str, bytes, type(None))
    shown = {name: value for name, value in vars(file).items() if not name.startswith("_") and type(value) in plain}
    shown.pop("mode", None)
    return shown


def _path_of(file: Any) -> str | None:
    """Return the path of a compressed file that has opened it itself."""
    state = vars(file)
    raw = state.get("myfileobj") or (state.get("_fp") if state.get("_closefp") else None)
    name = getattr(raw, "name", None)
    return os.path.abspath(name) if isinstance(name, str) and os.path.isfile(name) else None


@rebuilder
def closed_compressed(kind: Any, mode: str) -> Any:
    made = kind(io.BytesIO(), mode) if kind.__module__ != "gzip" else kind(fileobj=io.BytesIO(), mode=mode)
    made.close()
    return made


@rebuilder
def open_compressed(kind: Any, path: str, at: int) -> Any:
    made = kind(path, "rb")
    made.seek(at)
    return made


@rebuilder
def set_compressed(made: Any, state: dict[str, Any]) -> None:
    vars(made).update(state)


REDUCERS: dict[type, Any] = {io.BytesIO: reduce_memory_file, io.StringIO: reduce_memory_file}

# Looked up only once the session has imported them.
BY_LIBRARY: list[tuple[str, str, Any]] = [
    ("_csv", "Reader", reduce_csv_reader),
    ("_csv", "Writer", reduce_csv_writer),
    ("_csv", "Dialect", reduce_dialect),
    ("gzip", "GzipFile", reduce_compressed),
    ("bz2", "BZ2File", reduce_compressed),
    ("lzma", "LZMAFile", reduce_compressed),
]
