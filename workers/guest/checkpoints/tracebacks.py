"""Recipe for tracebacks: they come back with their lines and marks, and print as before; variables of frames do not.

A frame cannot be made by itself. So each line gets one of a generator that never began, whose code says that it is the
other's: that is all that printing looks at.
"""

from __future__ import annotations

import dis
import importlib.util
from types import CodeType, FunctionType, TracebackType
from typing import TYPE_CHECKING, Any

from .rebuild import rebuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pickler import Reducers

__all__ = ["WHY", "reduce_traceback"]

#: What is said of it; a step may end nevertheless.
WHY = "the frames it leads through have no variables any more"

_MAGIC = importlib.util.MAGIC_NUMBER.hex()
_NOP = bytes((dis.opmap["NOP"], 0))
#: An entry of a line table (PEP 626) that says nothing of so many units of code.
_NOWHERE, _UNITS = b"\xff", 8


def reduce_traceback(reducers: Reducers, traceback: TracebackType) -> Any:
    """Store a traceback with all that follow it, each code once."""
    codes: dict[int, tuple[int, CodeType]] = {}
    lines = []
    for each in _chain(traceback):
        code = each.tb_frame.f_code
        number, _ = codes.setdefault(id(code), (len(codes), code))
        lines.append((number, each.tb_lasti, each.tb_lineno, _module_of(each)))
    reducers.rebuilt(traceback, WHY)
    for _, code in codes.values():
        reducers.origin(code)
    return traceback_again, (_MAGIC, [_described(code) for _, code in codes.values()], lines)


def _chain(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _module_of(traceback: TracebackType) -> str:
    name = traceback.tb_frame.f_globals.get("__name__")
    return name if type(name) is str else "__main__"


def _described(code: CodeType) -> tuple[str, str, str, int, bytes, int]:
    return (
        code.co_filename,
        code.co_name,
        code.co_qualname,
        code.co_firstlineno,
        code.co_linetable,
        len(code.co_code),
    )


@rebuilder
def traceback_again(
    magic: str, codes: list[tuple[str, str, str, int, bytes, int]], lines: list[tuple[int, int, int, str]]
) -> TracebackType | None:
    made: TracebackType | None = None
    known = [_stand_in(magic, *each) for each in codes]
    for number, last, line, module in reversed(lines):
        generator = FunctionType(known[number], {"__name__": module})()
        made = TracebackType(made, generator.gi_frame, last, line)
    return made


def _never() -> Iterator[None]:
    yield


def _stand_in(magic: str, file: str, name: str, qualname: str, first: int, table: bytes, size: int) -> CodeType:
    """Return a code that is never run, where the other is; columns are those of the Python that wrote the table."""
    code = _never.__code__
    size = max(size, len(code.co_code))
    return code.replace(
        co_filename=file,
        co_name=name,
        co_qualname=qualname,
        co_firstlineno=first,
        co_linetable=table if magic == _MAGIC else _NOWHERE * (size // len(_NOP) // _UNITS + 1),
        co_code=code.co_code + _NOP * ((size - len(code.co_code)) // len(_NOP)),
    )
