"""Recipes for generators and coroutines: one that has not begun, or has ended, comes back as what it is.

What has not begun is its function and arguments, which the garbage collector and its frame show; to call the function
runs nothing of it. What has ended has only its code and its names. What stands in the middle cannot be stored.
"""

from __future__ import annotations

import gc
import importlib.util
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

from .rebuild import rebuilder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from .pickler import Reducers

__all__ = ["REDUCERS", "WHY", "comes_back"]

WHY = "what runs cannot be stored in the middle; make it again, or keep its results in a list"

_KINDS = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
#: What attributes of each kind begin with.
_PREFIX: dict[type, str] = dict(zip(_KINDS, ("gi", "cr", "ag"), strict=True))


def comes_back(thing: Any) -> bool:
    """Whether a generator or coroutine has not begun, or has ended."""
    return _has_ended(thing) or _call_of(thing) is not None


def reduce_suspended(reducers: Reducers, thing: Any) -> Any:
    """Store a generator or coroutine."""
    names = thing.__name__, thing.__qualname__
    if _has_ended(thing):
        return ended_generator, (_magic(), type(thing).__name__, _code_of(thing)), names, None, None, set_names
    call = _call_of(thing)
    if call is None:
        return reducers.lose(thing, WHY)
    return generator_again, call, names, None, None, set_names


def _has_ended(thing: Any) -> bool:
    return getattr(thing, f"{_PREFIX[type(thing)]}_frame") is None


def _code_of(thing: Any) -> types.CodeType:
    code: types.CodeType = getattr(thing, f"{_PREFIX[type(thing)]}_code")
    return code


def _call_of(thing: Any) -> tuple[types.FunctionType, tuple[Any, ...], dict[str, Any]] | None:
    """Return the function and arguments of what has not begun; None if it has, or they are not to be seen."""
    prefix = _PREFIX[type(thing)]
    if getattr(thing, f"{prefix}_suspended") or getattr(thing, f"{prefix}_running"):
        return None
    code, frame = _code_of(thing), getattr(thing, f"{prefix}_frame")
    held = gc.get_referents(thing)
    function = next((each for each in held if type(each) is types.FunctionType and each.__code__ is code), None)
    if function is None or frame is None:
        return None
    found, names = frame.f_locals, iter(code.co_varnames)
    try:
        args = [found[next(names)] for _ in range(code.co_argcount)]
        keywords = {name: found[name] for name, _ in zip(names, range(code.co_kwonlyargcount), strict=False)}
        names = iter(code.co_varnames[code.co_argcount + code.co_kwonlyargcount :])
        if code.co_flags & inspect.CO_VARARGS:
            args += found[next(names)]
        if code.co_flags & inspect.CO_VARKEYWORDS:
            keywords |= found[next(names)]
    except KeyError:
        return None
    return function, tuple(args), keywords


def _magic() -> str:
    return importlib.util.MAGIC_NUMBER.hex()


@rebuilder
def generator_again(function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return function(*args, **keywords)


@rebuilder
def set_names(made: Any, names: tuple[str, str]) -> None:
    made.__name__, made.__qualname__ = names


@rebuilder
def ended_generator(magic: str, kind: str, code: types.CodeType) -> Any:
    made: Any = _call(code) if magic == _magic() else None
    if type(made).__name__ != kind:
        # Its code is another Python's: nothing of it will run any more, and it needs some.
        same = {name: getattr(code, name) for name in ("co_filename", "co_firstlineno", "co_name", "co_qualname")}
        made = _call(_EMPTY[kind].replace(**same))
    if type(made) is types.AsyncGeneratorType:
        _close(made)
    else:
        made.close()
    return made


def _call(code: types.CodeType) -> Any:
    function: Any = types.FunctionType(code, {}, closure=tuple(types.CellType() for _ in code.co_freevars))
    names = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    return function(*[None] * code.co_argcount, **dict.fromkeys(names))


def _close(made: types.AsyncGeneratorType[Any, Any]) -> None:
    hooks = sys.get_asyncgen_hooks()
    # The loop that it runs in first keeps it to close it: this one is closed.
    sys.set_asyncgen_hooks(None, None)
    try:
        made.aclose().send(None)
    except StopIteration:
        pass
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _generator() -> Iterator[None]:
    yield


async def _coroutine() -> None:
    pass


async def _async_generator() -> AsyncIterator[None]:
    yield


_EMPTY = {
    "generator": _generator.__code__,
    "coroutine": _coroutine.__code__,
    "async_generator": _async_generator.__code__,
}

REDUCERS: dict[type, Callable[[Reducers, Any], Any]] = dict.fromkeys(_KINDS, reduce_suspended)
