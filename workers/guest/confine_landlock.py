"""Landlock: the process may open only what lies beneath the paths it was given, whatever the file modes say.

What the kernel cannot name yet (an older ABI) is left to the system-call filter; see confine_seccomp.
"""

from __future__ import annotations

__all__ = ["KNOWN_ABI", "Ruleset", "kernel_abi", "restrict"]

import ctypes
import errno as errors
import os
import stat
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import confine_kernel
from .confine_kernel import ConfinementFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# One number on every architecture: all three calls came after the tables were unified.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1

KNOWN_ABI = 7

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
_MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = 1 << 9, 1 << 10, 1 << 11, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

_BASE_RIGHTS = (1 << 13) - 1
_RIGHTS_SINCE = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_TCP_SINCE, _TCP_RIGHTS = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11

# A rule on a file with a right that only directories have is EINVAL.
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
# No EXECUTE anywhere: shared libraries are mapped, not executed, and nothing else may be.
_READ = _READ_FILE | _READ_DIR
# No devices, sockets or FIFOs: a FIFO in the workspace would block a host that opens it.
_WRITE = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER | _TRUNCATE


def kernel_abi() -> int:
    """The Landlock ABI this kernel speaks; raises ConfinementFailed naming why there is none."""
    try:
        return confine_kernel.syscall(_CREATE_RULESET, 0, 0, _VERSION_FLAG)
    except OSError as problem:
        code = problem.errno or 0
        if code == errors.EOPNOTSUPP:
            why = "Landlock is built into this kernel but off; add landlock to the lsm= boot parameter"
        elif code == errors.ENOSYS:
            why = "this kernel (before 5.13, or a substitute for one) has no Landlock, or a filter hides it"
        else:
            why = "Landlock was refused, probably by the container's system-call filter"
        raise ConfinementFailed("landlock", code, why) from problem


def handled_rights(abi: int) -> int:
    """Every file right that this ABI can withhold."""
    return _BASE_RIGHTS | sum(right for since, right in _RIGHTS_SINCE.items() if abi >= since)


class Ruleset:
    """Rules that are being put together; none is in force before ``put_on``."""

    def __init__(self, abi: int, read_only: Sequence[str]) -> None:
        """Begin with what may be read. Raises ConfinementFailed."""
        self.read_only = tuple(read_only)
        self._abi = abi
        self._rights = handled_rights(abi)
        network = _TCP_RIGHTS if abi >= _TCP_SINCE else 0
        scopes = _SCOPES if abi >= _SCOPES_SINCE else 0
        attributes = struct.pack("=QQQ", self._rights, network, scopes)
        with self._failing():
            self.fd = confine_kernel.syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
        #: The paths that were not there.
        self.absent = [path for path in read_only if not self._grant(path, _READ)]

    def put_on(self, read_write: Sequence[str]) -> None:
        """Add what may be written, and confine this thread for good. Raises ConfinementFailed."""
        try:
            for path in read_write:
                if not self._grant(path, _WRITE):
                    raise ConfinementFailed("landlock", errors.ENOENT, f"no such folder to write in: {path}")
            with self._failing():
                confine_kernel.syscall(_RESTRICT_SELF, self.fd, 0)
        finally:
            self.close()

    def close(self) -> None:
        """Give the rules up, or this process's hold on those in force."""
        os.close(self.fd)

    def _grant(self, path: str, rights: int) -> bool:
        with self._failing():
            return _grant(self.fd, path, rights & self._rights)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            code = problem.errno or 0
            raise ConfinementFailed("landlock", code, f"{problem.strerror} at ABI {self._abi}") from problem


def restrict(
    abi: int, read_only: Sequence[str], read_write: Sequence[str], prepared: Ruleset | None = None
) -> list[str]:
    """Confine this thread for good, and return the read-only paths that were not there.

    ``prepared`` is used if it grants the same to read. A missing read-write path is a failure; no_new_privs must be
    set. Raises ConfinementFailed.
    """
    ruleset = prepared
    if ruleset is None or ruleset.read_only != tuple(read_only):
        if ruleset is not None:
            ruleset.close()
        ruleset = Ruleset(abi, read_only)
    ruleset.put_on(read_write)
    return ruleset.absent


def _grant(ruleset: int, path: str, rights: int) -> bool:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, beneath)
        confine_kernel.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(beneath)
    return True
