"""Variables from outside, put into the namespace in place: what changed is said, and nothing is written for nothing.

What the code itself assigns never comes through here: ``x = None`` in code is None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STRATEGIES", "merge"]

#: ``overwrite`` writes everything; ``preserve`` only what is not there; ``smart`` what differs, but never None over a
#: value and never an empty container over a full one.
STRATEGIES = ("overwrite", "preserve", "smart")

_EMPTY = (list, tuple, dict, set, frozenset, str, bytes, bytearray)


def merge(
    namespace: dict[str, Any], values: Mapping[str, Any], strategy: str, protected: frozenset[str] = frozenset()
) -> dict[str, list[str]]:
    """Put values in; return the names that were ``added``, ``changed``, and ``kept`` as they were."""
    done: dict[str, list[str]] = {"added": [], "changed": [], "kept": []}
    for name, value in values.items():
        if name in protected:
            done["kept"].append(name)
        elif name not in namespace:
            namespace[name] = value
            done["added"].append(name)
        elif _writes(namespace[name], value, strategy):
            namespace[name] = value
            done["changed"].append(name)
        else:
            done["kept"].append(name)
    return done


def _writes(old: Any, new: Any, strategy: str) -> bool:
    if strategy == "preserve" or old is new:
        return False
    if strategy == "overwrite":
        return True
    if new is None or (isinstance(new, _EMPTY) and not new and _is_full(old)):
        return False
    return not _same(old, new)


def _is_full(value: Any) -> bool:
    try:
        return len(value) > 0
    except BaseException:
        return value is not None


def _same(old: Any, new: Any) -> bool:
    """Whether two values are equal and alike; what cannot be compared (an array says no to ``bool``) is not."""
    if type(old) is not type(new):
        return False
    try:
        return bool(old == new)
    except BaseException:
        return False
