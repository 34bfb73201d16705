"""What can go wrong, as a vocabulary: one class per situation, whose message says what to do about it."""

from __future__ import annotations

__all__ = [
    "AlreadySettled",
    "BadSubmission",
    "ExecutionFailed",
    "ExecutionNotFound",
    "FileRefused",
    "InvalidName",
    "PerdureError",
    "PromiseNotFound",
    "RecordDamaged",
    "SessionBusy",
    "SessionExists",
    "SessionNotFound",
    "SettingsRefused",
    "StateLocked",
    "StateNewer",
    "StateNotFound",
    "StateUnusable",
]


class PerdureError(Exception):
    """Base of everything the client raises on its own account."""


class InvalidName(PerdureError):
    """A session name or promise id that cannot be one."""


class StateNotFound(PerdureError):
    """There is no state at the place named."""


class StateNewer(PerdureError):
    """The state was written by a newer version."""


class StateLocked(PerdureError):
    """Another process holds what this one needs."""


class StateUnusable(PerdureError):
    """The state cannot be read or written: read-only, full, damaged or foreign."""


class RecordDamaged(PerdureError):
    """What is recorded of a promise cannot be decoded: the file of the store was damaged."""


class SessionNotFound(PerdureError):
    """No session of that name exists."""


class SessionExists(PerdureError):
    """A session of that name exists with other settings."""


class SettingsRefused(PerdureError):
    """A session cannot be given these settings."""


class SessionBusy(PerdureError):
    """Another submission holds the session's next place; it has to settle first."""


class ExecutionFailed(PerdureError):
    """An execution that was to do one thing did not."""


class ExecutionNotFound(PerdureError):
    """No execution of that id was ever accepted."""


class BadSubmission(PerdureError):
    """A submission that no worker would run; nothing was recorded."""


class FileRefused(PerdureError):
    """A file that cannot be brought into a workspace."""


class PromiseNotFound(PerdureError):
    """No promise of that id exists."""


class ForkRefused(PerdureError):
    """The fork cannot be made: its name is taken, or the call is not of that session."""


class AlreadySettled(PerdureError):
    """The promise has an outcome already; what was offered was not recorded."""
