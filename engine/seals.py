"""Seals: which checkpoints are this state's own, and what each follows. Checked before any of it reaches a guest.

1. A seal is a keyed digest over the step, the seal of the checkpoint it follows, and what was recorded; the key never
   enters a guest. So a checkpoint that was changed, swapped, replaced by an older one or made by somebody else who can
   write to the store is refused, and the blobs it names are held to their own digests.
2. Whoever records a checkpoint, it is sealed: that happens where steps are settled, and nowhere else.
3. What is sealed is the plain record; nothing here reads a namespace.
"""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Any

import msgspec
from blake3 import blake3

from .errors import PerdureError
from .ids import step_id
from .state import KEY_BYTES

if TYPE_CHECKING:
    from .durable import Promises

__all__ = ["CheckpointForged", "Seals", "derived_key"]

#: Seals of steps that are remembered: one a session in use, so that sealing rarely asks the store.
REMEMBERED = 1024

_STEP = re.compile(r"(.+):s([0-9]{1,9})")


class CheckpointForged(PerdureError):
    """A recorded checkpoint does not carry the seal it should; nothing of it was given to a guest."""


def derived_key(state_id: str) -> bytes:
    """Return the key of a fleet that was given none: it tells mix-ups and damage, not who can read the store."""
    return blake3(state_id.encode(), derive_key_context="perdure checkpoint seals").digest(KEY_BYTES)


class Seals:
    """Makes and checks the seals of one state."""

    def __init__(self, key: bytes, promises: Promises) -> None:
        self._key = key
        self._promises = promises
        self._known: dict[str, str] = {}

    async def add(self, id: str, value: Any, base: str | None) -> Any:
        """Return what a step is settled with, sealed if it holds a checkpoint. ``base``: what its execution follows."""
        match = _STEP.fullmatch(id)
        if match is None or not isinstance(value, dict) or value.get("checkpoint") is None:
            return value
        number = int(match[2])
        before = step_id(match[1], number - 1) if number else base
        previous = await self._of(before) if before else None
        seal = self._seal(id, previous, value["checkpoint"])
        self._remember(id, seal)
        return {**value, "seal": {"previous": previous, "seal": seal}}

    def first(self, id: str, value: Any) -> Any:
        """Return a value that follows no checkpoint of its session, sealed if it holds one: what a fork starts from."""
        if not isinstance(value, dict) or value.get("checkpoint") is None:
            return value
        return {**value, "seal": {"previous": None, "seal": self._seal(id, None, value["checkpoint"])}}

    async def verify(self, step: str | None) -> None:
        """Check a step's checkpoint and every one that it adds to. Raises CheckpointForged."""
        follows: str | None = None
        while step is not None:
            held = await self._promises.get(step)
            value = held.value if held is not None and held.state == "resolved" else None
            seal, previous = self.check(step, value)
            if follows not in (None, seal):
                msg = f"the checkpoint in {step} is not the one that its successor followed: restore the state"
                raise CheckpointForged(msg)
            before = value["checkpoint"].get("base") if isinstance(value, dict) else None
            step, follows = (before, previous) if isinstance(before, str) else (None, None)

    def check(self, step: str, value: Any) -> tuple[str, str | None]:
        """Check the checkpoint in the value of a step; returns its seal and the one it follows. Raises the same."""
        held = value.get("seal") if isinstance(value, dict) else None
        if not isinstance(value, dict) or value.get("checkpoint") is None or not isinstance(held, dict):
            msg = f"the checkpoint in {step} carries no seal: it was not made by this state"
            raise CheckpointForged(msg)
        previous = held.get("previous")
        seal = self._seal(step, previous if isinstance(previous, str) else None, value["checkpoint"])
        if not _same(seal, held.get("seal")):
            msg = (
                f"the checkpoint in {step} does not carry this state's seal: it was changed, or made with another key; "
                "restore the state from a backup"
            )
            raise CheckpointForged(msg)
        self._remember(step, seal)
        return seal, previous

    async def _of(self, step: str) -> str:
        known = self._known.get(step)
        if known is not None:
            return known
        held = await self._promises.get(step)
        return self.check(step, held.value if held is not None else None)[0]

    def _seal(self, step: str, previous: str | None, checkpoint: Any) -> str:
        text = msgspec.json.encode([step, previous, checkpoint], order="sorted")
        return blake3(text, key=self._key).hexdigest()

    def _remember(self, step: str, seal: str) -> None:
        self._known.pop(step, None)
        self._known[step] = seal
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]


def _same(seal: str, other: object) -> bool:
    return isinstance(other, str) and hmac.compare_digest(seal.encode(), other.encode())
