"""What has all of its state in the memory of the object itself: looking at that takes far less than reading the state.

That it is so is tried once for each kind, with an object of its own: everything that changes the state must show.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from .identity import memory, native

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["lies_inside"]


def lies_inside(kind: Any) -> bool:
    """Whether everything that changes an instance of a kind that is known here changes its memory.

    Of `RandomState` it is that of its source of chance, too.
    """
    return native and _tried(kind)


@functools.cache
def _tried(kind: Any) -> bool:
    if kind.__module__ == "random":
        generator = kind(1)
        return _show(lambda: memory(generator), [generator.random] * 3)
    if kind.__module__ == "decimal":
        return _context(kind)
    if kind.__name__ == "RandomState":
        state = kind(1)
        # The second number of two that are drawn at once only changes whether there is another.
        draws = [state.random_sample, *[state.standard_normal] * 4]
        return _show(lambda: memory(state) + memory(state._bit_generator), draws)
    source = kind(1)
    generator = sys.modules["numpy.random"].Generator(source)
    halves = functools.partial(generator.integers, 1 << 32, dtype="uint32")
    return _show(lambda: memory(source), [source.random_raw, *[halves] * 3, source.random_raw])


def _context(kind: Any) -> bool:
    context = kind()
    settings = {"prec": 7, "rounding": "ROUND_UP", "Emin": -9, "Emax": 9, "clamp": 1, "capitals": 0}
    changes: list[Callable[[], Any]] = [functools.partial(setattr, context, *each) for each in settings.items()]
    for flags in (context.flags, context.traps):
        changes += [functools.partial(flags.__setitem__, signal, not flags[signal]) for signal in flags]
    return _show(lambda: memory(context), changes)


def _show(look: Callable[[], bytes], changes: list[Callable[[], Any]]) -> bool:
    seen = [look()]
    for change in changes:
        change()
        seen.append(look())
    return len(set(seen)) == len(seen)
