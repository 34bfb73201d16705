"""Definitions by their source: what makes a function written under one Python run under the next.

1. Bytecode of another minor version is never executed: it crashes the interpreter.
2. A source is stored with a code object only if compiling it gives that very code object: the file it names may
   have been edited since.
3. Where the source is not known, the function's place is taken by one that raises and says so.
"""

from __future__ import annotations
import __future__

import hashlib
import linecache
import types
from typing import TYPE_CHECKING, Any, NoReturn

from .lost import LostObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator

# A source text longer than this is data, not a cell; its functions do not survive a change of Python.
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

# The module that images call.
REBUILD = "_perdure_rebuild"

# ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, without the import: cells are compiled with it.
_TOP_LEVEL_AWAIT = 0x2000

# The flags of `from __future__` imports that were in force where a code object was compiled.
_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag

# The place of a code object in a source: the source's key, which of those of its name and line, out of how many.
type Origin = tuple[str, int, int]

_texts: dict[str, tuple[str, str]] = {}
_compiled: dict[tuple[str, int], list[types.CodeType] | SyntaxError] = {}


def origin(code: types.CodeType) -> Origin | None:
    """Return where in a known source `code` is defined, or None if no known source gives this code."""
    filename = code.co_filename
    text = "".join(linecache.getlines(filename))
    if 0 < len(text) <= MAX_SOURCE:
        _texts.setdefault(_key(filename, text), (filename, text))
    for key, (known, _text) in _texts.items():
        if known == filename:
            alike = _alike(key, code.co_flags, code.co_qualname, code.co_firstlineno)
            if code in alike:
                return key, alike.index(code), len(alike)
    return None


def text_of(key: str) -> tuple[str, str]:
    """Return the file name and the text of a source that `origin` named."""
    return _texts[key]


def remember(texts: dict[str, Any]) -> None:
    """Take the sources of an image: for recompiling, for tracebacks and for `inspect.getsource`."""
    for key, (filename, text) in texts.items():
        _texts[key] = filename, text
        if filename.startswith("<") and filename not in linecache.cache:
            linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


class Foreign:
    """What a stand-in stands for: stored again as it is, it works again under the Python that it came from."""

    __slots__ = ("fields", "magic", "place")

    def __init__(self, magic: str, fields: tuple[Any, ...], place: Origin | None) -> None:
        self.magic = magic
        self.fields = fields
        self.place = place


def foreign(code: types.CodeType) -> Foreign | None:
    """Return what `code` stands for, if it is a stand-in."""
    last = code.co_consts[-1] if code.co_consts else None
    return last if isinstance(last, Foreign) else None


def recompile(magic: str, fields: tuple[Any, ...], place: Origin | None) -> types.CodeType:
    """Return the code that `fields` describe, compiled by this Python, or a stand-in that raises."""
    known: dict[str, Any] = dict(zip(FIELDS, fields, strict=True))
    if place is None or place[0] not in _texts:
        return _stand_in(magic, known, place, "its source is not known, and bytecode of another Python cannot be run")
    key, which, count = place
    alike = _alike(key, known["co_flags"], known["co_qualname"], known["co_firstlineno"])
    if len(alike) == count and _same_signature(alike[which], known):
        return alike[which]
    failed = _compiled[key, known["co_flags"] & _FUTURES]
    if isinstance(failed, SyntaxError):
        return _stand_in(magic, known, place, f"this Python does not accept its source: {failed}")
    return _stand_in(magic, known, place, "this Python compiles its source to something else")


def is_stand_in(function: object) -> bool:
    """Say whether `function`, or what it wraps, only raises because it could not be compiled here."""
    function = getattr(function, "__func__", function)
    return isinstance(function, types.FunctionType) and foreign(function.__code__) is not None


def _key(filename: str, text: str) -> str:
    return hashlib.blake2b(f"{filename}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _alike(key: str, flags: int, qualname: str, line: int) -> list[types.CodeType]:
    """Return the code objects of a source that share a name and a line, as two lambdas of one line do."""
    futures = flags & _FUTURES
    if (key, futures) not in _compiled:
        _compiled[key, futures] = _compile(*_texts[key], futures)
    found = _compiled[key, futures]
    if isinstance(found, SyntaxError):
        return []
    return [code for code in found if code.co_qualname == qualname and code.co_firstlineno == line]


def _compile(filename: str, text: str, futures: int) -> list[types.CodeType] | SyntaxError:
    try:
        return list(_walk(compile(text, filename, "exec", flags=futures | _TOP_LEVEL_AWAIT, dont_inherit=True)))
    except SyntaxError as error:
        return error
    except ValueError as error:
        return SyntaxError(str(error))


def _walk(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _walk(constant)


def _same_signature(code: types.CodeType, known: dict[str, Any]) -> bool:
    arguments = code.co_argcount + code.co_kwonlyargcount
    return (
        code.co_freevars == tuple(known["co_freevars"])
        and arguments == known["co_argcount"] + known["co_kwonlyargcount"]
        and code.co_varnames[:arguments] == tuple(known["co_varnames"])[:arguments]
    )


def _stand_in(magic: str, known: dict[str, Any], place: Origin | None, why: str) -> types.CodeType:
    message = f"{known['co_qualname']!r} was a function, and is lost: {why}"
    text = f"def stand_in(*args, **kwargs): None.__call__({message!r})"
    module = compile(text, known["co_filename"], "exec", dont_inherit=True)
    code = next(constant for constant in module.co_consts if isinstance(constant, types.CodeType))
    # The function to call is a constant: the globals may hold no built-ins (a named tuple's do not).
    constants = tuple(_raise if constant is None else constant for constant in code.co_consts)
    return code.replace(
        co_consts=(*constants, Foreign(magic, tuple(known.values()), place)),
        co_name=known["co_name"],
        co_qualname=known["co_qualname"],
        co_firstlineno=known["co_firstlineno"],
    )


def _raise(message: str) -> NoReturn:
    raise LostObjectError(message)
