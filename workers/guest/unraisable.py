"""What Python could not raise, shown with its line: the interpreter's own hooks read a file, a submission is none."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Any

__all__ = ["install"]


def install() -> None:
    """Take the place of ``sys.unraisablehook``, and before 3.13 of ``threading.excepthook``; code may set others."""
    default = sys.unraisablehook

    def unraisablehook(unraisable: Any, /) -> None:
        """Report an exception that could not be raised."""
        try:
            text = _text(unraisable)
        except Exception:
            default(unraisable)
            return
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()

    sys.unraisablehook = sys.__unraisablehook__ = unraisablehook
    if sys.version_info < (3, 13):  # from there on the interpreter's own asks for lines as we do
        threading.excepthook = threading.__excepthook__ = _excepthook


def _excepthook(args: Any, /) -> None:
    """Report an exception that a thread did not handle."""
    stream = sys.stderr if sys.stderr is not None else getattr(args.thread, "_stderr", None)
    if args.exc_type is SystemExit or stream is None:
        return
    name = args.thread.name if args.thread is not None else threading.get_ident()
    lines = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
    stream.write(f"Exception in thread {name}:\n{''.join(lines)}")
    stream.flush()


_excepthook.__name__ = _excepthook.__qualname__ = "excepthook"


def _text(unraisable: Any) -> str:
    what = unraisable.err_msg
    if unraisable.object is not None:
        what = f"{what or 'Exception ignored in'}: {unraisable.object!r}"
    lines = [f"{what or 'Exception ignored in'}{'' if unraisable.object is not None else ':'}\n"]
    report = traceback.TracebackException(unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback)
    if unraisable.exc_traceback is not None:
        if sys.version_info >= (3, 13):  # where the interpreter's own hook marks no columns any more
            for frame in report.stack:
                frame.colno = None
        lines += ["Traceback (most recent call last):\n", *report.stack.format()]
    return "".join((*lines, *report.format_exception_only()))
