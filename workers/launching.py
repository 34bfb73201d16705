"""What a guest is told at its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.engine.sessions import seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from perdure.engine.settings import SessionSettings

    from .service import Services

__all__ = ["guest_config"]


def guest_config(
    services: Services, settings: SessionSettings, session: str, workspace: Path, grants: Sequence[str]
) -> dict[str, Any]:
    """Return the ``config`` of a ``start`` message (docs/design.md)."""
    return {
        "session": session,
        "incarnation": settings.incarnation,
        "seed": seed_of(settings.incarnation),
        "grants": services.describe(grants),
        "limits": settings.limits.model_dump(mode="json"),
        "isolation": services.policy(settings, workspace),
        "workspace": str(workspace),
    }
