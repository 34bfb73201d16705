"""The few kernel calls that confinement needs and the standard library lacks; nothing here decides anything."""

from __future__ import annotations

__all__ = [
    "ConfinementFailed",
    "bounding_set_drop",
    "drop_capabilities",
    "machine",
    "prctl",
    "set_dumpable",
    "status_fields",
    "syscall",
]

import ctypes
import errno as errors
import os
import sys
from functools import cache
from typing import Any

PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_CAPABILITY_VERSION_3 = 0x20080522
# The kernel's sets have 64 bits; PR_CAPBSET_READ says EINVAL past the last one it knows.
_CAPABILITIES = 64


class ConfinementFailed(Exception):
    """A layer could not be put on, so no user code may run in this process."""

    def __init__(self, layer: str, errno: int, message: str) -> None:
        """Name the layer, the kernel's errno (0 where there was none) and what follows from it."""
        name = errors.errorcode.get(errno, str(errno)) if errno else "no errno"
        super().__init__(f"confinement layer {layer!r} failed ({name}): {message}")
        self.layer = layer
        self.errno = errno
        self.message = message


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def machine() -> str:
    """The instruction set this process runs as; raises ConfinementFailed off 64-bit Linux."""
    if not sys.platform.startswith("linux") or sys.maxsize <= 2**32:
        raise ConfinementFailed("platform", errors.ENOSYS, "strict confinement needs a 64-bit Linux process")
    return os.uname().machine


def syscall(number: int, *arguments: Any) -> int:
    """Make a raw system call; raises OSError."""
    libc = _libc()
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, *arguments: int | ctypes.c_void_p) -> int:
    """Call prctl with unused arguments zero, as newer options demand; raises OSError."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in padded]
    result = int(_libc().prctl(ctypes.c_int(option), *wide))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def set_dumpable(*, on: bool) -> None:
    """Allow, or forbid, processes of the same user to read this one's memory, environment and descriptors."""
    prctl(PR_SET_DUMPABLE, int(on))


def bounding_set_drop() -> bool:
    """Empty the bounding set; False for an ordinary user, who may not and for whom no_new_privs is enough."""
    for capability in range(_CAPABILITIES):
        try:
            held = prctl(PR_CAPBSET_READ, capability)
        except OSError as problem:
            if problem.errno == errors.EINVAL:
                return True
            raise
        if not held:
            continue
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as problem:
            if problem.errno == errors.EPERM:
                return False
            raise
    return True


def drop_capabilities() -> None:
    """Empty the ambient, effective, permitted and inheritable sets of this thread; raises OSError."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    nothing = (_CapData * 2)()
    if _libc().capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def status_fields() -> dict[str, str]:
    """This process's /proc/self/status as a dict of stripped strings."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        pairs = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in pairs}
