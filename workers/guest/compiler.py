"""Source to code objects, one for each top-level statement. Nothing is executed here.

1. A submission that does not compile as a whole runs nothing.
2. Compiling statement by statement must not show: lines, future statements and docstrings are as in one module.
"""

from __future__ import annotations
import __future__

import ast
import hashlib
import inspect
import warnings
from collections import OrderedDict
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from .router import Mode, Route, route_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cache", "Program", "Unit", "compile_source"]

#: Future statements that change how later code is compiled.
_FUTURES = {name: getattr(__future__, name).compiler_flag for name in __future__.all_feature_names}
#: Programs kept; a REPL repeats itself little, an agent's loop more.
CACHE_SIZE = 256


class Unit(NamedTuple):
    """One top-level statement, ready to run."""

    code: CodeType
    line: int
    awaits: bool
    #: Whether it is an expression whose value is wanted.
    valued: bool


class Program(NamedTuple):
    """A compiled submission; ``flags`` are the future statements that hold after it."""

    units: tuple[Unit, ...]
    flags: int
    #: The docstring of the submission, if it begins with one.
    doc: str | None
    #: A hint, for people: nothing depends on it.
    route: Route


class Cache:
    """Programs by the SHA-256 of source and flags, whatever name they run under.

    Neither failures are kept nor what the compiler warned of: it is to warn each time.
    """

    def __init__(self, size: int = CACHE_SIZE) -> None:
        self._size = size
        self._programs: OrderedDict[bytes, Program] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, source: str, filename: str, flags: int) -> Program:
        """Return the program for a source, compiling it if need be. Raises what ``compile`` raises."""
        key = hashlib.sha256(f"{flags}\0{source}".encode("utf-8", "surrogatepass")).digest()
        program = self._programs.get(key)
        if program is not None:
            self.hits += 1
            self._programs.move_to_end(key)
            return _named(program, filename)
        self.misses += 1
        warned: list[bool] = []
        program = _hearing(lambda: compile_source(source, filename, flags), lambda: warned.append(True))
        if not warned:
            self._programs[key] = program
            if len(self._programs) > self._size:
                self._programs.popitem(last=False)
        return program

    def counters(self) -> dict[str, int]:
        """Return how often it was of use, and how much it holds."""
        return {"hits": self.hits, "misses": self.misses, "kept": len(self._programs)}


def _hearing(work: Callable[[], Program], warned: Callable[[], None]) -> Program:
    # Not `catch_warnings`: it would have every warning that was shown once shown again.
    show = warnings.showwarning

    def heard(*args: Any, **more: Any) -> None:
        warned()
        show(*args, **more)

    warnings.showwarning = heard
    try:
        return work()
    finally:
        warnings.showwarning = show


def _named(program: Program, filename: str) -> Program:
    """Return a program under the name it runs under this time."""
    if not program.units or program.units[0].code.co_filename == filename:
        return program
    return program._replace(units=tuple(unit._replace(code=_renamed(unit.code, filename)) for unit in program.units))


def _renamed(code: CodeType, filename: str) -> CodeType:
    constants = tuple(_renamed(each, filename) if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.replace(co_filename=filename, co_consts=constants)


def compile_source(source: str, filename: str, flags: int = 0) -> Program:
    """Compile a submission. Raises SyntaxError, ValueError, RecursionError or MemoryError as ``compile`` does."""
    try:
        return _compile(source, filename, flags)
    except SyntaxError as error:
        _show_line(error, source, filename)
        raise


def _show_line(error: SyntaxError, source: str, filename: str) -> None:
    """Give an error the line it is about: what the parser let pass is read from a file by that name, which is none."""
    if error.text is None and error.filename == filename and error.lineno:
        error.text = "".join(source.splitlines(keepends=True)[error.lineno - 1 : error.lineno]) or None


def _compile(source: str, filename: str, flags: int) -> Program:
    flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        module = compile(source, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    except RecursionError:
        # The tree is too deep to be shown to Python; the compiler itself may still take it.
        code = compile(source, filename, "exec", flags, dont_inherit=True)
        unit = Unit(code, 1, _awaits(code), valued=False)
        mode = Mode.TOP_LEVEL_AWAIT if unit.awaits else Mode.SIMPLE_SYNC
        return Program((unit,), flags & ~ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, None, Route(mode))
    if _needs_whole(module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, filename, "exec", flags, dont_inherit=True)
    flags |= _future_flags(module)
    units = []
    for number, statement in enumerate(module.body):
        last = number == len(module.body) - 1
        if not last and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        units.append(_unit(statement, filename, flags, valued=last))
    flags &= ~ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return Program(tuple(units), flags, ast.get_docstring(module, clean=False), route_of(module))


def _unit(statement: ast.stmt, filename: str, flags: int, *, valued: bool) -> Unit:
    if valued and isinstance(statement, ast.Expr):
        code = compile(ast.Expression(statement.value), filename, "eval", flags, dont_inherit=True)
        return Unit(code, statement.lineno, _awaits(code), valued=True)
    code = compile(ast.Module([statement], []), filename, "exec", flags, dont_inherit=True)
    return Unit(code, statement.lineno, _awaits(code), valued=False)


def _awaits(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_COROUTINE)


def _needs_whole(module: ast.Module) -> bool:
    """Whether a statement's meaning depends on those before it, so that only the whole shows the error."""
    return any(
        isinstance(each, ast.Global) or (isinstance(each, ast.ImportFrom) and each.module == "__future__")
        for each in module.body
    )


def _future_flags(module: ast.Module) -> int:
    flags = 0
    for each in module.body:
        if isinstance(each, ast.ImportFrom) and each.module == "__future__":
            for alias in each.names:
                flags |= _FUTURES.get(alias.name, 0)
    return flags
