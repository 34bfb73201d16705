"""The processes that share one file, and how the death of one is known at once.

1. A member holds a lock on a file of its own for as long as it lives; the kernel frees it however the process ends.
2. A member whose lock is free is buried by whoever sees it first, under the write lock: its leases end there and then.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from .promises import TASK, Task, offer

if TYPE_CHECKING:
    from pathlib import Path

    from .database import Database
    from .delivery import Messages


def lock_of(folder: Path, member: int) -> Path:
    """The file a member holds locked."""
    return folder / f"{member}.lock"


def join(
    db: Database, folder: Path, now: int, address: str, anycast: str, messages: Messages, *, receives: bool
) -> int:
    """Enter a process into the list; the descriptor of the lock that says it lives.

    Sets `db.member`. Tasks that waited for somebody of its group or address are offered to it.
    """
    member = db.insert(
        "INSERT INTO members (address, anycast, receives) VALUES (?, ?, ?)", (address, anycast, int(receives))
    )
    lock = os.open(lock_of(folder, member), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    fcntl.flock(lock, fcntl.LOCK_EX)
    db.member = member
    if receives:
        offer_parked(db, now, address, anycast, messages)
    return lock


def offer_parked(db: Database, now: int, address: str, anycast: str, messages: Messages) -> None:
    """Offer what was parked because nobody could take it."""
    rows = db.all(
        f"SELECT {TASK} FROM tasks WHERE state = 'pending' AND timeout_at IS NULL"
        " AND (target IN (?, ?) OR (target > ? || '/' AND target < ? || '0'))",  # '0' follows '/'
        (address, anycast, anycast, anycast),
    )
    for row in rows:
        offer(db, now, Task(*row), messages)


def lives(folder: Path, member: int) -> bool:
    """Whether a member's lock is held; only meaningful under the write lock, where nobody else probes."""
    try:
        lock = os.open(lock_of(folder, member), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def bury(db: Database, folder: Path, now: int, member: int, messages: Messages) -> None:
    """Take a member off the list; what it held or was offered goes to others."""
    row = db.one("SELECT address FROM members WHERE id = ?", (member,))
    if row is None:
        return
    db.execute("DELETE FROM members WHERE id = ?", (member,))
    db.execute(
        "DELETE FROM outbox WHERE address = ?1 AND NOT EXISTS (SELECT 1 FROM members m WHERE m.address = ?1)",
        (row[0],),
    )
    held = db.all(f"SELECT {TASK} FROM tasks WHERE member = ? AND state IN ('pending', 'acquired')", (member,))
    for task in held:
        offer(db, now, Task(*task), messages)
    with suppress(FileNotFoundError):
        lock_of(folder, member).unlink()


def bury_dead(db: Database, folder: Path, now: int, messages: Messages) -> None:
    """Bury every member whose lock is free."""
    for (member,) in db.all("SELECT id FROM members WHERE id <> ?", (db.member,)):
        if not lives(folder, member):
            bury(db, folder, now, member, messages)
