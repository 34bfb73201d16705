"""The journal of a step: what was recorded, and what a replay may do. Pure: no I/O, no clock.

1. What is recorded is never asked for again, shown again, or contradicted.
2. A call is found by its lineage path, not by its number; under one path only one request is right.
3. While recorded calls have not all been asked again, nothing new is performed.

Deliveries (replies, timer firings) are numbered in the order in which the guest consumed them. Every record carries
the ones consumed before it that no acknowledged record carries yet: the journal knows the order up to its last record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .refs import print_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .durable import Promise

__all__ = [
    "DISPLAY",
    "CallRecord",
    "Divergence",
    "Journal",
    "JournalDamaged",
    "Request",
    "not_waited_for",
    "outcome_of",
]

#: The stream of displays in a record of output: a chunk is a bundle, or the reference to one, and one character long.
DISPLAY = "display"
#: What is shown of each side of a divergence.
_SHOWN = 400


class JournalDamaged(Exception):
    """The records contradict each other: the store lost or mixed something."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a guest asks for. ``data`` is the encoded arguments by name, ``print`` the fingerprint of it all."""

    path: str
    name: str
    data: Any
    print: str
    line: int | None = None
    #: How many deliveries the guest had consumed when it asked.
    after: int = 0

    def __str__(self) -> str:
        text = f"{self.name}({render_args(self.data)})"
        return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def render_args(data: Any) -> str:
    """Show encoded arguments as they would stand in a call."""
    if not isinstance(data, dict) or "$ref" in data:
        return "..."
    parts = [f"{key}={value!r}" for key, value in data.items()]
    if parts:
        # The first argument says what a call is about; its name rarely does.
        parts[0] = parts[0].partition("=")[2]
    return ", ".join(parts)


@dataclass(slots=True)
class CallRecord:
    """A call as recorded: ``outcome`` is None while nobody answered, else ``{"value"}`` or ``{"error"}``."""

    id: str
    request: Request
    effect: str
    worker: str
    at: int
    outcome: dict[str, Any] | None
    asked: bool = False
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first point at which a replay does something else than the first run did."""

    kind: Literal["request", "missing", "unknown", "delivery", "output"]
    path: str
    line: int | None
    expected: str
    got: str

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else f"{self.path}"
        did = "wrote" if self.kind == "output" else "asked"
        return f"at {where}: the first run {did} {self.expected}; the replay {self.got}"


def outcome_of(promise: Promise) -> dict[str, Any] | None:
    """Read a settled call's outcome; None while it is pending. An outsider's rejection is read as plain data."""
    if promise.state == "pending":
        return None
    if promise.state == "resolved":
        if isinstance(promise.param, dict) and "outcome" in promise.param:
            outcome: dict[str, Any] = promise.param["outcome"]
            return outcome
        return {"value": promise.value}
    value = promise.value
    if isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("message"), str):
        return {"error": {"type": value["type"], "message": value["message"], "data": value.get("data")}}
    if promise.state == "rejected_timedout":
        return {"error": {"type": "CallTimeout", "message": "nobody answered before the execution's deadline"}}
    message = value.get("message") if isinstance(value, dict) else value
    text = message if isinstance(message, str) else "the call was rejected from outside"
    return {"error": {"type": "CallFailed", "message": text, "data": None}}


def not_waited_for(path: str) -> dict[str, Any]:
    """Return the outcome of a question that was open when the code ended: its replay has to end before it hears it."""
    message = "the execution that asked ended without waiting for the answer"
    return {"error": {"type": "CallCancelled", "message": message, "data": path}}


def path_key(path: str) -> tuple[int, str]:
    """Order paths as a reader expects them: the main program before its tasks."""
    return (path.count("/"), path)


@dataclass(slots=True)
class Journal:
    """The records of one step and how far a replay has come through them."""

    calls: dict[str, CallRecord] = field(default_factory=dict)
    deliveries: list[list[Any]] = field(default_factory=list)
    writes: list[tuple[str, str]] = field(default_factory=list)
    timers: dict[str, int] = field(default_factory=dict)
    consumed: int = 0
    unasked: int = 0
    next_index: int = 0
    characters: int = 0
    seen_writes: int = 0
    differing_writes: int = 0
    #: The first write that differed from what was shown: a divergence for who wants it to be one.
    differs: Divergence | None = None
    wake: tuple[str, int] | None = None
    #: Calls that the code stopped waiting for.
    cancelled: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, records: Iterable[Promise]) -> Journal:
        """Build a journal from a step's records in their order. Raises JournalDamaged."""
        journal = cls()
        for promise in records:
            journal.deliveries += journal.add(promise)
        for item in journal.deliveries:
            if item[0] == "r":
                call = journal.calls.get(item[1])
                if call is None or call.outcome is None:
                    msg = f"a reply to {item[1]} was consumed, but no such reply is recorded"
                    raise JournalDamaged(msg)
                call.delivered = True
        return journal

    def add(self, promise: Promise) -> list[list[Any]]:
        """Take in one more record; returns the deliveries that it reports."""
        param = promise.param
        if not isinstance(param, dict) or "kind" not in param:
            msg = f"{promise.id} is not a record"
            raise JournalDamaged(msg)
        entered = self.enter(param.get("entered"))
        match param["kind"]:
            case "call":
                request = Request(param["path"], param["name"], param["args"], param["print"], param.get("line"))
                self.calls[request.path] = CallRecord(
                    promise.id, request, param["effect"], param.get("worker", ""), param["at"], outcome_of(promise)
                )
                self.unasked += 1
            case "output":
                for stream, text, writes in param["chunks"]:
                    self.characters += sum(writes)
                    self.writes += [(stream, print_of(text))] if stream == DISPLAY else _split(stream, text, writes)
            case "timer":
                self.timers |= {path: int(deadline) for path, deadline in param["timers"].items()}
                self.wake = (promise.id, int(param["wake"]))
            case "cancelled":
                self.cancelled.add(param["path"])
            case "fork":
                self.timers |= {path: int(deadline) for path, deadline in param["timers"].items()}
            case other:
                msg = f"{promise.id} is a record of an unknown kind {other!r}"
                raise JournalDamaged(msg)
        self.next_index += 1
        return entered

    def enter(self, entered: Any) -> list[list[Any]]:
        """Take in deliveries that were reported as consumed; returns those that were new. Raises JournalDamaged."""
        if not entered:
            return []
        at, items = entered["at"], entered["items"]
        if at > self.consumed:
            msg = f"deliveries {self.consumed} to {at} are missing"
            raise JournalDamaged(msg)
        new: list[list[Any]] = [list(item) for item in items[self.consumed - at :]]
        self.consumed += len(new)
        return new

    # -- replay ---------------------------------------------------------------

    @property
    def replaying(self) -> bool:
        """Whether a recorded call has not been asked again yet."""
        return self.unasked > 0

    @property
    def to_ask(self) -> int:
        """How many recorded calls the guest will ask again; it ends no step before."""
        return self.unasked

    @property
    def complete(self) -> bool:
        """Whether everything recorded has come again: only then the step may end."""
        return not self.unasked and self.seen_writes >= len(self.writes)

    def ask(self, request: Request) -> CallRecord | Divergence | None:
        """Match a request of the guest: its record, a divergence, or None if no record knows it."""
        call = self.calls.get(request.path)
        if call is None:
            return None
        if call.asked or call.request.print != request.print:
            got = f"asked {request} again" if call.asked else f"asked {request}"
            return Divergence("request", request.path, request.line, str(call.request), got)
        call.asked = True
        self.unasked -= 1
        return call

    def first_unasked(self) -> CallRecord | None:
        """Return the first recorded call that was not asked again, by record number."""
        return next((call for call in self.calls.values() if not call.asked), None)

    def rested(self, held: Request | None, doing: str) -> Divergence | None:
        """Judge a guest that ended or came to rest: every recorded call must have been asked again by then."""
        call = self.first_unasked()
        if call is None:
            return None
        got = f"asked {held} instead" if held is not None else doing
        line = held.line if held is not None and held.line else call.request.line
        return Divergence("missing", call.request.path, line, str(call.request), got)

    @property
    def all_written(self) -> bool:
        """Whether every recorded write was seen again: those that come now are new."""
        return self.seen_writes >= len(self.writes)

    def write(self, stream: str, text: str) -> bool:
        """Count one write of the guest; True if it is new and must be recorded and shown."""
        index = self.seen_writes
        self.seen_writes += 1
        if index >= len(self.writes):
            return True
        if self.writes[index] != (stream, text):
            self.differing_writes += 1
            if self.differs is None:
                expected, got = _shown(self.writes[index][1]), f"wrote {_shown(text)}"
                self.differs = Divergence("output", stream, None, expected, got)
        return False


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def _split(stream: str, text: str, lengths: list[int]) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    start = 0
    for length in lengths:
        out.append((stream, text[start : start + length]))
        start += length
    return out
