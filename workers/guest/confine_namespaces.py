"""Look around from inside namespaces: whether they are there, found out by trying, not by asking who made them."""

from __future__ import annotations

__all__ = ["check"]

import errno as errors
import os
import socket

from .confine_kernel import ConfinementFailed

# Its init, whatever made it, and this.
_FEW_PROCESSES = 3


def check() -> None:
    """Raise ConfinementFailed where the host's processes, network or files are the ones seen from here."""
    if len([entry for entry in os.listdir("/proc") if entry.isdigit()]) > _FEW_PROCESSES:
        raise ConfinementFailed("namespaces", 0, "other processes can be seen from inside")
    interfaces = [name for _, name in socket.if_nameindex()]
    if interfaces not in ([], ["lo"]):
        raise ConfinementFailed("namespaces", 0, f"the host's network is there: {interfaces}")
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        raise ConfinementFailed("namespaces", errors.EROFS, "/ can be written to from inside")
