"""What a call can end with, as a vocabulary: plain data on the wire, one class per situation.

1. Nothing of an exception crosses but its name, its message and plain data: no pickle, no traceback, no host path.
2. The vocabulary is closed: a class of somebody's own travels as the nearest one here, its own name in ``data``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from typing import Any

from .values import NotPlain, encode

__all__ = [
    "ERROR_TYPES",
    "BadAnswer",
    "BadArguments",
    "BadCapability",
    "BadReply",
    "CallCancelled",
    "CallFailed",
    "CallInDoubt",
    "CallTimeout",
    "CapabilityError",
    "CapabilityNotGranted",
    "NotPerformed",
    "TooLarge",
    "TooManyCalls",
    "UnknownCapability",
    "UnknownGrant",
    "as_call_error",
    "from_data",
]

#: Characters of a message that are kept: enough for a validation error of many fields, small beside a record (256 kB).
MAX_MESSAGE = 4_000


class CapabilityError(Exception):
    """Base of what a call can end with; ``data`` is plain data for the code that asked."""

    def __init__(self, message: str = "", data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    def to_data(self) -> dict[str, Any]:
        """Return ``{"type", "message", "data"}``, encoded; data that is not plain is left out and said so."""
        name = next(each.__name__ for each in type(self).__mro__ if each in _BY_TYPE)
        message, data = self.message, self.data
        try:
            data = encode(data)
        except NotPlain as error:
            message, data = f"{message} (data left out: {error})", None
        if name != type(self).__name__:
            extra = data if isinstance(data, dict) else {} if data is None else {"data": data}
            data = {"exception": type(self).__name__, **extra}
        return {"type": name, "message": _clip(message), "data": data}


class NotPerformed(CapabilityError):
    """The effect certainly did not happen: raised by a handler, it makes a retry safe whatever the policy."""


class CallFailed(CapabilityError):
    """The handler raised; ``data["exception"]`` names what."""


class CallTimeout(CapabilityError):
    """No outcome within the capability's timeout; the effect may have happened."""


class CallInDoubt(CapabilityError):
    """The call had started and its outcome was lost; whether it happened is not known. Only the caller can decide."""


class CallCancelled(CapabilityError):
    """The call was given up before it had an outcome."""


class BadArguments(CapabilityError):
    """The arguments do not fit the capability's signature; nothing was done."""


class BadReply(CapabilityError):
    """The handler returned what cannot be recorded; the effect has happened."""


class BadAnswer(CapabilityError):
    """An answer that does not fit the question; the question stays open."""


class CapabilityNotGranted(CapabilityError):
    """The capability exists and this session may not use it, or not so."""


class UnknownCapability(CapabilityError):
    """No capability of that name exists here."""


class TooLarge(CapabilityError):
    """What came back is larger than the capability's limit."""


class TooManyCalls(CapabilityError):
    """So many calls of the execution are open that no other is begun; nothing was done."""


class BadCapability(TypeError):
    """A declaration that cannot be a capability; raised when it is declared."""


class UnknownGrant(LookupError):
    """A grant that names nothing here."""


_BY_TYPE: dict[type, str] = {
    each: each.__name__
    for each in (
        CapabilityError,
        NotPerformed,
        CallFailed,
        CallTimeout,
        CallInDoubt,
        CallCancelled,
        BadArguments,
        BadReply,
        BadAnswer,
        CapabilityNotGranted,
        UnknownCapability,
        TooLarge,
        TooManyCalls,
    )
}

#: The closed vocabulary by the name it has on the wire.
ERROR_TYPES: dict[str, type[CapabilityError]] = {name: each for each, name in _BY_TYPE.items()}


def from_data(data: Any) -> CapabilityError:
    """Return the error that ``data`` describes; what nobody here knows is a CallFailed that keeps its type."""
    if not isinstance(data, dict):
        return CallFailed("the call was rejected without a reason", data)
    name, message = data.get("type"), data.get("message")
    text = message if isinstance(message, str) else ""
    kind = ERROR_TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        return CallFailed(text or "the call was rejected", {"exception": name, "data": data.get("data")})
    return kind(text, data.get("data"))


def as_call_error(error: BaseException) -> CapabilityError:
    """Return what the caller may see of an exception that a handler raised."""
    if isinstance(error, CapabilityError):
        return error
    return CallFailed(_clip(_message(error)), {"exception": type(error).__name__})


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        place = f": {os.path.basename(name)!r}" if isinstance(name, str) and name else ""  # noqa: PTH119 - text only
        return f"{type(error).__name__}: {error.strerror}{place}"
    text = str(error)
    for root in _host_roots():
        text = text.replace(root, "...")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@cache
def _host_roots() -> tuple[str, ...]:
    """Name the folders of this machine that a message has no business to show, longest first."""
    roots = {os.path.expanduser("~"), os.getcwd(), sys.prefix, sys.base_prefix, tempfile.gettempdir()}  # noqa: PTH109, PTH111
    return tuple(sorted((each for each in roots if len(each) > 1), key=len, reverse=True))


def _clip(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."
