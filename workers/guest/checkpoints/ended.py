"""Recipes for what has run and ended: tasks, futures, threads and pools, as ordinary scripts leave them in variables.

1. Only what has ended comes back, and then as what it is: a task that is done, with the same outcome, name and place.
2. Nothing is run for it, but that a task is carried over its one step by a coroutine that only has its outcome.
3. A pool that rests comes back without its threads: it starts them when they are needed, as it did the first time.

The names of the rebuilders are durable data, as in `rebuild`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from concurrent import futures
from types import CodeType, CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any

from .. import births
from .rebuild import new_object, rebuilder

if TYPE_CHECKING:
    from .pickler import Reducers

__all__ = ["BY_BASE", "BY_LIBRARY"]

_GOES_ON = "what is still going on does not survive a restore; wait for it before the code ends"
_WORKS = "its workers do not survive a restore; make it again"

# --- futures and tasks -----------------------------------------------------------------------------------

#: How something ended.
_RESULT, _ERROR, _CANCELLED = "result", "error", "cancelled"


def reduce_loop_future(reducers: Reducers, future: Any) -> Any:
    """Store a future or task of asyncio that is done."""
    kind, loop = type(future), future.get_loop()
    if kind not in (births.Task, births.Future) or not future.done():
        return reducers.lose(future, _GOES_ON)
    if reducers.elsewhere(loop) is None:
        return reducers.lose(future, "it belongs to an event loop that does not survive a restore")
    if future.cancelled():
        outcome = _CANCELLED, (future._cancel_message, _last_words(future))
    elif future._exception is not None:
        outcome = _ERROR, future._exception
    else:
        outcome = _RESULT, future._result
    state = (*outcome, bool(future._log_traceback))
    number = births.number(future)
    if kind is births.Future:
        return done_future, (loop, number), state, None, None, set_future
    return done_task, (loop, number, future.get_name(), _place(future.get_coro())), state, None, None, set_task


def _last_words(future: Any) -> tuple[Any, ...] | None:
    """Return the arguments of the error that cancelled a task; who asks first is told that one, and then it is gone.

    Asking the task itself would take it.
    """
    return next((each.args for each in gc.get_referents(future) if type(each) is asyncio.CancelledError), None)


def _place(coroutine: Any) -> tuple[str, int, str] | None:
    """Return file, line and name of what a task ran: its repr shows them."""
    code = getattr(coroutine, "cr_code", None)
    if type(coroutine) is not CoroutineType or type(code) is not CodeType:
        return None
    return code.co_filename, code.co_firstlineno, coroutine.__qualname__


@rebuilder
def done_future(loop: Any, number: int) -> Any:
    with births.numbered(number) as known:
        return known(births.Future(loop=loop))


@rebuilder
def set_future(made: Any, state: tuple[str, Any, bool]) -> None:
    how, value, told = state
    if how == _RESULT:
        made.set_result(value)
    elif how == _ERROR:
        made.set_exception(value)
        made._log_traceback = made._log_traceback and told
    else:
        made.cancel(value[0])


# By identity: tasks that are made, each with what its coroutine will end with, and the step that does it.
_unfinished: dict[int, tuple[list[Any], Any]] = {}


@rebuilder
def done_task(loop: Any, number: int, name: str, place: tuple[str, int, str] | None) -> Any:
    """Make a task whose only step is held back until it is known what it ends with."""
    outcome: list[Any] = []
    steps: list[Any] = []

    def hold(step: Any, *_arguments: Any, context: Any = None) -> None:
        steps.append((step, context))

    loop.call_soon = hold
    try:
        with births.numbered(number) as known:
            made = known(births.Task(_coroutine(place)(outcome), loop=loop, name=name))
    finally:
        del loop.call_soon
    # One that is given up before it has its outcome is no task that somebody forgot.
    made._log_destroy_pending = False
    _unfinished[id(made)] = outcome, steps[0]
    return made


@rebuilder
def set_task(made: Any, state: tuple[str, Any, bool]) -> None:
    outcome, (step, context) = _unfinished.pop(id(made))
    how, value, told = state
    outcome += [how, value]
    try:
        context.run(step)
    except (KeyboardInterrupt, SystemExit) as error:
        # A task that ends by one of these has it as its outcome, and raises it to the loop besides.
        if error is not value:
            raise
    if how == _CANCELLED:
        message, words = value
        if words is None:
            made._make_cancelled_error()
        made._cancel_message = message
    elif how == _ERROR:
        value.__traceback__ = None
        made._log_traceback = made._log_traceback and told


async def _end(outcome: list[Any]) -> Any:
    how, value = outcome
    outcome.clear()
    if how == _RESULT:
        return value
    if how == _ERROR:
        raise value
    raise asyncio.CancelledError(*(value[1] or ()))


def _coroutine(place: tuple[str, int, str] | None) -> Any:
    """Return the function of a coroutine that only ends, seen from outside where another one was."""
    if place is None:
        return _end
    file, line, name = place
    code = _end.__code__.replace(
        co_filename=file, co_firstlineno=line, co_name=name.rpartition(".")[2], co_qualname=name
    )
    return FunctionType(code, globals(), code.co_name)


def reduce_future(reducers: Reducers, future: Any) -> Any:
    """Store a future of a pool that is done; who was to be told of it has been."""
    if type(future) is not futures.Future or not future.done():
        return reducers.lose(future, _GOES_ON)
    return pool_future, (), (future._state, future._exception, future._result), None, None, set_pool_future


@rebuilder
def pool_future() -> Any:
    return futures.Future()


@rebuilder
def set_pool_future(made: Any, state: tuple[str, Any, Any]) -> None:
    made._state, made._exception, made._result = state


# --- threads ---------------------------------------------------------------------------------------------

#: What a thread has of its process, and gets anew.
_OF_PROCESS = frozenset({"_started", "_handle", "_tstate_lock", "_is_stopped", "_stderr", "_invoke_excepthook"})


def reduce_thread(reducers: Reducers, thread: threading.Thread) -> Any:
    """Store a thread that has ended, or was never started."""
    if thread.is_alive():
        return reducers.lose(thread, "it was running, and threads do not survive a restore; start it again")
    state = dict(vars(thread))
    if isinstance(thread, threading._DummyThread) or not _OF_PROCESS & state.keys():
        return reducers.lose(thread, "threads do not survive a restore; make it again")
    started = thread._started.is_set()  # type: ignore[attr-defined]
    kept = {name: value for name, value in state.items() if name not in _OF_PROCESS}
    return new_object, (object, type(thread)), (kept, started), None, None, set_thread


@rebuilder
def set_thread(made: Any, state: tuple[dict[str, Any], bool]) -> None:
    kept, started = state
    threading.Thread.__init__(made, name="its own follows")
    for name in ("_target", "_args", "_kwargs", "_context"):
        vars(made).pop(name, None)
    vars(made).update(kept)
    if not started:
        return
    made._started.set()
    if sys.version_info >= (3, 13):
        made._handle = EndedThread(made._ident)
    else:
        made._is_stopped, made._tstate_lock = True, None


class EndedThread:
    """In place of the handle by which a thread is waited for: there is nothing to wait for."""

    def __init__(self, ident: int | None) -> None:
        self.ident = ident

    def is_done(self) -> bool:
        """Whether it has ended."""
        return True

    def join(self, _timeout: float | None = None) -> None:
        """Return at once."""


# --- pools -----------------------------------------------------------------------------------------------

#: Seconds within which a worker that has told the end of its work is back in its place, and how often it is looked at.
_BACK, _LOOKS = 0.01, 20
_POOL = frozenset({
    *("_max_workers", "_work_queue", "_idle_semaphore", "_threads", "_broken", "_shutdown", "_shutdown_lock"),
    *("_thread_name_prefix", "_initializer", "_initargs"),
})  # fmt: skip


def reduce_pool(reducers: Reducers, pool: Any) -> Any:
    """Store a pool of threads that is shut down, or has nothing to do."""
    if type(pool) is not futures.ThreadPoolExecutor or vars(pool).keys() != _POOL or pool._broken:
        return reducers.lose(pool, _WORKS)
    shut = pool._shutdown
    if not (_have_ended(pool) if shut else _rests(pool)):
        return reducers.lose(pool, _WORKS)
    if pool._initializer is not None and not shut:
        reducers.rebuilt(pool, "its threads are started again, each with its initializer")
    settings = pool._max_workers, pool._thread_name_prefix
    return new_pool, settings, (pool._initializer, pool._initargs, shut), None, None, set_pool


def _have_ended(pool: Any) -> bool:
    return not any(each.is_alive() for each in list(pool._threads))


def _rests(pool: Any) -> bool:
    for _ in range(_LOOKS):
        if pool._work_queue.empty() and pool._idle_semaphore._value >= len(pool._threads):
            return True
        time.sleep(_BACK / _LOOKS)
    return False


@rebuilder
def new_pool(workers: int, prefix: str) -> Any:
    return futures.ThreadPoolExecutor(workers, prefix)


@rebuilder
def set_pool(made: Any, state: tuple[Any, Any, bool]) -> None:
    made._initializer, made._initargs, made._shutdown = state


BY_BASE: list[tuple[type, Any]] = [(threading.Thread, reduce_thread)]

# Looked up only once the session has imported them.
BY_LIBRARY: list[tuple[str, str, Any]] = [
    ("concurrent.futures._base", "Future", reduce_future),
    ("concurrent.futures.thread", "ThreadPoolExecutor", reduce_pool),
    ("asyncio", "Future", reduce_loop_future),
]
