"""Recipes for what pickle refuses although it can be made again: locks, files, contexts, caches, views.

Each pair stands together: `reduce_x` says what to store, the `rebuilder` below it makes it again. The names of the
rebuilders are durable data, as in `rebuild`.
"""

from __future__ import annotations

import _thread
import contextvars
import gc
import importlib
import io
import os
import re
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

from .fields import Field
from .lost import Lost
from .readers import newline_of, position
from .rebuild import lost, rebuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pickler import Reducers

# --- locks -----------------------------------------------------------------------------------------------


def reduce_lock(_reducers: Reducers, lock: _thread.LockType) -> Any:
    return new_lock, (lock.locked(),)


@rebuilder
def new_lock(locked: bool) -> _thread.LockType:  # noqa: FBT001 - durable data
    made = _thread.allocate_lock()
    if locked:
        made.acquire()
    return made


def reduce_reentrant_lock(reducers: Reducers, lock: Any) -> Any:
    held = re.search(r"count=(\d+)", repr(lock))
    count = int(held[1]) if held else 0
    if count and not lock._is_owned():
        return reducers.lose(lock, "another thread held it, and threads do not survive a restore")
    return new_reentrant_lock, (count,)


@rebuilder
def new_reentrant_lock(count: int) -> Any:
    made = threading.RLock()
    for _ in range(count):
        made.acquire()
    return made


def reduce_local(_reducers: Reducers, local: threading.local) -> Any:
    """Store what this thread has of it, and what the class is initialized with in every thread that comes to it."""
    held = gc.get_referents(local)
    arguments = next((each for each in held if type(each) is tuple), ())
    named = next((each for each in held if type(each) is dict and each and all(type(key) is str for key in each)), {})
    return local_of, (type(local), arguments, named), dict(vars(local)), None, None, set_local


@rebuilder
def local_of(kind: type[threading.local], arguments: tuple[Any, ...], named: dict[str, Any]) -> threading.local:
    return kind.__new__(kind, *arguments, **named)


@rebuilder
def new_local(kind: type[threading.local]) -> threading.local:
    return kind()


@rebuilder
def set_local(made: threading.local, state: dict[str, Any]) -> None:
    vars(made).update(state)


# --- files -----------------------------------------------------------------------------------------------


def reduce_file(reducers: Reducers, file: Any) -> Any:
    if file.closed:
        return _reduce_closed(reducers, file)
    name = getattr(file, "name", None)
    if not isinstance(name, str):
        return reducers.lose(file, f"it was open on descriptor {name}, which has no path to open again")
    path = os.path.abspath(name)
    if not os.path.isfile(path):
        return reducers.lose(file, f"{name!r} is no ordinary file any more; open it again")
    if file.writable():
        file.flush()
    text = isinstance(file, io.TextIOBase)
    how = {}
    if isinstance(file, io.TextIOWrapper):
        how = {"encoding": file.encoding, "errors": file.errors, "newline": newline_of(file)}
    at = position(file) if file.seekable() else None
    reducers.rebuilt(file, f"{name!r} is opened again where it stood")
    buffering = 0 if isinstance(file, io.RawIOBase) else 1 if getattr(file, "line_buffering", False) else -1
    return open_file, (path, _mode(file, text=text), how, at, buffering)


def _mode(file: Any, *, text: bool) -> str:
    """Return the mode to open a file with again: as it was, but never one that empties it."""
    mode: str = _raw_of(file).mode.replace("b", "")
    if mode != "r" and "a" not in mode:
        mode = "r+"
    return mode + ("" if text else "b")


def _raw_of(file: Any) -> Any:
    raw: Any = file
    while type(raw) is not io.FileIO:
        raw = raw.buffer if type(raw) is io.TextIOWrapper else raw.raw
    return raw


def _reduce_closed(reducers: Reducers, file: Any) -> Any:
    """Store a file that is closed: scripts leave one in a variable with every ``with open(...) as file``."""
    try:
        mode = _raw_of(file).mode
    except (AttributeError, ValueError):
        # Text over something else, as gzip and bz2 open it.
        mode = "rb"
    if "x" in mode:
        mode = mode.replace("x", "w")
        if type(file) is not io.TextIOWrapper:
            reducers.rebuilt(file, "it was closed, and is a closed file again, of mode 'wb'")
    text = (file.encoding, file.errors) if type(file) is io.TextIOWrapper else None
    return file_closed, (type(file), _told(file, "name"), mode, text, _told(file, "mode"))


def _told(file: Any, what: str) -> Any:
    """Return an attribute of a closed file, which one that is compressed does not tell any more."""
    try:
        return getattr(file, what, None)
    except ValueError:
        return None


@rebuilder
def file_closed(kind: type, name: Any, mode: str, text: tuple[str, str] | None, shown: str | None) -> Any:
    raw: Any = io.FileIO(os.devnull, mode)
    if name is not None:
        raw.name = name
    made: Any = raw
    if kind is not io.FileIO:
        over = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        made = over(raw) if text is None else io.TextIOWrapper(over(raw), *text)
        if text is not None and shown is not None:
            made.mode = shown
    made.close()
    return made


@rebuilder
def open_file(path: str, mode: str, how: dict[str, Any], position: int | None, buffering: int) -> Any:
    try:
        file = open(path, mode, buffering, **how)  # noqa: SIM115 - it is the session's to close
        if position is not None and "a" not in mode:
            file.seek(position)
    except OSError as error:
        return lost("an open file", f"{path!r} cannot be opened again: {error}", "")
    return file


@rebuilder
def closed_file(name: str) -> Any:
    made = io.BytesIO()
    made.name = name
    made.close()
    return made


# --- contexts --------------------------------------------------------------------------------------------


def reduce_context_variable(_reducers: Reducers, variable: contextvars.ContextVar[Any]) -> Any:
    empty = contextvars.Context()
    default = []
    try:
        default.append(empty.run(variable.get))
    except LookupError:
        pass
    now = contextvars.copy_context()
    value = [now[variable]] if variable in now else []
    return new_context_variable, (variable.name, default), value, None, None, set_context_variable


@rebuilder
def new_context_variable(name: str, default: list[Any]) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)


@rebuilder
def set_context_variable(made: contextvars.ContextVar[Any], value: list[Any]) -> None:
    if value:
        made.set(value[0])


def reduce_context(_reducers: Reducers, context: contextvars.Context) -> Any:
    return new_context, (), list(context.items()), None, None, fill_context


@rebuilder
def new_context() -> contextvars.Context:
    return contextvars.Context()


@rebuilder
def fill_context(made: contextvars.Context, values: list[tuple[contextvars.ContextVar[Any], Any]]) -> None:
    for variable, value in values:
        made.run(variable.set, value)


# --- matches, views --------------------------------------------------------------------------------------


def reduce_match(reducers: Reducers, match: re.Match[Any]) -> Any:
    for how in ("fullmatch", "match", "search"):
        again = getattr(match.re, how)(match.string, match.pos, match.endpos)
        if again is not None and again.regs == match.regs:
            return new_match, (match.re, how, match.string, match.pos, match.endpos)
    start = match.start()
    again = match.re.match(match.string, start, match.endpos)
    if again is not None and again.regs == match.regs:
        made = match.re, "match", match.string, start, match.endpos
        if _pos.there:
            return new_match, made, match.pos, None, None, match_from
        reducers.rebuilt(match, "its search begins where it matched")
        return new_match, made
    return reducers.lose(match, "matching again gives something else; keep match.groups() instead")


@rebuilder
def new_match(pattern: re.Pattern[Any], how: str, text: Any, start: int, end: int) -> re.Match[Any]:
    return getattr(pattern, how)(text, start, end)  # type: ignore[no-any-return]


@rebuilder
def match_from(made: re.Match[Any], pos: int) -> None:
    """Say where the search began that found it: further matches of one search are found from where they are."""
    if _pos.there:
        _pos.set(made, pos)


def _samples() -> Iterator[tuple[re.Match[Any], int]]:
    for pos, at, end in ((3, 21, 29), (5, 23, 31)):
        found = re.compile("b+").search("a" * at + "bb" + "a" * 40, pos, end)
        if found is not None:
            yield found, pos


_pos = Field(lambda: list(_samples()))


def reduce_memory_view(reducers: Reducers, view: memoryview) -> Any:
    if not view.c_contiguous:
        reducers.rebuilt(view, "it is a view of a copy")
        return memoryview, (view.tobytes(),)
    whole = memoryview(view.obj).cast("B")
    start = _address(view) - _address(whole)
    return view_of, (view.obj, view.format, view.shape, start, start + view.nbytes, view.readonly)


def _address(view: memoryview) -> int:
    """Return where the bytes of a view are, which Python itself does not say."""
    import ctypes  # only for a session that has such views

    class Buffer(ctypes.Structure):
        _fields_ = (
            ("address", ctypes.c_void_p),
            ("owner", ctypes.py_object),
            ("length", ctypes.c_ssize_t),
            ("rest", ctypes.c_ssize_t * 16),
        )

    buffer = Buffer()
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes = [ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int]
    get(view, ctypes.byref(buffer), 0)
    try:
        return int(buffer.address)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


@rebuilder
def view_of(owner: Any, layout: str, shape: tuple[int, ...], start: int, end: int, readonly: bool) -> memoryview:  # noqa: FBT001 - durable data
    part: Any = memoryview(owner).cast("B")[start:end]
    if layout != "B" or len(shape) != 1:
        part = part.cast(layout, shape)
    return part.toreadonly() if readonly else part  # type: ignore[no-any-return]


def reduce_weak_dict(_reducers: Reducers, mapping: Any) -> Any:
    return new_weak_dict, (type(mapping),), list(mapping.items()), None, None, fill_weak_dict


@rebuilder
def new_weak_dict(kind: type) -> Any:
    return kind()


@rebuilder
def fill_weak_dict(made: Any, items: list[tuple[Any, Any]]) -> None:
    for key, value in items:
        made[key] = value


def reduce_loop_bound(reducers: Reducers, thing: Any) -> Any:
    """Store an asyncio lock, event or queue without the loop it met: it takes the next one it is used in."""
    from .pickler import reduce_by_hook

    reduced = reduce_by_hook(reducers, thing)
    if isinstance(reduced[2], dict) and reduced[2].get("_loop") is not None:
        return (*reduced[:2], {**reduced[2], "_loop": None}, *reduced[3:])
    return reduced


def reduce_logger(reducers: Reducers, logger: Any) -> Any:
    if type(logger).__module__ == "__main__":
        reducers.rebuilt(logger, "it is a plain logger again, with the same handlers")
    state = logger.level, logger.propagate, logger.disabled, list(logger.handlers), list(logger.filters)
    return new_logger, ("" if logger.name == "root" else logger.name,), state, None, None, set_up_logger


@rebuilder
def new_logger(name: str) -> Any:
    return importlib.import_module("logging").getLogger(name)


@rebuilder
def set_up_logger(made: Any, state: tuple[int, bool, bool, list[Any], list[Any]]) -> None:
    level, made.propagate, made.disabled, handlers, filters = state
    # A stand-in in their place would raise at every word that is logged: who lacks it is told by the report.
    made.handlers[:] = [each for each in handlers if type(each) is not Lost]
    made.filters[:] = [each for each in filters if type(each) is not Lost]
    made.setLevel(level)
    logging: Any = importlib.import_module("logging")
    for handler in made.handlers:
        logging._addHandlerRef(handler)


@rebuilder
def set_logger(made: Any, state: tuple[int, bool, bool, list[Any]]) -> None:
    level, made.propagate, made.disabled, made.handlers[:] = state
    made.setLevel(level)


# --- exceptions ------------------------------------------------------------------------------------------


def reduce_exception(reducers: Reducers, error: BaseException) -> Any:
    """Store an exception with its cause, context, notes and traceback."""
    if type(error).__reduce__ not in _PLAIN_REDUCTIONS or type(error).__reduce_ex__ is not object.__reduce_ex__:
        return _reduce_by_own_words(reducers, error)
    state = dict(vars(error))
    links = error.__cause__, error.__context__, error.__suppress_context__
    arguments = error.__reduce__()[1]
    whole = state, error.args, links, error.__traceback__
    if isinstance(type(error).__init__, types.FunctionType):
        # Its own __init__ may want other arguments than those it passed on: it already ran.
        return bare_exception, (type(error), *error.args), whole, None, None, set_exception
    return type(error), arguments, whole, None, None, set_exception


def _reduce_by_own_words(reducers: Reducers, error: BaseException) -> Any:
    """Store an exception the way its class says, with what no class says: what it was raised from and through."""
    from .pickler import reduce_by_hook

    reduced = reduce_by_hook(reducers, error)
    around = error.__cause__, error.__context__, error.__suppress_context__, error.__traceback__
    if type(reduced) is str or reduced[0] is lost or any(reduced[3:]) or not any(around):
        return reduced
    state = reduced[2] if len(reduced) > len(("make", "arguments")) else None
    return reduced[0], reduced[1], (state, around), None, None, set_raised


@rebuilder
def set_raised(made: BaseException, state: tuple[Any, tuple[Any, Any, bool, Any]]) -> None:
    own, (made.__cause__, made.__context__, made.__suppress_context__, made.__traceback__) = state
    if own is not None:
        made.__setstate__(own)


_PLAIN_REDUCTIONS = [
    kind.__reduce__ for kind in (BaseException, OSError, ImportError, AttributeError, NameError, BaseExceptionGroup)
]


@rebuilder
def bare_exception(kind: type[BaseException], *arguments: Any) -> BaseException:
    return kind.__new__(kind, *arguments)


@rebuilder
def set_exception(
    made: BaseException, state: tuple[dict[str, Any], tuple[Any, ...], tuple[Any, Any, bool], Any]
) -> None:
    exception_state(made, state[:3])
    made.__traceback__ = state[3]


@rebuilder
def exception_state(made: BaseException, state: tuple[dict[str, Any], tuple[Any, ...], tuple[Any, Any, bool]]) -> None:
    attributes, made.args, (cause, context, suppress) = state
    vars(made).update(attributes)
    made.__cause__, made.__context__, made.__suppress_context__ = cause, context, suppress


REDUCERS: dict[type, Any] = {
    _thread.LockType: reduce_lock,
    type(threading.RLock()): reduce_reentrant_lock,
    io.TextIOWrapper: reduce_file,
    io.BufferedReader: reduce_file,
    io.BufferedWriter: reduce_file,
    io.BufferedRandom: reduce_file,
    io.FileIO: reduce_file,
    contextvars.ContextVar: reduce_context_variable,
    contextvars.Context: reduce_context,
    re.Match: reduce_match,
    memoryview: reduce_memory_view,
    weakref.WeakValueDictionary: reduce_weak_dict,
    weakref.WeakKeyDictionary: reduce_weak_dict,
}

BY_BASE: list[tuple[type, Any]] = [
    (BaseException, reduce_exception),
    (threading.local, reduce_local),
]
