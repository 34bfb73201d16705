"""What may be done with a call that failed, or that started and left no outcome. Pure: tables and numbers.

1. A recorded reply is never asked for twice; a call without one is repeated, probed or in doubt, never guessed.
2. A handler runs again by itself only where its effect is ``repeat``, or where it said that it did nothing.
3. Nobody acts on a call while a predecessor may still be acting on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from blake3 import blake3

from .errors import CallTimeout, NotPerformed

if TYPE_CHECKING:
    from .base import Capability, Effect

__all__ = ["DEFAULT_RETRIES", "Recovery", "asks_probe", "idempotency_key", "recovery", "retry_delay"]

#: What to do with a call that started and was not recorded as answered.
Recovery = Literal["repeat", "probe", "in doubt"]

_RECOVERY: Final[dict[Effect, Recovery]] = {"repeat": "repeat", "reconcile": "probe", "unknown": "in doubt"}

#: Tries after the first, where the policy allows any: with the delays below, about three seconds of trouble are ridden
#: out, and a longer outage is the code's to handle.
DEFAULT_RETRIES: Final = 4
#: Seconds before the first retry; each further one waits twice as long, up to the ceiling.
FIRST_DELAY: Final = 0.2
MAX_DELAY: Final = 30.0


def recovery(effect: Effect) -> Recovery:
    """Return what the effect allows for a call whose outcome was lost."""
    return _RECOVERY[effect]


def asks_probe(capability: Capability, error: BaseException) -> bool:
    """Whether a handler that failed like this leaves it open if it acted, and its capability can find out."""
    return capability.effect == "reconcile" and isinstance(error, (CallTimeout, ConnectionError, TimeoutError))


def retry_delay(capability: Capability, error: BaseException, retry: int) -> float | None:
    """Return the seconds to wait before trying again (``retry`` counts tries after the first), or None for never.

    NotPerformed is safe to retry whatever the effect. Any other failure is tried again only for ``repeat``; a handler
    that failed for a reason of its own (not its connection) may as well fail at once, which is what a timeout says.
    """
    limit = DEFAULT_RETRIES if capability.max_retries is None else capability.max_retries
    if retry >= limit:
        return None
    if isinstance(error, NotPerformed) or (
        capability.effect == "repeat" and isinstance(error, (CallTimeout, ConnectionError, TimeoutError))
    ):
        return min(FIRST_DELAY * 2.0 ** min(retry, 60), MAX_DELAY)
    return None


def idempotency_key(state: str, incarnation: str, call: str) -> str:
    """Return the key that a service may recognise a repeated call by: 32 characters, url-safe, stable over retries.

    Unique across installations, forks and sessions made anew under an old name (DESIGN, law 2).
    """
    parts = (state, incarnation, call)
    text = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return blake3(b"perdure idempotency key\0" + text).hexdigest(16)
