"""Ids: what can be one, and that building and taking apart agree."""

from __future__ import annotations

import pytest

from perdure.engine import ids
from perdure.engine.errors import InvalidName


@pytest.mark.parametrize("name", ["a", "A9_-x", "0" * 64])
def test_names_that_can_name_a_session(name: str) -> None:
    assert ids.session_name(name) == name


@pytest.mark.parametrize("name", ["", "_a", "-a", "a.b", "a b", "a@1", "a:s0", "ä", "a/b", "../a", "0" * 65, "a\n"])
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(InvalidName, match="use 1 to 64"):
        ids.session_name(name)


def test_ids_are_taken_apart_as_they_were_built() -> None:
    execution = ids.execution_id("an-alysis", 12)
    assert ids.parse_execution(execution) == ("an-alysis", 12)
    assert ids.parse_record(ids.record_id(execution, 3, 45)) == (("an-alysis", 12), 3, 45)


@pytest.mark.parametrize("text", ["a@0", "a@", "a", "a@1:s0", "a@01", "a@1 ", "@1"])
def test_what_is_no_execution(text: str) -> None:
    with pytest.raises(InvalidName):
        ids.parse_execution(text)


@pytest.mark.parametrize("text", ["a@1", "a@1:s0", "a@1:s0.", "a@1:s.1", "a@1:s0.1.2", "a@1:cancel"])
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(InvalidName):
        ids.parse_record(text)
