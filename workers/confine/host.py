"""What the process that starts guests does for its own protection."""

from __future__ import annotations

__all__ = ["protect_host"]

from perdure.workers.guest.confine_kernel import set_dumpable


def protect_host() -> None:
    """Keep other processes of this user from reading this one's memory, environment and descriptors.

    At level `process` this is all that stands between a guest and the host's secrets. Core dumps and debuggers of the
    same user stop working too. Raises OSError off Linux.
    """
    set_dumpable(on=False)
