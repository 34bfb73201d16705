"""The last sign of life of a running guest, in a file beside its workspace's lock: not durable, and never waited for.

A store is not written to for it: it would cost a commit a second, for what is worth nothing a second later.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from .records import Beat

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["beat_of", "forget_beat", "forget_old_beats", "keep_beat"]

#: A beat older than this is none: its worker has gone, or is paused (ms).
STALE_MS = 5_000


def keep_beat(run: Path, session: str, beat: Beat) -> None:
    """Write the beat of a session's guest in place of the one before. Raises OSError."""
    path = _path(run, session)
    new = path.with_suffix(".beat.new")
    new.write_text(beat.model_dump_json())
    new.replace(path)


def forget_beat(run: Path, session: str) -> None:
    """Its execution rests, or is over."""
    with suppress(OSError):
        _path(run, session).unlink()


def forget_old_beats(run: Path, now: float) -> None:
    """Remove what workers left that were killed (``now``: s since 1970); each holds for a moment only."""
    for path in (*run.glob("*.beat"), *run.glob("*.beat.new")):
        with suppress(OSError):
            if path.stat().st_mtime < now - STALE_MS / 1000:
                path.unlink()


def beat_of(run: Path, session: str, execution: str, now_ms: int) -> Beat | None:
    """Return the beat of an execution's guest, if it runs on this machine and was looked at just now."""
    try:
        beat = Beat.model_validate_json(_path(run, session).read_bytes())
    except (OSError, ValidationError):
        return None
    return beat if beat.execution == execution and now_ms - beat.at < STALE_MS else None


def _path(run: Path, session: str) -> Path:
    return run / f"{session}.beat"
