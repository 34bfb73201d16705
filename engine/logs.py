"""Where words to the operator go: standard error, as it is when something is said.

1. Nothing is lost but the words where standard error is closed or its reader is gone: who logs is in the middle of
   something, often of giving work back, and must get on with it.
"""

from __future__ import annotations

import sys
from contextlib import suppress

__all__ = ["StandardError", "say"]


def say(text: str) -> None:
    """Write to standard error; without one that takes it, there is nobody to tell."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


class StandardError:
    """A logger of structlog's that writes lines; to be given as its own factory."""

    def __call__(self, *_: object) -> StandardError:
        return self

    def msg(self, message: str) -> None:
        """Write one line."""
        say(f"{message}\n")

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg
