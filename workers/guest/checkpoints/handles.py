"""Recipes for small objects written in C, and what the standard library leaves of folders and pools that ended.

The names of the rebuilders are durable data, as in `rebuild`.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any

from .fields import bytes_of
from .rebuild import new_object, rebuilder, wrapped

if TYPE_CHECKING:
    from .pickler import Reducers

__all__ = ["BY_LIBRARY", "BY_NAME", "carried_folder"]

# --- queues and structures -------------------------------------------------------------------------------


def reduce_simple_queue(reducers: Reducers, queue: Any) -> Any:
    """Store a queue with what waits in it."""
    held, size = gc.get_referents(queue), queue.qsize()
    kind = type(queue)
    if sys.version_info < (3, 13) and held and type(held[0]) is list:
        # What was taken out leaves its place behind.
        held = [*held[0][len(held[0]) - size :], *held[1:]]
    if held[size:] != [kind]:
        return reducers.lose(queue, "what waits in it cannot be seen; use queue.Queue")
    return new_object, (kind, kind), held[:size], None, None, fill_queue


@rebuilder
def fill_queue(made: Any, items: list[Any]) -> None:
    for item in items:
        made.put(item)


def reduce_struct(_reducers: Reducers, thing: Any) -> Any:
    """Store a layout of bytes by its format."""
    return wrapped, (type(thing), thing.format)


# --- folders ---------------------------------------------------------------------------------------------


def reduce_entry(reducers: Reducers, entry: Any) -> Any:
    """Store an entry of a folder by its place: it is looked up there again."""
    folder = os.path.dirname(entry.path)
    if not folder or not os.path.lexists(entry.path) or os.path.basename(entry.path) != entry.name:
        return reducers.lose(entry, "there is no such file any more, or no path to it; keep entry.path or entry.name")
    return folder_entry, (folder, entry.name)


#: A folder that every guest may look through.
_FOLDER = os.path.dirname(os.__file__)
#: The folder that was looked through last: when it changed, and its entries.
_last: list[tuple[Any, int, dict[Any, Any]]] = []


@rebuilder
def folder_entry(folder: Any, name: Any) -> Any:
    changed = os.stat(folder).st_mtime_ns
    if not _last or _last[0][:2] != (folder, changed):
        with os.scandir(folder) as entries:
            _last[:] = [(folder, changed, {each.name: each for each in entries})]
    return _last[0][2].pop(name, None) or _entry(folder, name)


def _entry(folder: Any, name: Any) -> Any:
    with os.scandir(folder) as entries:
        for each in entries:
            if each.name == name:
                return each
    raise FileNotFoundError(os.path.join(folder, name))


def reduce_entries(reducers: Reducers, entries: Any) -> Any:
    """Store what goes through a folder: `with os.scandir(folder) as entries` leaves one that is closed."""
    left = getattr(entries, "__dict__", {}).get("_entries")
    if left is not None:
        # Where the order of folders is that of names, it has all its entries.
        return closed_entries, (), left, None, None, set_entries
    at = _place_of_handle()
    if at is None or any(bytes_of(entries)[at : at + 8]):
        return reducers.lose(entries, "it is in the middle of a folder; go through it to its end, or keep a list")
    return closed_entries, ()


def _place_of_handle() -> int | None:
    """Return where such an object has its open folder: nothing is there once it is closed."""
    opened = [os.scandir(_FOLDER) for _ in range(4)]
    for each in opened[:2]:
        each.close()
    content = [bytes_of(each) for each in opened]
    for each in opened[2:]:
        each.close()
    places = [
        at
        for at in range(16, len(content[0]) - 7, 8)
        if not any(content[0][at : at + 8]) and not any(content[1][at : at + 8])
        if any(content[2][at : at + 8]) and any(content[3][at : at + 8])
    ]
    # What comes after it is no field, and may hold anything.
    return min(places, default=None)


@rebuilder
def closed_entries() -> Any:
    made = os.scandir(_FOLDER)
    made.close()
    return made


@rebuilder
def set_entries(made: Any, left: Any) -> None:
    vars(made)["_entries"] = left


def reduce_temporary_folder(_reducers: Reducers, folder: Any) -> Any:
    """Store a temporary folder: who has it in the end removes it."""
    found = folder._finalizer.peek()
    state = {name: value for name, value in vars(folder).items() if name != "_finalizer"}
    how = found[2:] if found is not None else ((folder.name, ""), {})
    waits = found is not None, folder._finalizer.atexit
    return new_object, (object, type(folder)), (state, how, waits), None, None, set_temporary_folder


@rebuilder
def set_temporary_folder(made: Any, state: tuple[dict[str, Any], tuple[Any, Any], tuple[bool, bool]]) -> None:
    attributes, (args, keywords), (waits, at_exit) = state
    vars(made).update(attributes)
    made._finalizer = weakref.finalize(made, made._cleanup, *args, **keywords)
    made._finalizer.atexit = at_exit
    if not waits:
        made._finalizer.detach()


def carried_folder(finalizer: Any, namespace: dict[str, Any]) -> bool:
    """Whether a finalizer is that of a temporary folder that a variable holds: it comes back with it."""
    found = finalizer.peek()
    kind = getattr(sys.modules.get("tempfile"), "TemporaryDirectory", None)
    return found is not None and type(found[0]) is kind and any(each is found[0] for each in namespace.values())


# --- pools of multiprocessing ----------------------------------------------------------------------------

#: What a pool has only while it runs.
_RUNNING = ("_terminate", "_change_notifier", "_inqueue", "_outqueue", "_taskqueue", "_ctx", "_quick_put", "_quick_get")


def reduce_thread_pool(reducers: Reducers, pool: Any) -> Any:
    """Store a pool of threads that is closed, and whose threads have ended: `with ThreadPool() as pool` leaves that."""
    state = vars(pool)
    kind = importlib.import_module("multiprocessing.pool").ThreadPool
    threads = [state.get(f"_{name}_handler") for name in ("worker", "task", "result")] + [*state.get("_pool", ())]
    if type(pool) is not kind or pool._state == "RUN" or any(each is None or each.is_alive() for each in threads):
        return reducers.lose(pool, "its workers do not survive a restore; close and join it, or make it again")
    return (
        new_object,
        (object, kind),
        {name: value for name, value in state.items() if name not in _RUNNING},
        None,
        None,
        set_thread_pool,
    )


@rebuilder
def set_thread_pool(made: Any, state: dict[str, Any]) -> None:
    vars(made).update(dict.fromkeys(_RUNNING), _terminate=_ended, **state)


@rebuilder
def _ended() -> None:
    """Stand for what ends a pool: it has."""


def reduce_pool_cache(reducers: Reducers, cache: Any) -> Any:
    """Store what a pool has not done yet, if that is nothing."""
    if cache:
        return reducers.lose(cache, "work given to a pool does not survive a restore; wait for it")
    return empty_pool_cache, ()


@rebuilder
def empty_pool_cache() -> Any:
    return importlib.import_module("multiprocessing.pool")._PoolCache(notifier=None)


# Looked up only once the session has imported them.
BY_LIBRARY: list[tuple[str, str, Any]] = [
    ("_queue", "SimpleQueue", reduce_simple_queue),
    ("_struct", "Struct", reduce_struct),
    ("posix", "DirEntry", reduce_entry),
    ("tempfile", "TemporaryDirectory", reduce_temporary_folder),
    ("multiprocessing.pool", "Pool", reduce_thread_pool),
    ("multiprocessing.pool", "_PoolCache", reduce_pool_cache),
]

# --- arrays of a file ------------------------------------------------------------------------------------


def reduce_arrays(_reducers: Reducers, arrays: Any) -> Any:
    """Store what `numpy.load` gives of several arrays: its attributes lead to it by a way of their own."""
    state = dict(vars(arrays))
    view = state.pop("f", None)
    return new_object, (object, type(arrays)), (state, type(view) if view is not None else None), None, None, set_arrays


@rebuilder
def set_arrays(made: Any, state: tuple[dict[str, Any], Any]) -> None:
    attributes, view = state
    vars(made).update(attributes, f=view(made) if view is not None else None)


# By the name that a type gives itself: it stands in no module.
BY_NAME: dict[str, Any] = {"posix.ScandirIterator": reduce_entries, "numpy.lib.npyio.NpzFile": reduce_arrays}
