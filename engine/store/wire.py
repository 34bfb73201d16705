"""The protocol's envelopes, as types: bytes in, bytes out, no rules.

Shapes and required fields follow the Resonate server (`types.rs`) and Resonate on Postgres; lineage
separators follow the SDK (`:` after the origin, `.` below it).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct, field
from resonate_base import PROTOCOL_VERSION

type PromiseState = Literal["pending", "resolved", "rejected", "rejected_canceled", "rejected_timedout"]
type SettleState = Literal["resolved", "rejected", "rejected_canceled"]
type TaskState = Literal["pending", "acquired", "suspended", "halted", "fulfilled"]

type Id = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]*$")]
type Millis = Annotated[int, Meta(ge=0, le=2**63 - 1)]
type Version = Annotated[int, Meta(ge=0, le=2**63 - 1)]
type Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]

SEARCH_LIMIT: Final = 100
SEARCH_LIMIT_MAX: Final = 1000  # the reference's bound: a page is one reply, held in memory whole

type Limit = Annotated[int, Meta(ge=1, le=SEARCH_LIMIT_MAX)]


class Value(Struct, omit_defaults=True, frozen=True):
    """A promise's parameter or value, opaque to the store."""

    headers: dict[str, str] | None = None
    data: str | None = None


class Head(Struct, rename="camel"):
    corr_id: str = ""


class Envelope(Struct):
    kind: str
    head: Head = field(default_factory=Head)
    data: Raw = field(default_factory=lambda: Raw(b"{}"))


class PromiseGet(Struct):
    id: Id


class PromiseCreate(Struct, rename="camel"):
    id: Id
    timeout_at: Millis
    param: Value | None = None
    tags: dict[str, str] | None = None


class PromiseSettle(Struct):
    id: Id
    state: SettleState
    value: Value | None = None


class PromiseRegisterCallback(Struct):
    awaited: Id
    awaiter: Id


class PromiseRegisterListener(Struct):
    awaited: Id
    address: Id


class PromiseSearch(Struct):
    state: PromiseState | None = None
    tags: dict[str, str] | None = None
    limit: Limit = SEARCH_LIMIT
    cursor: str | None = None


class TaskGet(Struct):
    id: Id


class CreateAction(Struct):
    data: PromiseCreate


class TaskCreate(Struct):
    pid: Id
    ttl: Positive
    action: CreateAction


class TaskAcquire(Struct):
    id: Id
    version: Version
    pid: Id
    ttl: Positive


class FenceAction(Struct):
    kind: Literal["promise.create", "promise.settle"]
    data: Raw


class TaskFence(Struct):
    id: Id
    version: Version
    action: FenceAction


class TaskRef(Struct):
    id: Id
    version: Version


class TaskHeartbeat(Struct):
    pid: Id
    tasks: list[TaskRef] = field(default_factory=list[TaskRef])


class SuspendAction(Struct):
    data: PromiseRegisterCallback


class TaskSuspend(Struct):
    id: Id
    version: Version
    actions: Annotated[list[SuspendAction], Meta(min_length=1)]


class FulfillAction(Struct):
    data: PromiseSettle


class TaskFulfill(Struct):
    id: Id
    version: Version
    action: FulfillAction


class TaskRelease(Struct):
    id: Id
    version: Version


class TaskHalt(Struct):
    id: Id


class TaskContinue(Struct):
    id: Id


class TaskSearch(Struct):
    state: TaskState | None = None
    limit: Limit = SEARCH_LIMIT
    cursor: str | None = None


class ScheduleGet(Struct):
    id: Id


class ScheduleCreate(Struct, rename="camel"):
    id: Id
    cron: Annotated[str, Meta(min_length=1)]
    promise_id: Id
    promise_timeout: Millis
    promise_param: Value | None = None
    promise_tags: dict[str, str] = field(default_factory=dict[str, str])


class ScheduleDelete(Struct):
    id: Id


class ScheduleSearch(Struct):
    tags: dict[str, str] | None = None
    limit: Limit = SEARCH_LIMIT
    cursor: str | None = None


class PromiseRecord(Struct, rename="camel", omit_defaults=True, frozen=True):
    """A promise as replies carry it."""

    id: str
    state: PromiseState
    param: Value
    value: Value
    tags: Raw
    timeout_at: int
    created_at: int
    settled_at: int | None = None


class TaskRecord(Struct, omit_defaults=True, frozen=True):
    """A task as replies carry it; `resumes` counts the promises that settled since it was last acquired."""

    id: str
    state: TaskState
    version: int
    resumes: int | None = None
    ttl: int | None = None
    pid: str | None = None


class ScheduleRecord(Struct, rename="camel", omit_defaults=True, frozen=True):
    """A schedule as replies carry it."""

    id: str
    cron: str
    promise_id: str
    promise_timeout: int
    promise_param: Value
    promise_tags: Raw
    created_at: int
    next_run_at: int
    last_run_at: int | None = None


class Reply(NamedTuple):
    """What an action answers: a status of the protocol, and its data or, from 400 on, one line of text."""

    status: int
    data: dict[str, Any] | str


def bad(why: str) -> Reply:
    return Reply(400, why)


def missing(what: str) -> Reply:
    return Reply(404, f"{what} not found")


def conflict(why: str) -> Reply:
    return Reply(409, why)


def unprocessable(why: str) -> Reply:
    return Reply(422, why)


class Malformed(ValueError):
    """A request whose JSON or fields are not the protocol's; answered as 400."""


_envelope = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()
_decoders: dict[type[Struct], msgspec.json.Decoder[Any]] = {}


def read_envelope(text: str) -> Envelope:
    """The outer envelope; `Malformed` if it is not one."""
    try:
        return _envelope.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        message = f"invalid request: {error}"
        raise Malformed(message) from error


def read_data[T: Struct](raw: Raw, shape: type[T]) -> T:
    """The fields of one action; `Malformed` if one is missing or of the wrong type."""
    decoder = _decoders.get(shape)
    if decoder is None:
        decoder = _decoders[shape] = msgspec.json.Decoder(shape)
    try:
        data: T = decoder.decode(raw)
    except msgspec.MsgspecError as error:
        message = f"invalid request: {error}"
        raise Malformed(message) from error
    return data


def write_reply(kind: str, corr_id: str, reply: Reply) -> str:
    """The response envelope of a reply."""
    head = {"corrId": corr_id, "status": reply.status, "version": PROTOCOL_VERSION}
    return _encoder.encode({"kind": kind, "head": head, "data": reply.data}).decode()


def write_execute(task: str, version: int) -> str:
    """The message that offers a task to a process."""
    return _encoder.encode({"kind": "execute", "head": {}, "data": {"task": {"id": task, "version": version}}}).decode()


def write_unblock(promise: PromiseRecord) -> str:
    """The message that tells a listener of a settled promise."""
    return _encoder.encode({"kind": "unblock", "head": {}, "data": {"promise": promise}}).decode()


def json_text(value: dict[str, str]) -> str:
    """A dictionary of strings as JSON, for a column."""
    return _encoder.encode(value).decode()


def json_object(text: str) -> dict[str, str]:
    """The reverse of `json_text`."""
    return msgspec.json.decode(text, type=dict[str, str])


def encode(value: list[str]) -> str:
    """A list of strings as JSON, for a statement that takes many."""
    return _encoder.encode(value).decode()
