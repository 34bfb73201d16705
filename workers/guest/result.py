"""What an execution ends with: the value, its repr and the error, each bounded in size and time.

1. Whatever a ``__repr__`` or ``__str__`` does, the answer comes and the namespace lives.
2. A traceback shows the user's frames and those of libraries, none of ours.
"""

from __future__ import annotations

import os
import reprlib
import signal
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from .values import NotPlain, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["REPR_SECONDS", "TooLong", "bounded_repr", "describe_error", "encoded", "within"]

#: Seconds a repr, or the text of an exception, may take.
REPR_SECONDS = 2.0
#: Seconds between interrupts of a repr that swallows the first.
REPR_AGAIN = 0.2
#: Characters of a traceback.
TRACEBACK_MAX = 100_000
#: Characters of an exception's message.
MESSAGE_MAX = 10_000

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_BOOT = "<perdure>"


class TooLong(BaseException):
    """A repr took too long; not an Exception, so that ordinary handlers let it pass."""


def within[T](seconds: float, work: Callable[[], T]) -> T:
    """Run something for a time, in the main thread (elsewhere it is not bounded); raises TooLong.

    A timer of the user's goes on afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()

    def stop(_number: int, _frame: object) -> None:
        raise TooLong

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds, REPR_AGAIN)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - began)), again)


def bounded_repr(value: Any, limit: int, seconds: float = REPR_SECONDS) -> str:
    """Return ``repr(value)``, at most that long and in bounded time; whatever goes wrong is said in its place."""
    try:
        text = within(seconds, lambda: _repr(value, limit))
    except TooLong:
        return f"<{_type_name(value)}: its repr takes more than {seconds:g} s>"
    except BaseException as error:
        return f"<{_type_name(value)}: its repr raised {type(error).__name__}>"
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text) - limit} more characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def _repr(value: Any, limit: int) -> str:
    kind = type(value)
    if kind in (str, bytes, bytearray) and len(value) > limit:
        return f"{value[:limit]!r}... ({len(value)} in all)"
    if kind in (list, tuple, set, frozenset, dict) and len(value) > limit:
        short = reprlib.Repr(maxlist=1000, maxtuple=1000, maxset=1000, maxfrozenset=1000, maxdict=1000, maxstring=1000)
        return f"{short.repr(value)} ({len(value)} in all)"
    text: str = repr(value)
    return str.__str__(text)


def _type_name(value: Any) -> str:
    return str(type.__getattribute__(type(value), "__qualname__"))


def encoded(value: Any) -> tuple[bool, Any]:
    """Return whether a value is plain data, and if so its encoding."""
    try:
        return True, encode(value)
    except (NotPlain, RecursionError):
        return False, None


def describe_error(error: BaseException, filename: str) -> dict[str, Any]:
    """Return an exception as data: type, module, message, traceback, notes, and the line in the submission."""
    kind = type(error)
    try:
        text, message, notes = within(REPR_SECONDS, lambda: _texts(error))
    except BaseException as problem:
        why = "takes too long" if isinstance(problem, TooLong) else f"raised {type(problem).__name__}"
        message, notes = f"<the text of this exception {why}>", []
        text = f"{kind.__qualname__}: {message}\n"
    if len(text) > TRACEBACK_MAX:
        half = TRACEBACK_MAX // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half} characters cut]\n{text[-half:]}"
    return {
        "type": kind.__qualname__,
        "module": kind.__module__,
        "message": _clean(message[:MESSAGE_MAX]),
        "traceback": _clean(text),
        "line": _line(error, filename),
        "notes": [_clean(note[:MESSAGE_MAX]) for note in notes],
    }


def _texts(error: BaseException) -> tuple[str, str, list[str]]:
    report = traceback.TracebackException.from_exception(error, compact=True)
    for each in _chain(report):
        each.stack = traceback.StackSummary.from_list(
            [frame for frame in each.stack if not frame.filename.startswith((_OURS, _BOOT))]
        )
    notes = [_str(note, "note") for note in getattr(error, "__notes__", None) or ()]
    return "".join(report.format()), _str(error, "exception"), notes


def _str(thing: object, what: str) -> str:
    """Return ``str(thing)``, or what a traceback shows in its place."""
    try:
        return str(thing)
    except Exception:
        return f"<{what} str() failed>"


def _chain(report: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    stack, seen = [report], set()
    while stack:
        each = stack.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        stack += [more for more in (each.__cause__, each.__context__) if more is not None]
        stack += each.exceptions or []


def _line(error: BaseException, filename: str) -> int | None:
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == filename else None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == filename:
            line = step.tb_lineno
        step = step.tb_next
    return line


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
