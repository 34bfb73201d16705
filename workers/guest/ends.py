"""Signals that the code sends itself are noted where the worker finds them: nobody else can tell who sent a SIGKILL.

1. The note says which signal, and is left before the signal is sent.
2. What is not seen here (a system call made by hand) passes for a signal from outside, never the other way round.
3. The first process of a namespace is not killed by signals of its own: where a guest is that, it ends by itself, with
   the code that a shell would show.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BY_SIGNAL", "LOCK", "NOTE_AT", "install", "own_signal"]

#: The descriptor of the lock of its workspace that a guest holds.
LOCK = 4
#: Where the note is in the file of the workspace's lock, behind the holder's identity, and its length.
NOTE_AT = 200
_NOTE_SIZE = 1
#: The exit code for signal n is this and n.
BY_SIGNAL = 128
#: Signals that end no process unless it says so.
_HARMLESS = frozenset(
    {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP}
    | {signal.SIGTTIN, signal.SIGTTOU}
)


def own_signal(lock: int) -> int | None:
    """Return the last signal that the holder of a lock sent itself, if any."""
    note = os.pread(lock, _NOTE_SIZE, NOTE_AT)
    return note[0] if note and note[0] else None


def install() -> None:
    """Hook what sends signals, if this process holds a lock."""
    try:
        lock = _file(LOCK)
    except OSError:
        return

    def to_itself(number: Any) -> None:
        # Code may have closed the descriptor, and have a file of its own there now.
        if number and _file(LOCK) == lock:
            os.pwrite(LOCK, bytes([number]), NOTE_AT)

    def survived(number: Any) -> None:
        if os.getpid() == 1 and number and number not in _HARMLESS and signal.getsignal(number) is signal.SIG_DFL:
            os._exit(BY_SIGNAL + number)

    def hook(module: Any, name: str, reaches: Callable[[Any], bool]) -> None:
        send = getattr(module, name)

        @wraps(send)
        def noted(*args: Any, **kwargs: Any) -> Any:
            number = 0
            with suppress(Exception):  # What is wrong with the arguments is for the function itself to say.
                if reaches(args[0]):
                    number = args[-1]
                    to_itself(number)
            sent = send(*args, **kwargs)
            survived(number)
            return sent

        setattr(module, name, noted)

    hook(os, "kill", lambda pid: pid in (os.getpid(), 0, -1, -os.getpgid(0)))
    hook(os, "killpg", lambda group: group in (0, os.getpgid(0)))
    hook(signal, "raise_signal", lambda _: True)
    hook(signal, "pthread_kill", lambda _: True)


def _file(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
