"""The monotonic clock of the session: real, and set forward where it would otherwise run backwards.

1. A replay does not sleep again what was slept, and the clock shows it as slept.
2. A namespace restored on a machine that booted later finds no time before what it has seen.
"""

from __future__ import annotations

import functools
import time
from typing import Any

__all__ = ["Clock"]

_SECOND = 1_000_000_000
_monotonic_ns, _wall_ns = time.monotonic_ns, time.time_ns


class Clock:
    """One for the process: what ``time.monotonic``, ``time.perf_counter`` and the loops' ``time`` show."""

    def __init__(self) -> None:
        self._offset = 0

    def now(self) -> float:
        """Return seconds; never less than before."""
        return (_monotonic_ns() + self._offset) / _SECOND

    def reach(self, due: float) -> None:
        """Let it be at least ``due``."""
        ahead = due - self.now()
        if ahead > 0:
            self._shift(int(ahead * _SECOND) + 1)

    def state(self) -> dict[str, int]:
        """Return what a checkpoint keeps."""
        return {"monotonic": _monotonic_ns() + self._offset, "wall": _wall_ns()}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on from a checkpoint: if this machine's clock is behind, from what it showed and the time since."""
        seen, now = state["monotonic"], _monotonic_ns() + self._offset
        if now < seen:
            self._shift(seen + max(0, _wall_ns() - state["wall"]) - now)

    def _shift(self, nanoseconds: int) -> None:
        # Most guests never need it, and Python's own functions are three times as fast.
        if not self._offset:
            self._take_over()
        self._offset += nanoseconds

    def _take_over(self) -> None:
        for name in ("monotonic", "perf_counter"):
            self._replace(name, lambda: self.now())  # noqa: PLW0108 - a bound method would show as one
            self._replace(f"{name}_ns", lambda: _monotonic_ns() + self._offset)

    @staticmethod
    def _replace(name: str, function: Any) -> None:
        setattr(time, name, functools.wraps(getattr(time, name))(function))
