"""Runs a submission statement by statement, in the main thread and the one namespace.

1. Every statement runs once; the trailing expression's value is taken from that one run.
2. A statement without await runs with no loop running; one with await runs on the session's loop.
3. All statements share one context; a cancel stops the statement that runs and nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from . import errors
from .compiler import Cache
from .loop import GuestLoop
from .router import Mode, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, FrameType

    from .compiler import Unit
    from .namespace import Namespace

__all__ = ["Executor", "Outcome"]

#: One turn of a loop, and the files of whatever runs it.
_RUN_ONCE = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]
_RUNTIME = tuple(os.path.dirname(os.path.abspath(each)) + os.sep for each in (__file__, asyncio.__file__))


class Outcome:
    """How a submission ended."""

    def __init__(self) -> None:
        self.status = "ok"
        self.value: Any = None
        #: Whether the last statement was an expression.
        self.valued = False
        self.error: BaseException | None = None
        self.code: int | None = None
        self.line: int | None = None
        self.route = Route(Mode.UNKNOWN)
        #: What variables from outside changed, if some came.
        self.merged: dict[str, list[str]] | None = None


class Executor:
    """The session's loop, its context, and the submission that runs now."""

    loop: GuestLoop

    def __init__(self, namespace: Namespace) -> None:
        self.context = contextvars.copy_context()
        self.cache = Cache()
        #: Future statements that hold from one execution to the next.
        self.flags = 0
        #: Called before each statement with its line.
        self.before: Callable[[int], None] = lambda _line: None
        #: Called between two statements, with all of them and the number of the next one; a cancel waits for it.
        self.between: Callable[[Sequence[Unit], int], None] = lambda _units, _next: None
        self._between = False
        self._namespace = namespace.dict
        self._running = False
        self._cancelled = False
        #: The code's trace and profile functions, while no statement runs.
        self._trace: Any = None
        self._profile: Any = None
        self._code: CodeType | None = None
        self._supply_loop()

    def open(self) -> None:
        """Make the loop, whose descriptors no other process may share, and listen for a cancel."""
        self.loop = GuestLoop()
        signal.signal(signal.SIGUSR1, self._cancel)

    def run(self, source: str, filename: str, start: int = 0) -> Outcome:
        """Run a submission from statement ``start`` to its end; raises nothing of what it raises."""
        outcome = Outcome()
        self._cancelled = False
        self._code = None
        self._running = True
        try:
            program = self.cache.get(source, filename, self.flags)
            self.flags, outcome.route = program.flags, program.route
            if program.doc is not None and not start:
                self._namespace["__doc__"] = program.doc
            for number, unit in enumerate(program.units):
                if number < start:
                    continue
                if number > start:
                    self._end_step(program.units, number)
                outcome.line = unit.line
                self._code = unit.code
                self._statement(unit, outcome)
        except SystemExit as left:
            outcome.status, outcome.error = "exit", left
            outcome.code = _exit_code(left.code)
            self._cut(left)
        except BaseException as error:
            outcome.status, outcome.error = "error", error
            self._cut(error)
            if self._cancelled and isinstance(error, (errors.Cancelled, asyncio.CancelledError)):
                outcome.status = "cancelled"
        finally:
            self._running = False
        return outcome

    def _end_step(self, units: Sequence[Unit], number: int) -> None:
        self._between = True
        try:
            self.between(units, number)
        finally:
            self._between = False

    def _statement(self, unit: Unit, outcome: Outcome) -> None:
        if self._cancelled:
            raise errors.Cancelled
        asyncio.set_event_loop(self.loop)
        self.loop.begin()
        self.before(unit.line)
        if self._profile is not None:
            sys.setprofile(self._profile)
        if self._trace is not None:
            sys.settrace(self._trace)
        try:
            value = self.context.run(eval, unit.code, self._namespace)
            if unit.awaits and inspect.iscoroutine(value):
                value = self._await(value)
        finally:
            # Taken off between statements: they would be shown the runtime. Not in a function: it would be shown.
            self._trace, self._profile = sys.gettrace(), sys.getprofile()
            if self._trace is not None:
                sys.settrace(None)
            if self._profile is not None:
                sys.setprofile(None)
        if unit.valued:
            outcome.value, outcome.valued = value, True

    def _cut(self, error: BaseException) -> None:
        """Take our frames and asyncio's off a traceback: the code may keep the exception and look at it."""
        step = error.__traceback__
        while step is not None and step.tb_frame.f_code is not self._code:
            step = step.tb_next
        if step is not None or self._code is None:
            error.__traceback__ = step

    def _await(self, coroutine: Any) -> Any:
        task = self.loop.foreground(coroutine, self.context)
        try:
            self.loop.run_until_complete(task)
        except BaseException:
            # Something else ended the loop's run (SystemExit in another task): the statement is over too.
            if not task.done():
                task.cancel()
                task._log_destroy_pending = False
                raise
            if not task.cancelled() and task.exception() is None:
                raise
        if task.cancelled():
            return task.result()
        error = task.exception()
        if error is not None:
            raise error
        return task.result()

    # -- cancel ----------------------------------------------------------------

    def _cancel(self, _number: int, frame: FrameType | None) -> None:
        """SIGUSR1: stop the foreground, once."""
        if not self._running or self._cancelled:
            return
        self._cancelled = True
        if self._between:
            return  # The next statement begins with a look at it.
        loop = asyncio._get_running_loop()
        goal = loop.goal if isinstance(loop, GuestLoop) else None
        if not isinstance(loop, GuestLoop) or not isinstance(goal, asyncio.Task):
            raise errors.Cancelled
        if asyncio.current_task(loop) is goal and _runs_code(frame):
            raise errors.Cancelled
        goal.cancel()
        loop.wake()

    # -- create_task in a statement without await ------------------------------

    def _supply_loop(self) -> None:
        create: Any = asyncio.create_task
        main, running = threading.main_thread(), asyncio._get_running_loop

        def create_task(coro: Any, **options: Any) -> Any:
            loop: Any = running()
            if loop is not None:
                return loop.create_task(coro, **options)
            if threading.current_thread() is main and sys._getframe(1).f_globals is self._namespace:
                return self.loop.create_task(coro, **options)
            return create(coro, **options)

        create_task.__doc__ = create.__doc__
        asyncio.create_task = create_task
        asyncio.tasks.create_task = create_task


def _runs_code(frame: FrameType | None) -> bool:
    """Whether code of the user is on the stack inside the loop.

    A task that has just yielded is still the current one while the loop schedules it again: an exception raised there
    would end the loop's run, and never reach the task's ``finally``.
    """
    while frame is not None and frame.f_code is not _RUN_ONCE:
        if not frame.f_code.co_filename.startswith(_RUNTIME):
            return True
        frame = frame.f_back
    return False


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1
