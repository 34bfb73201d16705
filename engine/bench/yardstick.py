"""What figures are held against, and the form of a row."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

__all__ = ["RECORD_BYTES", "USED", "Commits", "Rows", "commit_times", "fresh", "row", "said"]

type Rows = list[dict[str, Any]]

#: Bytes of one record as the store keeps it; what the yardstick commits.
RECORD_BYTES = 600

#: Commits until SQLite's log is as long as it gets, and is written over.
USED = 600


def row(what: str, seconds: float, yardstick: str, yardstick_seconds: float, bar: str) -> dict[str, Any]:
    """Return one row: a time in seconds, what it is held against, their ratio, and the ratio to reach."""
    return {
        "what": what,
        "ms": round(seconds * 1000, 3),
        "yardstick": yardstick,
        "yardstick_ms": round(yardstick_seconds * 1000, 3),
        "ratio": round(seconds / yardstick_seconds, 2),
        "bar": bar,
    }


def said(what: str, value: str, bar: str = "") -> dict[str, Any]:
    """Return a row that holds a word or a size instead of a time."""
    return {"what": what, "ms": value, "yardstick": "", "yardstick_ms": "", "ratio": "", "bar": bar}


def commit_times(folder: Path, count: int = 500, size: int = RECORD_BYTES) -> list[float]:
    """Return the seconds of durable SQLite commits of one row each."""
    database = sqlite3.connect(folder / "yardstick.db", isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
        data = os.urandom(size)
        times = []
        for _ in range(count):
            began = time.perf_counter()
            database.execute("INSERT INTO rows (data) VALUES (?)", (data,))
            times.append(time.perf_counter() - began)
        return times
    finally:
        database.close()


class Commits:
    """Durable SQLite commits of one row each, timed now and again in one run.

    The file is used before it is measured: the commits of a new one also make its log longer, which costs more, and
    which a store that has run for a while does not pay.
    """

    def __init__(self, folder: Path, size: int = RECORD_BYTES) -> None:
        self._database = sqlite3.connect(folder / "yardstick.db", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
        self._data = os.urandom(size)
        self.times(USED)

    def times(self, count: int) -> list[float]:
        """Return the seconds of so many commits."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            self._database.execute("INSERT INTO rows (data) VALUES (?)", (self._data,))
            times.append(time.perf_counter() - began)
        return times

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def fresh(folder: Path, name: str) -> Path:
    """Return a new folder of that name inside ``folder``."""
    place = folder / name
    place.mkdir()
    return place
