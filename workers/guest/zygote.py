"""The zygote: imports what guests will need, once, and forks a guest whenever its worker asks for one.

1. It is confined before it imports anything that is not ours, and has one thread whenever it forks.
2. It never speaks to a guest, and a guest keeps nothing of it but memory: every other descriptor is closed.
3. It ends with its worker, and every guest with it.

Messages are JSON, one a packet, descriptors beside them (docs/design.md).
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import sysconfig
from typing import Any, NoReturn

from . import confine, confine_kernel, confine_namespaces, entropy, wallclock
from . import main as guest
from .confine import Beneath, ConfinementFailed
from .sharing import share_for_good

__all__ = ["main"]

#: The control socket, and where guests have their channel and their lock.
CONTROL, CHANNEL, LOCK = 3, guest.CHANNEL_FD, guest.LOCK_FD
#: The largest message: an order to begin, which names every path that guests may read.
MESSAGE_MAX = 1 << 20
#: Descriptors that come with a request to fork: the channel, and where the guest's first words go.
HANDED = 2
#: Exit codes of a guest that could not become one, and of a zygote that is not wanted any more.
EXIT_FAILED, EXIT_DONE = 70, 0
NEW_USER_AND_PROCESSES = 0x1000_0000 | 0x2000_0000
PR_SET_CHILD_SUBREAPER = 36


class Refused(Exception):
    """What was asked cannot be done; the worker is told why."""


class Zygote:
    """The process: what it was told, and the guests it has."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._guests: dict[int, int] = {}
        self._own_processes = False
        self._controls: tuple[str, ...] = ()
        self._readable: tuple[str, ...] | None = None

    def begin(self) -> None:
        """Confine this process, import what is to be preloaded, and say so."""
        order, _ = self._receive()
        if order["namespaces"]:
            confine_namespaces.check()
        report, self._controls = confine.apply_to_zygote(order["policy"])
        self._readable = tuple(order["readable"]) if report["level"] == "strict" else None
        # The numbers guests use are taken, so that nothing that is handed in ever has one of them.
        os.dup2(0, LOCK, inheritable=False)
        self._poll = select.epoll()
        confine_kernel.prctl(PR_SET_CHILD_SUBREAPER, 1)
        entropy.patch()
        wallclock.take_over()
        names, failed = self._preload(order["preload"])
        self._own_processes, why = _own_processes(wanted=order["own_processes"])
        # Made once, and shared by all of them until they write to it.
        self._template = guest.Guest()
        # Loads a megabyte of constants, which each guest would hold for itself.
        sysconfig.get_paths()
        gc.collect()
        share_for_good()
        gc.freeze()
        version = ".".join(map(str, sys.version_info[:3]))
        self._send(
            {
                "t": "up",
                "python": version,
                "isolation": report,
                "preloaded": names,
                "failed": failed,
                "own_processes": self._own_processes,
                "why_not": why,
            }
        )
        self._poll.register(self._control.fileno(), select.EPOLLIN)

    def _preload(self, modules: list[str]) -> tuple[list[str], dict[str, str]]:
        names, failed = [], {}
        for name in modules:
            # Said before, so that the worker knows which one killed or hung this process.
            self._send({"t": "importing", "name": name})
            try:
                importlib.import_module(name)
            except Exception as exc:
                failed[name] = f"{type(exc).__name__}: {exc}"[:500]
                continue
            if _threads() != 1:
                # What was started cannot be stopped, and nothing may be forked beside it.
                self._send({"t": "threads", "name": name})
                os._exit(EXIT_FAILED)
            names.append(name)
        return names, failed

    def serve(self) -> int:
        """Fork guests until one of these calls returns: 0 in the worker's zygote, never in a guest."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._control.fileno():
                    self._request()
                else:
                    self._buried(descriptor)

    def _request(self) -> None:
        order, handed = self._receive()
        try:
            if order.get("t") != "fork" or len(handed) != HANDED:
                raise Refused(f"a request of type {order.get('t')!r} with {len(handed)} descriptors")
            pid = self._fork(handed)
            self._guests[pidfd := os.pidfd_open(pid)] = order["id"]
            self._poll.register(pidfd, select.EPOLLIN)
            self._send({"t": "forked", "id": order["id"], "pid": pid}, [pidfd])
        except (OSError, Refused) as exc:
            self._send({"t": "refused", "id": order.get("id"), "why": str(exc)})
        finally:
            for descriptor in handed:
                os.close(descriptor)

    def _fork(self, handed: list[int]) -> int:
        if _threads() != 1:
            raise Refused(f"the zygote has {_threads()} threads")
        parent = os.getpid()
        if self._own_processes:
            return self._fork_apart(handed, parent)
        pid = os.fork()
        if pid == 0:
            self._become(handed, Beneath(parent, self._controls, readable=self._readable))
        return pid

    def _fork_apart(self, handed: list[int], parent: int) -> int:
        """Fork through a process that makes the namespaces and ends at once, so that the guest is its first process."""
        from_middle, to_zygote = os.pipe()
        gone, held = os.pipe()
        middle = os.fork()
        if middle == 0:
            try:
                os.unshare(NEW_USER_AND_PROCESSES)
                pid = os.fork()
                if pid == 0:
                    # The kernel is asked to end the guest with its parent, so the parent must be the zygote by then.
                    # That the middle has closed its end says nothing yet: it does so before it hands on its children.
                    os.close(held)
                    os.read(gone, 1)
                    self._become(handed, Beneath(parent, self._controls, own_processes=True, readable=self._readable))
                os.write(to_zygote, str(pid).encode())
            finally:
                os._exit(EXIT_FAILED)
        os.close(to_zygote)
        os.waitpid(middle, 0)
        os.close(held)
        told = os.read(from_middle, 32)
        os.close(from_middle)
        os.close(gone)
        if not told:
            raise Refused("no namespaces could be made for a guest")
        return int(told)

    def _become(self, handed: list[int], beneath: Beneath) -> NoReturn:
        """Be a guest from here on; nothing of the zygote's loop is ever returned to."""
        code = EXIT_FAILED
        try:
            channel, words = (_moved(descriptor) for descriptor in handed)
            for source, target in ((channel, CHANNEL), (words, 1), (words, 2)):
                os.dup2(source, target, inheritable=False)
            guest.main(beneath, self._template)
        except BaseException as exc:
            sys.excepthook(type(exc), exc, exc.__traceback__)
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _buried(self, pidfd: int) -> None:
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if info is None:
            return
        self._poll.unregister(pidfd)
        os.close(pidfd)
        exited = info.si_code == os.CLD_EXITED
        self._send(
            {
                "t": "exited",
                "id": self._guests.pop(pidfd),
                "code": info.si_status if exited else None,
                "signal": None if exited else info.si_status,
            }
        )

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            data, handed, _, _ = socket.recv_fds(self._control, MESSAGE_MAX, HANDED)
        except ConnectionError:
            data, handed = b"", []
        if not data:
            os._exit(EXIT_DONE)
        return json.loads(data), handed

    def _send(self, message: dict[str, Any], handed: list[int] | None = None) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], handed or [])
        except ConnectionError:
            os._exit(EXIT_DONE)


def _moved(descriptor: int) -> int:
    """Move a descriptor out of the way of the numbers that guests use."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _own_processes(*, wanted: bool) -> tuple[bool, str]:
    """Whether guests can have a namespace for their processes, with a limit on them: found out by trying."""
    if not wanted:
        return False, ""
    if os.getuid() == 0:
        return False, "the kernel does not limit the processes of root"
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.unshare(NEW_USER_AND_PROCESSES)
            code = 0
        except OSError as exc:
            code = exc.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code == 0, "" if code == 0 else os.strerror(code)


def main() -> None:
    """Be a zygote until the worker is gone; never returns."""
    control = socket.socket(fileno=CONTROL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    zygote = Zygote(control)
    try:
        zygote.begin()
    except ConfinementFailed as problem:
        said = {"t": "unconfined", "layer": problem.layer, "errno": problem.errno, "why": problem.message}
        socket.send_fds(control, [json.dumps(said).encode()], [])
        os._exit(confine.REFUSED_EXIT)
    zygote.serve()
