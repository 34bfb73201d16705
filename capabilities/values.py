"""Plain Python data as JSON-able data and back. A guest loads this very file: it imports the standard library only.

1. What comes back has the type and the value of what went in; anything else is refused by name, never approximated.
2. Nothing is executed to decode: no pickles, no classes looked up by name, and no data makes ``decode`` fail but depth.
3. What ``encode`` returns is always valid JSON: no NaN, no integer beyond 64 bit, no lone surrogate, only string keys.

JSON's own types stand for themselves; the rest is a dictionary with one key that starts with ``$`` (docs/design.md).
A subclass is taken for its builtin type where the two compare equal and iterate alike: enum members mixed with str or
int, named tuples, OrderedDict and defaultdict, numpy scalars. Subclasses of dates, of Decimal and of UUID are refused,
and so are tuples that hold more than their items (struct_time, stat_result).
"""

from __future__ import annotations

import json
import sys
from binascii import a2b_base64, b2a_base64
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["MAX_DEPTH", "NotPlain", "Ref", "decode", "encode", "fingerprint_bytes", "refs"]

#: Containers inside containers. Far from CPython's recursion limit (1000) for both directions, each level being a few
#: frames; far above what data has in practice.
MAX_DEPTH = 100

_INT_MIN = -(2**63)
_INT_MAX = 2**63 - 1
_TOO_DEEP = "it is nested too deeply (does it contain itself?)"
_SCALARS = frozenset({type(None), bool})
_REF_PREFIX = "blake3:"


class NotPlain(TypeError):
    """A value that is not plain data; ``path`` says where in the whole (``["rows"][3]``), ``kind`` which type."""

    def __init__(self, path: str, kind: str, why: str) -> None:
        super().__init__(f"{path or 'the value'} is not plain data: {why}")
        self.path = path
        self.kind = kind
        self.why = why


class Ref:
    """A value kept as a blob: its digest (``blake3:...``) and size in bytes. Only the host makes and resolves one."""

    __slots__ = ("digest", "size")

    def __init__(self, digest: str, size: int) -> None:
        self.digest = digest
        self.size = size

    def to_data(self) -> dict[str, Any]:
        """Return the object that takes the value's place in encoded data."""
        return {"$ref": self.digest, "size": self.size}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and (self.digest, self.size) == (other.digest, other.size)

    def __hash__(self) -> int:
        return hash((self.digest, self.size))

    def __repr__(self) -> str:
        return f"Ref({self.digest!r}, {self.size})"


class _Refused(Exception):
    def __init__(self, value: object, why: str) -> None:
        self.value = value
        self.why = why


def encode(value: Any, *, max_depth: int = MAX_DEPTH) -> Any:
    """Return ``value`` as JSON-able data that shares no container with it; raise NotPlain naming what cannot be."""
    try:
        return _encode(value, max_depth)
    except _Refused as refused:
        path = _find(value, refused.value)
        kind = type(refused.value).__qualname__
        why = refused.why
    raise NotPlain(path, kind, why)


def decode(data: Any, *, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value that ``data`` stands for, sharing no container with it.

    An object with ``$`` that ``encode`` cannot have made is left as it is. Only depth is refused (NotPlain).
    """
    try:
        return _decode(data, max_depth)
    except _Refused as refused:
        kind = type(refused.value).__qualname__
        why = refused.why
    raise NotPlain("", kind, why)


def fingerprint_bytes(data: Any) -> bytes:
    """Return the canonical JSON of encoded data: the same for equal dictionaries and sets in any order."""
    text = _dumps(data)
    if '"$' in text:
        text = _dumps(_canonical(data))
    return text.encode()


def refs(data: Any) -> Iterator[Ref]:
    """Yield every Ref in encoded data: for a host that must refuse or resolve them."""
    stack = [data]
    while stack:
        item = stack.pop()
        if type(item) is dict:
            ref = _ref(item)
            if ref is not None:
                yield ref
            else:
                stack.extend(item.values())
        elif type(item) is list:
            stack.extend(item)


# --- encoding


def _encode(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _encode_text(value)
    if kind in _SCALARS:
        return value
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return encoder(value, depth)
    return _encode_other(value, depth)


def _encode_text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"$str": _base64(value.encode("utf-8", "surrogatepass"))}
    return value


def _encode_int(value: int, _depth: int) -> Any:
    # Hexadecimal: CPython refuses to convert more than 4300 decimal digits.
    return value if _INT_MIN <= value <= _INT_MAX else {"$int": hex(value)}


def _encode_float(value: float, _depth: int) -> Any:
    if isfinite(value):
        return value
    return {"$float": "nan" if value != value else "inf" if value > 0 else "-inf"}  # noqa: PLR0124 - NaN's definition


def _encode_complex(value: complex, _depth: int) -> Any:
    return {"$complex": [_encode_float(value.real, 0), _encode_float(value.imag, 0)]}


def _encode_bytes(value: bytes, _depth: int) -> Any:
    return {"$bytes": _base64(value)}


def _encode_items(value: Any, depth: int) -> list[Any]:
    if depth <= 0:
        raise _Refused(value, _TOO_DEEP)
    kinds = set(map(type, value))
    # Long columns of numbers or words are what big values are made of: these tests run at the speed of C.
    if kinds == _FLOATS and all(map(isfinite, value)):
        return list(value)
    if kinds == _INTS and min(value) >= _INT_MIN and max(value) <= _INT_MAX:
        return list(value)
    if kinds == _TEXTS and all(map(str.isascii, value)):
        return list(value)
    depth -= 1
    return [_encode(item, depth) for item in value]


def _encode_tuple(value: tuple[Any, ...], depth: int) -> Any:
    return {"$tuple": _encode_items(value, depth)}


def _encode_set(value: set[Any], depth: int) -> Any:
    return {"$set": _encode_items(value, depth)}


def _encode_frozenset(value: frozenset[Any], depth: int) -> Any:
    return {"$frozenset": _encode_items(value, depth)}


def _encode_dict(value: dict[Any, Any], depth: int) -> Any:
    if depth <= 0:
        raise _Refused(value, _TOO_DEEP)
    depth -= 1
    if all(type(key) is str and key[:1] != "$" and (key.isascii() or _is_text(key)) for key in value):
        return {key: _encode(item, depth) for key, item in value.items()}
    return {"$dict": [[_encode(key, depth), _encode(item, depth)] for key, item in value.items()]}


def _encode_timedelta(value: timedelta, _depth: int) -> Any:
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


def _encode_date(value: date, _depth: int) -> Any:
    return {"$date": value.isoformat()}


def _encode_datetime(value: datetime, _depth: int) -> Any:
    return {"$datetime": _clock_payload(value)}


def _encode_time(value: time, _depth: int) -> Any:
    return {"$time": _clock_payload(value)}


def _clock_payload(value: datetime | time) -> Any:
    zone = value.tzinfo
    name = _zone_name(zone)
    offset = value.utcoffset()
    if zone is not None and name is None:
        if offset is None:
            raise _Refused(value, f"its time zone ({type(zone).__qualname__}) gives no offset")
        if offset.microseconds:
            # CPython's fromisoformat loses them where they are all there is.
            return [value.replace(tzinfo=None).isoformat(), value.fold, offset // timedelta(microseconds=1)]
    if name is None and not value.fold:
        return value.isoformat()
    return [value.isoformat(), value.fold, name]


def _zone_name(zone: tzinfo | None) -> str | None:
    # Importing zoneinfo costs a guest as much as the rest of this module; without it, no value can have such a zone.
    module = sys.modules.get("zoneinfo")
    if module is None or type(zone) is not module.ZoneInfo:
        return None
    key: str | None = getattr(zone, "key", None)
    return key


def _encode_decimal(value: Decimal, _depth: int) -> Any:
    # The current context may ask for a small exponent letter; the text must not depend on it.
    return {"$decimal": str(value).replace("e", "E")}


def _encode_uuid(value: UUID, _depth: int) -> Any:
    return {"$uuid": str(value)}


_FLOATS = {float}
_INTS = {int}
_TEXTS = {str}
_ENCODERS: dict[type, Callable[[Any, int], Any]] = {
    int: _encode_int,
    float: _encode_float,
    list: _encode_items,
    dict: _encode_dict,
    tuple: _encode_tuple,
    bytes: _encode_bytes,
    set: _encode_set,
    frozenset: _encode_frozenset,
    complex: _encode_complex,
    date: _encode_date,
    time: _encode_time,
    datetime: _encode_datetime,
    timedelta: _encode_timedelta,
    Decimal: _encode_decimal,
    UUID: _encode_uuid,
}


def _encode_other(value: Any, depth: int) -> Any:
    """Encode a subclass whose builtin value compares equal to it, or a numpy scalar; refuse the rest."""
    for base, plain in _BASES:
        if isinstance(value, base):
            return _encode(plain(value), depth)
    if isinstance(value, (list, set, frozenset, dict)) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        if depth <= 0:
            raise _Refused(value, _TOO_DEEP)
        plain_value = next(base(value) for base in (list, set, frozenset, dict, tuple) if isinstance(value, base))
        if len(plain_value) != len(value):
            raise _Refused(value, f"{_kind(value)} does not hold what it iterates over")
        return _encode(plain_value, depth)
    number = _numpy_number(value)
    if number is not None:
        return _encode(number, depth)
    raise _Refused(value, f"{_kind(value)} cannot be recorded{_hint(value)}")


# The builtin methods themselves: a subclass may have replaced its own.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__complex__),
    (bytes, lambda value: bytes.__getitem__(value, slice(None))),
)


def _numpy_number(value: Any) -> Any:
    kind = type(value)
    if kind.__module__ != "numpy" or getattr(getattr(value, "dtype", None), "kind", "") not in tuple("biufc"):
        return None
    if getattr(value, "shape", None) != () or hasattr(kind, "__setitem__"):
        return None  # an array, if of no dimension
    number = value.item()
    return number if type(number) in {bool, int, float, complex} else None


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


#: What to write instead, by what the value offers.
_HINTS = (
    ("to_pydatetime", ".to_pydatetime()"),
    ("tolist", ".tolist()"),
    ("to_dict", ".to_dict()"),
    ("_member_map_", ".value"),
    ("__dataclass_fields__", "dataclasses.asdict(...)"),
    ("model_dump", ".model_dump()"),
    ("keys", "dict(...)"),
    ("__iter__", "list(...)"),
)


def _hint(value: object) -> str:
    if isinstance(value, (bytearray, memoryview)):
        return "; use bytes(...)"
    kind = type(value)
    return next((f"; use {use}" for name, use in _HINTS if hasattr(kind, name)), "")


def _find(value: Any, wanted: object) -> str:
    """Say where in ``value`` the object ``wanted`` is, the shallowest place first."""
    level, seen = [(value, "")], set[int]()
    while level:
        below: list[tuple[Any, str]] = []
        for item, path in level:
            if item is wanted:
                return path
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, dict):
                below += [(key, f"{path} key {_short(key)}") for key in item]
                below += [(each, f"{path}[{_short(key)}]") for key, each in item.items()]
            elif isinstance(item, (list, tuple)):
                below += [(each, f"{path}[{index}]") for index, each in enumerate(item)]
            elif isinstance(item, (set, frozenset)):
                below += [(each, f"{path} item {_short(each)}") for each in item]
        level = below
    return ""


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bytes)) else _kind(value)
    return text if len(text) <= 40 else text[:37] + "..."  # noqa: PLR2004 - a name, not the value


# --- decoding


def _decode(data: Any, depth: int) -> Any:
    kind = type(data)
    if kind is dict:
        if len(data) == 1:
            (tag,) = data
            decoder = _DECODERS.get(tag)
            if decoder is not None:
                try:
                    return decoder(data[tag], depth)
                except _NOT_OURS:
                    # Not decoded inside either: trying both ways would double the work at every level.
                    return _copy(data, depth)
        elif "$ref" in data:
            ref = _ref(data)
            if ref is not None:
                return ref
        if depth <= 0:
            raise _Refused(data, _TOO_DEEP)
        depth -= 1
        return {key: _decode(item, depth) for key, item in data.items()}
    if kind is list:
        return _decode_items(data, depth)
    return data


def _copy(data: Any, depth: int) -> Any:
    if type(data) is not dict and type(data) is not list:
        return data
    if depth <= 0:
        raise _Refused(data, _TOO_DEEP)
    if type(data) is dict:
        return {key: _copy(item, depth - 1) for key, item in data.items()}
    return [_copy(item, depth - 1) for item in data]


def _decode_items(data: Any, depth: int) -> list[Any]:
    if type(data) is not list:
        raise ValueError
    if depth <= 0:
        raise _Refused(data, _TOO_DEEP)
    kinds = set(map(type, data))
    if dict not in kinds and list not in kinds:
        return list(data)
    depth -= 1
    return [_decode(item, depth) for item in data]


def _decode_dict(data: Any, depth: int) -> dict[Any, Any]:
    if type(data) is not list or not all(type(pair) is list and len(pair) == 2 for pair in data):  # noqa: PLR2004
        raise ValueError
    if depth <= 0:
        raise _Refused(data, _TOO_DEEP)
    depth -= 1
    return {_decode(key, depth): _decode(item, depth) for key, item in data}


def _decode_complex(data: Any, _depth: int) -> complex:
    real, imag = data
    return complex(_part(real), _part(imag))


def _part(data: Any) -> float:
    if type(data) is dict and len(data) == 1:
        return _decode_float(data.get("$float"), 0)
    if type(data) is not float:
        raise ValueError
    return data


def _decode_float(data: Any, _depth: int) -> float:
    if data not in {"nan", "inf", "-inf"}:
        raise ValueError
    return float(data)


def _decode_timedelta(data: Any, _depth: int) -> timedelta:
    days, seconds, microseconds = data
    return timedelta(days, seconds, microseconds)


def _zone_of(name: Any, offset: tzinfo | None) -> tzinfo | None:
    if name is None:
        return offset
    if type(name) is int:
        return timezone(timedelta(microseconds=name))
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        # No such zone on this machine: the offset still gives the instant.
        return offset


def _decode_datetime(data: Any, _depth: int) -> datetime:
    if type(data) is str:
        return datetime.fromisoformat(data)
    text, fold, name = data
    value = datetime.fromisoformat(text)
    return value.replace(fold=fold, tzinfo=_zone_of(name, value.tzinfo))


def _decode_time(data: Any, _depth: int) -> time:
    if type(data) is str:
        return time.fromisoformat(data)
    text, fold, name = data
    value = time.fromisoformat(text)
    return value.replace(fold=fold, tzinfo=_zone_of(name, value.tzinfo))


#: What malformed payloads raise. A _Refused is none of them, so that depth ends the whole.
_NOT_OURS = (ValueError, TypeError, AttributeError, OverflowError, InvalidOperation)
_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "$tuple": lambda data, depth: tuple(_decode_items(data, depth)),
    "$set": lambda data, depth: set(_decode_items(data, depth)),
    "$frozenset": lambda data, depth: frozenset(_decode_items(data, depth)),
    "$dict": _decode_dict,
    "$bytes": lambda data, _depth: a2b_base64(data, strict_mode=True),
    "$str": lambda data, _depth: a2b_base64(data, strict_mode=True).decode("utf-8", "surrogatepass"),
    "$int": lambda data, _depth: int(data, 16),
    "$float": _decode_float,
    "$complex": _decode_complex,
    "$date": lambda data, _depth: date.fromisoformat(data),
    "$time": _decode_time,
    "$datetime": _decode_datetime,
    "$timedelta": _decode_timedelta,
    "$decimal": lambda data, _depth: Decimal(data),
    "$uuid": lambda data, _depth: UUID(data),
}


# --- shared


def _base64(value: bytes) -> str:
    return b2a_base64(value, newline=False).decode("ascii")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ref(data: dict[str, Any]) -> Ref | None:
    if len(data) == 2 and "size" in data and "$ref" in data:  # noqa: PLR2004
        digest, size = data["$ref"], data["size"]
        if type(digest) is str and digest.startswith(_REF_PREFIX) and type(size) is int and size >= 0:
            return Ref(digest, size)
    return None


#: Made once: ``json.dumps`` would make an encoder for every call.
_dumps = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _canonical(data: Any) -> Any:
    if type(data) is list:
        return [_canonical(item) for item in data]
    if type(data) is not dict:
        return data
    plain = {key: _canonical(item) for key, item in data.items()}
    if len(plain) == 1:
        (tag,) = plain
        if tag in {"$set", "$frozenset", "$dict"} and type(plain[tag]) is list:
            plain[tag].sort(key=_dumps)
    return plain
