"""Whether an answer has the shape that was asked for: the part of JSON Schema that questions to people need.

Checked: ``type``, ``enum``, ``const``, ``properties``, ``required``, ``additionalProperties: false``, ``items``,
``minItems``, ``maxItems``, ``minLength``, ``maxLength``, ``minimum``, ``maximum``. Other keywords are for whoever shows
the question. ``pattern`` is among these on purpose: matching an expression that code chose could take for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

__all__ = ["mismatch"]

_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "array": lambda value: isinstance(value, (list, tuple)),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}

#: What a bound measures, and the comparison that breaks it.
_BOUNDS: Final[dict[str, tuple[type | tuple[type, ...], Callable[[Any, Any], bool], str]]] = {
    "minimum": ((int, float), lambda value, bound: value < bound, "at least"),
    "maximum": ((int, float), lambda value, bound: value > bound, "at most"),
    "minLength": (str, lambda value, bound: len(value) < bound, "characters at least:"),
    "maxLength": (str, lambda value, bound: len(value) > bound, "characters at most:"),
    "minItems": ((list, tuple), lambda value, bound: len(value) < bound, "items at least:"),
    "maxItems": ((list, tuple), lambda value, bound: len(value) > bound, "items at most:"),
}


def mismatch(value: Any, schema: Any, where: str = "the answer") -> str | None:
    """Return what is wrong with ``value`` in one sentence, or None; a schema that makes no sense asks for nothing."""
    if not isinstance(schema, Mapping):
        return None
    return _kind(value, schema, where) or _bounds(value, schema, where) or _inside(value, schema, where)


def _kind(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    kinds = schema.get("type", [])
    names = [kinds] if isinstance(kinds, str) else list(kinds) if isinstance(kinds, Sequence) else []
    checks = [_TYPES[each] for each in names if isinstance(each, str) and each in _TYPES]
    if checks and not any(check(value) for check in checks):
        return f"{where} must be of type {' or '.join(map(str, names))}, not {type(value).__name__}"
    allowed = schema.get("enum")
    if isinstance(allowed, Sequence) and not isinstance(allowed, str) and value not in allowed:
        return f"{where} must be one of {', '.join(map(repr, allowed))}"
    if "const" in schema and value != schema["const"]:
        return f"{where} must be {schema['const']!r}"
    return None


def _bounds(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    for name, (kind, breaks, words) in _BOUNDS.items():
        bound = schema.get(name)
        if not isinstance(bound, (int, float)) or not isinstance(value, kind) or isinstance(value, bool):
            continue
        if breaks(value, bound):
            return f"{where} must be {words} {bound}"
    return None


def _inside(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    if isinstance(value, (list, tuple)):
        found = (mismatch(each, schema.get("items"), f"{where}[{index}]") for index, each in enumerate(value))
        return next((each for each in found if each), None)
    if not isinstance(value, dict):
        return None
    properties = schema.get("properties")
    known: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    for name in required if isinstance(required, Sequence) and not isinstance(required, str) else ():
        if name not in value:
            return f"{where} lacks {name!r}"
    for name, each in value.items():
        if name not in known and schema.get("additionalProperties") is False:
            return f"{where} has {name!r}, which was not asked for"
        wrong = mismatch(each, known.get(name), f"{where}[{name!r}]")
        if wrong:
            return wrong
    return None
