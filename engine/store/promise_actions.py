"""The protocol's actions on promises."""

from __future__ import annotations

from . import wire
from .database import Database
from .delivery import UNDELIVERABLE, Messages, deliverable
from .promises import (
    LINEAGE_SEPARATORS,
    ORIGIN_SEPARATOR,
    Promise,
    find_promise,
    insert_promise,
    insert_task,
    origin_of,
    settle,
)
from .wire import Reply, bad, missing, unprocessable


def promise_get(db: Database, now: int, request: wire.PromiseGet, _messages: Messages) -> Reply:
    promise = find_promise(db, request.id)
    if promise is None:
        return missing("promise")
    return Reply(200, {"promise": promise.seen(now)})


def refuse_create(request: wire.PromiseCreate) -> str | None:
    """What is malformed about a creation, by the server's rules."""
    tags = request.tags
    if not tags:
        return None
    target = tags.get("resonate:target")
    if target is not None and not deliverable(target):
        return UNDELIVERABLE
    origin = tags.get("resonate:origin")
    if origin is not None and ORIGIN_SEPARATOR in origin:
        return f"resonate:origin must not contain {ORIGIN_SEPARATOR!r}"
    for name in ("resonate:origin", "resonate:branch", "resonate:parent"):
        ancestor = tags.get(name)
        if ancestor is not None and not extends(request.id, ancestor):
            return f"the promise's id must extend its {name}"
    delay = tags.get("resonate:delay")
    if delay is not None:
        if not (delay.isascii() and delay.isdecimal()):
            return "resonate:delay must be a number of milliseconds"
        if int(delay) >= request.timeout_at:
            return "resonate:delay must be before timeoutAt"
        if target is None:
            return "resonate:delay needs a resonate:target"
    return None


def extends(promise_id: str, ancestor: str) -> bool:
    """Whether an id is an ancestor's or lies below it."""
    if not promise_id.startswith(ancestor):
        return False
    return len(promise_id) == len(ancestor) or promise_id[len(ancestor)] in LINEAGE_SEPARATORS


def promise_create(db: Database, now: int, request: wire.PromiseCreate, messages: Messages) -> Reply:
    refusal = refuse_create(request)
    if refusal is not None:
        return bad(refusal)
    return Reply(200, {"promise": create(db, now, request, messages).seen(now)})


def create(db: Database, now: int, request: wire.PromiseCreate, messages: Messages, *, root: str = "") -> Promise:
    """The promise of this id, made if there is none; `root` is one that the caller has just seen."""
    promise = insert_promise(db, now, request, messages, root=root)
    if promise is None:
        found = find_promise(db, request.id)
        assert found is not None  # noqa: S101 - it stood in the way
        return found
    if promise.target is not None:
        delay = int((request.tags or {}).get("resonate:delay", "0"))
        insert_task(db, now, promise, delay, messages)
    return promise


def promise_settle(db: Database, now: int, request: wire.PromiseSettle, messages: Messages) -> Reply:
    promise = find_promise(db, request.id)
    if promise is None:
        return missing("promise")
    if promise.open(now):
        promise = settle(db, now, promise, request.state, request.value, messages)
    return Reply(200, {"promise": promise.seen(now)})


def promise_register_callback(
    db: Database, now: int, request: wire.PromiseRegisterCallback, _messages: Messages
) -> Reply:
    if request.awaited == request.awaiter:
        return bad("a promise cannot await itself")
    if origin_of(request.awaited) != origin_of(request.awaiter):
        return bad("awaiter and awaited must have the same origin")
    awaited = find_promise(db, request.awaited)
    if awaited is None:
        return missing("awaited promise")
    awaiter = find_promise(db, request.awaiter)
    if awaiter is None or awaiter.target is None:
        return unprocessable("the awaiter is not a promise with a target")
    if not awaited.external:
        return unprocessable(f"{awaited.id} is internal and cannot be awaited")
    if awaited.open(now) and awaiter.open(now):
        db.execute("INSERT OR IGNORE INTO callbacks VALUES (?, ?)", (awaited.id, awaiter.id))
    return Reply(200, {"promise": awaited.seen(now)})


def promise_register_listener(
    db: Database, now: int, request: wire.PromiseRegisterListener, _messages: Messages
) -> Reply:
    if not deliverable(request.address):
        return bad(UNDELIVERABLE)
    awaited = find_promise(db, request.awaited)
    if awaited is None:
        return missing("promise")
    if awaited.open(now):
        db.execute("INSERT OR IGNORE INTO listeners VALUES (?, ?)", (awaited.id, request.address))
    return Reply(200, {"promise": awaited.seen(now)})
