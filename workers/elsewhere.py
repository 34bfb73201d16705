"""Capabilities that another Resonate worker serves, in any language: a promise with its group as the target.

1. The promise is named by the call's idempotency key: whoever asks again for the same call finds the same promise.
2. A host that keeps the policies of effects (serving.py) is asked by a name that no other has, and gives its outcome as
   data, an error too.
3. What comes back is plain data, of somebody else's making: it is read as data, and its errors as text.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from perdure.capabilities import values
from perdure.capabilities.errors import BadReply, CallInDoubt, CallTimeout, from_data
from perdure.engine.durable import now_ms
from perdure.engine.journal import outcome_of

if TYPE_CHECKING:
    from perdure.capabilities.base import CallContext, Capability
    from perdure.engine.durable import Promises

__all__ = ["ask_elsewhere", "served_name"]

#: Between two looks at whether it has answered: at first, and at the most (s).
FIRST_LOOK, LAST_LOOK = 0.01, 0.5


#: Milliseconds that a host which keeps policies has beyond the handler's own time, and its probe's: for whoever comes
#: after one that was lost.
GRACE_MS = 30_000


def served_name(name: str) -> str:
    """Name the function of a capability at a host that keeps its policy."""
    return f"perdure.served:{name}"


async def ask_elsewhere(promises: Promises, id: str, capability: Capability, data: Any, context: CallContext) -> Any:
    """Have a worker of the capability's group call the function of its name; return the reply, decoded.

    Raises CallTimeout, BadReply, and whatever CapabilityError it was rejected with.
    """
    timeout = int((capability.timeout or 0.0) * 1000)
    func, kwargs = capability.name, data
    if capability.served:
        func, timeout = served_name(capability.name), 2 * timeout + GRACE_MS
        kwargs = {"data": data, "call": context.call, "attempt": context.attempt}
    param = {"func": func, "args": [], "kwargs": kwargs, "version": capability.version}
    promise = await promises.create(id, "rpc", param, timeout_at=now_ms() + timeout, target=capability.remote or False)
    wait = FIRST_LOOK
    while not promise.settled:
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, LAST_LOOK)
        promise = await promises.get(id) or promise
    if promise.state == "rejected_timedout":
        msg = f"no worker of group {capability.remote!r} gave an outcome of {capability.name} in time"
        raise CallInDoubt(msg) if capability.effect == "reconcile" else CallTimeout(msg)
    outcome = outcome_of(promise) or {}
    if capability.served and isinstance(found := outcome.get("value"), dict) and found.keys() <= {"value", "error"}:
        outcome = found
    if "error" in outcome:
        raise from_data(outcome["error"])
    try:
        return capability.check_reply(values.decode(outcome.get("value")))
    except ValueError as exc:  # of pydantic, or no value of ours
        msg = f"what group {capability.remote!r} replied does not fit {capability.name}: {exc}"
        raise BadReply(msg) from None
