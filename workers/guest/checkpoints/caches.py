"""Recipe for `functools.lru_cache`: a function comes back with what its cache holds, in order, and with its counts.

The cache cannot be read or filled from Python. What it refers to is what the garbage collector sees; it is filled by
calls, for the time of which another function is in the place of the one that it wraps.
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
from typing import TYPE_CHECKING, Any

from .fields import Field
from .rebuild import rebuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .pickler import Reducers

__all__ = ["REDUCERS"]

type Entry = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Arguments, named ones, and what came of it."""

#: Behind all keys and results, in this order: its cache, what it wraps, what stands between positional and named
#: arguments in a key, two types, and its attributes.
_LAST = 6


def reduce_cached_function(reducers: Reducers, function: Any) -> Any:
    """Store a function with a cache: one of a library by its name."""
    module = sys.modules.get(function.__module__)
    if module is not None and module.__name__ != "__main__":
        found: Any = module
        for part in function.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is function:
            return named, (module.__name__, function.__qualname__)
    parameters, info = function.cache_parameters(), function.cache_info()
    attributes = {name: value for name, value in vars(function).items() if name != "__wrapped__"}
    made = function.__wrapped__, parameters["maxsize"], parameters["typed"]
    if not info.hits and not info.misses and not info.currsize:
        return cached_function, made, attributes
    entries = _entries(function, typed=parameters["typed"])
    if entries is None or len(entries) != info.currsize or not _fillable():
        reducers.rebuilt(function, "its cache is empty again")
        return cached_function, made, attributes
    return cached_function, made, (attributes, entries, info.hits, info.misses), None, None, fill_cache


def _entries(function: Any, *, typed: bool) -> list[Entry] | None:
    """Return what a cache holds, in the order of their last use; None if that is not to be seen."""
    held = gc.get_referents(function)
    tail = held[-_LAST:]
    if len(tail) < _LAST or tail[-1] is not vars(function) or type(tail[0]) is not dict:
        return None
    cache, wrapped, mark = tail[:3]
    if wrapped is not function.__wrapped__ or type(mark) is not object:
        return None
    if function.cache_parameters()["maxsize"] is None:
        found = list(cache.items())
    else:
        # A key, what came of it, and the type of what holds the two; the first is the type of the function itself.
        links = [each for each in held[:-_LAST] if each is not type(function) and each is not tail[3]]
        found = list(zip(links[::2], links[1::2], strict=True)) if not len(links) % 2 else []
        if not {id(key) for key, _ in found} <= {id(key) for key in cache}:
            return None
    return [(*_arguments(key, mark, typed=typed), result) for key, result in found]


def _arguments(key: Any, mark: object, *, typed: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that made a key."""
    if type(key) is not tuple:
        return (key,), {}
    at = next((at for at, each in enumerate(key) if each is mark), -1)
    if at < 0:
        return key[: len(key) // 2] if typed else key, {}
    count = (len(key) - 2 * at - 1) // 3 if typed else (len(key) - at - 1) // 2
    pairs = key[at + 1 : at + 1 + 2 * count]
    return key[:at], dict(zip(pairs[::2], pairs[1::2], strict=True))


@rebuilder
def cached_function(function: Any, maxsize: int | None, typed: bool) -> Any:  # noqa: FBT001 - durable data
    return functools.lru_cache(maxsize, typed)(function)


@rebuilder
def fill_cache(made: Any, state: tuple[dict[str, Any], list[Entry], int, int]) -> None:
    attributes, entries, hits, misses = state
    vars(made).update(attributes)
    if not _fillable():
        return
    function, results = made.__wrapped__, iter(entries)
    _function.put(made, lambda *_args, **_named: next(results)[2])
    try:
        for args, keywords, _ in entries:
            made(*args, **keywords)
    finally:
        _function.put(made, function)
    _hits.set(made, hits)
    _misses.set(made, misses)


def _fillable() -> bool:
    return _function.there and _hits.there and _misses.there


def _samples() -> Iterator[tuple[Any, int, int]]:
    for hits, misses in ((9, 5), (4, 7)):
        made = functools.lru_cache(maxsize=64)(abs)
        for number in [*range(misses), *[0] * hits]:
            made(number)
        yield made, hits, misses


_function = Field(lambda: [(made, id(abs)) for made, _, _ in _samples()])
_hits = Field(lambda: [(made, hits) for made, hits, _ in _samples()])
_misses = Field(lambda: [(made, misses) for made, _, misses in _samples()])


@rebuilder
def named(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


REDUCERS: dict[type, Callable[[Reducers, Any], Any]] = {functools._lru_cache_wrapper: reduce_cached_function}
