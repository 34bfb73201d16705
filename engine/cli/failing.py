"""Which failures are expected: those are one line, and lose nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import PerdureError
from ..logs import StandardError, say

if TYPE_CHECKING:
    from structlog.typing import EventDict

__all__ = ["hear_background", "hear_worker", "is_expected", "leave", "say_once"]

#: What the SDK puts before the error of one of its own tasks.
_BACKGROUND = "background task failed: "
_said: set[str] = set()
#: Emptied when nothing more is to be heard.
_hearing = {"background"}


def is_expected(exc: Exception) -> str | None:
    """Return the line that says what went wrong and what to do; None if it should never have happened."""
    if isinstance(exc, PerdureError):
        return str(exc)
    from resonate_base import ConnectorError  # the store's errors are among these

    from perdure.capabilities.errors import BadAnswer, UnknownGrant
    from perdure.capabilities.values import NotPlain

    if isinstance(exc, (ConnectorError, UnknownGrant, BadAnswer, NotPlain)):
        return str(exc)
    if isinstance(exc, NotImplementedError) and exc.args:
        return str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror}: {exc.filename}" if exc.filename else exc.strerror
    return None


def say_once(line: str) -> None:
    """Print a line of ours on stderr, unless it was printed before; an excerpt of code under it stays as it stands."""
    said, excerpt = line, ""
    if "\n    " in line:
        said, _, excerpt = line.partition("\n")
    said = " ".join(said.split())
    if said not in _said:
        _said.add(said)
        say(f"perdure: {said}\n{excerpt}{'\n' if excerpt else ''}")


class _Background(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if _hearing:
            say_once(record.getMessage().removeprefix(_BACKGROUND))


def _unless_left(_logger: Any, _method: str, event: EventDict) -> EventDict:
    if not _hearing:
        from structlog import DropEvent

        raise DropEvent
    return event


def hear_background() -> None:
    """Send to stderr what tasks in the background warn of; an error that ends us too is then said once.

    Standard output belongs to the code that runs: structlog would print there.
    """
    import structlog

    logging.getLogger().addHandler(_Background(logging.WARNING))
    structlog.configure(
        processors=[
            _unless_left,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=StandardError(),
        cache_logger_on_first_use=False,
    )


def hear_worker() -> None:
    """Let a worker that runs as a service say what it does, too."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


def leave() -> None:
    """Say no more: what is stopped on purpose from here on complains of being stopped."""
    _hearing.clear()
