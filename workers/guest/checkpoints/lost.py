"""What stands where a value could not be carried: safe to hold, loud to use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_OPERATORS = (
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
)

# The comparison and conversion methods that Python looks up on the type and that would otherwise answer
# quietly with object's own version.
_LOUD = (
    *("__call__", "__iter__", "__next__", "__reversed__", "__len__", "__length_hint__", "__getitem__"),
    *("__setitem__", "__delitem__", "__contains__", "__enter__", "__exit__", "__aenter__", "__aexit__"),
    *("__await__", "__aiter__", "__anext__", "__bool__", "__int__", "__float__", "__complex__", "__index__"),
    *("__round__", "__trunc__", "__floor__", "__ceil__", "__bytes__", "__str__", "__format__", "__fspath__"),
    *("__buffer__", "__neg__", "__pos__", "__abs__", "__invert__", "__instancecheck__", "__subclasscheck__"),
    *("__mro_entries__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    *(f"__{prefix}{name}__" for prefix in ("", "r", "i") for name in _OPERATORS),
    *("__divmod__", "__rdivmod__"),
)


class LostObjectError(RuntimeError):
    """A value that did not survive a restore was used; the message says what it was and what to do."""

    __module__ = "perdure"  # as code in a session finds it, and as a traceback names it


@dataclass(slots=True)
class Kept:
    """What an object is made of that could not be made here: it is stored again as this."""

    make: Any
    args: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: list[Any] = field(default_factory=list)
    """Keys and values, one after the other."""
    elements: list[Any] = field(default_factory=list)
    setter: Any = None

    def cause(self) -> Lost | None:
        """Return the stand-in for want of which this is one."""
        return next((each for each in (self.make, *self.args) if type(each) is Lost and each._kept is not None), None)


class Lost:
    """Stands for a value that could not be kept; `repr` is safe, every other use raises `LostObjectError`."""

    __slots__ = ("__weakref__", "_kept", "_what", "_where", "_why")

    _what: str
    _why: str
    _where: str
    _kept: Kept | None

    def __init__(self, what: str, why: str, where: str = "", kept: Kept | None = None) -> None:
        object.__setattr__(self, "_what", what)
        object.__setattr__(self, "_why", why)
        object.__setattr__(self, "_where", where)
        object.__setattr__(self, "_kept", kept)

    def __repr__(self) -> str:
        place = f" at {self._where}" if self._where else ""
        return f"<lost {self._what}{place}: {self._why}>"

    def __hash__(self) -> int:
        return id(self)

    def __getattr__(self, name: str) -> NoReturn:
        # Protocol probes (copy, pickle, inspect, IPython) ask for dunders and expect AttributeError for "no".
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        _use(self)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        _use(self)

    def __delattr__(self, name: str) -> NoReturn:
        _use(self)


def message(lost: Lost) -> str:
    """Return the sentence that every use of `lost` raises."""
    name = f"{lost._where!r}" if lost._where else "this value"
    what_to_do = _NOTHING if lost._kept is not None else "perdure.recompute(function) makes it again by itself"
    return f"{name} was {lost._what}, and is lost: {lost._why} ({what_to_do})"


_NOTHING = "what is stored of it stays, and it is itself again in the first process where this is mended"


def describe(lost: Lost) -> tuple[str, str, str]:
    """Return what `lost` was, why it could not be kept, and where it hung."""
    return lost._what, lost._why, lost._where


def kept_of(lost: Lost) -> Kept | None:
    """Return what `lost` was made of, if that is known."""
    return lost._kept


def place(lost: Lost, where: str) -> None:
    """Say where in the namespace `lost` hangs, unless it is known already."""
    if not lost._where:
        object.__setattr__(lost, "_where", where)


def ends_with(used: Callable[[Lost], None] | None) -> None:
    """Have every use of a lost value told before it raises; None: it only raises."""
    global _told  # noqa: PLW0603 - one guest, one code that runs
    _told = used


_told: Callable[[Lost], None] | None = None


def _use(self: Lost, *_args: object, **_kwargs: object) -> NoReturn:
    if _told is not None:
        _told(self)
    raise LostObjectError(message(self))


def _make_loud(cls: Any) -> None:
    for name in _LOUD:
        setattr(cls, name, _use)


_make_loud(Lost)
