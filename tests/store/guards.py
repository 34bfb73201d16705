"""The protocol's refusals, by action: a request that is answered with yes, and what may be wrong with it, in order.

Where a partner is named, it is known not to have that guard, or not in that place; `docs/store.md` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

FAR: Final = 10**9
PAST_A: Final = 10**8  # a's promise has timed out by then, and so has p's
ANY: Final = "poll://any@g"
TARGET: Final = {"resonate:target": ANY}
OUTSIDE: Final = {"resonate:target": "https://example.org"}
CREATE: Final = {"id": "a:new", "timeoutAt": FAR, "tags": {}}
LEASE: Final = {"pid": "p", "ttl": 60_000}
CREATES: Final = {"action.kind": "promise.create"}

POSTGRES, SERVER = "postgres", "server"
NOT_POSTGRES: Final = frozenset({POSTGRES})
NOT_SERVER: Final = frozenset({SERVER})
BOTH: Final = NOT_POSTGRES | NOT_SERVER


class Field(Enum):
    """What may stand in place of a value. Named, so that tests have the same ids in every process."""

    DROPPED = "left out"

    def __repr__(self) -> str:
        return self.value


DROPPED: Final = Field.DROPPED


class Store(Protocol):
    """What answers requests: this store or a partner."""

    def apply(self, now: int, kind: str, /, **data: Any) -> tuple[int, Any]: ...


@dataclass(frozen=True)
class Guard:
    """One thing that may be wrong with a request: in it (by path), in what is stored, or in when it comes."""

    status: int
    says: str
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    before: Callable[[Store], Any] | None = None
    now: int = 10
    unlike: frozenset[str] = frozenset()

    def beside(self, other: Guard) -> bool:
        """Whether a request can have both wrong."""
        return not self.changes.keys() & other.changes.keys() and not (self.before and other.before)


def world(store: Store) -> None:
    """A held task `a` with something it may await, a pending task `p`, one that was halted, a plain promise."""
    for id, tags, timeout in (
        ("a", TARGET, PAST_A),
        ("a:x", {"resonate:external": "true"}, FAR),
        ("a:in", {}, FAR),
        ("a:in2", {}, FAR),
        ("p", TARGET, PAST_A),
        ("h", TARGET, PAST_A),
        ("plain", {}, FAR),
    ):
        store.apply(0, "promise.create", id=id, timeoutAt=timeout, tags=tags)
    store.apply(0, "task.acquire", id="a", version=0, **LEASE)
    store.apply(0, "task.halt", id="h")


def release_a(store: Store) -> None:
    store.apply(1, "task.release", id="a", version=1)


def halt_p(store: Store) -> None:
    store.apply(1, "task.halt", id="p")


def settle_h(store: Store) -> None:
    store.apply(1, "promise.settle", id="h", state="resolved")


def settle_p(store: Store) -> None:
    store.apply(1, "promise.settle", id="p", state="resolved")


def schedule_s(store: Store) -> None:
    store.apply(1, "schedule.create", **SCHEDULE)


SCHEDULE: Final = {
    "id": "s", "cron": "* * * * *", "promiseId": "{{.id}}-{{.timestamp}}", "promiseTimeout": 1000,
    "promiseTags": TARGET,
}  # fmt: skip

#: What only the holder of a task's lease may do is refused to others in this order.
HELD: Final = (
    Guard(409, "the task is pending", before=release_a),
    Guard(409, "has settled", now=PAST_A),
    Guard(409, "version 1", {"version": 7}),
)
MALFORMED_VERSION: Final = Guard(400, "invalid request", {"version": "1"}, unlike=NOT_POSTGRES)

GUARDS: Final[dict[str, tuple[dict[str, Any], tuple[Guard, ...]]]] = {
    "promise.get": (
        {"id": "a"},
        (Guard(400, "invalid request", {"id": ""}, unlike=NOT_POSTGRES), Guard(404, "promise", {"id": "no"})),
    ),
    "promise.create": (
        CREATE,
        (
            Guard(400, "invalid request", {"timeoutAt": -1}, unlike=NOT_POSTGRES),
            Guard(400, "delivers to poll", {"tags": OUTSIDE}, unlike=BOTH),
            Guard(400, "resonate:origin", {"tags": {"resonate:origin": "b"}}, unlike=NOT_POSTGRES),
            Guard(400, "resonate:branch", {"tags": {"resonate:branch": "b"}}, unlike=NOT_POSTGRES),
            Guard(400, "resonate:parent", {"tags": {"resonate:parent": "a:n"}}, unlike=NOT_POSTGRES),
            Guard(400, "number", {"tags": {**TARGET, "resonate:delay": "x"}}),
            Guard(
                400, "before timeoutAt", {"tags": {**TARGET, "resonate:delay": str(FAR)}}, unlike=NOT_POSTGRES
            ),
            Guard(400, "needs a resonate:target", {"tags": {"resonate:delay": "5"}}, unlike=NOT_POSTGRES),
        ),
    ),
    "promise.settle": (
        {"id": "a:x", "state": "resolved"},
        (Guard(400, "invalid request", {"state": "rejected_timedout"}), Guard(404, "promise", {"id": "no"})),
    ),
    "promise.register_callback": (
        {"awaited": "a:x", "awaiter": "a"},
        (
            Guard(400, "itself", {"awaited": "a", "awaiter": "a"}),
            Guard(400, "same origin", {"awaiter": "p"}, unlike=NOT_POSTGRES),
            Guard(404, "awaited", {"awaited": "a:no"}),
            Guard(422, "target", {"awaiter": "a:none"}),
            Guard(422, "target", {"awaiter": "a:in2"}),
            Guard(422, "internal", {"awaited": "a:in"}, unlike=NOT_SERVER),
        ),
    ),
    "promise.register_listener": (
        {"awaited": "a:x", "address": "poll://uni@g/p"},
        (Guard(400, "delivers to poll", {"address": "nowhere"}), Guard(404, "promise", {"awaited": "no"})),
    ),
    "promise.search": ({"limit": 5}, (Guard(400, "invalid request", {"limit": 1001}, unlike=NOT_POSTGRES),)),
    "task.get": ({"id": "a"}, (Guard(404, "task", {"id": "plain"}),)),
    "task.create": (
        {**LEASE, "action": {"kind": "promise.create", "head": {}, "data": {**CREATE, "tags": TARGET}}},
        (
            Guard(400, "invalid request", {"ttl": 0}, unlike=NOT_POSTGRES),
            Guard(400, "needs a resonate:target", {"action.data.tags": {}}),
            Guard(400, "delivers to poll", {"action.data.tags": OUTSIDE}, unlike=BOTH),
            Guard(
                400, "cannot have", {"action.data.tags": {**TARGET, "resonate:delay": "5"}}, unlike=NOT_POSTGRES
            ),
            Guard(422, "no target", {"action.data.id": "plain"}),
            Guard(409, "exists", {"action.data.id": "a"}),
        ),
    ),
    "task.acquire": (
        {"id": "p", "version": 0, **LEASE},
        (
            MALFORMED_VERSION,
            Guard(400, "invalid request", {"ttl": 0}, unlike=NOT_POSTGRES),
            Guard(400, "invalid request", {"pid": DROPPED}),
            Guard(404, "task", {"id": "no"}),
            Guard(409, "the task is halted", before=halt_p),
            Guard(409, "has settled", now=PAST_A),
            Guard(409, "version 0", {"version": 3}),
        ),
    ),
    "task.fence": (
        {"id": "a", "version": 1, "action": {"kind": "promise.create", "head": {}, "data": CREATE}},
        (
            MALFORMED_VERSION,
            Guard(400, "invalid request", {"action.kind": "promise.get"}, unlike=BOTH),
            Guard(400, "invalid request", {**CREATES, "action.data.timeoutAt": DROPPED}, unlike=BOTH),
            Guard(400, "its own promise", {"id": "a", "action.data.id": "a"}),
            Guard(400, "resonate:origin", {**CREATES, "action.data.tags": {"resonate:origin": "b"}}, unlike=BOTH),
            Guard(404, "task", {"id": "no"}),
            *HELD,
            Guard(
                404, "promise", {"action.kind": "promise.settle", "action.data.state": "resolved"},
            ),
        ),
    ),
    "task.heartbeat": (
        {"pid": "p", "tasks": [{"id": "a", "version": 1}]},
        (Guard(400, "invalid", {"pid": DROPPED}, unlike=NOT_POSTGRES),),
    ),
    "task.suspend": (
        {"id": "a", "version": 1, "actions": [{"kind": "k", "head": {}, "data": {"awaited": "a:x", "awaiter": "a"}}]},
        (
            MALFORMED_VERSION,
            Guard(400, "invalid request", {"actions": []}),
            Guard(400, "its own promise", {"actions.0.data.awaited": "a"}),
            Guard(400, "the task itself", {"actions.0.data.awaiter": "p"}, unlike=NOT_POSTGRES),
            Guard(400, "same origin", {"actions.0.data.awaited": "p:x"}, unlike=NOT_POSTGRES),
            Guard(404, "task", {"id": "no", "actions.0.data.awaiter": "no", "actions.0.data.awaited": "no:x"}),
            *HELD,
            Guard(422, "not found", {"actions.0.data.awaited": "a:none"}),
            Guard(422, "internal", {"actions.0.data.awaited": "a:in"}, unlike=NOT_SERVER),
        ),
    ),
    "task.fulfill": (
        {"id": "a", "version": 1, "action": {"kind": "k", "head": {}, "data": {"id": "a", "state": "resolved"}}},
        (
            MALFORMED_VERSION,
            Guard(400, "invalid request", {"action.data.state": "rejected_timedout"}),
            Guard(400, "its own promise only", {"action.data.id": "p"}, unlike=NOT_POSTGRES),
            Guard(404, "task", {"id": "no", "action.data.id": "no"}),
            *HELD,
        ),
    ),
    "task.release": ({"id": "a", "version": 1}, (MALFORMED_VERSION, Guard(404, "task", {"id": "no"}), *HELD)),
    "task.halt": ({"id": "p"}, (Guard(404, "task", {"id": "plain"}), Guard(409, "fulfilled", before=settle_p))),
    "task.continue": (
        {"id": "h"},
        (
            Guard(404, "task", {"id": "plain"}),
            Guard(409, "the task is acquired", {"id": "a"}),
            Guard(409, "the task is fulfilled", before=settle_h),
        ),
    ),
    "task.search": ({"limit": 5}, (Guard(400, "invalid request", {"state": "lost"}, unlike=NOT_POSTGRES),)),
    "schedule.get": ({"id": "s"}, (Guard(404, "schedule", {"id": "no"}),)),
    "schedule.create": (
        {**SCHEDULE, "id": "new"},
        (
            Guard(400, "invalid request", {"promiseTimeout": -1}, unlike=NOT_POSTGRES),
            Guard(400, "must not contain", {"id": "a:b"}, unlike=NOT_POSTGRES),
            Guard(400, "resonate:target", {"promiseTags": {}}, unlike=NOT_POSTGRES),
            Guard(400, "delivers to poll", {"promiseTags": OUTSIDE}, unlike=BOTH),
            Guard(400, "cron", {"cron": "61 * * * *"}),
        ),
    ),
    "schedule.delete": ({"id": "s"}, (Guard(404, "schedule", {"id": "no"}),)),
    "schedule.search": ({"limit": 5}, (Guard(400, "invalid request", {"limit": 0}, unlike=NOT_POSTGRES),)),
}  # fmt: skip


def wrong(base: Any, changes: dict[str, Any]) -> Any:
    """The request with some of its fields as they should not be; a path names each."""
    if not isinstance(base, dict | list):
        return base
    pairs = base.items() if isinstance(base, dict) else enumerate(base)
    changed = {
        str(key): wrong(
            value, {path.partition(".")[2]: to for path, to in changes.items() if path.startswith(f"{key}.")}
        )
        for key, value in pairs
    }
    here = {path: to for path, to in changes.items() if "." not in path}
    whole = {key: value for key, value in {**changed, **here}.items() if value is not DROPPED}
    return whole if isinstance(base, dict) else list(whole.values())
