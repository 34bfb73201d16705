"""A contract checker for people who write capabilities: hand it one, and it raises where a promise does not hold."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from .base import BoundCall, CallContext, Capability
from .errors import BadArguments, BadReply, CapabilityError, NotPerformed, as_call_error
from .values import NotPlain, decode, encode, fingerprint_bytes

__all__ = ["Checked", "ContractBroken", "check_capability"]


class ContractBroken(AssertionError):
    """The capability does not keep what its declaration promises."""


@dataclass(slots=True)
class Checked:
    """What was found to hold, in words, what could not be looked at, and the reply of the first call."""

    held: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    reply: Any = None


async def check_capability(
    capability: Capability,
    arguments: Mapping[str, Any],
    *,
    count: Callable[[], int] | None = None,
    unavailable: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
) -> Checked:
    """Call ``capability`` for real and check its contract; raise ContractBroken that says what does not hold.

    ``count`` returns how many effects the outside has seen (effects, not requests). ``unavailable`` is a context in
    which the outside cannot be reached. Without them the checks that need them are listed in ``not_checked``.
    """
    checked = Checked()
    bound = _check_arguments(capability, arguments, checked)
    if capability.external:
        checked.not_checked.append("a reply: it is answered from outside")
        return checked
    call = _Call(bound, str(uuid.uuid4()), count or (lambda: 0))
    if count is None:
        checked.not_checked.append("how often the effect happens: no count was given")
    if unavailable is None:
        checked.not_checked.append("what it raises when the outside cannot be reached: no such context was given")
    else:
        async with unavailable():
            await _check_unavailable(call, checked)
    if capability.probe is not None:
        await _check_probe_before(call, checked)
    data = await _check_reply(call, checked)
    if capability.effect == "repeat":
        await _check_repeat(call, checked)
    if capability.probe is not None:
        await _check_probe_after(call, data, checked)
    return checked


@dataclass(slots=True)
class _Call:
    """One call, made as a worker makes it, over and over under one key."""

    bound: BoundCall
    key: str
    count: Callable[[], int]
    retry: int = 0

    @property
    def name(self) -> str:
        return self.bound.capability.name

    async def run(self, function: Callable[..., Any] | None) -> Any:
        if function is None:
            msg = f"{self.name} has nothing to call"
            raise ContractBroken(msg)
        timeout = self.bound.capability.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        context = CallContext(
            session="check", execution="check@1", call="check@1:s0.0", attempt=1, retry=self.retry, deadline=deadline
        )
        self.retry += 1
        arguments = self.bound.injected(key=self.key, ctx=context)
        async with asyncio.timeout(timeout):
            if inspect.iscoroutinefunction(function):
                return await function(**arguments)
            return await asyncio.to_thread(function, **arguments)


def _check_arguments(capability: Capability, arguments: Mapping[str, Any], checked: Checked) -> BoundCall:
    json.dumps(encode(capability.describe()))
    try:
        data = encode(dict(arguments))
    except NotPlain as error:
        msg = f"{capability.name}: code cannot send these arguments: {error}"
        raise ContractBroken(msg) from error
    bound = capability.bind((), decode(data))
    checked.held.append("the arguments cross as plain data and fit the signature")
    stranger = "not_a_parameter_of_this"
    for wrong in ({**arguments, stranger: 1}, _without_required(capability, arguments)):
        if wrong is None:
            continue
        try:
            capability.bind((), wrong)
        except BadArguments:
            continue
        msg = f"{capability.name} accepts arguments that its signature does not allow: {sorted(wrong)}"
        raise ContractBroken(msg)
    checked.held.append("arguments that do not fit are refused before anything is done")
    return bound


def _without_required(capability: Capability, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    for each in capability.signature.parameters.values():
        if each.default is each.empty:
            return {name: value for name, value in arguments.items() if name != each.name}
    return None


async def _check_unavailable(call: _Call, checked: Checked) -> None:
    before = call.count()
    try:
        await call.run(call.bound.capability.handler)
    except NotPerformed:
        if call.count() != before:
            msg = f"{call.name} raised NotPerformed although its effect happened: it would be retried and happen twice"
            raise ContractBroken(msg) from None
        checked.held.append("it raises NotPerformed when the outside cannot be reached, and has then done nothing")
    except Exception as error:  # noqa: BLE001 - a handler is somebody's, and may fail in any way
        as_call_error(error).to_data()
        checked.held.append(
            f"it raises {type(error).__name__} when the outside cannot be reached (NotPerformed would allow a retry)"
        )
    else:
        msg = f"{call.name} returned although the outside could not be reached"
        raise ContractBroken(msg)


async def _check_reply(call: _Call, checked: Checked) -> Any:
    capability = call.bound.capability
    before = call.count()
    try:
        value = await call.run(capability.handler)
    except CapabilityError as error:
        msg = f"{call.name} failed: {type(error).__name__}: {error}"
        raise ContractBroken(msg) from error
    try:
        data = capability.reply(value)
        checked.reply = decode(data)
        capability.check_reply(checked.reply)
    except (BadReply, ValidationError) as error:
        msg = f"{call.name} returned what its declaration does not allow: {error}"
        raise ContractBroken(msg) from error
    checked.held.append("the reply is plain data of the type declared")
    if call.count() - before > 1:
        msg = f"one call of {call.name} had {call.count() - before} effects"
        raise ContractBroken(msg)
    return data


async def _check_repeat(call: _Call, checked: Checked) -> None:
    before = call.count()
    value = await call.run(call.bound.capability.handler)
    call.bound.capability.reply(value)
    if call.count() != before:
        msg = (
            f"{call.name} has the effect 'repeat', but called again under the same key its effect happened again: "
            "pass the key on to a service that honours it, or declare 'reconcile' or 'unknown'"
        )
        raise ContractBroken(msg)
    checked.held.append("called again under the same key, the effect does not happen again")


async def _check_probe_before(call: _Call, checked: Checked) -> None:
    before = call.count()
    try:
        found = await call.run(call.bound.capability.probe)
    except NotPerformed:
        if call.count() == before:
            checked.held.append("the probe raises NotPerformed for what was not done, and does nothing itself")
            return
        msg = f"the probe of {call.name} had an effect itself"
        raise ContractBroken(msg) from None
    msg = f"the probe of {call.name} returned {found!r} for a key that was never used: it must raise NotPerformed"
    raise ContractBroken(msg)


async def _check_probe_after(call: _Call, data: Any, checked: Checked) -> None:
    before = call.count()
    try:
        found = call.bound.capability.reply(await call.run(call.bound.capability.probe))
    except NotPerformed:
        msg = f"the probe of {call.name} raised NotPerformed for what was done: it would be done twice"
        raise ContractBroken(msg) from None
    if call.count() != before:
        msg = f"the probe of {call.name} had an effect itself"
        raise ContractBroken(msg)
    if fingerprint_bytes(found) != fingerprint_bytes(data):
        msg = f"the probe of {call.name} returned {decode(found)!r}, the call itself {decode(data)!r}"
        raise ContractBroken(msg)
    checked.held.append("the probe finds what was done, and returns what the call returned")
