"""The clocks of the session."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """The monotonic clock of the session: real, moved forward where replay does not sleep again what was slept."""

    def __init__(self) -> None:
        self._offset = 0.0

    def now(self) -> float:
        """Return seconds; never less than before."""
        return time.monotonic() + self._offset

    def reach(self, due: float) -> None:
        """Let it be at least ``due``."""
        self._offset += max(0.0, due - self.now())
