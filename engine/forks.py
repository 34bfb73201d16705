"""Forking a session at a call: what the new session's first execution finds recorded, and the order it is written in.

1. Every call asked before the fork keeps its recorded outcome; one that was under way is in doubt, one that waits for
   somebody waits again, by itself. Nothing asked after it is taken along.
2. The fork owns copies: nothing of it is lost when the session it comes from is deleted.
3. The execution is created last: until then a fork that was interrupted is finished by making it again.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from blake3 import blake3

from .checkpoints import alone
from .durable import now_ms
from .errors import ForkRefused, PromiseNotFound
from .ids import base_id, execution_id, parse_record, record_id, settings_id, step_id
from .inspection import promises_of, submitted
from .journal import Journal, not_waited_for
from .sessions import FOREVER_MS, base_of, read_settings
from .settings import EXECUTION_TIMEOUT_MS, ForkPoint, SessionSettings, Submission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .durable import Promise
    from .sessions import Base
    from .substrate import Substrate

__all__ = ["Import", "fork_session", "plan"]


class Import(NamedTuple):
    """A record of the fork: its kind and param, and whether somebody is still to answer it."""

    kind: str
    param: dict[str, Any]
    open: bool = False


def plan(records: Sequence[Promise], at: int, outcome: dict[str, Any] | None) -> list[Import]:
    """Return the records of a fork at record ``at`` of a step; ``outcome`` None lets that call be asked anew. Pure."""
    journal = Journal.read(records)
    path, deliveries = records[at].param["path"], journal.deliveries
    pushed = [number for number, item in enumerate(deliveries) if item[0] != "c"]
    end = next((number for number in pushed if deliveries[number][:2] == ["r", path]), len(deliveries))
    before = sum(number < end for number in pushed)
    kept = [n for n, item in enumerate(deliveries) if (item[2] <= before if item[0] == "c" else n < end)]
    items = [deliveries[number] for number in kept]
    if end < len(deliveries) and outcome is not None:
        items.append(deliveries[end])
    imports: list[Import] = []
    timers: dict[str, int] = {}
    consumed = 0
    for promise in records:
        consumed = max(consumed, _consumed(promise))
        param = {key: value for key, value in promise.param.items() if key != "entered"}
        match param["kind"]:
            case "call" if param["path"] == path:
                if outcome is not None:
                    imports.append(Import("call", {**param, "outcome": outcome}))
            case "call" if param.get("after", 0) <= end:
                # Numbers of deliveries count what is kept: the fork may be forked again.
                param["after"] = sum(number < param.get("after", 0) for number in kept)
                imports.append(_call(promise.id, param, journal.calls[param["path"]].outcome))
            case "output" if consumed <= end:
                imports.append(Import("output", param))
            case "cancelled" if consumed <= end:
                imports.append(Import("cancelled", param))
            case "timer" | "fork" if consumed <= end:
                timers |= param["timers"]
    carrier = {"kind": "fork", "from": records[at].id, "timers": timers, "at": now_ms()}
    return [*imports, Import("fork", {**carrier, "entered": {"at": 0, "items": items}})]


def _consumed(promise: Promise) -> int:
    entered = promise.param.get("entered")
    return entered["at"] + len(entered["items"]) if entered else 0


def _call(id: str, param: dict[str, Any], outcome: dict[str, Any] | None) -> Import:
    if outcome is not None and outcome != not_waited_for(param["path"]):
        return Import("call", {**param, "outcome": outcome})
    if param["effect"] == "external":
        return Import("call", param, open=True)
    msg = f"{param['name']} was under way when the session was forked, and whether it was performed is not known"
    doubt = {"error": {"type": "CallInDoubt", "message": msg, "data": {"call": id}}}
    return Import("call", {**param, "outcome": doubt})


async def fork_session(substrate: Substrate, call_id: str, outcome: dict[str, Any] | None, name: str) -> str:
    """Make session ``name`` of what ``call_id`` saw; returns its execution. Raises PromiseNotFound, ForkRefused."""
    at = parse_record(call_id)
    source = execution_id(at.execution.session, at.execution.n)
    root = await substrate.promises.get(source)
    if root is None or not submitted(root):
        msg = f"there is no execution {source}: 'perdure ps' lists those there are"
        raise PromiseNotFound(msg)
    submission = Submission.model_validate(submitted(root))
    base = await base_of(substrate.promises, at.execution.session, at.execution.n)
    found = {promise.id: promise for promise in await promises_of(substrate, source)}
    records = _records(found, source, at.step)
    if at.number >= len(records) or records[at.number].param.get("kind") != "call":
        msg = f"there is no call {call_id}: 'perdure show {source}' shows those there are"
        raise PromiseNotFound(msg)
    imports = plan(records, at.number, outcome)
    forked = ForkPoint(at=call_id, step=at.step, path=records[at.number].param["path"])
    writer = _Writer(substrate, name, forked, outcome)
    await writer.settings(at.execution.session)
    await writer.base(base)
    for step in range(at.step):
        await writer.step(step, found[step_id(source, step)])
        await writer.records(step, [_copied(promise) for promise in _records(found, source, step)])
    await writer.records(at.step, imports)
    return await writer.execution(submission)


def _records(found: dict[str, Promise], execution: str, step: int) -> list[Promise]:
    records: list[Promise] = []
    while (promise := found.get(record_id(execution, step, len(records)))) is not None:
        records.append(promise)
    return records


def _copied(promise: Promise) -> Import:
    """Return a record of a step that is over, as it was."""
    param = dict(promise.param)
    if param["kind"] == "call":
        outcome = Journal.read([promise._replace(param={**param, "entered": None})]).calls[param["path"]].outcome
        return Import("call", {**param, "outcome": outcome or _call(promise.id, param, None).param.get("outcome")})
    if param["kind"] == "timer":
        return Import("fork", {"kind": "fork", "from": promise.id, "timers": {}, "at": param["at"]})
    return Import(param["kind"], param)


class _Writer:
    """Creates a fork's promises; each create returns what is there, so that all of it can be done again."""

    def __init__(self, substrate: Substrate, name: str, forked: ForkPoint, outcome: dict[str, Any] | None) -> None:
        self._promises = substrate.promises
        self._blobs = substrate.blobs
        self._seals = substrate.seals()
        self._name = name
        self._forked = forked
        self._execution = execution_id(name, 1)
        text = f"{forked.at}\0{outcome!r}".encode()
        self._nonce = blake3(text).hexdigest(16)

    async def settings(self, source: str) -> None:
        """Make the session, with what the other is allowed and an incarnation of its own. Raises ForkRefused."""
        head = await read_settings(self._promises, source)
        if head is None:
            msg = f"session {source} is gone"
            raise PromiseNotFound(msg)
        old = head.settings
        wanted = old.model_copy(
            update={
                "incarnation": secrets.token_hex(16),
                "birth": old.birth or old.incarnation,
                "nonce": self._nonce,
            }
        )
        made = await self._promises.create(
            settings_id(self._name, 0), "settings", wanted.model_dump(mode="json"), timeout_at=now_ms() + FOREVER_MS
        )
        if SessionSettings.model_validate(made.param).nonce != self._nonce:
            msg = f"there is a session {self._name!r} already: choose another name for the fork"
            raise ForkRefused(msg)

    async def base(self, base: Base | None) -> None:
        """Keep what the fork starts from. Raises CheckpointForged."""
        if base is not None and base.value is not None:
            await self._seals.verify(base.step)
            await self._settled(base_id(self._name), "base", base.value, self._name)

    async def step(self, number: int, step: Promise) -> None:
        """Copy a step that was over. Raises CheckpointForged."""
        if isinstance(step.value, dict) and step.value.get("checkpoint") is not None:
            await self._seals.verify(step.id)
        await self._settled(step_id(self._execution, number), "step", step.value, self._execution)

    async def _settled(self, id: str, kind: str, value: Any, parent: str) -> None:
        # Whole, so that nothing of it is lost with the session it comes from, and under its own name.
        if isinstance(value, dict):
            value = self._seals.first(id, await alone(self._promises, self._blobs, value))
        await self._promises.create(id, kind, {"at": now_ms()}, timeout_at=now_ms() + FOREVER_MS, parent=parent)
        await self._promises.settle(id, value)

    async def records(self, step: int, imports: Sequence[Import]) -> None:
        """Write a step's records."""
        for index, each in enumerate(imports):
            await self._promises.create(
                record_id(self._execution, step, index),
                each.kind,
                each.param,
                timeout_at=now_ms() + EXECUTION_TIMEOUT_MS,
                parent=step_id(self._execution, step),
                external=each.open,
                settled=not each.open,
            )

    async def execution(self, submission: Submission) -> str:
        """Hand the execution to whoever works; the fork is complete."""
        changed = submission.model_copy(
            update={"session": self._name, "base": None, "fork": self._forked, "nonce": self._nonce}
        )
        param = {"func": "execute", "args": [changed.model_dump(mode="json")], "kwargs": {}, "version": 1}
        timeout_at = now_ms() + EXECUTION_TIMEOUT_MS
        await self._promises.create(self._execution, "execution", param, timeout_at=timeout_at, target=True)
        return self._execution
