"""Small unchangeable values as JSON: they are in the manifest itself, and no pickle is made or read for them.

A scalar of JSON stands for itself, an object with one short key for what JSON has no word for, and a list of one number
for a root: the value with a unit of its own.
"""

from __future__ import annotations

import base64
import math
import struct
import sys
import types
from typing import TYPE_CHECKING, Any, Final

from . import texts
from .definitions import importable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MISSING", "decode", "encode"]

#: Texts and bytes up to this many characters are atoms; longer ones get a unit, whose data is stored only once.
LONGEST: Final = 4096
#: Integers that every reader of JSON agrees on.
_SAFE_INTEGER: Final = 1 << 53
_BIG_INTEGER: Final = 1 << 8192

MISSING: Final = object()

_DEFINITIONS = (type, types.FunctionType, types.BuiltinFunctionType)


def encode(value: Any) -> Any:
    """Return the JSON form of an atom; `MISSING` if `value` is none."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    by_type = _ENCODERS.get(kind)
    if by_type is not None:
        return by_type(value)
    # Not isinstance: it asks the value for its __class__, which code may have made of anything (a dead proxy raises).
    if issubclass(type(value), _DEFINITIONS):
        return _encode_definition(value)
    return MISSING


def _encode_integer(value: int) -> Any:
    if -_SAFE_INTEGER < value < _SAFE_INTEGER:
        return value
    return {"i": hex(value)} if -_BIG_INTEGER < value < _BIG_INTEGER else MISSING


def _encode_float(value: float) -> Any:
    return value if math.isfinite(value) else {"f": struct.pack(">d", value).hex()}


def _encode_text(value: str) -> Any:
    if len(value) > LONGEST:
        return MISSING
    place = texts.place_of(value)
    if place is not None:
        return {"g": [*place, "str"]}
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"s": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _encode_bytes(value: bytes) -> Any:
    return {"b": base64.b64encode(value).decode()} if len(value) <= LONGEST else MISSING


def _encode_complex(value: complex) -> Any:
    return {"c": struct.pack(">dd", value.real, value.imag).hex()}


def _encode_module(value: types.ModuleType) -> Any:
    name = value.__name__
    return {"m": name} if name != "__main__" and sys.modules.get(name) is value and name.isascii() else MISSING


def _encode_definition(value: Any) -> Any:
    if type(value) is types.BuiltinFunctionType and not isinstance(value.__self__, types.ModuleType | None):
        return MISSING
    if not importable(value) or value.__module__ not in sys.modules:
        return MISSING
    return {"g": [value.__module__, value.__qualname__, type(value).__qualname__]}


_ENCODERS: dict[type, Callable[[Any], Any]] = {
    int: _encode_integer,
    float: _encode_float,
    str: _encode_text,
    bytes: _encode_bytes,
    complex: _encode_complex,
    types.ModuleType: _encode_module,
}


def decode(atom: Any, find: Callable[[str, str], Any]) -> Any:
    """Return the value of an atom; `find(module, qualified name)` brings what is imported."""
    if not isinstance(atom, dict):
        return atom
    ((kind, text),) = atom.items()
    if kind == "g":
        return find(text[0], text[1])
    return _DECODERS[kind](text)


def _decode_module(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


_DECODERS: dict[str, Callable[[str], Any]] = {
    "i": lambda text: int(text, 16),
    "f": lambda text: struct.unpack(">d", bytes.fromhex(text))[0],
    "s": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "b": base64.b64decode,
    "c": lambda text: complex(*struct.unpack(">dd", bytes.fromhex(text))),
    "m": _decode_module,
}
