"""The capabilities that every installation has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .http import HTTP
from .human import ask, line

if TYPE_CHECKING:
    from .base import Capability

__all__ = ["standard"]


def standard() -> tuple[Capability, ...]:
    """Return them: ``ask``, ``input`` and ``http.*``."""
    return (ask, line, *HTTP)
