"""What a guest is told at its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.engine.sessions import seed_of

if TYPE_CHECKING:
    from pathlib import Path

    from perdure.engine.settings import SessionSettings

__all__ = ["guest_config"]


def guest_config(
    settings: SessionSettings,
    session: str,
    workspace: Path,
    grants: list[dict[str, Any]],
    policy: dict[str, Any],
) -> dict[str, Any]:
    """Return the ``config`` of a ``start`` message (docs/design.md)."""
    return {
        "session": session,
        "incarnation": settings.incarnation,
        "seed": seed_of(settings.incarnation),
        "grants": grants,
        "limits": settings.limits.model_dump(mode="json"),
        "isolation": policy,
        "may_fork": policy["may_fork"],
        "workspace": str(workspace),
    }
