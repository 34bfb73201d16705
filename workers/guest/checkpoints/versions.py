"""What the libraries of this Python expect of values that another one made, and those do not have.

An instance comes back with the attributes it had. Where this version sets one more in `__init__`, and reads it, its
absence would only be met in the middle of the library; so the class says what it would have been. That another Python
made a value is not said of it, and stays so however often it is stored again: so it is done at every restore.
"""

from __future__ import annotations

import enum
import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["adapt"]


class _Made:
    """Makes the attribute, and leaves it there, when an instance that lacks it is asked."""

    def __init__(self, name: str, make: Callable[[Any], Any]) -> None:
        self._name, self._make = name, make

    def __get__(self, instance: Any, _kind: type) -> Any:
        if instance is None:
            return self
        made = instance.__dict__[self._name] = self._make(instance)
        return made


def _prefixes(parser: Any) -> Any:
    full, inline = parser._comment_prefixes, parser._inline_comment_prefixes
    return types.SimpleNamespace(full=tuple(full), inline=tuple(inline))


def _full(parser: Any) -> Any:
    return parser._prefixes.full


def _inline(parser: Any) -> Any:
    return parser._prefixes.inline


class _Expected(NamedTuple):
    here: bool
    module: str
    kind: str
    attribute: str
    value: Any


_SINCE_13 = sys.version_info >= (3, 13)

#: Attributes that `__init__` sets in these versions and not in others; slots are not among them.
_EXPECTED = (
    _Expected(_SINCE_13, "argparse", "Action", "deprecated", False),
    _Expected(_SINCE_13, "argparse", "_SubParsersAction", "_deprecated", _Made("_deprecated", lambda _: set())),
    _Expected(_SINCE_13, "asyncio.queues", "Queue", "_is_shutdown", False),
    _Expected(_SINCE_13, "configparser", "RawConfigParser", "_allow_unnamed_section", False),
    _Expected(_SINCE_13, "configparser", "RawConfigParser", "_prefixes", _Made("_prefixes", _prefixes)),
    _Expected(not _SINCE_13, "configparser", "RawConfigParser", "_comment_prefixes", _Made("_comment_prefixes", _full)),
    _Expected(
        not _SINCE_13,
        "configparser",
        "RawConfigParser",
        "_inline_comment_prefixes",
        _Made("_inline_comment_prefixes", _inline),
    ),
    _Expected(_SINCE_13, "filecmp", "dircmp", "shallow", True),
    _Expected(_SINCE_13, "functools", "singledispatchmethod", "_method_cache", None),
    _Expected(_SINCE_13, "logging", "LoggerAdapter", "merge_extra", False),
    _Expected(_SINCE_13, "queue", "Queue", "is_shutdown", False),
)


def adapt(classes: Iterable[type]) -> None:
    """Have this Python's libraries find what they look for, once everything is loaded; `classes` are the session's."""
    for each in _EXPECTED:
        kind = getattr(sys.modules.get(each.module), each.kind, None)
        if each.here and kind is not None and not hasattr(kind, each.attribute):
            setattr(kind, each.attribute, each.value)
    for made in classes:
        if issubclass(made, enum.Enum):
            _know_unhashable(made)


def _know_unhashable(made: Any) -> None:
    """Find members by values that cannot be hashed: since 3.13 they are known by name."""
    if "_unhashable_values_map_" in vars(made) or not hasattr(made, "_unhashable_values_map_"):
        return
    known: dict[str, list[Any]] = {}
    for name, member in made._member_map_.items():
        try:
            hash(member._value_)
        except TypeError:
            known[name] = [member._value_]
    type.__setattr__(made, "_unhashable_values_map_", known)
