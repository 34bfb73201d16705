"""The processes that share one file, and how the death of one is known at once.

1. A member holds a lock on a file of its own for as long as it lives; the kernel frees it however the process ends.
2. A member whose lock is free is buried by whoever sees it first, under the write lock: its leases end there and then.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from .database import Database, write_lock
from .delivery import Messages, anycast_address, unicast_address
from .promises import TASK, Task, offer

log = structlog.get_logger(__name__)

#: What a member `receives` that is told what it listens to and has no work offered any more; 0: nothing, 1: both.
RESTS = 2


class Card(NamedTuple):
    """What a process is listed as."""

    name: str
    address: str
    anycast: str
    receives: int

    @classmethod
    def of(cls, group: str, pid: str | None, *, receives: int) -> Card:
        """A card under a name nobody had before, so that no old file is ever mistaken for its own."""
        name = uuid.uuid4().hex
        return cls(name, unicast_address(group, pid or name), anycast_address(group), receives)


class Peer(NamedTuple):
    """Another member, as the list has it."""

    id: int
    name: str


def hold(folder: Path, name: str) -> int:
    """The descriptor of the lock that says a process lives; to be held before it is listed."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.lock"
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Between the two somebody may have swept the file away: a lock nobody can find is none.
        if path.exists() and path.stat().st_ino == os.fstat(lock).st_ino:
            return lock
        os.close(lock)


def join(db: Database, folder: Path, now: int, card: Card, messages: Messages) -> list[Peer]:
    """List this process, after burying the dead; the others.

    Sets `db.member`. Tasks that waited for somebody of its group or address are offered to it.
    """
    others = bury_dead(db, folder, now, messages)
    sweep(folder, {card.name, *(peer.name for peer in others)})
    db.member = db.insert(
        "INSERT INTO members (name, address, anycast, receives) VALUES (?, ?, ?, ?)",
        (card.name, card.address, card.anycast, card.receives),
    )
    if card.receives:
        offer_parked(db, now, card, messages)
    return others


def held(lock: int) -> bool:
    """Whether a lock can still be found by others: what was swept away is a certificate of nothing."""
    return os.fstat(lock).st_nlink > 0


def stay(db: Database, now: int, card: Card, messages: Messages) -> None:
    """List this process again, as the member it was, if others took it for dead."""
    row = (db.member, card.name, card.address, card.anycast, card.receives)
    if db.execute("INSERT OR IGNORE INTO members (id, name, address, anycast, receives) VALUES (?, ?, ?, ?, ?)", row):
        log.warning("the files of this process were removed, and it was taken for dead; it is back", member=db.member)
        if card.receives == 1:
            offer_parked(db, now, card, messages)


def receive(db: Database, now: int, card: Card, messages: Messages) -> None:
    """Let a member that was listed as one that only asks have work as well."""
    db.execute("UPDATE members SET receives = 1 WHERE id = ?", (db.member,))
    offer_parked(db, now, card, messages)


def rest(db: Database, now: int, messages: Messages) -> None:
    """Let a member have no more work; what it was offered and has not begun goes to others."""
    db.execute("UPDATE members SET receives = ? WHERE id = ?", (RESTS, db.member))
    for row in db.all(f"SELECT {TASK} FROM tasks WHERE member = ? AND state = 'pending'", (db.member,)):
        offer(db, now, Task(*row), messages)


def sweep(folder: Path, listed: set[str]) -> None:
    """Remove what processes left that were killed before they were listed."""
    for file in folder.glob("*.lock"):
        name = file.stem
        if file != write_lock(folder) and name not in listed and not lives(folder, name):
            remove_files(folder, name)


def remove_files(folder: Path, name: str) -> None:
    for suffix in ("lock", "sock"):
        with suppress(FileNotFoundError):
            (folder / f"{name}.{suffix}").unlink()


def peers(db: Database) -> list[Peer]:
    """Every listed member but this one."""
    return [Peer(*row) for row in db.all("SELECT id, name FROM members WHERE id <> ?", (db.member,))]


def offer_parked(db: Database, now: int, card: Card, messages: Messages) -> None:
    """Offer what was parked because nobody could take it."""
    rows = db.all(
        f"SELECT {TASK} FROM tasks WHERE state = 'pending' AND timeout_at IS NULL"
        " AND (target IN (?, ?) OR (target > ? || '/' AND target < ? || '0'))",  # '0' follows '/'
        (card.address, card.anycast, card.anycast, card.anycast),
    )
    for row in rows:
        offer(db, now, Task(*row), messages)


def lives(folder: Path, name: str) -> bool:
    """Whether a member's lock is held; only meaningful under the write lock, where nobody else probes."""
    try:
        lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CLOEXEC)
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
    row = db.one("SELECT name, address FROM members WHERE id = ?", (member,))
    if row is None:
        return
    name, address = row
    db.execute("DELETE FROM members WHERE id = ?", (member,))
    db.execute(
        "DELETE FROM outbox WHERE address = ? AND NOT EXISTS (SELECT 1 FROM members m WHERE m.address = ?)",
        (address, address),
    )
    held = db.all(f"SELECT {TASK} FROM tasks WHERE member = ? AND state IN ('pending', 'acquired')", (member,))
    for task in held:
        offer(db, now, Task(*task), messages)
    remove_files(folder, name)


def bury_dead(db: Database, folder: Path, now: int, messages: Messages) -> list[Peer]:
    """Bury every member whose lock is free; those that live."""
    living: list[Peer] = []
    for peer in peers(db):
        if lives(folder, peer.name):
            living.append(peer)
        else:
            bury(db, folder, now, peer.id, messages)
    return living
