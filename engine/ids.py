"""The ids of promises: built and taken apart here and nowhere else. docs/design.md has the table."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import InvalidName

__all__ = [
    "BLOBS_ID",
    "STATE_ID",
    "ExecutionId",
    "RecordId",
    "base_id",
    "cancel_id",
    "death_id",
    "execution_id",
    "parse_execution",
    "parse_record",
    "parse_step",
    "record_id",
    "rpc_id",
    "session_name",
    "settings_id",
    "step_id",
]

#: The promise that names the state itself; a dot is not allowed in a session name, so they cannot meet.
STATE_ID = "perdure.state"
#: The promise that says how to tell where its blobs are.
BLOBS_ID = "perdure.blobs"

_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_EXECUTION = re.compile(rf"({_SESSION.pattern})@([1-9][0-9]{{0,11}})")
_RECORD = re.compile(rf"({_EXECUTION.pattern}):s([0-9]{{1,9}})\.([0-9]{{1,9}})")


class ExecutionId(NamedTuple):
    """An execution's session and number."""

    session: str
    n: int

    def __str__(self) -> str:
        return f"{self.session}@{self.n}"


class RecordId(NamedTuple):
    """A record's execution, step and number."""

    execution: ExecutionId
    step: int
    number: int


def session_name(text: str) -> str:
    """Return ``text`` if it can name a session, else raise InvalidName."""
    if not _SESSION.fullmatch(text):
        msg = (
            f"{text!r} cannot name a session: use 1 to 64 letters, digits, '_' or '-', "
            "starting with a letter or a digit"
        )
        raise InvalidName(msg)
    return text


def execution_id(session: str, n: int) -> str:
    """Name execution ``n`` (from 1) of a session."""
    return f"{session}@{n}"


def parse_execution(text: str) -> ExecutionId:
    """Take an execution's id apart, or raise InvalidName."""
    match = _EXECUTION.fullmatch(text)
    if match is None:
        msg = f"{text!r} is not the id of an execution: they look like analysis@4"
        raise InvalidName(msg)
    return ExecutionId(match[1], int(match[2]))


def parse_record(text: str) -> RecordId:
    """Take a record's id apart, or raise InvalidName."""
    match = _RECORD.fullmatch(text)
    if match is None:
        msg = f"{text!r} is not the id of a call: they look like analysis@4:s0.2 (perdure pending lists them)"
        raise InvalidName(msg)
    return RecordId(ExecutionId(match[2], int(match[3])), int(match[4]), int(match[5]))


def parse_step(text: str) -> int:
    """Return the number of a step from its id, or raise InvalidName."""
    return parse_record(f"{text}.0").step


def settings_id(session: str, version: int) -> str:
    """Name version ``version`` (from 0) of a session's settings."""
    return f"{session}:c{version}"


def base_id(session: str) -> str:
    """Name what a forked session starts from."""
    return f"{session}:base"


def cancel_id(execution: str) -> str:
    """Name the request to cancel an execution."""
    return f"{execution}:cancel"


def death_id(execution: str, number: int) -> str:
    """Name the record of the ``number``-th death of a guest (from 0) in an execution."""
    return f"{execution}:d{number}"


def rpc_id(execution: str, key: str, retry: int) -> str:
    """Name what a worker elsewhere is asked for, by the call's idempotency key and the number of its try."""
    return f"{execution}:rpc.{key}.{retry}"


def step_id(execution: str, step: int) -> str:
    """Name a step of an execution."""
    return f"{execution}:s{step}"


def record_id(execution: str, step: int, index: int) -> str:
    """Name a record of a step."""
    return f"{execution}:s{step}.{index}"
