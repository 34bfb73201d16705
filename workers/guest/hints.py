"""What an exception leaves out: that it was the walls around the guest which refused, and what to do instead.

A hint is a note beside the traceback, never a change of it. It is given only where the exception can mean little else.
"""

from __future__ import annotations

import errno
import linecache
import os
import re
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["hints"]

#: Exceptions of one chain that are looked at.
CHAIN = 20
_REFUSED = (errno.EPERM, errno.EACCES, errno.EAGAIN, errno.ENOSYS)
_STARTS = re.compile(r"_fork_exec|\bfork\w*\(|os\.system\(|os\.popen\(|os\.exec\w+\(|os\.(posix_)?spawn\w*\(")
_CONNECTS = re.compile(r"\.(connect|connect_ex|bind|sendto)\(|socket\.socket\(|_socket\.socket|SOCK_|getaddrinfo\(")
#: Capabilities that every installation knows, which code may name without having been granted them.
_STANDARD = ("http", "ask")

PROCESSES = "code in this session may start no processes: work in this one (threads, asyncio), or through a capability"
NETWORK = "code in this session has no network: grant it a capability such as http, and call http.get(...)"
OUTSIDE = "code in this session sees its workspace only, the current folder: bring files in (--with PATH, files=[...])"
WRITING = "code in this session may write in its workspace only, the current folder"


def hints(error: BaseException, granted: Callable[[str], bool], *, confined: bool) -> list[str]:
    """Return what to say of an exception, at most a line for each thing that was refused."""
    found: dict[str, None] = {}
    for each in _chain(error):
        hint = _wall(each) if confined else None
        hint = hint or _capability(each, granted)
        if hint is not None:
            found[hint] = None
    return list(found)


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < CHAIN:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [more for more in (each.__cause__, each.__context__) if more is not None]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _wall(error: BaseException) -> str | None:
    if isinstance(error, socket.gaierror):
        return NETWORK
    if not isinstance(error, OSError):
        return None
    if error.filename is not None:
        return _file(error)
    if error.errno not in _REFUSED:
        return None
    line = _last_line(error.__traceback__)
    if _STARTS.search(line):
        return PROCESSES
    return NETWORK if _CONNECTS.search(line) else None


def _file(error: OSError) -> str | None:
    name = error.filename
    if not isinstance(name, str) or not os.path.isabs(name) or name.startswith(os.getcwd() + os.sep):
        return None
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return WRITING if error.errno == errno.EROFS else OUTSIDE
    return OUTSIDE if error.errno == errno.ENOENT else None


def _last_line(step: TracebackType | None) -> str:
    """Return the statement that raised, as its source has it; it may take a few lines."""
    if step is None:
        return ""
    while step.tb_next is not None:
        step = step.tb_next
    code, number = step.tb_frame.f_code, step.tb_lineno
    first = min((line for *_, line in code.co_lines() if line), default=number)
    lines = range(max(number - 1, first), number + 3)
    return f"{code.co_name}(" + "".join(linecache.getline(code.co_filename, each) for each in lines)


def _capability(error: BaseException, granted: Callable[[str], bool]) -> str | None:
    if not isinstance(error, NameError) or error.name not in _STANDARD:
        return None
    if granted(error.name):
        return None
    return f"{error.name} is a capability that was not granted: grant it when the session or the run is started"
