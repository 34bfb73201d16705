"""The self-check of a confined guest: try what must fail, and refuse to go on where it does not.

This is the guard against code that runs unconfined because a layer was skipped, stubbed or silently ineffective. Each
attempt is harmless if it succeeds.
"""

from __future__ import annotations

__all__ = ["check", "check_zygote", "openable"]

import errno as errors
import os
import socket
from typing import TYPE_CHECKING

from . import confine_kernel
from .confine_kernel import ConfinementFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    type Attempt = tuple[str, Callable[[], None], tuple[int, ...]]

# Every process can list this folder, and no policy may grant it: the one sure thing to be refused.
_ROOT = "/"
_NO_PROGRAM = "/nonexistent/program"
_CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def openable(path: str) -> bool:
    """Whether this process can open the path for reading: the positive control, taken before confinement."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _open(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _write_beside(folder: str) -> None:
    beside = os.path.join(os.path.dirname(folder), f".perdure-canary-{os.getpid()}")
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.unlink(beside)


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _execute() -> None:
    os.execv(_NO_PROGRAM, [_NO_PROGRAM])  # noqa: S606 - there is no such program, and it must not matter


def _must_fail(name: str, attempt: Callable[[], None], expected: Sequence[int]) -> None:
    try:
        attempt()
    except OSError as problem:
        if problem.errno in expected:
            return
        wrong = f"failed as {errors.errorcode.get(problem.errno or 0)}, not as a confined process would"
        raise ConfinementFailed("canary", problem.errno or 0, f"{name}: {wrong}") from problem
    raise ConfinementFailed("canary", 0, f"{name}: succeeded, so this process is not confined")


def _check_status() -> None:
    status = confine_kernel.status_fields()
    if status.get("NoNewPrivs") != "1" or status.get("Seccomp") != "2":
        raise ConfinementFailed("canary", 0, "the kernel does not report no_new_privs and a system-call filter")
    held = [name for name in _CAPABILITY_SETS if int(status.get(name, "1"), 16)]
    if held:
        raise ConfinementFailed("canary", 0, f"capabilities are left in {', '.join(held)}")


def check_zygote(forbidden: Sequence[str]) -> list[str]:
    """As ``check``, for the process that guests are forked from, which may fork."""
    return _try_all([*_attempts(forbidden), ("execute", _execute, (errors.EPERM,))])


def check(forbidden: Sequence[str], folders: Sequence[str], beside: Sequence[str] = ()) -> list[str]:
    """Attempt each forbidden thing and return what was tried; raises ConfinementFailed where one is not refused.

    `forbidden` holds files that were openable before; `folders` are those granted for writing; `beside` are folders
    that a zygote's layer leaves open.
    """
    denied = (errors.EACCES,)
    unwritable = (errors.EACCES, errors.EROFS)
    refused = (errors.EPERM,)
    attempts = [
        *_attempts(forbidden),
        *((f"list {path}", lambda path=path: _open(path), denied) for path in beside),
        *((f"write beside {folder}", lambda folder=folder: _write_beside(folder), unwritable) for folder in folders),
        ("signal the parent", lambda: os.kill(os.getppid(), 0), refused),
        ("fork", _fork, refused),
        ("execute", _execute, refused),
    ]
    return _try_all(attempts)


def _attempts(forbidden: Sequence[str]) -> list[Attempt]:
    denied = (errors.EACCES,)
    return [
        ("list /", lambda: _open(_ROOT), denied),
        *((f"open {path}", lambda path=path: _open(path), denied) for path in forbidden),
        ("make a socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(), (errors.EPERM,)),
    ]


def _try_all(attempts: Sequence[Attempt]) -> list[str]:
    for name, attempt, expected in attempts:
        _must_fail(name, attempt, expected)
    _check_status()
    return [name for name, _, _ in attempts]
