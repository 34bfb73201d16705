"""Bundles of a guest, as the host reads them: contents by MIME type, bounded, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .messages import ProtocolViolation

if TYPE_CHECKING:
    from .link import Link
    from .messages import Display, Done

__all__ = ["bundle_in_done", "bundle_of_display"]

#: Parts of a bundle; the guest makes far fewer.
MAX_PARTS = 64


def bundle_of_display(message: Display, link: Link) -> dict[str, str]:
    """Return what a display shows. Raises ProtocolViolation."""
    if message.data is not None:
        return _its_own(message.data)
    if message.data_stream is None:
        msg = "a display of nothing"
        raise ProtocolViolation(msg)
    return _parsed(link.take(message.data_stream))


def bundle_in_done(message: Done, link: Link) -> dict[str, str] | None:
    """Return how the value of an execution shows itself, if it does. Raises ProtocolViolation."""
    if message.display_stream is not None:
        return _parsed(link.take(message.display_stream))
    return message.display and _its_own(message.display)


def _its_own(data: dict[str, str]) -> dict[str, str]:
    """Only the host names blobs: whoever looks at what is shown would be given somebody else's."""
    if "$ref" in data:
        msg = "a reference to a blob as a display"
        raise ProtocolViolation(msg)
    return data


def _parsed(raw: bytes | bytearray) -> dict[str, str]:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or len(data) > MAX_PARTS or not all(isinstance(each, str) for each in data.values()):
        msg = "a display that is not texts by MIME type"
        raise ProtocolViolation(msg)
    return _its_own(data)
