"""Whether the state of the process is what it was at the last checkpoint: told by comparing what it is kept in.

1. To read all of it takes as long as the rest of a small checkpoint, and it rarely changes.
2. So what libraries keep it in is copied before it is read, and compared with that copy, below their functions.
3. Nothing of the session's is held: where such a thing is among it, all is read every time.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from copy import copy
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from . import options

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CSV_FIELD", "Standing", "csv_field", "current_folder", "is_plain_filter", "loggers_set_up"]

#: Parts of a filter of warnings: action, message, category, module, line.
_FILTER_PARTS: Final = 5
_PATTERNS: Final = (type(None), str, re.Pattern)
#: Characters that a field of csv may have, unless code says otherwise.
CSV_FIELD: Final = 131072
_levels: Callable[[Any], Any] = attrgetter("name", "level", "disabled", "propagate")


class Standing:
    """What the state of the process was kept in when it was read."""

    __slots__ = ("_configured", "_kept", "loggers")

    def __init__(self) -> None:
        """Copy it: before it is read, so that what changes meanwhile is seen the next time."""
        self._kept: list[Any] | None = None
        self.loggers = True
        """Whether there can be loggers that are set up: what they are given keeps a state of its own."""
        if all(map(is_plain_filter, warnings.filters)) and all(type(entry) is str for entry in sys.path):
            self._kept = [copy(each) for each in _kept()]
            self._configured = options.configured()
            self.loggers = bool(self._kept[-1])

    def lasts(self) -> bool:
        """Whether all of it is as it was; what cannot be compared is not."""
        try:
            return self._kept is not None and self._kept == _kept() and options.as_configured(self._configured)
        except Exception:
            return False


def _kept() -> list[Any]:
    """Return what is compared; names of loggers that are set up come last."""
    logging = sys.modules.get("logging")
    # What the class of the environment makes texts of.
    environ = getattr(os.environ, "_data", os.environ)
    made = [environ, sys.path, current_folder(), sys.getrecursionlimit(), csv_field(), warnings.filters]
    if logging is None:
        return [*made, []]
    known, nobody = logging.Logger.manager.loggerDict, logging.PlaceHolder
    levels = [_levels(logger) for logger in known.values() if type(logger) is not nobody]
    set_up = [logger.name for logger in loggers_set_up(logging)]
    return [*made, logging.root.manager.disable, list(known), levels, set_up]


def csv_field() -> int:
    """Return how long a field of csv may be."""
    csv = sys.modules.get("_csv")
    limit: int = csv.field_size_limit() if csv is not None else CSV_FIELD
    return limit


def current_folder() -> str:
    """Return the current folder; the root where it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def loggers_set_up(logging: Any) -> list[Any]:
    """Return the loggers beside the root that hand what they are told to somebody, or hold it back.

    Libraries give a handler that does nothing to their own when they are imported, as they are advised to.
    """
    known, nobody, silent = logging.Logger.manager.loggerDict, logging.PlaceHolder, logging.NullHandler
    loggers = [
        (name, logger)
        for name, logger in known.items()
        if type(logger) is not nobody and (logger.handlers or logger.filters)
    ]
    return [
        logger
        for _, logger in sorted(loggers, key=lambda pair: pair[0])
        if logger.filters or any(type(each) is not silent for each in logger.handlers)
    ]


def is_plain_filter(each: Any) -> bool:
    """Whether a filter of warnings can be held: it leads to no class of the session."""
    if type(each) is not tuple or len(each) != _FILTER_PARTS:
        return False
    action, message, category, module, line = each
    patterns = type(message) in _PATTERNS and type(module) in _PATTERNS
    return patterns and type(action) is str and type(line) is int and category.__module__ != "__main__"
