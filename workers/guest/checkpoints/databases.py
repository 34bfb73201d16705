"""Recipes for `sqlite3`: connections, cursors and rows.

1. A connection is opened again, a database in memory with its content, with all that was set on it and can be read: how
   it was opened, pragmas, limits, what it has counted. What cannot be read (functions, callbacks) is named.
2. A cursor comes back once all its rows were fetched. No row is fetched for a checkpoint.

The names of the rebuilders are durable data, as in `rebuild`.
"""

from __future__ import annotations

import gc
import importlib
import sys
from typing import TYPE_CHECKING, Any

from .fields import Field
from .rebuild import rebuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pickler import Reducers

__all__ = ["reduce_connection", "reduce_cursor", "reduce_row"]

#: What is set on a connection by a pragma, and read by the same; first what must be set before others.
_PRAGMAS = (
    *("page_size", "encoding", "auto_vacuum", "analysis_limit", "automatic_index", "busy_timeout", "cache_size"),
    *("cache_spill", "cell_size_check", "checkpoint_fullfsync", "count_changes", "empty_result_callbacks"),
    *("foreign_keys", "full_column_names", "fullfsync", "ignore_check_constraints", "journal_mode"),
    *("journal_size_limit", "legacy_alter_table", "locking_mode", "max_page_count", "mmap_size", "read_uncommitted"),
    *("recursive_triggers", "reverse_unordered_selects", "secure_delete", "short_column_names", "synchronous"),
    *("temp_store", "threads", "trusted_schema", "wal_autocheckpoint", "writable_schema", "query_only"),
)
#: What a connection without callbacks refers to: its type, statements, cursors, blobs, how it makes rows and texts.
_PARTS = 6
#: Changes that are counted again; beyond them it would take a restore seconds.
_COUNTED = 100_000_000
#: Rows by which they are counted.
_BLOCK = 100_000


def _sqlite() -> Any:
    """Return the library: only a session that has used it imports it."""
    return importlib.import_module("sqlite3")


def _constants(prefix: str) -> list[int]:
    return [value for name, value in vars(_sqlite()).items() if name.startswith(prefix) and "RESET" not in name]


_FUNCTIONS, _COLLATIONS = "pragma function_list", "pragma collation_list"
#: What SQLAlchemy creates on each connection.
_OF_SQLALCHEMY, _SQLALCHEMY = {"floor", "regexp"}, "sqlalchemy.dialects.sqlite.pysqlite"

# --- connections -----------------------------------------------------------------------------------------


def reduce_connection(reducers: Reducers, connection: Any) -> Any:
    """Store a connection: a database in memory with its content, one in a file by its path."""
    if type(connection).__module__ == "__main__":
        return reducers.lose(connection, "connections do not survive a restore; connect again")
    try:
        if connection.in_transaction:
            return reducers.lose(connection, "a transaction was open; commit before the code ends")
        held = gc.get_referents(connection)
        if len(held) != _PARTS:
            return _with_callbacks(reducers, connection)
        return _reduce_open(reducers, connection, held[1])
    except Exception as error:
        if "closed database" in str(error):
            return closed_connection, ()
        raise


def _with_callbacks(reducers: Reducers, connection: Any) -> Any:
    # Any statement on it would run code of the session.
    return reducers.lose(
        connection,
        "its trace callback, progress handler or authorizer cannot be stored; take it away, or make the connection by"
        " perdure.recompute(function)",
    )


def _reduce_open(reducers: Reducers, connection: Any, statements: Any) -> Any:
    ask = _Asking(connection)
    bases = ask.rows("pragma database_list")
    path: str = next(file for _, name, file in bases if name == "main")
    attached = [(name, file) for _, name, file in bases if name not in ("main", "temp") and file]
    counts = (connection.total_changes, *ask.rows("select last_insert_rowid(), changes()")[0])
    functions = _functions(ask)
    by_sqlalchemy = functions == _OF_SQLALCHEMY and _SQLALCHEMY in sys.modules
    lacking = list(_lacking(ask, [] if by_sqlalchemy else sorted(functions), bases, counts[0]))
    if lacking:
        reducers.rebuilt(connection, f"it is connected again, without {', '.join(lacking)}")
    how = {
        "isolation_level": connection.isolation_level,
        "cached_statements": statements.cache_parameters()["maxsize"],
        "detect_types": _detect_types.get(connection) if _detect_types.there else 0,
        "check_same_thread": bool(_same_thread.get(connection)) if _same_thread.there else True,
        "autocommit": connection.autocommit,
    }
    state = {
        "factories": (connection.row_factory, connection.text_factory),
        "attached": attached,
        "pragmas": {name: value for name in _PRAGMAS for value in ask.pragma(name)},
        "like": _likes(ask),
        "config": {number: connection.getconfig(number) for number in _constants("SQLITE_DBCONFIG_")},
        "limits": {number: connection.getlimit(number) for number in _constants("SQLITE_LIMIT_")},
        "sqlalchemy": by_sqlalchemy,
        "counts": counts if counts[0] <= _COUNTED else (0, 0, 0),
    }
    content = None if path or not ask.rows("pragma page_count")[0][0] else connection.serialize()
    return database, (type(connection), path, content, how), state, None, None, set_database


def _functions(ask: _Asking) -> set[str]:
    """Return which functions and collations were created on a connection; LIKE is another one where it tells case."""
    with _new() as plain:
        usual = _Asking(plain)
        functions = {row[0] for row in set(ask.rows(_FUNCTIONS)) - set(usual.rows(_FUNCTIONS))}
        functions -= {"like"} if not _likes(ask) else set()
        return functions | {row[1] for row in ask.rows(_COLLATIONS)} - {row[1] for row in usual.rows(_COLLATIONS)}


def _likes(ask: _Asking) -> bool:
    return bool(ask.rows("select 'a' like 'A'")[0][0])


def _lacking(ask: _Asking, functions: list[str], bases: list[Any], changes: int) -> Iterator[str]:
    """Yield what of a connection does not come back."""
    if functions:
        names = ", ".join(functions)
        yield f"what was created on it: {names} (create it again, or make it by perdure.recompute(function))"
    if ask.rows("select 1 from sqlite_temp_master limit 1"):
        yield "its temporary tables (use tables of the database)"
    if any(not file for _, name, file in bases if name not in ("main", "temp")):
        yield "the databases in memory that were attached to it (attach files)"
    if changes > _COUNTED:
        yield "what it has counted (total_changes)"
    if not (_detect_types.there and _same_thread.there):
        yield "its detect_types and check_same_thread"


class _Asking:
    """Asks a connection whose own factories may make anything of a row."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, statement: str) -> list[Any]:
        texts, self._connection.text_factory = self._connection.text_factory, str
        try:
            cursor = _sqlite().Cursor(self._connection)
            cursor.row_factory = None
            rows: list[Any] = cursor.execute(statement).fetchall()
            return rows
        finally:
            self._connection.text_factory = texts

    def pragma(self, name: str) -> list[Any]:
        """Return the value in a list; an empty one where there is no such pragma, or it says nothing."""
        return [row[0] for row in self.rows(f"pragma {name}")[:1]]


class _new:  # noqa: N801 - a context manager
    """A plain connection to an empty database in memory."""

    def __enter__(self) -> Any:
        self._made = _sqlite().connect(":memory:")
        return self._made

    def __exit__(self, *_error: object) -> None:
        self._made.close()


@rebuilder
def database(kind: type, path: str, content: bytes | None, how: dict[str, Any]) -> Any:
    made: Any = _sqlite().connect(path or ":memory:", factory=kind, **how)
    if content:
        with _new() as source:
            source.deserialize(content)
            source.backup(made)
    return made


@rebuilder
def set_database(made: Any, state: dict[str, Any]) -> None:
    isolation, made.isolation_level = made.isolation_level, None
    _count(made, *state["counts"])
    for name, file in state["attached"]:
        made.execute(f'attach ? as "{name}"', (file,))
    for number, value in state["config"].items():
        if made.getconfig(number) != value:
            made.setconfig(number, value)
    if state["sqlalchemy"]:
        importlib.import_module(_SQLALCHEMY).SQLiteDialect_pysqlite(dbapi=_sqlite()).on_connect()(made)
    ask = _Asking(made)
    if not state["like"]:
        made.execute("pragma case_sensitive_like = on")
    for name, value in state["pragmas"].items():
        if ask.pragma(name) not in ([], [value]):
            made.execute(f"pragma {name} = {value}")
    for number, value in state["limits"].items():
        made.setlimit(number, value)
    made.isolation_level = isolation
    made.row_factory, made.text_factory = state["factories"]


def _count(made: Any, total: int, last: int, changes: int) -> None:
    """Have a connection count what another had: rows changed, the number of the last one, those of the last statement.

    What is deleted and then not counts too, and so it takes a moment for each hundred thousand.
    """
    if not total:
        return
    made.execute("attach ':memory:' as perdure_counts")
    made.execute("create table perdure_counts.rows (id integer primary key)")
    rest = total - max(changes, 1)
    block = min(rest, _BLOCK)
    if block:
        made.execute(_NUMBERED, {"count": block, "last": block})
        rest -= block
    while rest:
        made.execute("begin")
        some = min(rest, block)
        if some == block:
            made.execute("delete from perdure_counts.rows")
        else:
            made.execute("delete from perdure_counts.rows where id > ?", (-some,))
        made.execute("rollback")
        rest -= some
    made.execute("drop table perdure_counts.rows")
    made.execute("create table perdure_counts.rows (id integer primary key)")
    made.execute(_NUMBERED, {"count": max(changes, 1), "last": last})
    if not changes:
        made.execute("delete from perdure_counts.rows where 0")
    made.execute("detach perdure_counts")


#: Puts in so many rows, in this order; the number of the last one is given, and the others have other ones.
_NUMBERED = """
insert into perdure_counts.rows
with recursive n(i) as (select 1 union all select i + 1 from n where i < :count)
select case when i = :count then :last when :last > 0 then -i else i end from n
"""


def _opened(name: str, *values: int) -> list[tuple[Any, int]]:
    return [(_sqlite().connect(":memory:", **{name: value}), value) for value in values]


_detect_types = Field(lambda: _opened("detect_types", 0x51525354, 0x31323334), 4)
_same_thread = Field(lambda: _opened("check_same_thread", 1, 0, 1, 0), 4)


@rebuilder
def connected(path: str, content: bytes | None) -> Any:
    return connection_again(path, content, "")


@rebuilder
def set_connection(made: Any, state: tuple[Any, Any, Any]) -> None:
    made.isolation_level, made.row_factory, made.text_factory = state


@rebuilder
def closed_connection() -> Any:
    made = connection_again("", None, "")
    made.close()
    return made


@rebuilder
def connection_again(path: str, content: bytes | None, isolation: Any) -> Any:
    made = _sqlite().connect(path or ":memory:", isolation_level=isolation)
    if content:
        made.deserialize(content)
    return made


# --- cursors and rows ------------------------------------------------------------------------------------


def reduce_cursor(reducers: Reducers, cursor: Any) -> Any:
    """Store a cursor whose rows were all fetched."""
    if type(cursor) is not _sqlite().Cursor or not all(field.there for field in _OF_CURSOR):
        return reducers.lose(cursor, "cursors do not survive a restore; run the query again")
    if any(type(each).__name__ == "Statement" for each in gc.get_referents(cursor)):
        return reducers.lose(cursor, "it has rows that are not fetched yet; fetch them all, or run the query again")
    try:
        cursor.fetchone()
        closed = False
    except _sqlite().ProgrammingError as error:
        closed = "closed cursor" in str(error)
    seen = cursor.description, cursor.lastrowid, cursor.rowcount
    state = (*seen, cursor.arraysize, cursor.row_factory, closed)
    return cursor_again, (cursor.connection,), state, None, None, set_cursor


@rebuilder
def cursor_again(connection: Any) -> Any:
    return _sqlite().Cursor(connection)


@rebuilder
def set_cursor(made: Any, state: tuple[Any, Any, int, int, Any, bool]) -> None:
    description, last, count, made.arraysize, made.row_factory, closed = state
    _description.put(made, description)
    _lastrowid.put(made, last)
    _rowcount.set(made, count & (1 << 64) - 1)
    if closed:
        made.close()


def reduce_row(reducers: Reducers, row: Any) -> Any:
    """Store a row, with the names of its columns."""
    held = gc.get_referents(row)
    data, description = tuple(row), held[-1]
    if not _description.there or type(description) is not tuple or row.keys() != [each[0] for each in description]:
        return reducers.lose(row, "keep dict(row) instead")
    return row_again, (type(row), data, description)


@rebuilder
def row_again(kind: Any, data: tuple[Any, ...], description: tuple[Any, ...]) -> Any:
    if not _bare:
        _bare.append(_sqlite().Cursor(closed_connection()))
    if _bare[0].description is not description:
        _description.put(_bare[0], description)
    return kind(_bare[0], data)


#: A cursor that tells rows the names of their columns: one is enough.
_bare: list[Any] = []


def _samples() -> Iterator[Any]:
    connection = _sqlite().connect(":memory:")
    connection.execute("create table t (id integer primary key)")
    for number in (1_000_003, 1_000_033):
        cursor = connection.execute("insert into t values (?)", (number,))
        yield cursor.execute("select 5 as five")
    connection.close()


def _counted() -> Iterator[tuple[Any, int]]:
    connection = _sqlite().connect(":memory:")
    connection.execute("create table t (id)")
    for number in (83, 89):
        yield connection.execute(f"insert into t values {','.join(['(1)'] * number)}"), number  # noqa: S608 - a sample
    connection.close()


_description = Field(lambda: [(made, id(made.description)) for made in _samples()])
_lastrowid = Field(lambda: [(made, id(made.lastrowid)) for made in _samples()])
_rowcount = Field(lambda: list(_counted()))
_OF_CURSOR = (_description, _lastrowid, _rowcount)
