"""The last words of a process: what it prints outside of its channel, and what is said of its end from that.

They are written by whoever runs in the process, so they are shown and never acted on; the file has its size from the
beginning and cannot grow, so that nobody can hold memory in it.
"""

from __future__ import annotations

import fcntl
import os
import re

__all__ = ["SIZE", "closing", "create", "scene", "take"]

#: Bytes there is room for: the traceback of a crash with a hundred threads.
SIZE = 64 << 10
#: Characters that are kept of it.
KEPT = 4000

_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
#: How faulthandler begins, and a frame that it names.
_CRASH = "Fatal Python error: "
_THREAD = "(most recent call first):\n"
_FRAME = re.compile(r'  File "([^"\n]{1,300})", line (\d{1,9}) in ([^\n]{1,200})')


def create(name: str) -> int:
    """Return a descriptor of a new file of memory for the words of one process."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def take(fd: int) -> str:
    """Return the last of what was printed, and close the descriptor."""
    try:
        return os.pread(fd, SIZE, 0).rstrip(b"\0").decode(errors="replace").strip()[-KEPT:]
    finally:
        os.close(fd)


def scene(words: str) -> str:
    """Say where it was when it crashed, and where the session's own code was; nothing if that is not told."""
    _, crash, told = words.rpartition(_CRASH)
    frames = _FRAME.findall(told.partition(_THREAD)[2].partition("\n\n")[0]) if crash else []
    if not frames:
        return ""
    # What a library was imported from has a whole path; a session's code has a name.
    own = next((frame for frame in frames if not frame[0].startswith("/")), frames[0])
    places = [f"in {name} at line {line} of {file}" for file, line, name in dict.fromkeys((frames[0], own))]
    return ", called ".join(places)


def closing(words: str) -> str:
    """Return the last line: of a traceback, the error."""
    return words.rpartition("\n")[2][:300]
