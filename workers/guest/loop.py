"""The event loop of a session, and of every ``asyncio.run`` in it: CPython's own, with time and I/O at our gate.

1. What enters while the loop has nothing ready is one delivery; between two deliveries the loop comes to rest.
2. Timers are ours, by lineage: their firing is a delivery like a reply.
3. Descriptors and ``call_soon_threadsafe`` of the user work as ever; their order is not promised on replay.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import TYPE_CHECKING, Any

from .runtime import IDLE_AFTER, TURNS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from .lineage import Node
    from .runtime import Runtime

__all__ = ["SessionLoop", "SessionTask", "install"]


class SessionTask(asyncio.Task):  # type: ignore[type-arg]
    """A task that hashes by its birth, so that sets of tasks keep one order."""

    _births = 0

    def __init__(self, coro: Any, *, loop: SessionLoop, **more: Any) -> None:
        # Before anything else: making a task puts it into a set.
        SessionTask._births += 1
        self._birth = SessionTask._births
        super().__init__(coro, loop=loop, **more)

    def __hash__(self) -> int:
        return self._birth

    def __eq__(self, other: object) -> bool:
        return self is other


class _Gate(selectors.BaseSelector):
    """The selector of a loop: where it comes to rest, one delivery enters."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._real = selectors.DefaultSelector()
        self._own = {runtime.channel.fd, runtime.wake_main}
        for fd in self._own:
            self._real.register(fd, selectors.EVENT_READ)
        self.loop: SessionLoop
        self._turns = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Any:
        return self._real.get_map()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return self._busy()
        self._turns = 0
        rested = time.monotonic()
        while True:
            events = self._events(0)
            if events or self.loop.has_ready:
                return events
            if self._runtime.deliver(self.loop, 0):
                return []
            now = time.monotonic()
            wait = self.loop.next_due()
            if now - rested < IDLE_AFTER:
                quiet = IDLE_AFTER - (now - rested)
                wait = quiet if wait is None else min(wait, quiet)
            else:
                self._runtime.rest(self.loop)
            events = self._events(wait)
            if events:
                return events

    def _busy(self) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns += 1
        head = self._runtime.deliveries.head
        if head is not None:
            if head.turns == self._turns and self._runtime.deliver(self.loop, self._turns):
                self._turns = 0
        elif self._turns % TURNS == 0:
            self._runtime.receive()
            if self._runtime.deliver(self.loop, self._turns):
                self._turns = 0
        return [event for event in self._real.select(0) if event[0].fd not in self._own]

    def _events(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(timeout)
        theirs = [event for event in found if event[0].fd not in self._own]
        if len(theirs) != len(found):
            self._runtime.drain_wake()
            self._runtime.receive()
        return theirs


class SessionLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers and rests belong to the runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._paths: dict[int, str] = {}
        self.announced: Node | None = None
        gate = _Gate(runtime)
        gate.loop = self
        super().__init__(gate)
        self.set_task_factory(None)
        runtime.loops.append(self)

    def descriptors(self) -> list[int]:
        """Return the descriptors that the loop needs."""
        gate: Any = self._selector  # type: ignore[attr-defined]
        sockets = (self._ssock, self._csock)  # type: ignore[attr-defined]
        return [gate._real.fileno(), *(each.fileno() for each in sockets)]

    def close(self) -> None:
        if self in self._runtime.loops:
            self._runtime.loops.remove(self)
        super().close()

    @property
    def has_ready(self) -> bool:
        """Whether something can run without a delivery."""
        return bool(self._ready) or self._stopping  # type: ignore[attr-defined]

    # -- tasks ---------------------------------------------------------------------------

    def create_task(self, coro: Any, **more: Any) -> Any:
        """Make a task, with its place in the family; a factory of the user's makes it if there is one."""
        factory = self.get_task_factory()
        node, self.announced = self.announced, None
        if node is None:
            node = self._runtime.family.current().child()
        if factory is not None:
            self.announced = node
            try:
                task: Any = super().create_task(coro, **more)
            finally:
                self.announced = None
            self._runtime.family.adopt(task, node)
            return task
        self._check_closed()  # type: ignore[attr-defined]
        self.announced = node
        try:
            task = SessionTask(coro, loop=self, **more)
        finally:
            self.announced = None
        self._runtime.family.adopt(task, node)
        return task

    # -- timers ----------------------------------------------------------------------------

    def call_at(  # type: ignore[override]  # the callback and its arguments go together unchecked
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Hold a timer by the path of who set it; one whose deadline is recorded keeps that deadline."""
        self._check_closed()  # type: ignore[attr-defined]
        runtime = self._runtime
        path = runtime.family.current().next_timer(runtime.execution or "")
        left = runtime.deliveries.timers.pop(path, None)
        if left is not None:
            when = self.time() + left
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers[path] = timer
        self._paths[id(timer)] = path
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        path = self._paths.pop(id(handle), None)
        if path is not None:
            self._timers.pop(path, None)

    def has_timer(self, path: str) -> bool:
        """Whether a timer of this path is set."""
        return path in self._timers

    def due_timer(self) -> str | None:
        """Return the path of the earliest timer that is due, if one is."""
        if not self._timers:
            return None
        path, timer = min(self._timers.items(), key=lambda item: (item[1].when(), item[0]))
        return path if timer.when() <= self.time() else None

    def next_due(self) -> float | None:
        """Return the seconds until the earliest timer; None if there is none."""
        if not self._timers:
            return None
        return max(0.0, min(timer.when() for timer in self._timers.values()) - self.time())

    def timers_left(self) -> list[list[Any]]:
        """Return every timer's path and the seconds it has left."""
        now = self.time()
        return [[path, max(0.0, timer.when() - now)] for path, timer in self._timers.items()]

    def fire(self, path: str) -> None:
        """Make a timer's callback ready."""
        timer = self._timers.pop(path)
        self._paths.pop(id(timer), None)
        self._ready.append(timer)  # type: ignore[attr-defined]


def install(runtime: Runtime) -> SessionLoop:
    """Make every loop of this process a SessionLoop, and return the session's own."""
    asyncio.DefaultEventLoopPolicy._loop_factory = staticmethod(lambda: SessionLoop(runtime))  # type: ignore[attr-defined]
    session = SessionLoop(runtime)
    asyncio.set_event_loop(session)
    create_task = asyncio.create_task

    def create_task_here(coro: Any, **more: Any) -> Any:
        if asyncio._get_running_loop() is None:
            more = {key: value for key, value in more.items() if value is not None}
            return session.create_task(coro, **more)
        return create_task(coro, **more)

    asyncio.create_task = asyncio.tasks.create_task = create_task_here
    return session
