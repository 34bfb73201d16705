"""The leases of a worker's tasks: kept alive by heartbeats of our own, and watched by a clock of our own.

1. A lease is counted from before its request was sent, on a clock that counts suspend, never from the reply.
2. Past its deadline (less a margin) nothing of the attempt acts, whether or not the store would still allow it.
3. Heartbeats go out per origin, one request each: a store may hold every origin elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog
from resonate.error import ResonateError
from resonate.ids import origin_of
from resonate.send import TaskRef

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LeaseKeeper", "TimedNetwork", "boot_clock"]

log = structlog.get_logger()

#: Heartbeats in one lease: two may be lost before it ends.
BEATS = 3


def boot_clock() -> float:
    """Return seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Sender(Protocol):
    async def task_heartbeat(self, pid: str, tasks: list[TaskRef]) -> None: ...


@dataclass(slots=True)
class _Lease:
    version: int
    deadline: float
    expire: Callable[[], None] | None = None
    expired: bool = False


class LeaseKeeper:
    """The SDK's Heartbeat, done our way; asks ``sent_at(task)`` when the request for a lease was sent."""

    def __init__(self, pid: str, ttl: float, margin: float, clock: Callable[[], float] = boot_clock) -> None:
        self._pid = pid
        self._ttl = ttl
        self._margin = min(margin, ttl / 3)
        self._clock = clock
        self._sender: _Sender | None = None
        self._leases: dict[str, _Lease] = {}
        #: Versions of a task that were begun and not let go, oldest first: there are two while one takes over.
        self._begun: dict[str, list[int]] = {}
        self._sent: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def attach(self, sender: _Sender) -> None:
        """Name what sends the heartbeats, once the SDK has made it."""
        self._sender = sender

    def sending(self, task_id: str) -> None:
        """Note that a request for this task's lease is about to be sent."""
        self._sent[task_id] = self._clock()

    # -- the SDK's side --------------------------------------------------------

    def start(self, task_id: str, task_version: int) -> None:
        """Begin to keep the lease that was just got."""
        granted = self._sent.pop(task_id, self._clock())
        self._leases[task_id] = _Lease(task_version, granted + self._ttl)
        self._begun.setdefault(task_id, []).append(task_version)
        if self._task is None:
            self._task = asyncio.create_task(self._keep())

    def stop(self, task_id: str) -> None:
        """Let a lease go: its task is fulfilled, suspended or released.

        The SDK does not say which version it means. Its successor waits until an attempt has ended, so it is the
        oldest: with the successor's lease let go in its place, that one would be lost in turn, and the next one.
        """
        begun = self._begun.get(task_id, [])
        if len(begun) > 1:
            begun.pop(0)
            return
        self._begun.pop(task_id, None)
        self._leases.pop(task_id, None)

    def shutdown(self) -> None:
        """Stop for good."""
        self._leases.clear()
        self._begun.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # -- our side ----------------------------------------------------------------

    def left(self, task_id: str, version: int) -> float:
        """Return the seconds for which this attempt may surely act; 0 or less when it may not."""
        lease = self._leases.get(task_id)
        if lease is None or lease.version != version:
            return 0.0
        return lease.deadline - self._margin - self._clock()

    def on_expiry(self, task_id: str, version: int, expire: Callable[[], None]) -> None:
        """Call ``expire`` once if the lease of this attempt ends before it is let go."""
        lease = self._leases.get(task_id)
        if lease is None or lease.version != version:
            expire()
            return
        lease.expire = expire

    async def _keep(self) -> None:
        interval = self._ttl / BEATS
        beating: set[asyncio.Task[None]] = set()
        next_beat = self._clock() + interval
        while True:
            await asyncio.sleep(max(0.005, min(next_beat - self._clock(), self._until_expiry())))
            self._expire()
            if self._clock() < next_beat:
                continue
            next_beat = self._clock() + interval
            for origin in {origin_of(task) for task in self._leases}:
                beat = asyncio.create_task(self._beat(origin))
                beating.add(beat)
                beat.add_done_callback(beating.discard)

    def _until_expiry(self) -> float:
        now = self._clock()
        deadlines = [lease.deadline - self._margin - now for lease in self._leases.values() if not lease.expired]
        return max(min(deadlines, default=self._ttl), 0.0)

    def _expire(self) -> None:
        now = self._clock()
        for task_id, lease in list(self._leases.items()):
            if not lease.expired and now >= lease.deadline - self._margin:
                lease.expired = True
                log.warning("lease.ended", task=task_id, version=lease.version)
                if lease.expire is not None:
                    lease.expire()

    async def _beat(self, origin: str) -> None:
        if self._sender is None:
            return
        leases = {
            task: lease for task, lease in self._leases.items() if origin_of(task) == origin and not lease.expired
        }
        if not leases:
            return
        sent = self._clock()
        try:
            await self._sender.task_heartbeat(
                self._pid, [TaskRef(id=task, version=lease.version) for task, lease in leases.items()]
            )
        except ResonateError as exc:
            log.warning("heartbeat.failed", origin=origin, error=str(exc))
            return
        for lease in leases.values():
            if not lease.expired:
                lease.deadline = max(lease.deadline, sent + self._ttl)


class TimedNetwork:
    """A Network that tells a LeaseKeeper when a lease is asked for; everything else passes through."""

    def __init__(self, network: Any, keeper: LeaseKeeper) -> None:
        self._network = network
        self._keeper = keeper

    async def start(self) -> None:
        """Start what it wraps."""
        await self._network.start()

    async def stop(self) -> None:
        """Stop what it wraps."""
        await self._network.stop()

    async def send(self, req: str, headers: dict[str, str] | None = None) -> str:
        """Pass a request on, noting the time if it asks for a lease."""
        if req.startswith('{"kind":"task.acquire"'):
            self._keeper.sending(str(msgspec.json.decode(req)["data"]["id"]))
        reply: str = await self._network.send(req, headers)
        return reply
