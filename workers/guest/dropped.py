"""Coroutines that nobody awaited: Python warns of each as it goes; the result names them too, with their lines."""

from __future__ import annotations

import sys
import types
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dropped"]

#: Coroutines named in one result; a loop that forgets ``await`` drops one a turn.
MAX_NAMED = 20


class Dropped:
    """What was dropped in this execution. Nothing is held: a coroutine that the code keeps is never seen here."""

    def __init__(self, is_user_file: Callable[[object], bool]) -> None:
        self._is_user_file = is_user_file
        self._seen: list[str] = []
        self._more = 0

    def install(self) -> None:
        """Hear of them where Python tells its own ``warnings`` of them."""
        theirs: types.FunctionType = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]

        def warn(message: str, category: type[Warning], stacklevel: int, source: Any) -> None:
            self._note(source)
            warnings.warn(message, category, stacklevel + 1, source)

        # Their own function with another ``warn``: one around it would be the line that the warning names.
        ours = types.FunctionType(theirs.__code__, {**theirs.__globals__, "warn": warn}, theirs.__name__)
        warnings._warn_unawaited_coroutine = ours  # type: ignore[attr-defined]

    def _note(self, coroutine: Any) -> None:
        code = getattr(coroutine, "cr_code", None)
        if code is None or not self._is_user_file(code.co_filename):
            return
        if len(self._seen) >= MAX_NAMED:
            self._more += 1
            return
        where = f"defined in line {code.co_firstlineno} of {code.co_filename}"
        frame = sys._getframe(2)
        while frame is not None:
            if self._is_user_file(frame.f_code.co_filename):
                where = f"dropped in line {frame.f_lineno} of {frame.f_code.co_filename}, {where}"
                break
            frame = frame.f_back  # type: ignore[assignment]
        self._seen.append(f"coroutine {code.co_qualname!r} was never awaited: {where}")

    def take(self) -> list[str]:
        """Return what was dropped since the last time, in words."""
        seen, more = self._seen, self._more
        self._seen, self._more = [], 0
        return [*seen, f"{more} more coroutines were never awaited"] if more else seen
