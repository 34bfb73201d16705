"""Keeping a file small, sound and copied: nothing here is needed for an answer to be right.

1. Collecting takes whole trees whose every promise settled before the horizon, children first, so that an interrupted
   collection leaves a smaller tree under a head that is still found.
2. Every transaction is bounded, so that requests never wait long behind it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from .database import Database, copy_file, problems_of_file
from .delivery import Messages
from .errors import StoreError
from .promises import ORIGIN_SEPARATOR

ROWS: Final = 500  # deleted in one transaction: a few milliseconds
PAGES: Final = 500  # given back to the disk in one transaction
HEADS: Final = 200  # looked at in one read

_TREE: Final = "(id = ? OR (id >= ? AND id < ?))"
_LIVES: Final = (
    f"SELECT 1 FROM promises p WHERE {_TREE} AND (settled_at > ?"
    " OR (state = 'pending' AND (external = 1 OR timeout_at > ?))"
    " OR EXISTS (SELECT 1 FROM tasks t WHERE t.id = p.id AND t.state <> 'fulfilled')) LIMIT 1"
)


class Head(NamedTuple):
    """The first promise of a tree that may be old enough to go."""

    settled_at: int
    id: str


class Collected(NamedTuple):
    """What a collection has deleted, or would delete."""

    trees: int
    promises: int


def old_heads(db: Database, before: int, after: Head) -> list[Head]:
    """Heads that settled before a time, oldest first, from behind one on."""
    rows = db.all(
        "SELECT settled_at, id FROM promises WHERE head = 1 AND settled_at IS NOT NULL AND settled_at < ?"
        " AND (settled_at, id) > (?, ?) ORDER BY settled_at, id LIMIT ?",
        (before, *after, HEADS),
    )
    return [Head(*row) for row in rows]


def bounds(head: str) -> tuple[str, str, str]:
    """A head's id, and the range of the ids below it: all that continue a root's id, none if it is no root."""
    if ORIGIN_SEPARATOR in head:
        return head, "", ""
    return head, f"{head}{ORIGIN_SEPARATOR}", f"{head}{chr(ord(ORIGIN_SEPARATOR) + 1)}"


def count(db: Database, head: str, before: int) -> int:
    """How many promises of a tree could be deleted: all of them or none."""
    tree = bounds(head)
    if db.one(_LIVES, (*tree, before - 1, before - 1)) is not None:
        return 0
    return int(db.one(f"SELECT count(*) FROM promises WHERE {_TREE}", tree)[0])


def collect(db: Database, head: str, before: int) -> tuple[int, bool]:
    """Delete some of a tree if all of it settled before a time; how much, and whether there is more."""
    tree = bounds(head)
    if db.one(_LIVES, (*tree, before - 1, before - 1)) is not None:
        return 0, False
    rows = db.all(f"SELECT id FROM promises WHERE {_TREE} AND id <> ? LIMIT ?", (*tree, head, ROWS))
    more = len(rows) == ROWS
    doomed = rows if more else [*rows, (head,)]
    for table, column in (("promises", "id"), ("tasks", "id"), ("resumes", "task_id"), ("callbacks", "awaiter_id")):
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", doomed)
    return len(doomed), more


def give_back(db: Database, _now: int, _messages: Messages) -> int:
    """Return some free pages to the disk; how many are free still."""
    db.all(f"PRAGMA incremental_vacuum({PAGES})")
    return int(db.one("PRAGMA freelist_count")[0])


_ORPHANS: Final = (
    ("a task without a promise", "SELECT id FROM tasks WHERE id NOT IN (SELECT id FROM promises)"),
    ("a resume without a task", "SELECT task_id FROM resumes WHERE task_id NOT IN (SELECT id FROM tasks)"),
    (
        "a callback on a missing promise",
        "SELECT awaited_id FROM callbacks WHERE awaited_id NOT IN (SELECT id FROM promises)",
    ),
    (
        "a callback on a settled promise",
        "SELECT awaited_id FROM callbacks JOIN promises ON id = awaited_id WHERE state <> 'pending'",
    ),
    (
        "a suspended task that nothing can resume",
        "SELECT id FROM tasks WHERE state = 'suspended' AND id NOT IN (SELECT awaiter_id FROM callbacks)",
    ),
    (
        "a settled promise with an open task",
        "SELECT p.id FROM promises p JOIN tasks t ON t.id = p.id WHERE p.state <> 'pending' AND t.state <> 'fulfilled'",
    ),
    ("a settled promise without its time", "SELECT id FROM promises WHERE (state = 'pending') <> (settled_at IS NULL)"),
)


def problems(path: Path) -> list[str]:
    """What is wrong with a file, by SQLite's own check and by the protocol's invariants; empty if nothing is.

    Reads the whole file.
    """
    found = problems_of_file(path)
    if found:
        return found
    database = Database.open_reader(path)
    try:
        with database.snapshot():
            for what, sql in _ORPHANS:
                found += [f"{what}: {row[0]}" for row in database.all(f"{sql} LIMIT 10")]
    finally:
        database.close()
    return found


def back_up(path: Path, target: Path) -> None:
    """Copy a store as it is at one moment, while it is used; the copy appears whole or not at all."""
    if target.exists():
        raise StoreError(f"{target}: exists; name a file that does not")
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        copy_file(path, part)
        sync(part)
        part.rename(target)
        sync(target.parent)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror}); choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
