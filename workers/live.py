"""What a worker has of the executions it runs, across their attempts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.engine.durable import Attempt

    from .handlers import Handlers
    from .run import Run

__all__ = ["Live"]


@dataclass(slots=True)
class Live:
    """One execution: its handlers outlive an attempt, the rest belongs to the one that acts now."""

    handlers: Handlers
    attempt: Attempt | None = None
    run: Run | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    #: Whether a promise to ask for its cancellation may exist: it is settled with the execution.
    watched: bool = False
