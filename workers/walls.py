"""What stands around a guest, as an execution's record has it; a replay never has less.

A newer kernel's Landlock knows more rights, and the filter refuses what an older one cannot name: its version is shown,
and is no difference. Neither is a namespace of its own for a guest's processes, without which it may have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.engine.errors import PerdureError

if TYPE_CHECKING:
    from .zygotes import Source

__all__ = ["IsolationWeaker", "must_have", "recorded"]

#: The walls that a replay must have if the first attempt had them.
_WALLS = ("seccomp", "landlock", "namespaces")


class IsolationWeaker(PerdureError):
    """A step began with more around its guest than this worker has; it is given back, and nothing of it is lost."""


def recorded(source: Source) -> dict[str, Any]:
    """What a step's record says of the guest that begins it."""
    return {"level": str(source.kind.level), "layers": list(source.layers)}


def must_have(source: Source, record: dict[str, Any] | None) -> None:
    """Raise IsolationWeaker if a guest from this source would have less than the record says."""
    if record is None:
        return
    had, has = _names(record["layers"]), _names(source.layers)
    gone = [wall for wall in _WALLS if wall in had and wall not in has]
    if gone:
        reasons = "; ".join(source.missing) or f"the session's isolation is {source.kind.level} now"
        msg = (
            f"it began with {', '.join(sorted(had))} around it and would go on without {', '.join(gone)} ({reasons}). "
            f"What helps: 'perdure doctor' says how to get it back here; or let a worker have it that does; "
            f"or cancel the execution and submit it again"
        )
        raise IsolationWeaker(msg)


def _names(layers: tuple[str, ...] | list[str]) -> set[str]:
    return {layer.partition(":")[0] for layer in layers}
