"""Capabilities that another Resonate worker serves, in any language: a promise with its group as the target.

1. The promise is named by the call's idempotency key: whoever asks again for the same call finds the same promise.
2. What comes back is plain data, of somebody else's making: it is read as data, and its errors as text.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from perdure.capabilities import values
from perdure.capabilities.errors import BadReply, CallTimeout, from_data
from perdure.engine.durable import now_ms
from perdure.engine.journal import outcome_of

if TYPE_CHECKING:
    from perdure.capabilities.base import Capability
    from perdure.engine.durable import Promises

__all__ = ["ask_elsewhere"]

#: Between two looks at whether it has answered: at first, and at the most (s).
FIRST_LOOK, LAST_LOOK = 0.01, 0.5


async def ask_elsewhere(promises: Promises, id: str, capability: Capability, data: Any) -> Any:
    """Have a worker of the capability's group call the function of its name; return the reply, decoded.

    Raises CallTimeout, BadReply, and whatever CapabilityError it was rejected with.
    """
    param = {"func": capability.name, "args": [], "kwargs": data, "version": capability.version}
    timeout_at = now_ms() + int((capability.timeout or 0.0) * 1000)
    promise = await promises.create(id, "rpc", param, timeout_at=timeout_at, target=capability.remote or False)
    wait = FIRST_LOOK
    while not promise.settled:
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, LAST_LOOK)
        promise = await promises.get(id) or promise
    if promise.state == "rejected_timedout":
        msg = f"no worker of group {capability.remote!r} gave an outcome of {capability.name} in time"
        raise CallTimeout(msg)
    outcome = outcome_of(promise) or {}
    if "error" in outcome:
        raise from_data(outcome["error"])
    try:
        return capability.check_reply(values.decode(outcome.get("value")))
    except ValueError as exc:  # of pydantic, or no value of ours
        msg = f"what group {capability.remote!r} replied does not fit {capability.name}: {exc}"
        raise BadReply(msg) from None
