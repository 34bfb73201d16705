"""Questions to people: an answer fits, or is refused with the reason and the question stays open."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.capabilities.errors import BadAnswer
from perdure.capabilities.human import ask, line
from perdure.capabilities.shape import mismatch


def _answer(value: Any, **asked: Any) -> Any:
    bound = ask.bind(["Pay?"], asked)
    assert ask.answer is not None
    return ask.answer(bound.arguments, value)


def test_anything_answers_an_open_question() -> None:
    for value in ("yes", 5, None, {"a": [1]}):
        assert _answer(value) == value


def test_a_choice_is_one_of_those_offered_with_its_own_type() -> None:
    assert _answer(2, choices=[1, 2]) == 2
    assert _answer("2", choices=[1, 2]) == 2
    assert _answer("2", choices=["2", 2]) == "2"
    with pytest.raises(BadAnswer, match="'no' is not among the choices: 'yes', 'maybe'"):
        _answer("no", choices=["yes", "maybe"])


def test_a_schema_is_held_to() -> None:
    schema = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "integer", "minimum": 1}}}
    assert _answer({"amount": 3}, schema=schema) == {"amount": 3}
    with pytest.raises(BadAnswer, match=r"the answer\['amount'\] must be at least 1"):
        _answer({"amount": 0}, schema=schema)


def test_a_line_is_text() -> None:
    assert line.answer is not None
    assert line.answer({}, "x") == "x"
    with pytest.raises(BadAnswer, match="with a line of text, not with a int"):
        line.answer({}, 5)


@pytest.mark.parametrize(
    "value, schema, wrong",
    [
        ("a", {"type": "string"}, None),
        (True, {"type": "integer"}, "the answer must be of type integer, not bool"),
        (1.5, {"type": "integer"}, "of type integer"),
        (1, {"type": "number"}, None),
        (None, {"type": ["string", "null"]}, None),
        (1, {"type": ["string", "null"]}, "of type string or null"),
        (1, {"enum": [2, 3]}, "one of 2, 3"),
        (1, {"const": 2}, "must be 2"),
        ("abc", {"minLength": 4}, "characters at least: 4"),
        ("abc", {"maxLength": 2}, "characters at most: 2"),
        ([1, 2], {"maxItems": 1}, "items at most: 1"),
        ([], {"minItems": 1}, "items at least: 1"),
        (5, {"maximum": 4}, "at most 4"),
        ([1, "a"], {"items": {"type": "integer"}}, r"the answer[1] must be of type integer, not str"),
        ({"a": 1, "b": 2}, {"properties": {"a": {}}, "additionalProperties": False}, "has 'b'"),
        ({"a": 1, "b": 2}, {"properties": {"a": {}}}, None),
        ({}, {"required": ["a"]}, "lacks 'a'"),
        ("x", {"pattern": "(a+)+$"}, None),
    ],
)
def test_what_of_a_schema_is_checked(value: Any, schema: Any, wrong: str | None) -> None:
    found = mismatch(value, schema)
    assert (found is None) == (wrong is None)
    assert wrong is None or (found is not None and wrong in found)


@pytest.mark.parametrize(
    "schema",
    [
        5,
        {"type": 7},
        {"type": "odd"},
        {"type": [1, [2]]},
        {"enum": 3},
        {"required": 5},
        {"required": "ab"},
        {"items": 1},
    ],
)
def test_a_schema_that_makes_no_sense_asks_for_nothing(schema: Any) -> None:
    values: tuple[Any, ...] = (1, "a", {}, [])
    for value in values:
        assert mismatch(value, schema) is None
