"""What the guest says of an execution that has ended: the message ``done``.

Nothing that the code left behind (a repr, an exception's text, a picture) can hold the answer up, or make a call.
"""

from __future__ import annotations

import asyncio
import errno
import json
import sys
from typing import TYPE_CHECKING, Any

from . import result
from .hints import hints
from .rich import bundle_of

if TYPE_CHECKING:
    from .executor import Outcome
    from .main import Guest
    from .wire import Message

__all__ = ["Limits", "done", "tasks"]

#: Bytes of an encoded value that travel inside ``done``.
INLINE = 256 << 10


class Limits:
    """Bounds that the session sets; what the configuration leaves out has the host's default."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.output: int = given.get("output_characters", 64 << 20)
        self.display: int = given.get("display_bytes", 64 << 20)
        self.repr: int = given.get("repr_characters", 10_000)
        self.repr_seconds: float = given.get("repr_seconds", result.REPR_SECONDS)
        self.inline: int = min(given.get("inline_bytes", INLINE), INLINE)
        self.result: int = given.get("result_bytes", 1 << 30)
        self.history: int = given.get("history", 1000)
        self.memory: int | None = given.get("memory_bytes")
        self.file: int | None = given.get("file_bytes")
        self.verify: int = given.get("verify_every", 32)


def done(guest: Guest, number: int, filename: str, outcome: Outcome) -> Message:
    """Return the message, everything it refers to being sent."""
    message: Message = {"t": "done", "status": outcome.status, "line": outcome.line, "mode": outcome.route.mode.value}
    message["names"] = guest.namespace.count()
    if outcome.route.blocking:
        message["blocking"] = list(outcome.route.blocking)
    if outcome.merged is not None:
        message["merged"] = outcome.merged
    notes: list[str] = []
    names = guest.namespace.dict
    names["_exception"], names["_exit_code"] = outcome.error, outcome.code
    guest.calls.refused = "a result is being described"
    guest.displays.end()
    if outcome.error is not None:
        message["error"] = _error(guest.limits, outcome.error, filename)
        notes += hints(outcome.error, guest.calls.knows, confined=guest.confined)
        if outcome.status == "exit":
            message["code"] = outcome.code
            if isinstance(outcome.error, SystemExit) and not isinstance(outcome.error.code, (int, type(None))):
                sys.stderr.write(f"{outcome.error.code}\n")
    elif outcome.valued:
        notes += _value(guest, number, outcome.value, message)
    guest.calls.refused = ""
    outcome.value = None
    guest.executor.loop.drop_unawaited()
    message["left"] = [*tasks(guest), *guest.threads.names()]
    notes += [*_cuts(guest), *guest.displays.problems, *guest.dropped.take()]
    if notes:
        message["notes"] = notes
    return message


def _value(guest: Guest, number: int, value: Any, message: Message) -> list[str]:
    limits = guest.limits
    guest.namespace.keep_result(number, value)
    if value is not None:
        message["repr"] = result.bounded_repr(value, limits.repr, limits.repr_seconds)
    notes = _display(guest, value, message)
    plain, data = result.encoded(value)
    if not plain:
        return notes
    text = json.dumps(data, separators=(",", ":"))
    if len(text) <= min(limits.inline, limits.result):
        message["value"], message["has_value"] = data, True
    elif len(text) <= limits.result:
        message["value_stream"] = guest.channel.send_stream(text.encode())
        message["has_value"] = True
    else:
        what = (
            f"the value is {len(text)} bytes, more than result_bytes ({limits.result}): only its repr is in the result"
        )
        notes.append(what)
    return notes


def _display(guest: Guest, value: Any, message: Message) -> list[str]:
    rich = bundle_of(value, guest.limits.repr, guest.limits.repr_seconds, plain=message.get("repr"))
    if rich is None:
        return []
    text = json.dumps(rich.data, separators=(",", ":"))
    if len(text) <= guest.limits.inline // 2:
        message["display"] = rich.data
    else:
        message["display_stream"] = guest.channel.send_stream(text.encode())
    return rich.problems


def _error(limits: Limits, error: BaseException, filename: str) -> dict[str, Any]:
    described = result.describe_error(error, filename)
    if isinstance(error, MemoryError) and limits.memory is not None:
        described["notes"].append(f"this session's limit memory_bytes is {limits.memory}")
    elif isinstance(error, OSError) and error.errno == errno.EFBIG and limits.file is not None:
        described["notes"].append(f"this session's limit file_bytes is {limits.file}")
    return described


def _cuts(guest: Guest) -> list[str]:
    cuts = []
    if guest.output.cut:
        limit = guest.limits.output
        cuts.append(f"output was cut: {guest.output.cut} characters beyond output_characters ({limit})")
    if guest.displays.cut:
        cuts.append(f"{guest.displays.cut} displays were cut, beyond display_bytes ({guest.limits.display})")
    return cuts


def tasks(guest: Guest) -> list[str]:
    """Return the names of the tasks that live on."""
    return sorted(task.get_name() for task in asyncio.all_tasks(guest.executor.loop) if not task.done())
