"""Where workers under test are born: a process that has imported everything and forks them in some milliseconds.

It reads a line of JSON for each worker to start and says ``started``, ``ready`` and ``died`` of each, a line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import select
import signal
import sys
from pathlib import Path

from perdure.workers.confine import interpreter
from tests.invariants import worker

PR_SET_PDEATHSIG = 1


def say(what: str, **more: object) -> None:
    os.write(1, json.dumps({"say": what, **more}).encode() + b"\n")


def begin(config: worker.Config) -> tuple[int, int]:
    """Fork a worker; return its pid and the descriptor that says when it takes work."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(reader)
    nowhere = os.open(os.devnull, os.O_RDWR)
    log = os.open(config.path / f"{config.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, nowhere), (1, nowhere), (2, log)):
        os.dup2(source, target)
    with contextlib.suppress(FileNotFoundError):
        (config.path / f"{config.name}.control").unlink()
    try:
        asyncio.run(worker.run(config, writer))
    except BaseException:  # noqa: BLE001 - a worker that does not start is seen dead, and its log says why
        import traceback

        traceback.print_exc()
    os._exit(1)


def bury() -> None:
    """Say of every child that has ended how."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        say("died", pid=pid, code=os.waitstatus_to_exitcode(status))


def know_the_machine() -> None:
    """Find out once what each worker would find out again, which is most of the work of starting one."""
    known = functools.cache(interpreter.inspect_interpreter)
    known(Path(sys.executable))
    for module in [module for name, module in sys.modules.items() if name.startswith("perdure.workers")]:
        if getattr(module, "inspect_interpreter", None) is interpreter.inspect_interpreter:
            module.inspect_interpreter = known  # type: ignore[attr-defined]


def main() -> None:
    know_the_machine()
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(woken, select.POLLIN)
    starting: dict[int, int] = {}
    orders = os.fdopen(0, "rb", buffering=0)  # a line that waits in a buffer of ours would be seen by no poll
    say("born")
    while True:
        for fd, _ in poll.poll():
            if fd == woken:
                os.read(woken, 4096)
                bury()
            elif fd == 0:
                line = orders.readline()
                if not line:
                    return
                pid, ready = begin(worker.Config(**json.loads(line)))
                starting[ready] = pid
                poll.register(ready, select.POLLIN)
                say("started", pid=pid)
            else:
                poll.unregister(fd)
                if os.read(fd, 1):
                    say("ready", pid=starting.pop(fd))
                os.close(fd)


def line_of(config: worker.Config) -> bytes:
    """Return the line that starts this worker."""
    return json.dumps(dataclasses.asdict(config)).encode() + b"\n"


if __name__ == "__main__":
    main()
