"""Values: what comes back has the type and the value of what went in, and whatever cannot is refused by name."""

from __future__ import annotations

import collections
import enum
import importlib.util
import json
import math
import subprocess
import sys
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from perdure.capabilities import values
from perdure.capabilities.values import NotPlain, Ref, decode, encode, fingerprint_bytes, refs

_JSON = TypeAdapter(Any)
_ZONES = st.one_of(
    st.none(),
    st.just(UTC),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
    st.sampled_from(["Europe/Paris", "America/Sao_Paulo", "Asia/Kathmandu"]).map(ZoneInfo),
)
_KEYS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec=None), max_size=8),
    st.sampled_from(["$ref", "$", "$tuple", "size", ""]),
    st.binary(max_size=8),
    st.dates(),
    st.uuids(),
)
_LEAVES = st.one_of(
    _KEYS,
    st.integers(min_value=-(2**200), max_value=2**200),
    st.complex_numbers(),
    st.decimals(),
    st.datetimes(timezones=_ZONES, allow_imaginary=True),
    st.times(timezones=st.one_of(st.none(), st.just(UTC))),
    st.builds(lambda value, fold: value.replace(fold=fold), st.times(), st.sampled_from([0, 1])),
    st.timedeltas(),
)
_HASHABLE = st.recursive(
    _KEYS,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(_HASHABLE, inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.sets(_HASHABLE, max_size=4),
        st.frozensets(_HASHABLE, max_size=4),
    ),
    max_leaves=25,
)


def _shape(value: Any) -> Any:
    """Spell a value out so that type, sign of zero, NaN, zone and order all show in a comparison."""
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return kind, [_shape(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(repr(_shape(each)) for each in value)
    if isinstance(value, dict):
        return kind, [(_shape(key), _shape(each)) for key, each in value.items()]
    if isinstance(value, (datetime, time)):
        return kind, repr(value), value.fold
    return kind, repr(value)


@given(_VALUES)
@settings(max_examples=250, deadline=None)
def test_what_goes_in_comes_back_in_type_and_value(value: object) -> None:
    data = encode(value)
    text = json.dumps(data, allow_nan=False)
    text.encode("utf-8")
    json.dumps(data, ensure_ascii=False).encode("utf-8")  # no lone surrogate anywhere
    for parsed in (json.loads(text), msgspec.json.decode(msgspec.json.encode(data)), _JSON.validate_json(text)):
        assert parsed == data
        assert _shape(decode(parsed)) == _shape(value)


@given(_VALUES)
@settings(max_examples=200, deadline=None)
def test_encoding_again_and_canonical_bytes_are_stable(value: object) -> None:
    data = encode(value)
    again = encode(decode(data))
    assert fingerprint_bytes(again) == fingerprint_bytes(data)
    assert json.loads(fingerprint_bytes(data)) is not ...


_OUTSIDE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=4), st.sampled_from(sorted(values._DECODERS))), inner, max_size=2),
        st.builds(lambda tag, inner: {tag: inner}, st.sampled_from(sorted(values._DECODERS)), inner),
    ),
    max_leaves=20,
)


@given(_OUTSIDE)
@settings(max_examples=250, deadline=None)
def test_no_data_of_an_outsider_makes_decode_fail(data: object) -> None:
    encode(decode(data))
    fingerprint_bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        {"$unknown": 1},
        {"$bytes": 5},
        {"$bytes": "###"},
        {"$float": []},
        {"$float": "1.0"},
        {"$complex": [{"$bytes": []}]},
        {"$complex": [1.0, {"$float": []}]},
        {"$complex": [1.0, [[1.0]]]},
        {"$int": "zz"},
        {"$set": [[1]]},
        {"$dict": [[1]]},
        {"$datetime": "yesterday"},
        {"$datetime": ["2026-01-01", 7, None]},
        {"$datetime": ["2026-01-01", 0, 10**18]},
        {"$datetime": ["2026-01-01", 0, [1]]},
        {"$decimal": "1.2.3"},
        {"$uuid": 4},
        {"$ref": "#/definitions/x"},
        {"$ref": "blake3:00", "size": -1},
        {"$ref": "blake3:00", "size": True},
        {"$tuple": [1], "more": 2},
        {"$str": "gA=="},
    ],
)
def test_what_encode_cannot_have_made_is_left_as_it_is(data: dict[str, Any]) -> None:
    assert decode(data) == data
    assert type(decode(data)) is dict
    assert decode(data) is not data


def test_a_zone_that_this_machine_does_not_know_keeps_the_instant() -> None:
    data = {"$datetime": ["2026-07-01T12:00:00+02:00", 0, "Nowhere/Atlantis"]}
    assert decode(data) == datetime(2026, 7, 1, 10, tzinfo=UTC)


def test_malformed_data_nested_deeply_costs_no_more_than_its_size() -> None:
    data: Any = 1
    for _ in range(33):
        data = {"$set": [[data]]}
    started = clock.process_time()
    decode(data)
    assert clock.process_time() - started < 1


def test_a_reference_passes_as_an_object_and_is_found() -> None:
    ref = Ref("blake3:" + "ab" * 32, 300_000)
    data = {"rows": [ref.to_data()], "n": {"$dict": [[1, ref.to_data()]]}}
    assert decode(data) == {"rows": [ref], "n": {1: ref}}
    assert list(refs(data)) == [ref, ref]
    assert list(refs(encode({"$ref": ref.digest, "size": 3}))) == []
    assert decode(encode({"$ref": ref.digest, "size": 3})) == {"$ref": ref.digest, "size": 3}
    with pytest.raises(NotPlain):
        encode(ref)


# --- subclasses and what is refused


class _Color(enum.IntEnum):
    RED = 1


class _Word(enum.StrEnum):
    YES = "yes"


class _Plain(enum.Enum):
    A = 1


class _Point(NamedTuple):
    x: int
    y: int


class _Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


@dataclass
class _Data:
    x: int = 1


class _NoOffset(tzinfo):
    def utcoffset(self, _when: datetime | None, /) -> None:
        return None

    def tzname(self, _when: datetime | None, /) -> None:
        return None

    def dst(self, _when: datetime | None, /) -> None:
        return None


class _Lying(dict[str, int]):
    def __len__(self) -> int:
        return 7


class _Float32:
    """What a numpy scalar offers, so that this holds without numpy installed."""

    __module__ = "numpy"
    shape = ()

    class dtype:  # noqa: N801 - numpy's name
        kind = "f"

    def item(self) -> float:
        return 0.5


@pytest.mark.parametrize(
    "value, plain",
    [
        (_Color.RED, 1),
        (_Word.YES, "yes"),
        (_Text("abc"), "abc"),
        (_Point(1, 2), (1, 2)),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        ({_Word.YES: _Color.RED}, {"yes": 1}),
        ([_Float32()], [0.5]),
    ],
)
def test_a_subclass_that_equals_its_builtin_value_is_taken_for_it(value: object, plain: object) -> None:
    assert _shape(decode(encode(value))) == _shape(plain)


@pytest.mark.parametrize(
    "value, path, says",
    [
        (object(), "", "the value is not plain data: object"),
        ({"rows": [1, 2, {"x": {1, 2}, "y": object()}]}, "['rows'][2]['y']", "object"),
        ([bytearray(b"x")], "[0]", "use bytes(...)"),
        ((1, range(3)), "[1]", "use list(...)"),
        ({_Point: 1}, " key type", "type"),
        ([_Plain.A], "[0]", "use .value"),
        ([_Data()], "[0]", "use dataclasses.asdict(...)"),
        ([clock.gmtime(0)], "[0]", "time.struct_time"),
        ([datetime(2026, 1, 1, tzinfo=_NoOffset())], "[0]", "gives no offset"),
        ([_Lying(a=1)], "[0]", "does not hold what it iterates over"),
        ({"f": lambda: 1}, "['f']", "function"),
        ([Path("/x")], "[0]", "PosixPath"),
    ],
)
def test_whatever_is_not_plain_is_refused_with_its_place(value: object, path: str, says: str) -> None:
    with pytest.raises(NotPlain) as caught:
        encode(value)
    assert caught.value.path == path
    assert says in str(caught.value)


def test_nesting_up_to_the_limit_comes_back_and_one_more_is_refused() -> None:
    makers: list[Callable[[Any], Any]] = [lambda x: [x], lambda x: {"a": x}, lambda x: (x,), lambda x: {1: x}]
    for make in makers:
        value: Any = float("inf")
        for _ in range(values.MAX_DEPTH):
            value = make(value)
        data = encode(value)
        assert decode(data) == value
        with pytest.raises(NotPlain, match="nested too deeply"):
            encode(make(value))
        with pytest.raises(NotPlain, match="nested too deeply"):
            decode(encode(make(value), max_depth=values.MAX_DEPTH + 1))


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotPlain, match="contain itself"):
        encode({"x": loop})


def test_encoded_data_shares_no_container_with_the_value() -> None:
    value: dict[str, Any] = {"floats": [1.0, 2.0], "ints": [1], "words": ["a"], "mixed": [1, "a"], "empty": []}
    data = encode(value)
    back = decode(data)
    for name, each in value.items():
        assert data[name] is not each
        assert back[name] is not data[name]


def test_the_fast_columns_see_what_is_special_in_them() -> None:
    for column in ([1.0, math.nan], [1, 2**70], ["a", "\ud800"], [True, 1], ["a", "é"]):
        assert _shape(decode(encode(column))) == _shape(column)


# --- fingerprints


@pytest.mark.parametrize(
    "one, other",
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ({1: "a", 2: "b"}, {2: "b", 1: "a"}),
        ({"x": {"$a": 1, "b": 2}}, {"x": {"b": 2, "$a": 1}}),
    ],
)
def test_order_of_insertion_is_not_part_of_a_request(one: object, other: object) -> None:
    assert encode(one) is not encode(other)
    assert fingerprint_bytes(encode(one)) == fingerprint_bytes(encode(other))


@pytest.mark.parametrize(
    "one, other",
    [(1, 1.0), (1, True), (0.0, -0.0), ("1", 1), ((1,), [1]), ({1}, frozenset({1})), ({1: 2}, {"1": 2}), (b"a", "a")],
)
def test_different_values_are_different_requests(one: object, other: object) -> None:
    assert fingerprint_bytes(encode(one)) != fingerprint_bytes(encode(other))


def test_sets_are_canonical_whatever_the_hash_seed() -> None:
    program = (
        "from perdure.capabilities.values import *\n"
        "print(fingerprint_bytes(encode({'s': {'a', 'b', 'c', 'd'}, 't': {frozenset('xyz'): 1, 'q': 2}})).decode())"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_the_text_of_a_decimal_does_not_depend_on_the_context() -> None:
    value = Decimal("1E+30")
    with localcontext() as context:
        context.capitals = 0
        data = encode(value)
    assert data == encode(value)


def test_exact_text_of_each_tag() -> None:
    """A stored format: this changes only with the format's number."""
    value = {
        "bytes": b"\x00\xff",
        "tuple": (1,),
        "frozenset": frozenset({1}),
        "dict": {1: "a"},
        "int": 2**64,
        "float": float("-inf"),
        "complex": 1 - 2j,
        "str": "\udfff",
        "date": date(2026, 1, 2),
        "time": time(1, 2, 3, fold=1),
        "datetime": datetime(2026, 1, 2, 3, tzinfo=ZoneInfo("Europe/Paris")),
        "offset": time(1, tzinfo=timezone(timedelta(microseconds=-1))),
        "timedelta": timedelta(seconds=-1),
        "decimal": Decimal("1.50"),
        "uuid": UUID(int=1),
    }
    assert encode(value) == {
        "bytes": {"$bytes": "AP8="},
        "tuple": {"$tuple": [1]},
        "frozenset": {"$frozenset": [1]},
        "dict": {"$dict": [[1, "a"]]},
        "int": {"$int": "0x10000000000000000"},
        "float": {"$float": "-inf"},
        "complex": {"$complex": [1.0, -2.0]},
        "str": {"$str": "7b+/"},
        "date": {"$date": "2026-01-02"},
        "time": {"$time": ["01:02:03", 1, None]},
        "datetime": {"$datetime": ["2026-01-02T03:00:00+01:00", 0, "Europe/Paris"]},
        "offset": {"$time": ["01:00:00", 0, -1]},
        "timedelta": {"$timedelta": [-1, 86399, 0]},
        "decimal": {"$decimal": "1.50"},
        "uuid": {"$uuid": "00000000-0000-0000-0000-000000000001"},
    }


def test_the_module_loads_by_path_with_the_standard_library_alone() -> None:
    spec = importlib.util.find_spec("perdure.capabilities.values")
    assert spec is not None
    assert spec.origin is not None
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('values', {spec.origin!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "assert module.decode(module.encode({1: b'x'})) == {1: b'x'}\n"
        "bad = {n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names) - {'__main__', 'values'}\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, timeout=30)
