"""What can go wrong with the store's file, one class per situation.

All of them derive from `resonate_base.ConnectorError`, so the Resonate SDK releases the task instead of
dying, and whoever catches that catches these. A request that ended in one of them was not applied.
"""

from __future__ import annotations

from resonate_base import ConnectorError

__all__ = [
    "StoreClosed",
    "StoreDamaged",
    "StoreError",
    "StoreForeign",
    "StoreFull",
    "StoreLocked",
    "StoreNewer",
    "StoreReadOnly",
]


class StoreError(ConnectorError):
    """The embedded store could not do what was asked; the message is one line and says what to do."""

    def __init__(self, error: Exception | str) -> None:
        super().__init__(RuntimeError(error) if isinstance(error, str) else error)

    def __str__(self) -> str:
        return str(self.error)


class StoreClosed(StoreError):
    """The connection was stopped; open another one."""


class StoreDamaged(StoreError):
    """The file's content is not consistent; restore a backup."""


class StoreForeign(StoreError):
    """The file is not a store: another program's database, or no database at all."""


class StoreFull(StoreError):
    """The disk or the quota is full; nothing of the request was kept."""


class StoreLocked(StoreError):
    """Another program kept the file locked for too long."""


class StoreNewer(StoreError):
    """The file was written by a newer version of the program than this one."""


class StoreReadOnly(StoreError):
    """The file or its folder cannot be written."""
