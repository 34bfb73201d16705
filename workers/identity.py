"""Who a worker process is, so that another can tell later whether it is still alive."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["identity_of", "known_dead", "own_identity"]


def own_identity() -> str:
    """Return ``boot/pid/start``: unique over all processes of all machines, readable by ``known_dead``."""
    return identity_of(os.getpid())


def identity_of(pid: int) -> str:
    """Return the identity of another process of this machine."""
    return f"{_boot()}/{pid}/{_started(pid)}"


def known_dead(identity: str) -> bool:
    """Whether the process is certainly gone: same machine since its last start, and no such process any more."""
    try:
        boot, pid, started = identity.split("/")
        number = int(pid)
    except ValueError:
        return False
    if boot != _boot():
        return False
    return _started(number) != started


def _boot() -> str:
    # Containers share a boot, but not the numbers of processes: the pid namespace is part of where we are.
    namespace = Path("/proc/self/ns/pid").readlink()
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}+{namespace}"


def _started(pid: int) -> str | None:
    """Return the process's start time in clock ticks since boot (field 22 of stat), None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
