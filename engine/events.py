"""What happens inside a worker, told to whoever observes it: a closed union of events.

1. An observer is handed to the worker by the program that starts it; nothing submitted can reach or set one.
2. Events come in the order in which things are done, on the worker's own loop; what an observer raises fails the deed.

``Recording``, ``Settling``, ``Delivering`` and ``Suspending`` come before the deed, the others after it: between two
events lies exactly one thing that a crash may fall before or after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = [
    "Delivered",
    "Delivering",
    "Ended",
    "Event",
    "Imaged",
    "Launched",
    "Observer",
    "Recorded",
    "Recording",
    "Settled",
    "Settling",
    "Stored",
    "Suspending",
]


class Recording(NamedTuple):
    """A promise of an execution (a step, a record of it, a death) is about to be created."""

    execution: str
    id: str
    kind: str
    param: Any


class Recorded(NamedTuple):
    """It is created, durably."""

    execution: str
    id: str
    kind: str
    param: Any


class Settling(NamedTuple):
    """A promise of an execution (a call, a step) is about to be settled."""

    execution: str
    id: str


class Settled(NamedTuple):
    """It is settled, durably."""

    execution: str
    id: str


class Delivering(NamedTuple):
    """The outcome of the call with this lineage path is about to be sent to the guest."""

    execution: str
    path: str


class Delivered(NamedTuple):
    """It is sent; whether the guest took it is not known."""

    execution: str
    path: str


class Launched(NamedTuple):
    """A guest has been told to run the code; ``replayed`` counts the recorded calls it will ask again."""

    execution: str
    pid: int
    kept: bool
    replayed: int


class Suspending(NamedTuple):
    """The guest is parked, and the attempt is about to leave until one of these promises settles."""

    execution: str
    waiting: tuple[str, ...]


class Imaged(NamedTuple):
    """The guest has sent what a checkpoint is made of; nothing of it is stored."""

    execution: str


class Stored(NamedTuple):
    """Everything that a checkpoint names is stored; nothing is recorded that names it."""

    execution: str


class Ended(NamedTuple):
    """Everything of the execution is recorded but its own outcome."""

    execution: str
    version: int


Event = (
    Recording | Recorded | Settling | Settled | Delivering | Delivered | Launched | Suspending | Imaged | Stored | Ended
)

Observer = Callable[[Event], None]
