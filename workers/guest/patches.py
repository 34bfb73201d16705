"""What stands in for libclock.c in Python: for what asks through Python's own modules, and for nothing below them."""

from __future__ import annotations

import ctypes
import datetime as dt
import functools
import gc
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .readings import Readings

__all__ = ["fix_cpu_count", "sort_directories", "take_over_clock"]

_SECOND = 1_000_000_000
#: Processors that code is told of. A pool of threads has so many and 4 more, if it is not told otherwise: a replay on a
#: larger machine would begin work that the first run had waiting.
CPUS = 4


def take_over_clock(readings: Readings) -> None:
    """Have ``time`` and ``datetime`` read the wall clock from there."""
    now = readings.read
    clocks = (time.CLOCK_REALTIME,)
    gettime, gettime_ns = time.clock_gettime, time.clock_gettime_ns

    def replace(name: str, function: Callable[..., Any]) -> None:
        setattr(time, name, functools.wraps(getattr(time, name))(function))

    replace("time", lambda: now() / _SECOND)
    replace("time_ns", lambda: now())  # noqa: PLW0108 - it is to show as a function
    replace("clock_gettime", lambda clock, /: now() / _SECOND if clock in clocks else gettime(clock))
    replace("clock_gettime_ns", lambda clock, /: now() if clock in clocks else gettime_ns(clock))
    for name in ("gmtime", "localtime", "ctime"):
        replace(name, _of_seconds(getattr(time, name), now))
    asctime, strftime, localtime = time.asctime, time.strftime, time.localtime
    replace("asctime", lambda *t: asctime(*t) if t else asctime(localtime()))
    replace("strftime", lambda text, *t: strftime(text, *(t or (localtime(),))))
    _take_over_datetime(now)


def _of_seconds(function: Callable[..., Any], now: Callable[[], int]) -> Callable[..., Any]:
    def of_now(seconds: Any = None, /) -> Any:
        return function(now() / _SECOND if seconds is None else seconds)

    return of_now


def _take_over_datetime(now: Callable[[], int]) -> None:
    """Replace methods of a C class, in the dictionary behind its read-only view."""

    def exact(cls: Any, tz: Any = None) -> Any:
        # Through whole seconds: a float of today has not enough digits for its microseconds.
        seconds, rest = divmod(now(), _SECOND)
        return cls.fromtimestamp(seconds, tz).replace(microsecond=rest // 1000)

    def utcnow(cls: Any) -> Any:
        return exact(cls, dt.UTC).replace(tzinfo=None)

    # ``today`` of both classes asks ``time.time`` by name.
    (namespace,) = gc.get_referents(dt.datetime.__dict__)
    for name, function in (("now", exact), ("utcnow", utcnow)):
        function.__name__, function.__qualname__ = name, f"datetime.{name}"
        function.__doc__ = namespace[name].__doc__
        namespace[name] = classmethod(function)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(dt.datetime))


def fix_cpu_count() -> None:
    """Say the same number of processors on every machine."""
    for name in ("cpu_count", "process_cpu_count"):
        function = getattr(os, name, None)
        if function is not None:
            setattr(os, name, functools.wraps(function)(lambda: CPUS))


def sort_directories() -> None:
    """Give the entries of directories by name."""
    listdir, scandir = os.listdir, os.scandir

    @functools.wraps(listdir)
    def sorted_listdir(path: Any = None) -> list[Any]:
        return sorted(listdir(path), key=os.fsencode)

    class Scanned:
        def __init__(self, path: Any) -> None:
            with scandir(path) as found:
                self._entries = iter(sorted(found, key=lambda entry: os.fsencode(entry.name)))

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            return next(self._entries)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def close(self) -> None:
            self._entries = iter(())

    @functools.wraps(scandir)
    def sorted_scandir(path: Any = None) -> Any:
        return Scanned(path)

    Scanned.__name__ = Scanned.__qualname__ = "ScandirIterator"
    Scanned.__module__ = "posix"
    os.listdir = sorted_listdir
    os.scandir = sorted_scandir
