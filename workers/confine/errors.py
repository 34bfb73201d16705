"""What can keep a guest from being confined, one class per situation."""

from __future__ import annotations

__all__ = ["InterpreterUnusable", "PolicyRefused", "SandboxUnavailable"]

import errno as errors

from perdure.engine.errors import PerdureError


class InterpreterUnusable(PerdureError):
    """The interpreter a session names cannot be started, or does not answer."""


class PolicyRefused(PerdureError):
    """A policy that would grant what no guest may have."""


class SandboxUnavailable(PerdureError):
    """This machine cannot give the level of isolation asked for, and nothing weaker was tried."""

    def __init__(self, layer: str, errno: int, reason: str, ways_out: tuple[str, ...]) -> None:
        """Name the layer that is missing, the kernel's errno (0 where there was none), why, and what may be done."""
        code = f" ({errors.errorcode.get(errno, str(errno))})" if errno else ""
        choices = "; or ".join(ways_out)
        super().__init__(f"isolation layer {layer!r} is not available{code}: {reason}. What helps: {choices}")
        self.layer = layer
        self.errno = errno
        self.reason = reason
        self.ways_out = ways_out
