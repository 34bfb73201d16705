"""A Resonate store in one SQLite file, for programs that want no server."""

from .connection import SqliteConnection
from .errors import (
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreLocked,
    StoreNewer,
    StoreReadOnly,
)
from .fencing import Refused, fenced
from .maintenance import Collected, back_up, problems

__all__ = [
    "Collected",
    "Refused",
    "SqliteConnection",
    "StoreClosed",
    "StoreDamaged",
    "StoreError",
    "StoreForeign",
    "StoreFull",
    "StoreLocked",
    "StoreNewer",
    "StoreReadOnly",
    "back_up",
    "fenced",
    "problems",
]
