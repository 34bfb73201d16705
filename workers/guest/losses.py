"""Which variables a step that ends now would lose, beyond those that its base has lost already."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from .checkpoints import tracebacks
from .checkpoints.recompute import REMADE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .checkpoints.report import NameReport

__all__ = ["Losses"]

#: What is remade so that nobody can tell: a file of the workspace, opened again where it stood. And what hardly anybody
#: asks for, where every error that a script keeps would hold its step open: variables of frames that have ended.
_EXACT = ("is opened again where it stood", REMADE, tracebacks.WHY)


class Losses:
    """What the base's report says of its names, and which objects they were bound to."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str, Any, int]] = {}
        self._states: dict[str, str] = {}

    def take(
        self, names: Iterable[NameReport], namespace: Mapping[str, Any], states: dict[str, str] | None = None
    ) -> None:
        """Take a checkpoint's report as the base of what follows, and which states of the process it lost.

        No value is kept alive for it.
        """
        self._states = states or {}
        self._known = {
            each.name: (each.why, each.where, _weak(namespace[each.name]), id(namespace[each.name]))
            for each in names
            if each.status != "kept" and each.name in namespace
        }

    def new(self, names: Iterable[NameReport], namespace: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the names that would lose something now, and why."""
        for each in names:
            if each.status == "kept" or each.why.endswith(_EXACT) or each.name not in namespace:
                continue
            if self._inherited(each, namespace[each.name]):
                continue
            yield each.name, f"{each.where}: {each.why}" if each.where else each.why

    def new_states(self, states: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the states of the process that would lose something now, and why."""
        return (each for each in states.items() if each not in self._states.items())

    def _inherited(self, now: NameReport, value: Any) -> bool:
        why, where, weak, number = self._known.get(now.name, ("", "", None, 0))
        if (why, where) != (now.why, now.where):
            return False
        return weak() is value if weak is not None else number == id(value)


def _weak(value: Any) -> Any:
    try:
        return weakref.ref(value)
    except TypeError:
        return None
