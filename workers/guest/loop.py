"""The event loop of every thread in the guest: CPython's own, but what enters it comes from the hub.

1. Timers are kept here by lineage path, not in the loop's heap; the hub says when one fires.
2. One delivery enters when nothing is ready. Real descriptors and other threads enter as in CPython.
3. Nothing that decides an order depends on an address: tasks and futures hash by their birth.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import select
import selectors
import weakref
from asyncio import events
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar

from .births import Future, Task, bear, next_name, set_birth
from .births import install as install_births
from .replay import REPLY

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from contextvars import Context

    from .hub import Hub
    from .lineage import Family, Node
    from .replay import Delivery

__all__ = ["GuestLoop", "install"]

#: Cancelled timers kept before the heap is cleaned, as asyncio does; ``wait_for`` leaves one behind each time.
_CANCELLED_KEPT = 100
#: A loop that has work looks for handlers of signals at every so-manieth turn: a look is a third of an empty turn.
WAKE_TURNS = 16
#: A loop that never rests takes a delivery at every so-manieth turn: often enough to make progress (a turn is some
#: microseconds), seldom enough to cost nothing. Recorded turns depend on it: changing it is a change of the format.
BUSY_TURNS = 64


class TimerHandle(events.TimerHandle):
    """A timer that knows its path."""

    __slots__ = ("path",)
    path: str


class GuestSelector(selectors.DefaultSelector):
    """The loop's selector, and its place to wait."""

    loop: GuestLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self.loop
        if loop is None:
            return super().select(timeout)
        if timeout == 0:
            turns = loop.turn()
            # The only descriptor is the one by which other threads and signals wake a loop that rests.
            alone = len(self._fd_to_key) == 1  # type: ignore[attr-defined]
            return [] if alone and turns % WAKE_TURNS else super().select(0)
        found = super().select(0) if len(self.get_map()) > 1 else []
        if not found:
            loop.rest()
            found = super().select(0)
        return found


class GuestLoop(asyncio.SelectorEventLoop):
    """The loop class of the process."""

    hub: ClassVar[Hub]
    family: ClassVar[Family]
    #: Every loop of the process that somebody still holds.
    opened: ClassVar[weakref.WeakSet[GuestLoop]] = weakref.WeakSet()

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        if selector is not None:
            selector.close()
        self.opened.add(self)
        self._own = GuestSelector()
        super().__init__(self._own)
        self._own.loop = self
        self._ours_poll = select.poll()
        self._ours_poll.register(self._own.fileno(), select.POLLIN)
        self._timers: dict[str, TimerHandle] = {}
        self._queue: list[tuple[float, int, TimerHandle]] = []
        self._queued = itertools.count()
        self._turns = 0
        self._calls: dict[str, Callable[[dict[str, Any]], None]] = {}
        #: What ``run_until_complete`` waits for: a cancel of the foreground is a cancel of this.
        self.goal: asyncio.Future[Any] | None = None
        #: The node of a task that a factory is making just now, for one that starts at once.
        self.announced: Node | None = None

    # -- the loop's own methods ------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        return Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None, **more: Any) -> Any:
        if self._closed or more or self._task_factory is not None or type(coro) is not CoroutineType:  # type: ignore[attr-defined]
            return self._create_otherwise(coro, {"name": name, "context": context, **more})
        task: Any = bear(Task, self, coro, name, context)
        if task is None:
            node = self.family.current()
            node.births += 1
            task = Task(coro, loop=self, name=name or next_name(), context=context)
            set_birth(task, node, node.births)
        if task._source_traceback:
            del task._source_traceback[-1]
        try:
            return task
        finally:
            del task  # or the traceback of an exception that comes here would keep it

    def _create_otherwise(self, coro: Any, options: dict[str, Any]) -> Any:
        """Make a task through the code's own factory, or of what is no coroutine by itself."""
        self._check_closed()  # type: ignore[attr-defined]
        node = self.family.current().child()
        make: Any = getattr(coro, "perdure_coroutine", None) if isinstance(coro, Future) else None
        body: Any = coro if make is None else make()
        if options["name"] is None:
            options["name"] = next_name()
        self.announced = node
        try:
            if self.get_task_factory() is None:
                task: Any = Task(body, loop=self, **options)
                if task._source_traceback:
                    del task._source_traceback[-1]
            else:
                task = super().create_task(body, **{k: v for k, v in options.items() if v is not None or k == "name"})
        finally:
            self.announced = None
        self.family.adopt(task, node)
        return task

    def foreground(self, coro: Coroutine[Any, Any, Any], context: Context) -> Any:
        """Return the task of a top-level statement: it is the main program itself, not a child."""
        task = Task(coro, loop=self, name=next_name(), context=context)
        set_birth(task, self.family.main, 0)
        return task

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        if when is None:
            raise TypeError("when cannot be None")
        self._check_closed()  # type: ignore[attr-defined]
        if self.get_debug():
            self._check_thread()  # type: ignore[attr-defined]
            self._check_callback(callback, "call_at")  # type: ignore[attr-defined]
        timer: Any = TimerHandle(when, callback, args, self, context)
        if timer._source_traceback:
            del timer._source_traceback[-1]
        path = self.family.current().next_timer(self.hub.execution or self.family.execution)
        timer.path = path
        timer._scheduled = True
        self._timers[path] = timer
        heapq.heappush(self._queue, (self.hub.due(path, when), next(self._queued), timer))
        return timer

    def _timer_handle_cancelled(self, handle: Any) -> None:
        self._timers.pop(handle.path, None)
        if len(self._queue) > 2 * len(self._timers) + _CANCELLED_KEPT:
            self._queue = [entry for entry in self._queue if not entry[2]._cancelled]
            heapq.heapify(self._queue)

    def run_until_complete(self, future: Any) -> Any:
        before = self.goal
        self._check_closed()  # type: ignore[attr-defined]
        self._check_running()  # type: ignore[attr-defined]
        new = not asyncio.isfuture(future)
        goal = asyncio.ensure_future(future, loop=self)
        if new:
            goal._log_destroy_pending = False
        self.goal = goal
        try:
            return super().run_until_complete(goal)
        except BaseException:
            if new and goal.done() and not goal.cancelled():
                goal.exception()  # Consumed, as asyncio does: the caller never sees this task.
            raise
        finally:
            self.goal = before

    def close(self) -> None:
        super().close()
        self._timers.clear()
        self._queue.clear()
        for path in list(self._calls):
            self.hub.forget(path)
        self._calls.clear()

    def scheduled(self) -> list[str]:
        """Return the paths of timers that have not fired."""
        return list(self._timers)

    @classmethod
    def keep_timers(cls, execution: str) -> None:
        """An execution has ended: timers that live on are told from those of the next one, by its name in front.

        Otherwise the first sleep of the next one's first task would take the place of that of this one's, which would
        then never fire.
        """
        for loop in list(cls.opened):
            for path, timer in list(loop._timers.items()):
                if "|" not in path:
                    del loop._timers[path]
                    timer.path = f"{execution}|{path}"
                    loop._timers[timer.path] = timer

    def settings(self) -> tuple[Any, ...]:
        """Return what code may have set on this loop and a new one would not have."""
        return self.get_debug(), self.get_exception_handler(), self.get_task_factory(), self.slow_callback_duration

    # -- turns -----------------------------------------------------------------

    def descriptors(self) -> list[int]:
        """Return the descriptors this loop lives on."""
        return [self._own.fileno(), self._ssock.fileno(), self._csock.fileno()]  # type: ignore[attr-defined]

    def turn(self) -> int:
        """One more turn with work to do; returns its number."""
        self._turns = turns = self._turns + 1
        hub = self.hub
        if not turns % BUSY_TURNS or hub.deliveries.recorded:
            hub.busy(self, turns)
        return turns

    def rest(self) -> None:
        """Nothing is ready."""
        self.hub.rest(self)

    def begin(self) -> None:
        """A top-level statement begins: turns count from here, so that where a step ended cannot matter."""
        self._turns = 0

    # -- a party of the hub ----------------------------------------------------

    def expect(self, path: str, deliver: Callable[[dict[str, Any]], None]) -> None:
        """Have the reply to that call delivered to ``deliver``."""
        self._calls[path] = deliver

    def drop_unawaited(self) -> None:
        """The execution ends: let go of calls that nobody ever awaited and nobody keeps; they say so themselves."""
        for path in list(self._calls):
            call: Any = weakref.ref(self._calls[path].__self__)  # type: ignore[attr-defined]
            if call().perdure_awaited:
                continue
            del self._calls[path]
            kept = call()
            if kept is None:
                self.hub.forget(path)
            else:
                self._calls[path] = kept.perdure_deliver

    def abandon(self, path: str) -> None:
        """Nobody waits for the reply to that call any more."""
        if self._calls.pop(path, None) is not None:
            self.hub.give_up(path)

    def deliver(self, kind: str, path: str, outcome: dict[str, Any] | None) -> None:
        self._turns = 0
        if kind == REPLY:
            self._calls.pop(path)(outcome or {})
            return
        timer: Any = self._timers.pop(path)
        # What was slept is not slept again, and the clock shows it as slept.
        self.hub.clock.reach(timer._when)
        timer._scheduled = False
        self._ready.append(timer)  # type: ignore[attr-defined]

    def nearest(self) -> tuple[str, float] | None:
        while self._queue:
            due, _number, timer = self._queue[0]
            if self._timers.get(timer.path) is timer:
                return timer.path, due
            heapq.heappop(self._queue)
        return None

    def takes(self, head: Delivery) -> bool:
        return head.path in (self._calls if head.kind == REPLY else self._timers)

    def wake(self) -> None:
        self._write_to_self()  # type: ignore[attr-defined]

    def listen(self, channel: int | None, timeout: float | None) -> bool:
        poll = self._ours_poll
        milliseconds = None if timeout is None else timeout * 1000
        if channel is None:
            poll.poll(milliseconds)
            return False
        poll.register(channel, select.POLLIN)
        try:
            return any(fd == channel for fd, _event in poll.poll(milliseconds))
        finally:
            poll.unregister(channel)

    def stirred(self) -> bool:
        return bool(self._ready) or bool(self._ours_poll.poll(0))  # type: ignore[attr-defined]

    def waiting(self) -> list[str]:
        return list(self._calls)

    def deadlines(self) -> list[tuple[str, float]]:
        self.nearest()
        return [(timer.path, due) for due, _number, timer in self._queue if self._timers.get(timer.path) is timer]

    def next_due(self) -> float | None:
        timer = self.nearest()
        return None if timer is None else timer[1]

    def reachable(self) -> bool:
        return len(self._own.get_map()) > 1


def install(hub: Hub, family: Family) -> None:
    """Make every loop of this process a GuestLoop, and take address order out of ``as_completed``."""
    install_births()
    GuestLoop.hub, GuestLoop.family = hub, family
    GuestLoop.__name__ = GuestLoop.__qualname__ = "_UnixSelectorEventLoop"
    GuestLoop.__module__ = "asyncio.unix_events"
    for module in (asyncio, asyncio.unix_events):
        for name in ("SelectorEventLoop", "EventLoop", "_UnixSelectorEventLoop"):
            if hasattr(module, name):
                setattr(module, name, GuestLoop)
    asyncio.unix_events._UnixDefaultEventLoopPolicy._loop_factory = GuestLoop  # type: ignore[attr-defined]
    as_completed: Any = asyncio.as_completed

    def in_order(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
        if isinstance(fs, (list, tuple, set, frozenset, dict)) or not hasattr(fs, "__await__"):
            fs = [asyncio.ensure_future(each) for each in dict.fromkeys(fs)]
        return as_completed(fs, timeout=timeout)

    in_order.__name__ = in_order.__qualname__ = "as_completed"
    in_order.__doc__ = as_completed.__doc__
    asyncio.as_completed = asyncio.tasks.as_completed = in_order
