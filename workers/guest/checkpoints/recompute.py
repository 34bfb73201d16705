"""Values that code knows how to make again: `perdure.recompute(function)`.

1. Only what would be lost otherwise is made again; whatever can be stored comes back as it was.
2. It is made when everything else is there, once, by the stored function: no call is made, and what is drawn or printed
   meanwhile leaves no trace. If that fails, it is lost, and says why.
3. No value is kept alive for this.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from .hooks import HookTimeout
from .rebuild import lost, rebuilder

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REMADE", "maker_of", "recompute"]

#: What a report says of them.
REMADE = "it is made again at a restore, by the function that perdure.recompute was given"

_makers: dict[int, tuple[weakref.ref[Any], Callable[[], Any]]] = {}


def recompute[T](make: Callable[[], T], /) -> T:
    """Return ``make()``; what of it cannot be stored is made again, by the same function, wherever it is restored."""
    return _noted(make(), make)


def _noted[T](value: T, make: Callable[[], T]) -> T:
    number = id(value)
    try:
        _makers[number] = weakref.ref(value, lambda _: _makers.pop(number, None)), make
    except TypeError:
        pass  # a number, a list: nothing that is ever lost as a whole
    return value


def maker_of(value: Any) -> Callable[[], Any] | None:
    """Return the function that makes a value again, if there is one."""
    known = _makers.get(id(value))
    return known[1] if known is not None and known[0]() is value else None


@rebuilder
def make_again(make: Any, what: str, why: str) -> Any:
    """Make what could not be stored."""
    try:
        return _noted(make(), make)
    except HookTimeout:
        raise
    except BaseException as error:
        return lost(what, f"{why}; and making it again failed: {type(error).__name__}: {error}", "")
