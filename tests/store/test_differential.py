"""The same random histories through this store and through the SDK's own in-process server.

That server is a partner, not the judge. Where it is known to differ from the reference the history is steered around
the difference, each time with its reason; `docs/store.md` lists them all.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from resonate.connections import local

from .conftest import Machine

ROOTS = ("a", "b")
CHILDREN = tuple(f"{root}:{number}" for root in ROOTS for number in range(3))
TAGS: dict[str, dict[str, str]] = {
    "internal": {},
    "target": {"resonate:target": "poll://any@g"},
    "external": {"resonate:external": "true"},
    "timer": {"resonate:timer": "true"},
}
LISTENER = "poll://uni@g/p"
TTL = 3_000

ids = st.sampled_from(ROOTS + CHILDREN)
children = st.sampled_from(CHILDREN)
picks = st.integers(0, 11)
timeouts = st.sampled_from((-5, 500, 4_000, 20_000, 10**9))
states = st.sampled_from(("resolved", "rejected", "rejected_canceled"))


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ours = Machine(Path(self.folder.name) / "store.db")
        self.theirs = local.ServerState()
        self.now = 1_000_000
        self.kinds: dict[str, str] = {}

    @initialize(
        kinds=st.lists(st.sampled_from(("target", "external", "timer")), min_size=6, max_size=6), after=timeouts
    )
    def begin(self, kinds: list[str], after: int) -> None:
        """Two held tasks, and something each may await: an empty file meets few of the rules."""
        self.ours.join()
        for root in ROOTS:
            self.create_task(root, 10**9)
        for child, kind in zip(CHILDREN[::2], kinds, strict=False):
            self.create(child, kind, after)

    def teardown(self) -> None:
        self.ours.close()
        self.folder.cleanup()

    # Both sides of one request

    def both(self, kind: str, **data: Any) -> int:
        status, answer = self.ours.apply(self.now, kind, **data)
        other = self.theirs.apply(self.now, {"kind": kind, **self.translated(data)})
        assert plain(status) == plain(other["status"]), (kind, data, status, answer, other)
        if status == 200:
            compare(answer, other)
        self.compare_messages()
        event(f"{kind} {status}")
        return status

    def translated(self, data: dict[str, Any]) -> dict[str, Any]:
        # Versions: the reference raises them on acquiring, the partner on releasing and resuming.
        task = self.theirs.tasks.get(str(data.get("id")))
        return {**data, "version": task.version} if "version" in data and task is not None else data

    def compare_messages(self) -> None:
        ours = {("execute", task) for task in self.ours.messages.executes}
        ours |= {("unblock", promise.id) for promise in self.ours.messages.unblocks}
        theirs = {
            (message.message["kind"], next(iter(message.message["data"].values()))["id"])
            for message in self.theirs.outgoing
        }
        assert ours == theirs

    def pick(self, pick: int, state: str) -> str:
        """A task in a state, most of the time: a history of refusals proves little."""
        known = sorted(task.id for task in self.theirs.tasks.values() if task.state == state)
        return (known * 12)[pick] if known and pick else (ROOTS + CHILDREN)[pick % 8]

    def version(self, id: str) -> int:
        row = self.ours.db.one("SELECT version FROM tasks WHERE id = ?", (id,))
        return 0 if row is None else int(row[0])

    def create_data(self, id: str, kind: str, timeout: int) -> dict[str, Any]:
        if self.theirs.promises.get(id) is None:
            self.kinds[id] = kind
        return {"id": id, "timeoutAt": self.now + timeout, "param": {"data": "cA=="}, "tags": TAGS[kind]}

    # Requests

    @rule(id=ids, kind=st.sampled_from(tuple(TAGS)), timeout=timeouts)
    def create(self, id: str, kind: str, timeout: int) -> None:
        self.both("promise.create", **self.create_data(id, kind, timeout))

    @rule(id=ids)
    def get(self, id: str) -> None:
        self.both("promise.get", id=id)

    @rule(id=children, state=states)
    def settle(self, id: str, state: str) -> None:
        self.both("promise.settle", id=id, state=state, value={"data": "dg=="})

    @rule(id=ids)
    def listen(self, id: str) -> None:
        # An internal promise's timeout is enforced by nobody in the reference, so its listeners are not told either.
        if self.kinds.get(id) != "internal":
            self.both("promise.register_listener", awaited=id, address=LISTENER)

    @rule(id=ids, timeout=timeouts)
    def create_task(self, id: str, timeout: int) -> None:
        # An existing promise without a target: 422 in the reference, 409 in the partner.
        if self.kinds.get(id, "target") == "target":
            data = self.create_data(id, "target", timeout)
            self.both("task.create", pid="p", ttl=TTL, action={"kind": "promise.create", "head": {}, "data": data})

    @rule(pick=picks)
    def acquire(self, pick: int) -> None:
        id = self.pick(pick, "pending")
        self.both("task.acquire", id=id, version=self.version(id), pid="p", ttl=TTL)

    @rule(pick=picks)
    def release(self, pick: int) -> None:
        id = self.pick(pick, "acquired")
        self.both("task.release", id=id, version=self.version(id))

    @rule(pick=picks)
    def beat(self, pick: int) -> None:
        id = self.pick(pick, "acquired")
        version = self.version(id)
        self.ours.apply(self.now, "task.heartbeat", pid="p", tasks=[{"id": id, "version": version}])
        self.theirs.apply(self.now, {"kind": "task.heartbeat", "pid": "p", "tasks": [{"id": id}]})

    @rule(pick=picks, state=states)
    def fulfill(self, pick: int, state: str) -> None:
        id = self.pick(pick, "acquired")
        data = {"id": id, "state": state, "value": {"data": "Zg=="}}
        action = {"kind": "promise.settle", "head": {}, "data": data}
        self.both("task.fulfill", id=id, version=self.version(id), action=action)

    @rule(pick=picks, child=children, kind=st.sampled_from(tuple(TAGS)), timeout=timeouts)
    def fence_create(self, pick: int, child: str, kind: str, timeout: int) -> None:
        id = self.pick(pick, "acquired")
        held = self.theirs.tasks.get(id) is not None and self.theirs.tasks[id].state == "acquired"
        if child == id or (not held and child not in self.kinds):
            return  # malformed to the reference alone; or its kind would depend on whether the fence lets it pass
        action = {"kind": "promise.create", "head": {}, "data": self.create_data(child, kind, timeout)}
        self.both("task.fence", id=id, version=self.version(id), action=action)

    @rule(pick=picks, child=children, state=states)
    def fence_settle(self, pick: int, child: str, state: str) -> None:
        id = self.pick(pick, "acquired")
        # A fence that settles a missing promise: an error in the reference, success without one in the partner.
        # One on its own promise: refused by the reference as malformed.
        if child in self.theirs.promises and child != id:
            data = {"id": child, "state": state, "value": {"data": "dg=="}}
            action = {"kind": "promise.settle", "head": {}, "data": data}
            self.both("task.fence", id=id, version=self.version(id), action=action)

    @precondition(lambda self: bool(self.kinds))
    @rule(pick=picks, count=st.integers(1, 3))
    def suspend(self, pick: int, count: int) -> None:
        id = self.pick(pick, "acquired")
        # Internal and missing promises cannot be awaited in the reference; the partner lets them be.
        below = [child for child in CHILDREN if child.startswith(id[0]) and child != id]
        awaitable = [child for child in below if self.kinds.get(child, "internal") != "internal"][:count]
        if not awaitable:
            return
        task = self.theirs.tasks.get(id)
        if task is not None:
            task.resumes.clear()  # the partner goes on for whatever resumed, the reference for what is awaited
        before = {promise.id: set(promise.awaiters) for promise in self.theirs.promises.values()}
        actions = [
            {"kind": "promise.register_callback", "head": {}, "data": {"awaited": a, "awaiter": id}} for a in awaitable
        ]
        if self.both("task.suspend", id=id, version=self.version(id), actions=actions) == 300:
            # Refused a suspension, the partner stays registered on what is pending; the reference does not.
            for promise in self.theirs.promises.values():
                promise.awaiters = before[promise.id]

    @rule(step=st.sampled_from((1, 400, 2_999, 5_000, 30_000)))
    def wait(self, step: int) -> None:
        self.now += step
        self.ours.tick(self.now)
        self.theirs.outgoing.clear()
        # The partner's clock expires promises with a target only; the reference's all external ones.
        for promise in sorted(self.theirs.promises.values(), key=lambda p: (p.timeout_at, p.id)):
            if self.kinds[promise.id] != "internal":
                self.theirs.try_auto_timeout(self.now, promise.id)
        sent = list(self.theirs.outgoing)
        self.theirs.outgoing.clear()
        self.theirs.tick(self.now)
        done = {task.id for task in self.theirs.tasks.values() if task.state != "pending"}
        self.theirs.outgoing = [m for m in sent + self.theirs.outgoing if executed(m) not in done]
        self.compare_messages()
        self.theirs.outgoing.clear()

    @invariant()
    def same_tasks(self) -> None:
        ours = {
            id: (state, pid, ttl) for id, state, pid, ttl in self.ours.db.all("SELECT id, state, pid, ttl FROM tasks")
        }
        theirs = {task.id: (task.state, task.pid, task.ttl) for task in self.theirs.tasks.values()}
        assert ours == theirs

    @invariant()
    def same_registrations(self) -> None:
        ours = set(self.ours.db.all("SELECT awaited_id, awaiter_id FROM callbacks"))
        theirs = {(p.id, awaiter) for p in self.theirs.promises.values() for awaiter in p.awaiters}
        assert ours == theirs


def executed(message: Any) -> str | None:
    return message.message["data"]["task"]["id"] if message.message["kind"] == "execute" else None


def plain(status: int) -> int:
    return 200 if status == 201 else status  # the partner tells what was created, the reference does not


def compare(answer: dict[str, Any], other: dict[str, Any]) -> None:
    """The promise and task of both answers, as far as both give them."""
    ours = answer.get("promise") or (answer.get("action") or {}).get("data", {}).get("promise")
    theirs = other.get("promise") or (other.get("action") or {}).get("data", {}).get("promise")
    if ours is not None and theirs is not None:
        assert {key: ours.get(key) or {} for key in theirs} == {key: value or {} for key, value in theirs.items()}
    if "task" in answer and "task" in other:
        assert [answer["task"].get(key) for key in ("id", "state", "pid", "ttl")] == [
            other["task"].get(key) for key in ("id", "state", "pid", "ttl")
        ]


@pytest.fixture(autouse=True)
def reference_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PENDING_RETRY_TTL", 5_000)  # the partner waits six times as long as the reference


HISTORIES = int(os.environ.get("PERDURE_HISTORIES", "60"))

TestHistories = pytest.mark.timeout(60 + HISTORIES)(Histories.TestCase)
TestHistories.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
)
