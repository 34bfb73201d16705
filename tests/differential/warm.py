"""A process that has imported what programs import, and forks itself for each of them: an interpreter or a guest.

Started as ``python warm.py outside|guest [PLACES]`` with a socket as standard input. A fork costs a twentieth of a
start.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
import types
from typing import Any

#: Imported once, in both kinds alike: what a program costs is then its own work.
PRELOADED = (
    "abc", "argparse", "asyncio", "ast", "atexit", "bisect", "codecs", "collections.abc", "concurrent.futures",
    "contextlib", "contextvars", "copy", "csv", "dataclasses", "datetime", "decimal", "dis", "doctest", "enum",
    "faulthandler", "fractions", "functools", "gc", "graphlib", "heapq", "inspect", "io", "itertools", "json",
    "linecache", "logging", "math", "operator", "pathlib", "pickle", "pprint", "queue", "random", "re", "shutil",
    "sqlite3", "statistics", "string", "struct", "tempfile", "textwrap", "threading", "time", "timeit", "token",
    "tokenize", "trace", "traceback", "tracemalloc", "types", "typing", "unittest", "unittest.mock", "uuid",
    "warnings", "weakref", "zlib",
)  # fmt: skip


def main() -> None:
    kind, places = sys.argv[1], sys.argv[2:]
    line = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in PRELOADED:
        importlib.import_module(name)
    atexit._clear()
    _load("_perdure_describe", os.path.join(os.path.dirname(__file__), "describe.py"))
    work = _guest(places) if kind == "guest" else _outside
    del sys.modules["__main__"]
    sys.path.pop(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        order, fds, _flags, _address = socket.recv_fds(line, 1 << 20, 8)
        if not order:
            os._exit(0)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            line.close()
            work(json.loads(order), fds)
        for fd in fds:
            os.close(fd)
        line.sendall(array.array("i", [pid]).tobytes())


def _load(name: str, path: str, folder: str | None = None) -> None:
    spec: Any = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[folder] if folder else None
    )
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _guest(places: list[str]) -> Any:
    """Load the guest's runtime as its own start does: by path, under private names."""
    guest, cloudpickle, values = places
    _load("_perdure_guest", guest + "/__init__.py", guest)
    _load("_perdure_cloudpickle", cloudpickle + "/__init__.py", cloudpickle)
    _load("_perdure_guest.values", values)
    run = importlib.import_module("_perdure_guest.main").main

    def work(_order: dict[str, Any], fds: list[int]) -> None:
        sys.modules["__main__"] = types.ModuleType("__main__")
        channel, log = fds
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(channel, 3)
        for fd in fds:
            if fd != 3:
                os.close(fd)
        try:
            run()
        finally:
            os._exit(1)

    return work


def _outside(order: dict[str, Any], fds: list[int]) -> None:
    """Do what ``python FILE`` does; ``order["awaits"]`` runs it on a loop. Then write what became of the namespace."""
    out, err, names = fds
    os.dup2(out, 1)
    os.dup2(err, 2)
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    path = order["file"]
    os.chdir(os.path.dirname(path))
    sys.argv = [path, *order.get("argv", ())]
    sys.path.insert(0, os.path.dirname(path))
    module.__file__ = path
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    code = 0
    told: dict[str, Any] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            source = file.read()
        _run(source, path, vars(module), awaits=order["awaits"])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1 if left.code is not None else 0
        if left.code is not None and not isinstance(left.code, int):
            sys.stderr.write(f"{left.code}\n")
    except BaseException as error:
        code = 1
        _strip(error, path)
        told = _told(error, path)
        sys.excepthook(type(error), error, error.__traceback__)
    shut_down: Any = getattr(threading, "_shutdown")  # noqa: B009 - what the interpreter calls at its end
    shut_down()
    atexit._run_exitfuncs()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()
    shown = sys.modules["_perdure_describe"].describe(vars(module))
    answer = {"code": code & 0xFF, "error": told, "names": shown}
    data = json.dumps(answer).encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(names, data) :]
    os._exit(0)


def _run(source: str, path: str, namespace: dict[str, Any], *, awaits: bool) -> None:
    if not awaits:
        exec(compile(source, path, "exec", dont_inherit=True), namespace)
        return
    import ast
    import asyncio

    coroutine = eval(compile(source, path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True), namespace)
    if coroutine is not None:
        asyncio.run(coroutine)


def _strip(error: BaseException, path: str) -> None:
    """Take the frames that led to the program off the traceback."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename != path:
        step = step.tb_next
    error.__traceback__ = step


def _told(error: BaseException, path: str) -> dict[str, Any]:
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == path else None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == path:
            line = step.tb_lineno
        step = step.tb_next
    try:
        message = str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:
        message = "<exception str() failed>"
    return {"type": type(error).__qualname__, "module": type(error).__module__, "message": message, "line": line}


if __name__ == "__main__":
    main()
