"""What waits, and what enters: calls, replies and timers of every thread and loop of the guest.

1. Deliveries enter one at a time: into a loop that has nothing ready (or at a fixed turn of one that never rests), or
   into the thread that waits for just this reply. On replay they enter as recorded, in that order, and nothing else.
2. Whoever waits reads the channel; no thread of ours exists.
3. A call is sent when it is made, whether or not anybody awaits it yet.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import threading
import time
from collections import deque
from concurrent.futures import thread as pools
from typing import TYPE_CHECKING, Any, NoReturn

from . import errors, result
from .replay import REPLY, TIMER, Deliveries
from .values import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from .channel import Channel
    from .lineage import Family
    from .loop import SessionLoop
    from .output import Output

__all__ = ["EXIT_DIVERGED", "PendingCall", "Runtime"]

#: A guest says that it is at rest when nothing came for this long (s): a reply of a quick call is there before.
IDLE_AFTER = 0.005
#: A loop that always has something ready takes a delivery at every such turn.
TURNS = 64
#: Exit code after a recorded delivery that cannot be made; the host has the reason.
EXIT_DIVERGED = 77
#: Bytes of encoded arguments that travel in the message itself.
INLINE = 256 * 1024


class PendingCall:
    """A call without its reply: awaited in a loop (``future``) or waited for by a thread (``event``)."""

    __slots__ = ("event", "future", "loop", "path")

    def __init__(self, path: str, loop: SessionLoop | None) -> None:
        self.path = path
        self.loop = loop
        self.future: asyncio.Future[Any] | None = loop.create_future() if loop is not None else None
        self.event = -1 if loop is not None else os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


class Runtime:
    """The one runtime of a guest."""

    def __init__(self, channel: Channel, family: Family, output: Output, inline: int = INLINE) -> None:
        self.channel = channel
        self.family = family
        self.output = output
        self.execution: str | None = None
        self.granted: set[str] = set()
        self.deliveries = Deliveries()
        self.control: deque[dict[str, Any]] = deque()
        self.cancelled = False
        self.foreground: asyncio.Task[Any] | None = None
        self.loops: list[SessionLoop] = []
        self.wake_main = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._inline = inline
        self._pending: dict[str, PendingCall] = {}
        self._arrived: dict[str, dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        self._blocked = 0
        self._idle_sent = False
        channel.report = self.deliveries_report

    def deliveries_report(self) -> dict[str, Any] | None:
        """Return what the next message reports as entered."""
        return self.deliveries.report()

    def begin(self, execution: str, replay: dict[str, Any] | None) -> None:
        """Start an execution, with what is to be replayed."""
        self.execution = execution
        self.deliveries = Deliveries(replay)
        self.family.begin(execution)
        self._idle_sent = False

    # -- asking ------------------------------------------------------------------------

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Ask the host: an awaitable inside a running loop, else the reply itself."""
        running = asyncio._get_running_loop()
        if running is None:
            return self._ask(name, args, kwargs, None)
        if running not in self.loops:
            msg = f"{name} was called in a loop of {type(running).__module__}, whose order could not be replayed"
            raise errors.ForeignLoop(msg)
        return self._ask(name, args, kwargs, running)  # type: ignore[arg-type]

    def call_blocking(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Ask the host and wait in this thread, also where a loop is running: what ``input`` does."""
        return self._ask(name, args, kwargs, None)

    def _ask(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], loop: SessionLoop | None) -> Any:
        if self.execution is None:
            msg = f"{name} was called while no execution of this session runs"
            raise errors.NoExecution(msg)
        data = {"args": [encode(value) for value in args], "kwargs": {key: encode(kwargs[key]) for key in kwargs}}
        path = self.family.current().next_call(self.execution)
        pending = PendingCall(path, loop)
        with self._lock:
            self._pending[path] = pending
        self._send_call(path, name, data)
        if loop is not None:
            return self._awaitable(pending, name)
        return self._wait(pending)

    def _send_call(self, path: str, name: str, data: dict[str, Any]) -> None:
        message: dict[str, Any] = {"t": "call", "path": path, "name": name, "line": result.users_line()}
        raw = json.dumps(data, separators=(",", ":"))
        self.output.flush()
        if len(raw) > self._inline:
            message["args_stream"] = self.channel.send_stream(raw.encode())
        else:
            message["args"] = data
        self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        self._idle_sent = False
        self.channel.send(message, entered=True)

    def write(self, stream: str, text: str) -> None:
        """Send one write of the code."""
        self._send({"t": "output", "stream": stream, "text": text})

    @staticmethod
    def _awaitable(pending: PendingCall, name: str) -> asyncio.Future[Any]:
        future = pending.future
        if future is None:
            msg = f"{name} has no loop to be awaited in"
            raise RuntimeError(msg)
        future.add_done_callback(_retrieved)
        return future

    # -- waiting in a thread ---------------------------------------------------------------

    def _wait(self, pending: PendingCall) -> Any:
        """Wait in this thread for the reply to this call, and take it when its turn has come."""
        poll = select.poll()
        poll.register(pending.event, select.POLLIN)
        poll.register(self.channel.fd, select.POLLIN)
        main = threading.current_thread() is threading.main_thread()
        since = time.monotonic()
        with self._lock:
            self._blocked += 1
        try:
            while True:
                outcome = self._take(pending)
                if outcome is not None:
                    return self._value(outcome)
                quiet = IDLE_AFTER if main and not self._idle_sent else None
                ready = poll.poll(None if quiet is None else quiet * 1000)
                if ready:
                    self._drain_event(pending.event)
                    self.receive()
                elif time.monotonic() - since >= IDLE_AFTER:
                    self._say_idle()
        finally:
            with self._lock:
                self._blocked -= 1
                self._pending.pop(pending.path, None)
            os.close(pending.event)

    def _take(self, pending: PendingCall) -> dict[str, Any] | None:
        with self._lock:
            head = self.deliveries.head
            if head is None:
                outcome = self._arrived.pop(pending.path, None)
                if outcome is not None:
                    self.deliveries.entered(REPLY, pending.path, 0)
                return outcome
            if self.deliveries.wants(REPLY, pending.path):
                taken = self.deliveries.replayed().outcome
                self._wake_all()
                return taken
            self._check_possible(head.kind, head.path)
            return None

    def _check_possible(self, kind: str, path: str) -> None:
        """Say that the replay has diverged if nobody is left who could make the next recorded delivery."""
        if path in self._pending and kind == REPLY:
            return
        if self.runnable_threads() > 0:
            return
        what = "a timer to fire" if kind == TIMER else "a call to be answered"
        self.diverged(f"waits for something else: nobody asked for it under {path}", f"{what} ({path})", path)

    def diverged(self, message: str, expected: str, path: str) -> NoReturn:
        """Tell the host that a recorded delivery cannot be made, and end."""
        self.output.flush()
        self._send({"t": "diverged", "message": message, "expected": expected, "path": path})
        # The host kills this process when it has read the message.
        while True:
            time.sleep(3600)

    # -- waiting in a loop --------------------------------------------------------------------

    def deliver(self, loop: SessionLoop, turns: int) -> bool:
        """Let one delivery enter a loop, if one may now; ``turns`` is 0 when the loop has nothing ready."""
        with self._lock:
            head = self.deliveries.head
            if head is not None:
                return self._replay(loop, head.kind, head.path, head.turns, turns)
            for path in self._arrived:
                pending = self._pending.get(path)
                if pending is not None and pending.loop is loop:
                    outcome = self._arrived.pop(path)
                    self.deliveries.entered(REPLY, path, turns)
                    self._resolve(pending, outcome)
                    return True
            due = loop.due_timer()
            if due is None:
                return False
            self.deliveries.entered(TIMER, due, turns)
            loop.fire(due)
            return True

    def _replay(self, loop: SessionLoop, kind: str, path: str, recorded: int, turns: int) -> bool:
        if turns and recorded != turns:
            return False
        if kind == TIMER:
            if not loop.has_timer(path):
                if not turns and not any(other.has_timer(path) for other in self.loops):
                    self._check_possible(kind, path)
                return False
            self.deliveries.replayed()
            loop.fire(path)
            return True
        pending = self._pending.get(path)
        if pending is None or pending.loop is not loop:
            if not turns:
                self._check_possible(kind, path)
            return False
        outcome = self.deliveries.replayed().outcome
        self._resolve(pending, outcome or {})
        return True

    def _resolve(self, pending: PendingCall, outcome: dict[str, Any]) -> None:
        self._pending.pop(pending.path, None)
        future = pending.future
        if future is None or future.done():
            return
        try:
            future.set_result(self._value(outcome))
        except errors.CallError as exc:
            future.set_exception(exc)

    @staticmethod
    def _value(outcome: dict[str, Any]) -> Any:
        error = outcome.get("error")
        if error is not None:
            data = error.get("data")
            raise errors.from_data(error, decode(data) if data is not None else None)
        return decode(outcome.get("value"))

    def rest(self, loop: SessionLoop) -> None:
        """Tell the host, once, that the loop can go on with nothing but a delivery."""
        if not self._idle_sent:
            self._say_idle(loop)

    def _say_idle(self, loop: SessionLoop | None = None) -> None:
        if self._idle_sent or self.deliveries.replaying:
            return
        self.output.flush()
        with self._lock:
            waiting = list(self._pending)
        timers = loop.timers_left() if loop is not None else []
        self.channel.send(
            {
                "t": "idle",
                "waiting": waiting,
                "timers": timers,
                "consumed": self.deliveries.consumed,
                "threads": self.runnable_threads(),
            },
            entered=True,
        )
        self._idle_sent = True

    def runnable_threads(self) -> int:
        """Return how many of the user's threads may go on by themselves."""
        idle = _idle_pool_workers()
        alive = sum(
            1
            for thread in threading.enumerate()
            if thread is not threading.main_thread() and thread.is_alive() and thread not in idle
        )
        waiting = sum(1 for pending in self._pending.values() if pending.loop is None)
        return max(0, alive - waiting + self._main_waits())

    def _main_waits(self) -> int:
        """1 if the main thread is among those that wait for a reply, since it is not counted as alive."""
        return 1 if self._blocked and any(p.loop is None and "/" not in p.path for p in self._pending.values()) else 0

    # -- the channel ------------------------------------------------------------------------------

    def receive(self) -> None:
        """Read what has come, unless another thread is reading; hand it to whoever waits for it."""
        if not self._reading.acquire(blocking=False):
            return
        try:
            poll = select.poll()
            poll.register(self.channel.fd, select.POLLIN)
            while poll.poll(0):
                for message in self.channel.receive():
                    self._arrive(message)
        finally:
            self._reading.release()

    def _arrive(self, message: dict[str, Any]) -> None:
        if message["t"] != "reply":
            self.control.append(message)
            return
        path = message["path"]
        if "error" in message:
            outcome = {"error": message["error"]}
        else:
            outcome = {"value": self.channel.content(message, "value")}
        with self._lock:
            self._arrived[path] = outcome
            self._idle_sent = False
            pending = self._pending.get(path)
        if pending is not None and pending.event >= 0:
            os.eventfd_write(pending.event, 1)
        else:
            os.eventfd_write(self.wake_main, 1)

    def _wake_all(self) -> None:
        os.eventfd_write(self.wake_main, 1)
        for pending in self._pending.values():
            if pending.event >= 0:
                os.eventfd_write(pending.event, 1)

    @staticmethod
    def _drain_event(fd: int) -> None:
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            return

    def drain_wake(self) -> None:
        """Forget that the main thread was woken."""
        self._drain_event(self.wake_main)

    def next_control(self) -> dict[str, Any]:
        """Wait for the host's next order."""
        poll = select.poll()
        poll.register(self.channel.fd, select.POLLIN)
        poll.register(self.wake_main, select.POLLIN)
        while not self.control:
            poll.poll()
            self.drain_wake()
            self.receive()
        return self.control.popleft()

    def forget_calls(self) -> None:
        """Drop calls that nobody will be told the outcome of: their execution has ended."""
        with self._lock:
            for pending in list(self._pending.values()):
                if pending.loop is not None:
                    self._pending.pop(pending.path, None)
            self._arrived.clear()


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Mark an exception as seen: code may leave a call that failed unawaited."""
    if not future.cancelled():
        future.exception()


def _idle_pool_workers() -> set[threading.Thread]:
    """Return the workers of executors that have nothing to do."""
    return {thread for thread in pools._threads_queues if getattr(thread, "perdure_busy", 0) == 0}


def watch_pools(family: Family) -> None:
    """Know which workers of executors are at work, and give each piece of work a lineage of its own."""
    submit = pools.ThreadPoolExecutor.submit

    def submit_counted(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        node = family.current().child()

        def work() -> Any:
            thread = threading.current_thread()
            thread.perdure_busy = 1  # type: ignore[attr-defined]
            try:
                return family.run_as(node, fn, args, kwargs)
            finally:
                thread.perdure_busy = 0  # type: ignore[attr-defined]

        with family.no_births():
            return submit(self, work)

    pools.ThreadPoolExecutor.submit = submit_counted  # type: ignore[method-assign]
    start = threading.Thread.start

    def start_known(self: threading.Thread) -> None:
        family.start_thread(self)
        start(self)

    threading.Thread.start = start_known  # type: ignore[method-assign]
