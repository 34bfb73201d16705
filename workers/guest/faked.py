"""Modes and times of files, where the walls answer that they were set and do nothing (confine_syscalls.py, FAKED).

What is not there still has to be refused: `Path.touch` takes success for the file's existence, and makes none.
"""

from __future__ import annotations

import functools
import os
from typing import Any

__all__ = ["refuse_what_is_not_there"]

#: What is set by name.
_NAMES = ("chmod", "utime")


def refuse_what_is_not_there() -> None:
    """Have ``os.utime`` and ``os.chmod`` fail for what does not exist, if they would not by themselves."""
    try:
        os.utime("/proc/self/no such file")
    except OSError:
        return
    for name in _NAMES:
        theirs = getattr(os, name)
        ours = _looking_first(theirs)
        setattr(os, name, ours)
        for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if theirs in supported:
                supported.add(ours)  # what shutil asks before it passes such an argument


def _looking_first(theirs: Any) -> Any:
    @functools.wraps(theirs)
    def ours(path: Any, *args: Any, dir_fd: Any = None, follow_symlinks: bool = True, **options: Any) -> None:
        os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        theirs(path, *args, dir_fd=dir_fd, follow_symlinks=follow_symlinks, **options)

    ours.__text_signature__ = theirs.__text_signature__  # type: ignore[attr-defined]
    return ours
