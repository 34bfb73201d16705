"""What of this process a restore would not bring back, beside the values of variables: said before a step may end.

1. What was there when the execution began does not count: its base lacks it already. Neither do the runtime, nor idle
   workers of pools.
2. When in doubt it counts: a step that goes on costs time, one that ends too early loses what somebody made.
"""

from __future__ import annotations

import asyncio
import builtins
import gc
import locale
import os
import signal
import sys
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

from .checkpoints import handles, suspended
from .libraries import Libraries
from .loop import GuestLoop
from .namespace import ENGINE_INTERNALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .executor import Executor
    from .hub import Hub
    from .namespace import Namespace, Sources
    from .threads import Threads

__all__ = ["Risks"]

_SUSPENDED = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: Hooks of ``sys`` that code replaces.
_HOOKS = ("excepthook", "displayhook", "unraisablehook", "breakpointhook", "stdin", "stdout", "stderr")


class Risks:
    """Compares the process with what it was when the execution began."""

    def __init__(self, executor: Executor, hub: Hub, threads: Threads, namespace: Namespace, sources: Sources) -> None:
        self._executor = executor
        self._hub = hub
        self._threads = threads
        self._namespace = namespace.dict
        self._tasks: weakref.WeakSet[Any] = weakref.WeakSet()
        self._alive: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._open: set[str] = set()
        self._finalizers: set[Any] = set()
        self._settings: tuple[Any, ...] = ()
        self._process: dict[str, Any] = {}
        self._builtins: dict[str, Any] = {}
        self.libraries = Libraries(sources)

    def begin(self) -> None:
        """Take what is there now as what the base lacks already, or has."""
        self._tasks = weakref.WeakSet(asyncio.all_tasks(self._executor.loop))
        self._alive = weakref.WeakSet(threading.enumerate())
        self._open = self._unanswered()
        self._finalizers = set(weakref.finalize._registry)  # type: ignore[attr-defined]
        self._settings = self._executor.loop.settings()
        self.libraries.look()
        self._process = self._of_process()
        self._builtins = dict(vars(builtins))

    def look(self) -> None:
        """After a statement: notice modules that are new, before code can change them."""
        self.libraries.look()

    def found(self) -> Iterator[str]:
        """Yield what would be lost, in words."""
        yield from self._running()
        yield from self._suspended()
        new = set(weakref.finalize._registry) - self._finalizers  # type: ignore[attr-defined]
        if any(not self._tidies(each) and not handles.carried_folder(each, self._namespace) for each in new):
            yield "a finalizer waits for its object (weakref.finalize, a temporary folder)"
        if self._executor.loop.settings() != self._settings:
            yield "the event loop was set up otherwise (debug mode, handler of exceptions, factory of tasks)"
        now = self._of_process()
        for name, value in now.items():
            if not _same(self._process.get(name), value):
                yield f"{name} was changed"
        for name in sorted(_changed(self._builtins, builtins.__dict__), key=str):
            yield f"the built-in name {name} was changed"
        yield from self.libraries.changed()

    def _of_process(self) -> dict[str, Any]:
        return _process() | {"the list sys.meta_path": self.libraries.finders()}

    def _tidies(self, finalizer: Any) -> bool:
        """Whether a library forgets with it what it keeps of a function or class that it generated.

        SQLAlchemy leaves a hundred of these when it is imported, SymPy one with each ``lambdify``.
        """
        info = weakref.finalize._registry.get(finalizer)  # type: ignore[attr-defined]
        if info is None:
            return True
        if not isinstance(info.weakref(), types.FunctionType | type) or not isinstance(info.func, types.FunctionType):
            return False
        name = info.func.__globals__.get("__name__")
        return isinstance(name, str) and self.libraries.third_party(name)

    def at_end(self) -> Iterator[str]:
        """Yield what the end of the execution loses beside variables, tasks and threads, which are named elsewhere."""
        for name, value in self._of_process().items():
            if not _same(self._process.get(name), value):
                yield f"{name} was changed"
        if self.libraries.assigns():
            yield from self.libraries.changed()

    def _running(self) -> Iterator[str]:
        loop = self._executor.loop
        for task in asyncio.all_tasks(loop):
            if not task.done() and task not in self._tasks:
                yield f"the task {task.get_name()!r} has not ended"
        for thread in self._threads.alive():
            if thread not in self._alive:
                yield f"the thread {thread.name!r} runs"
        if self._threads.working():
            yield "work given to a pool has not ended"
        if self._unanswered() - self._open:
            yield "a call has no answer yet, or one that nobody took"
        if loop._ready:  # type: ignore[attr-defined]
            yield "a callback waits in the event loop"
        for other in GuestLoop.opened:
            if other is not loop and not other.is_closed():
                yield "an event loop of the code's own is open"

    def _unanswered(self) -> set[str]:
        return {*self._hub.unanswered(), *self._executor.loop.scheduled()}

    def _suspended(self) -> Iterator[str]:
        for name, value in self._namespace.items():
            if type(value) in _SUSPENDED and name not in ENGINE_INTERNALS and not suspended.comes_back(value):
                yield f"{name} is a {type(value).__name__.replace('_', ' ')}: {suspended.WHY}"


def _process() -> dict[str, Any]:
    """Return the state of the process that code changes through the standard library, by what to call it."""
    state: dict[str, Any] = {
        f"the handler of {signal.Signals(number).name}": signal.getsignal(number) for number in _SIGNALS
    }
    state |= {f"sys.{name}": getattr(sys, name) for name in _HOOKS}
    state |= {
        "the trace function": sys.gettrace(),
        "the profile function": sys.getprofile(),
        "threading.excepthook": threading.excepthook,
        "the list sys.path_hooks": tuple(map(id, sys.path_hooks)),
        "the interval of thread switches": sys.getswitchinterval(),
        "the interval timer": any(signal.getitimer(which)[0] for which in _TIMERS),
        "the garbage collector": (gc.isenabled(), gc.get_threshold(), tuple(map(id, gc.callbacks))),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the mask of new files": _umask(),
    }
    socket = sys.modules.get("socket")
    state["the default timeout of sockets"] = socket.getdefaulttimeout() if socket else None
    policy = type(asyncio.events._event_loop_policy)  # type: ignore[attr-defined]
    usual = (type(None), asyncio.unix_events._UnixDefaultEventLoopPolicy)
    state["the event loop policy"] = None if policy in usual else policy
    return state


_SIGNALS = sorted(
    signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1} - set(range(32, 128)), key=int
)


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _same(before: object, now: object) -> bool:
    if before is now:
        return True
    plain = (str, int, float, tuple, type(None))
    return isinstance(now, plain) and isinstance(before, plain) and before == now


def _changed(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    names = before.keys() ^ now.keys()
    return names | {name for name in before.keys() & now.keys() if before[name] is not now[name]}
