"""Memory that a load makes for the buffers of arrays."""

from __future__ import annotations

__all__ = ["Storage"]


class Storage(bytearray):
    """Bytes that came with a checkpoint: to the arrays made over them their base, to the session nothing."""
