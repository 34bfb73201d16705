"""Definitions by their source: what makes a function written under one Python run under the next.

Bytecode of another minor version must never be executed: it crashes the interpreter. So every image carries the
source texts of its code objects, and a code object of another Python is compiled again from there and found by
its qualified name and position. Where the text is not known, the function's place is taken by one that raises.
"""

from __future__ import annotations
import __future__

import linecache
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# A source text longer than this is data, not a cell; the function then does not survive a change of Python.
MAX_SOURCE = 4 << 20

# The order of the fields of a code object in an image.
FIELDS: tuple[str, ...] = (
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_nlocals",
    "co_stacksize",
    "co_flags",
    "co_code",
    "co_consts",
    "co_names",
    "co_varnames",
    "co_filename",
    "co_name",
    "co_qualname",
    "co_firstlineno",
    "co_linetable",
    "co_exceptiontable",
    "co_freevars",
    "co_cellvars",
)

# The module that images call; a function that cannot be compiled here calls it to raise.
REBUILD = "_perdure_rebuild"

# ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, without the import: cells are compiled with it.
_TOP_LEVEL_AWAIT = 0x2000

# The flags of `from __future__` imports that were in force where a code object was compiled.
_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag

_texts: dict[str, str] = {}
_compiled: dict[tuple[str, int], list[types.CodeType] | SyntaxError] = {}


def text_of(filename: str) -> str | None:
    """Return the source that `filename` was compiled from, if it is known and not too long."""
    text = "".join(linecache.getlines(filename))
    return text if 0 < len(text) <= MAX_SOURCE else None


def remember(texts: dict[str, str]) -> None:
    """Take the source texts of an image: for recompiling, for tracebacks and for `inspect.getsource`."""
    _compiled.clear()
    for filename, text in texts.items():
        _texts[filename] = text
        if filename.startswith("<") and filename not in linecache.cache:
            linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


def recompile(fields: tuple[Any, ...], position: tuple[int, int, int, int] | None) -> types.CodeType:
    """Return the code that `fields` describe, compiled by this Python, or a stand-in that raises."""
    known: dict[str, Any] = dict(zip(FIELDS, fields, strict=True))
    found = _find(known, position)
    if isinstance(found, types.CodeType):
        return found
    return _stand_in(known, found)


def first_position(code: types.CodeType) -> tuple[int, int, int, int] | None:
    """Return where in its source the body of `code` begins: tells two lambdas of one line apart."""
    for line, end_line, column, end_column in code.co_positions():
        if line is not None and end_line is not None and column is not None and end_column is not None and end_column:
            return line, end_line, column, end_column
    return None


def _find(known: dict[str, Any], position: tuple[int, int, int, int] | None) -> types.CodeType | str:
    filename = known["co_filename"]
    if filename not in _texts:
        return "its source is not known, and bytecode of another Python cannot be run"
    key = filename, known["co_flags"] & _FUTURES
    if key not in _compiled:
        _compiled[key] = _compile(_texts[filename], *key)
    candidates = _compiled[key]
    if isinstance(candidates, SyntaxError):
        return f"this Python does not accept its source: {candidates}"
    matching = [code for code in candidates if _same_definition(code, known)]
    if len(matching) > 1:
        matching = [code for code in matching if first_position(code) == position]
    if len(matching) == 1:
        return matching[0]
    return "it cannot be told apart in its source"


def _same_definition(code: types.CodeType, known: dict[str, Any]) -> bool:
    return (
        code.co_qualname == known["co_qualname"]
        and code.co_firstlineno == known["co_firstlineno"]
        and code.co_freevars == tuple(known["co_freevars"])
        and code.co_varnames[: code.co_argcount] == tuple(known["co_varnames"])[: known["co_argcount"]]
    )


def _compile(text: str, filename: str, futures: int) -> list[types.CodeType] | SyntaxError:
    flags = futures | _TOP_LEVEL_AWAIT
    try:
        return list(_walk(compile(text, filename, "exec", flags=flags, dont_inherit=True)))
    except SyntaxError as error:
        return error


def _walk(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _walk(constant)


def _stand_in(known: dict[str, Any], why: str) -> types.CodeType:
    message = f"{known['co_qualname']!r} was a function, and is lost: {why}"
    text = f"def stand_in(*args, **kwargs): __import__({REBUILD!r}).raise_lost({message!r})"
    module = compile(text, known["co_filename"], "exec", dont_inherit=True)
    code = next(constant for constant in module.co_consts if isinstance(constant, types.CodeType))
    return code.replace(
        co_name=known["co_name"],
        co_qualname=known["co_qualname"],
        co_firstlineno=known["co_firstlineno"],
    )
