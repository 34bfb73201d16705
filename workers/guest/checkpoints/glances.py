"""Which values tell at a glance whether they changed, beside plain containers, numbers and texts.

A glance walks through a small unit in C and gives a digest that is the same as long as pickling it would give the same
bytes; a thousand units that did not change then cost a millisecond, and pickling them thirty. What it does not know is
pickled to see.
"""

from __future__ import annotations

import copyreg
import sys
from typing import TYPE_CHECKING, Any, Final

from . import recipes
from .definitions import importable
from .identity import memory
from .inside import lies_inside

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["judge_open", "parts_of"]

#: What an instance is to a glance: unknown, its class and its `__dict__`, or what `parts_of` gives.
UNKNOWN: Final = 0
OPEN: Final = 1
PARTS: Final = 2

#: What makes of an instance something else than what is in its `__dict__`.
_HOOKS = frozenset({
    *("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__slots__"),
    *("__getattribute__", "__getattr__", "__class__"),
})  # fmt: skip
_HEAP_TYPE = 1 << 9


def judge_open(kind: type) -> int:
    """Say what an instance of `kind` is to a glance."""
    # With a metaclass, any question to the class may be answered by code.
    if type(kind) is not type:
        return UNKNOWN
    if _parts(kind) is not None:
        return PARTS
    if importable(kind) or kind in copyreg.dispatch_table:
        return UNKNOWN
    *own, base = kind.__mro__
    plain = base is object and not any(_says_more(each) for each in own) and recipes.by_base(kind) is None
    return OPEN if plain else UNKNOWN


def _says_more(kind: type) -> bool:
    return type(kind) is not type or not kind.__flags__ & _HEAP_TYPE or not _HOOKS.isdisjoint(vars(kind))


def parts_of(thing: Any) -> list[Any]:
    """Return what `thing` consists of, for a kind that `judge_open` calls `PARTS`."""
    parts = _parts(type(thing))
    return parts(thing) if parts is not None else [thing]


def _parts(kind: type) -> Callable[[Any], list[Any]] | None:
    if kind is getattr(sys.modules.get("random"), "Random", None):
        return _of_random
    numpy = sys.modules.get("numpy.random")
    if numpy is None or kind.__module__.partition(".")[0] != "numpy":
        return None
    if kind is numpy.Generator:
        return _of_generator
    if kind is numpy.SeedSequence:
        return _of_seeds
    return _of_source if kind in (numpy.PCG64, numpy.PCG64DXSM, numpy.SFC64) else None


def _of_random(thing: Any) -> list[Any]:
    return [memory(thing), thing.gauss_next] if lies_inside(type(thing)) else [thing.getstate()]


def _of_generator(thing: Any) -> list[Any]:
    return [thing.bit_generator]


def _of_source(thing: Any) -> list[Any]:
    return [memory(thing) if lies_inside(type(thing)) else thing.state, thing.seed_seq]


def _of_seeds(thing: Any) -> list[Any]:
    return [thing.state]
