"""What Python could not raise, shown with its line: the interpreter's own hook reads a file, a submission is none."""

from __future__ import annotations

import sys
import traceback
from typing import Any

__all__ = ["install"]


def install() -> None:
    """Take the place of the default ``sys.unraisablehook``; the code may set another."""
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
