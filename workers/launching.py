"""What a guest is told at its start."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perdure.engine.sessions import seed_of

from .confine.policy import Limits
from .guest.ends import LOCK
from .orders import Config

if TYPE_CHECKING:
    from pathlib import Path

    from perdure.engine.settings import SessionSettings

    from .confine.policy import Policy
    from .zygotes import Source

__all__ = ["guest_config"]

#: Mappings are not memory: libraries reserve far more than they touch.
MIN_ADDRESS_SPACE = 32 << 30
#: Processes beside the threads it may have, to the kernel: who has too many is found from outside first, and told which
#: limit it was.
PROCESSES = 64


def guest_config(
    settings: SessionSettings, session: str, workspace: Path, grants: list[dict[str, Any]], source: Source
) -> Config:
    """Return the ``config`` of a ``start`` message (docs/design.md)."""
    policy = _policy(settings, workspace, source)
    return Config(
        session=session,
        incarnation=settings.incarnation,
        seed=seed_of(settings.birth or settings.incarnation),
        grants=grants,
        limits=settings.limits,
        isolation=policy.to_wire(),
        workspace=str(workspace),
    )


def _policy(settings: SessionSettings, workspace: Path, source: Source) -> Policy:
    limits = Limits(
        memory=settings.limits.memory_bytes,
        address_space=max(4 * settings.limits.memory_bytes, MIN_ADDRESS_SPACE),
        cpu_seconds=settings.limits.cpu_seconds,
        file_size=settings.limits.file_bytes,
        # The kernel counts a guest's own only where it has users of its own; elsewhere all of this user's would count.
        processes=settings.limits.threads + PROCESSES if source.zygote.own_processes else None,
    )
    policy = source.policy(workspace, limits)
    return replace(policy, keep_fds=(*policy.keep_fds, LOCK))
