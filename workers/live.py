"""What a worker has of the executions it runs, across their attempts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from perdure.engine.durable import Attempt

    from .handlers import Handlers
    from .run import Run

__all__ = ["Live", "Reason"]

#: Why an execution is to stop; the status it then has.
type Reason = Literal["cancelled", "timeout"]


@dataclass(slots=True)
class Live:
    """One execution: its handlers outlive an attempt, the rest belongs to the one that acts now."""

    handlers: Handlers
    attempt: Attempt | None = None
    run: Run | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    #: Why it is to stop, once it is.
    stop: Reason | None = None
    #: Seconds that its code has to stop by itself.
    grace: float = 5.0
    #: Whether a promise to ask for its cancellation may exist: it is settled with the execution.
    watched: bool = False
