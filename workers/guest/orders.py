"""What the host may say, as a table: the counterpart of the models by which the host reads a guest (docs/design.md).

A message that is not in it is an error at once: a guest that guessed what was meant would run something else.
"""

from __future__ import annotations

from typing import Any

from .wire import WireError

__all__ = ["ORDERS", "check"]

#: Fields by type of message: those that must be there, and those that may be.
ORDERS: dict[str, tuple[dict[str, type], dict[str, type | tuple[type, ...]]]] = {
    "start": ({"config": dict}, {}),
    "stream": ({"id": int, "size": int}, {}),
    "restore": ({"stream": int}, {}),
    "execute": (
        {"execution": str},
        {
            "code": str,
            "code_stream": int,
            "filename": (str, type(None)),
            "argv": list,
            "flags": dict,
            "replay": dict,
            "replay_stream": int,
            "step": int,
            "grants": list,
            "fork": (dict, type(None)),
            "variables": dict,
            "variables_stream": int,
            "strategy": str,
            "steps": (dict, type(None)),
            "lost_ends": bool,
            "image": bool,
        },
    ),
    "reply": ({"path": str}, {"value": object, "value_stream": int, "error": dict}),
    "checkpoint": ({}, {"since": int}),
    "settled": ({"ok": bool}, {}),
    "cancel": ({}, {}),
    "shutdown": ({}, {}),
}


def check(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message that is in the table. Raises WireError."""
    kind = message["t"]
    fields = ORDERS.get(kind)
    if fields is None:
        msg = f"a message of unknown type {kind!r}"
        raise WireError(msg)
    needed, allowed = fields
    for name in needed:
        if name not in message:
            msg = f"a message of type {kind!r} without {name!r}"
            raise WireError(msg)
    for name, value in message.items():
        wanted = needed.get(name) or allowed.get(name)
        if name != "t" and (wanted is None or not isinstance(value, wanted)):
            msg = f"a message of type {kind!r} with {name!r} of type {type(value).__name__}"
            raise WireError(msg)
    return message
