"""The only module that opens SQLite.

1. Every write happens under the folder's write lock, inside `BEGIN IMMEDIATE`: members never see "database is locked",
   and no checkpoint ever runs beside a commit.
2. A commit returns after its fsync (`FULL`), or after its write (`NORMAL`: survives SIGKILL, not loss of power).
3. SQLite's errors leave this module as the vocabulary of `errors`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from .errors import StoreDamaged, StoreError, StoreForeign, StoreFull, StoreLocked, StoreNewer, StoreReadOnly

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["SCHEMA_VERSION", "Database", "Synchronous"]

type Synchronous = Literal["FULL", "NORMAL"]

MIGRATIONS: Final = ("schema.sql",)  # the script at place n brings a file of format n to n + 1; 0 is an empty file
SCHEMA_VERSION: Final = len(MIGRATIONS)
APPLICATION_ID: Final = 0x50455244  # "PERD": tells our files from other programs' SQLite files
SQLITE_HEADER: Final = b"SQLite format 3\x00"

LOCK_TIMEOUT: Final = 10.0  # seconds; a transaction takes milliseconds: who holds it longer is stopped or foreign
LOCK_EAGER_TRIES: Final = 100
LOCK_EAGER_PAUSE: Final = 0.0002  # about a third of an fsync: the lock's next free moment is rarely missed
LOCK_PAUSE: Final = 0.002

STATEMENT_CACHE: Final = 256  # more than the store has statements, so that none is ever prepared twice
CACHE_KIB: Final = 16_384  # the interior pages of indexes over a million promises stay in memory
LOG_BYTES: Final = 64 << 20  # what a burst made of the log beyond this is given back at the next checkpoint

_PRIMARY: Final = 0xFF  # an extended result code's low byte is the primary one


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """The store's error for SQLite's."""
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        # Even a reader makes room for the index of the log: this is how SQLite says that there was none.
        extended = sqlite3.SQLITE_FULL
    match extended & _PRIMARY:
        case sqlite3.SQLITE_FULL:
            return StoreFull(f"{path}: the disk is full; free some space and try again, nothing was lost")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreReadOnly(f"{path}: cannot be written; check the permissions of the file and its folder")
        case sqlite3.SQLITE_CANTOPEN:
            return StoreReadOnly(f"{path}: cannot be opened; check that its folder exists and can be written")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreLocked(f"{path}: another program keeps it locked; close that program and try again")
        case sqlite3.SQLITE_CORRUPT:
            return StoreDamaged(f"{path}: is damaged ({error}); restore it from a backup")
        case sqlite3.SQLITE_NOTADB:
            return StoreForeign(f"{path}: is not a store; choose another path")
        case sqlite3.SQLITE_IOERR:
            name = getattr(error, "sqlite_errorname", "")
            return StoreError(f"{path}: {error} ({name}); see what the kernel says of the disk: nothing was applied")
        case _:
            return StoreError(f"{path}: {error}")


def members_folder(path: Path) -> Path:
    """Where the processes that share a file keep their locks and sockets: beside it."""
    return path.with_name(path.name + "-members")


def write_lock(folder: Path) -> Path:
    """The file under whose lock all writes happen."""
    return folder / "write.lock"


class Database:
    """One SQLite connection to a store, for one thread at a time.

    `member` is the id under which this process is listed; actions read it to say who acquires.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self.member = 0
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, synchronous: Synchronous = "FULL") -> Self:
        """Open a store for writing; an absent or empty file becomes one, an older one is brought forward.

        Raises:
            StoreError: one of its subclasses, saying why the file cannot be used.
        """
        refuse_foreign(path)
        lock = open_lock(path)
        try:
            database = cls(path, connect(path), lock)
        except BaseException:
            os.close(lock)
            raise
        try:
            database._prepare(synchronous)
        except sqlite3.Error as error:
            database.close()
            raise translate(error, path) from error
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def open_reader(cls, path: Path) -> Self:
        """Open an existing store for reading only; it never waits for writers, nor they for it."""
        try:
            connection = connect(path)
            connection.execute("PRAGMA query_only = 1")
        except sqlite3.Error as error:
            raise translate(error, path) from error
        return cls(path, connection, None)

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        return self._connection.execute(sql, parameters).rowcount

    def insert(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one insertion; the new row's number."""
        return self._connection.execute(sql, parameters).lastrowid or 0

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for many rows."""
        self._connection.executemany(sql, rows)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row, or None."""
        return self._connection.execute(sql, parameters).fetchone()

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Every row."""
        return self._connection.execute(sql, parameters).fetchall()

    @property
    def changes(self) -> int:
        """Rows changed by this connection since it was opened."""
        return self._connection.total_changes

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Everything inside is kept together, durably, or not at all."""
        self._acquire()
        try:
            with self._bracket("BEGIN IMMEDIATE"):
                yield
        finally:
            self._release()

    @contextmanager
    def snapshot(self) -> Generator[None]:
        """Everything read inside is of one moment, the last commit's; costs no fsync and waits for nobody."""
        with self._bracket("BEGIN"):
            yield

    @contextmanager
    def _bracket(self, begin: str) -> Generator[None]:
        try:
            self._connection.execute(begin)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # Some errors (a full disk) have already rolled back.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def version_of_data(self) -> int:
        """A number that changes whenever another connection has committed."""
        return int(self.one("PRAGMA data_version")[0])

    def _acquire(self) -> None:
        if self._lock is None:
            message = f"{self.path}: this connection only reads"
            raise StoreError(message)
        for attempt in range(LOCK_EAGER_TRIES + int(LOCK_TIMEOUT / LOCK_PAUSE)):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOCK_EAGER_PAUSE if attempt < LOCK_EAGER_TRIES else LOCK_PAUSE)
            else:
                if os.fstat(self._lock).st_nlink:
                    return
                # Somebody has removed the folder: whoever opens the store now waits at another file than we would.
                os.close(self._lock)
                self._lock = open_lock(self.path)
        message = f"{self.path}: another process keeps it locked; is one of its processes stopped?"
        raise StoreLocked(message)

    def _release(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _prepare(self, synchronous: Synchronous) -> None:
        self._acquire()
        try:
            version = self._version()
            if version == 0:
                # Both can only be chosen before the first table is there.
                self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._connection.execute("PRAGMA journal_mode = WAL")
        finally:
            self._release()
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        if version < SCHEMA_VERSION:
            with self.transaction():
                self._migrate()

    def _version(self) -> int:
        application, version, tables = (
            int(self.one(sql)[0])
            for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
        )
        if application != APPLICATION_ID and (application or version or tables):
            message = f"{self.path}: belongs to another program; choose another path"
            raise StoreForeign(message)
        if version > SCHEMA_VERSION:
            message = f"{self.path}: has format {version}, this program knows {SCHEMA_VERSION}; upgrade it"
            raise StoreNewer(message)
        return version

    def _migrate(self) -> None:
        # Read again: another process may have been first.
        for script in MIGRATIONS[self._version() :]:
            for statement in statements(files(__package__).joinpath(script).read_text("utf-8")):
                self._connection.execute(statement)
        self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def connect(path: Path) -> sqlite3.Connection:
    """A bare connection with what every connection of the store sets."""
    try:
        connection = sqlite3.connect(
            path,
            timeout=LOCK_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENT_CACHE,
        )
        try:
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise translate(error, path) from error
    return connection


def problems_of_file(path: Path) -> list[str]:
    """What SQLite's own check finds wrong with a whole file."""
    refuse_foreign(path)
    try:
        connection = connect(path)
        try:
            rows = connection.execute("PRAGMA integrity_check").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return [str(error)]
    lines = [line for row in rows for line in str(row[0]).splitlines()]
    return [line for line in lines if line != "ok" and not line.startswith("***")]


def copy_file(path: Path, target: Path) -> None:
    """Copy a database as it is at one moment, while others write to it."""
    source = connect(path)
    try:
        copy = connect(target)
        try:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        finally:
            copy.close()
    except sqlite3.Error as error:
        raise translate(error, target) from error
    finally:
        source.close()


def refuse_foreign(path: Path) -> None:
    """Refuse what is plainly no SQLite file before SQLite is let near it."""
    try:
        if not S_ISREG(path.stat().st_mode):  # to open a pipe would wait for whoever writes to it
            message = f"{path}: is not a file; choose another path"
            raise StoreForeign(message)
        with path.open("rb") as file:
            header = file.read(len(SQLITE_HEADER))
    except FileNotFoundError:
        return
    except PermissionError as error:
        message = f"{path}: cannot be read; check its permissions"
        raise StoreReadOnly(message) from error
    except OSError as error:
        message = f"{path}: cannot be opened ({error.strerror}); choose another path"
        raise StoreForeign(message) from error
    if header and header != SQLITE_HEADER:
        message = f"{path}: is not a store; choose another path"
        raise StoreForeign(message)


def open_lock(path: Path) -> int:
    """The descriptor of the file under whose lock all writes happen."""
    folder = members_folder(path)
    try:
        folder.mkdir(exist_ok=True)
        return os.open(write_lock(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"{path}: the disk is full; free some space and try again, nothing was lost"
            raise StoreFull(message) from error
        if not path.parent.is_dir():
            message = f"{path.parent}: is not a folder that is there; create it, or choose another path"
            raise StoreReadOnly(message) from error
        message = f"{folder}: cannot be written ({error.strerror}); check the folder and its permissions"
        raise StoreReadOnly(message) from error


def statements(script: str) -> list[str]:
    """The single statements of a schema file (`executescript` would commit the transaction around it)."""
    found: list[str] = []
    part = ""
    for line in script.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            found.append(part)
            part = ""
    return found
