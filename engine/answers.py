"""Calls that wait for somebody, and how they are settled from outside: by plain data, or by a failure."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from perdure.capabilities.values import decode, encode

from .durable import EXTERNAL
from .errors import AlreadySettled, PromiseNotFound
from .ids import parse_record
from .inspection import shown_call, tree_of
from .records import PendingCall
from .refs import fetched

if TYPE_CHECKING:
    from perdure.capabilities.base import Capability

    from .durable import Promise
    from .substrate import Substrate

__all__ = ["Answers"]


class Answers:
    """What is asked and not answered; ``registry`` knows how answers to some capabilities have to look."""

    def __init__(self, substrate: Substrate, registry: Any) -> None:
        self._substrate = substrate
        self._registry = registry

    async def pending(self, execution: str | None = None) -> list[PendingCall]:
        """Return the calls that wait for somebody, oldest first."""
        if execution is not None:
            tree = await tree_of(self._substrate, execution)
            ids = [record.id for step in tree.children for record in step.children if record.kind == "call"]
            found = [promise for id in ids if (promise := await self._substrate.promises.get(id, strict=False))]
        else:
            found = await self._substrate.promises.search("call", pending=True, strict=False)
        waiting = [
            PendingCall(id=promise.id, name="", args=None, prompt=promise.problem, asked_at=promise.created_at)
            if promise.problem
            else PendingCall(
                id=promise.id,
                name=promise.param["name"],
                args=promise.param["args"],
                prompt=_prompt(promise.param),
                asked_at=promise.param["at"],
            )
            for promise in found
            if not promise.settled and _external(promise)
        ]
        return sorted(waiting, key=lambda call: (call.asked_at, call.id))

    async def answer(self, call_id: str, value: object) -> None:
        """Settle a pending call with plain data; the code goes on with it, now or when a worker is there.

        Raises InvalidName, PromiseNotFound, AlreadySettled, BadAnswer, NotPlain.
        """
        promise = await self._open_call(call_id)
        await self._settle(call_id, await self._encoded(promise, value), state="resolved")

    async def checked(self, call_id: str, value: object) -> Any:
        """Return an answer to a call, open or not, as a record has it. Raises PromiseNotFound, BadAnswer, NotPlain."""
        promise = await self._substrate.promises.get(call_id)
        if promise is None or promise.param.get("kind") != "call":
            msg = f"there is no call {call_id}: 'perdure show' lists those of an execution"
            raise PromiseNotFound(msg)
        return await self._encoded(promise, value)

    async def _encoded(self, promise: Promise, value: object) -> Any:
        capability = self._known(promise.param["name"])
        if capability is not None and capability.answer is not None:
            data = await fetched(self._substrate.blobs, promise.param["args"])
            bound = capability.bind((), decode(data))
            value = capability.answer(bound.arguments, value)
        return encode(value)

    async def fail(self, call_id: str, message: str) -> None:
        """Reject a pending call: the code gets ``CallFailed`` with this message. Raises as ``answer``."""
        await self._open_call(call_id)
        await self._settle(call_id, {"type": "CallFailed", "message": message, "data": None}, state="rejected")

    async def _open_call(self, call_id: str) -> Promise:
        parse_record(call_id)
        promise = await self._substrate.promises.get(call_id)
        if promise is None or promise.param.get("kind") != "call":
            msg = f"there is no call {call_id}: 'perdure pending' lists those that wait"
            raise PromiseNotFound(msg)
        if promise.settled:
            msg = f"{call_id} was settled already: what was offered now was not recorded"
            raise AlreadySettled(msg)
        if promise.param.get("effect") != "external":
            msg = f"{call_id} is a call of {promise.param['name']}, which its worker answers, not a person"
            raise PromiseNotFound(msg)
        return promise

    async def _settle(self, call_id: str, value: Any, *, state: Any) -> None:
        settled = await self._substrate.promises.settle(call_id, value, state=state)
        if settled is None or settled.state != state or settled.value != value:
            msg = f"{call_id} was settled by somebody else at the same time: what was offered now was not recorded"
            raise AlreadySettled(msg)

    def _known(self, name: str) -> Capability | None:
        with contextlib.suppress(Exception):
            found: Capability = self._registry.get(name)
            return found
        return None


def _external(promise: Promise) -> bool:
    if promise.problem:
        return EXTERNAL in promise.tags
    return bool(promise.param.get("effect") == "external")


def _prompt(param: dict[str, Any]) -> str:
    args = param.get("args")
    prompt = args.get("prompt") if isinstance(args, dict) else None
    return prompt if isinstance(prompt, str) else shown_call(param)
