"""Errors cross as plain data, and nothing of the host with them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from perdure.capabilities.errors import (
    ERROR_TYPES,
    MAX_MESSAGE,
    CallFailed,
    CapabilityError,
    NotPerformed,
    as_call_error,
    from_data,
)


@pytest.mark.parametrize("name", sorted(ERROR_TYPES))
def test_every_error_comes_back_as_what_it_was(name: str) -> None:
    data = json.loads(json.dumps(ERROR_TYPES[name]("why", {"n": 1}).to_data()))
    assert data == {"type": name, "message": "why", "data": {"n": 1}}
    error = from_data(data)
    assert type(error) is ERROR_TYPES[name]
    assert (str(error), error.data) == ("why", {"n": 1})


def test_every_public_error_is_in_the_vocabulary() -> None:
    assert set(ERROR_TYPES.values()) == {CapabilityError, *CapabilityError.__subclasses__()} - _of_tests()


class _OutOfStock(CallFailed):
    pass


def _of_tests() -> set[type[CapabilityError]]:
    return {each for each in CapabilityError.__subclasses__() if not each.__module__.startswith("perdure")}


def test_a_class_of_somebody_s_own_travels_as_the_nearest_known() -> None:
    assert _OutOfStock("none left", {"item": 3}).to_data() == {
        "type": "CallFailed",
        "message": "none left",
        "data": {"exception": "_OutOfStock", "item": 3},
    }
    assert _OutOfStock("none left", 7).to_data()["data"] == {"exception": "_OutOfStock", "data": 7}
    assert _OutOfStock("none left").to_data()["data"] == {"exception": "_OutOfStock"}


def test_data_that_is_not_plain_is_left_out_and_said_so() -> None:
    data = CallFailed("why", {"x": object()}).to_data()
    assert data["data"] is None
    assert "data left out" in data["message"]


def test_an_exception_keeps_its_name_and_message_only() -> None:
    error = as_call_error(KeyError("order"))
    assert type(error) is CallFailed
    assert error.to_data() == {"type": "CallFailed", "message": "KeyError: 'order'", "data": {"exception": "KeyError"}}
    assert as_call_error(ValueError()).message == "ValueError"
    known = NotPerformed("x")
    assert as_call_error(known) is known


def test_no_path_of_the_host_is_shown() -> None:
    missing = Path(tempfile.gettempdir(), "secret-folder", "file.txt")
    with pytest.raises(OSError, match="No such file") as caught:
        missing.read_text()
    assert as_call_error(caught.value).message == "FileNotFoundError: No such file or directory: 'file.txt'"
    for folder in (Path.home(), Path.cwd(), Path(tempfile.gettempdir())):
        message = as_call_error(RuntimeError(f"cannot read {folder}/x/y.toml")).message
        assert str(folder) not in message
        assert message.endswith("/x/y.toml")
    assert as_call_error(RuntimeError("GET /v1/orders failed")).message == "RuntimeError: GET /v1/orders failed"


def test_a_long_message_is_cut() -> None:
    assert len(CallFailed("x" * 100_000).to_data()["message"]) == MAX_MESSAGE


@pytest.mark.parametrize("data", [None, 5, [], {}, {"type": 3, "message": 4}, {"type": "Odd", "message": "m"}])
def test_whatever_an_outsider_rejects_with_is_a_failed_call(data: object) -> None:
    error = from_data(data)
    assert type(error) is CallFailed
    assert error.message
    json.dumps(error.to_data())
