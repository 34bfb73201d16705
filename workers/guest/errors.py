"""What guest code can be told, as exceptions of the module ``perdure``, named as in the host's vocabulary."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BadAnswer",
    "BadArguments",
    "BadReply",
    "CallCancelled",
    "CallError",
    "CallFailed",
    "CallInDoubt",
    "CallTimeout",
    "Cancelled",
    "CapabilityNotGranted",
    "ForeignLoop",
    "InputClosed",
    "NoExecution",
    "NotPerformed",
    "TooLarge",
    "TooManyCalls",
    "from_data",
    "public",
]


class CallError(Exception):
    """A capability call did not end with a reply; ``data`` is what the host told besides, ``type`` its name for it."""

    def __init__(self, message: str = "", data: Any = None, type: str = "") -> None:  # noqa: A002 - the word on the wire
        super().__init__(message)
        self.message = message
        self.data = data
        self.type = type or self.__class__.__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.__class__, (self.message, self.data, self.type))


class CallFailed(CallError):
    """The capability's own code failed."""


class CallInDoubt(CallError):
    """The call started, and nobody knows whether it took effect."""


class CallTimeout(CallError):
    """The call took longer than it may."""


class CallCancelled(CallError):
    """The call was cancelled from outside."""


class CapabilityNotGranted(CallError):
    """This session may not ask for that."""


class BadArguments(CallError, TypeError):
    """The arguments do not fit the capability."""


class BadReply(CallError):
    """The capability returned something that cannot be recorded."""


class BadAnswer(CallError):
    """The answer given from outside does not fit."""


class InputClosed(CallError, EOFError):
    """Nobody will answer ``input()``: whoever could have refused, or the question was given up."""


class NotPerformed(CallError):
    """The call certainly had no effect, and was not tried again."""


class TooLarge(CallError):
    """The arguments or the reply are larger than allowed."""


class TooManyCalls(CallError):
    """So many calls are open that no other is begun; this one had no effect."""


class NoExecution(CallError):
    """A call was made while no execution of this session runs: there is nothing to record it in."""


class ForeignLoop(CallError, RuntimeError):
    """A call was made from an event loop that is not this session's: its order could not be replayed."""


class Cancelled(KeyboardInterrupt):
    """The execution was cancelled. Code that swallows it is killed after a grace period."""


_PUBLIC = {
    each.__name__: each
    for each in (
        CallError,
        CallFailed,
        CallInDoubt,
        CallTimeout,
        CallCancelled,
        CapabilityNotGranted,
        BadArguments,
        BadReply,
        BadAnswer,
        InputClosed,
        NotPerformed,
        TooLarge,
        TooManyCalls,
        NoExecution,
        ForeignLoop,
        Cancelled,
    )
}
for _each in _PUBLIC.values():
    _each.__module__ = "perdure"


def public() -> dict[str, type[BaseException]]:
    """Return the exceptions that code sees in the module ``perdure``, by name."""
    return dict(_PUBLIC)


def from_data(error: dict[str, Any], data: Any) -> CallError:
    """Return the exception for an error in a reply; a type this runtime does not know is a plain CallError."""
    name = str(error.get("type", ""))
    cls: type[Any] = _PUBLIC.get(name, CallError)
    told: CallError = (cls if issubclass(cls, CallError) else CallError)(str(error.get("message", "")), data, name)
    return told
