"""Which failures are expected: those are one line, and lose nothing."""

from __future__ import annotations

from resonate_base import ConnectorError

from perdure.capabilities.errors import BadAnswer, UnknownGrant
from perdure.capabilities.values import NotPlain

from ..errors import PerdureError
from ..store import StoreError

__all__ = ["is_expected"]

_EXPECTED = (PerdureError, StoreError, UnknownGrant, BadAnswer, NotPlain, ConnectorError)


def is_expected(exc: Exception) -> str | None:
    """Return the line that says what went wrong and what to do; None if it should never have happened."""
    if isinstance(exc, _EXPECTED):
        return str(exc)
    if isinstance(exc, NotImplementedError) and exc.args:
        return str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror}: {exc.filename}" if exc.filename else exc.strerror
    return None
