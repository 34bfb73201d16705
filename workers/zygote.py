"""A zygote as its worker sees it: started once, asked to fork guests, tells when they end. Inside: guest/zygote.py.

1. It is started from a thread that lives as long as the worker: the kernel ends it and all its guests with that
   thread.
2. What it says is checked: it has imported packages of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from perdure.engine.errors import PerdureError

from .confine.bwrap import wrap
from .guest.launch import argv, environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from .confine.policy import Policy

__all__ = ["START_TIMEOUT", "STATUS_TIMEOUT", "UNKNOWN", "Forked", "Plan", "Zygote", "ZygoteFailed", "ZygoteGone"]

log = structlog.get_logger()

#: Seconds for a zygote to start, and for each package to be imported: a cold disk needs far more than the usual 0.1.
START_TIMEOUT = 30.0
#: Seconds for a fork: 3 ms are usual. A zygote that takes so long is given up.
FORK_TIMEOUT = 20.0
#: Seconds between the end of a guest's process and the zygote saying how it ended.
STATUS_TIMEOUT = 5.0
#: How a guest ended whose zygote is not there to say it.
UNKNOWN = (None, None)
#: Requests to fork under way at once; more would fill the socket before the zygote reads.
AT_ONCE = 16
#: The largest message: an order to begin, which names every path that guests may read.
MESSAGE_MAX = 1 << 20
#: How much of what it printed is kept, to say why it did not start.
WORDS_KEPT = 4000


class ZygoteFailed(PerdureError):
    """A zygote did not start. ``importing`` names the package at fault, ``layer`` the layer that was missing.

    ``silent``: it ended without a word, as one does that was killed; that says nothing of what this machine can do.
    """

    def __init__(self, why: str, *, importing: str = "", layer: str = "", errno: int = 0, silent: bool = False) -> None:
        self.why = why
        self.silent = silent
        self.importing = importing
        self.layer = layer
        self.errno = errno
        super().__init__(why)


class ZygoteGone(PerdureError):
    """The zygote ended, or did not answer, while it was asked for a guest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a zygote is to be: its interpreter, its own confinement, what it imports, and how apart its guests are."""

    python: str
    policy: Policy
    preload: tuple[str, ...] = ()
    bwrap: Path | None = None
    own_processes: bool = False
    #: What every guest may read; what else its own policy says, it is told with its session.
    readable: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Forked:
    """A process that was forked: its number and descriptor on this side, and how it ends (signal, exit code)."""

    pid: int
    pidfd: int
    ended: asyncio.Future[tuple[int | None, int | None]]


@dataclass(slots=True, eq=False)
class Zygote:
    """A live zygote."""

    plan: Plan
    pid: int
    pidfd: int
    control: socket.socket
    gone: asyncio.Future[None]
    words: int
    #: What it said when it was up.
    python: str = ""
    preloaded: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    own_processes: bool = False
    why_not: str = ""
    isolation: dict[str, Any] = field(default_factory=dict)
    #: Guests forked in all, and those that have not ended.
    forks: int = 0
    born: float = 0.0
    #: What it had printed when it was gone.
    last_words: str = ""
    _retired: Callable[[], None] | None = None
    _up: asyncio.Future[None] | None = None
    _importing: str = ""
    _asked: dict[int, asyncio.Future[Forked]] = field(default_factory=dict)
    _guests: dict[int, asyncio.Future[tuple[int | None, int | None]]] = field(default_factory=dict)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    @classmethod
    async def start(cls, plan: Plan, timeout: float = START_TIMEOUT) -> Zygote:
        """Start one and wait until it can fork; ``timeout`` is for each thing it does. Raises ZygoteFailed."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order, command = _order(plan)
        size = max(len(order) * 2, 1 << 16)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        words = os.memfd_create("zygote", os.MFD_CLOEXEC)
        try:
            pid = _spawn(plan.python, command, theirs.fileno(), words)
        except OSError as exc:
            ours.close()
            os.close(words)
            raise ZygoteFailed(f"cannot start {command[0]}: {exc.strerror}") from exc
        finally:
            theirs.close()
        ours.setblocking(False)
        zygote = cls(plan, pid, os.pidfd_open(pid), ours, loop.create_future(), words, born=loop.time())
        zygote._up = loop.create_future()
        loop.add_reader(zygote.pidfd, zygote._buried)
        loop.add_reader(ours.fileno(), zygote._read)
        try:
            socket.send_fds(ours, [order], [])
            await zygote._come_up(timeout)
        except (OSError, TimeoutError) as exc:
            await zygote.kill()
            # One that ended at once could not be written to: what it printed says why.
            late = isinstance(exc, TimeoutError)
            why = zygote.last_words or (f"no answer within {timeout:g} s" if late else "it ended without a word")
            silent = not (zygote.last_words or late)
            raise ZygoteFailed(why, importing=zygote._importing, silent=silent) from exc
        except BaseException:
            await zygote.kill()
            raise
        return zygote

    async def _come_up(self, timeout: float) -> None:
        assert self._up is not None  # noqa: S101 - made before
        while True:
            importing = self._importing
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.shield(self._up)
                return
            except TimeoutError:
                if self._importing == importing:
                    raise

    @property
    def alive(self) -> bool:
        """Whether it has not been seen dead."""
        return not self.gone.done()

    @property
    def guests(self) -> int:
        """How many of its guests live or are being born."""
        return len(self._guests) + len(self._asked)

    async def fork(self, channel: int, words: int) -> Forked:
        """Have a guest forked that is given these descriptors. Raises ZygoteGone."""
        async with self._slots:
            if not self.alive:
                raise ZygoteGone("the zygote has ended")
            self.forks += 1
            number = self.forks
            asked: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
            self._asked[number] = asked
            try:
                message = json.dumps({"t": "fork", "id": number}).encode()
                socket.send_fds(self.control, [message], [channel, words])
                async with asyncio.timeout(FORK_TIMEOUT):
                    return await asked
            except asyncio.CancelledError:
                if asked.done() and not asked.cancelled() and asked.exception() is None:
                    # It came at the same moment, and nobody will take it.
                    _end(asked.result().pidfd)
                raise
            except TimeoutError as exc:
                await self.kill()
                raise ZygoteGone(f"the zygote forked no guest within {FORK_TIMEOUT:g} s") from exc
            except OSError as exc:
                self._asked.pop(number, None)
                raise ZygoteGone(f"the zygote cannot be asked: {exc}") from exc

    async def kill(self) -> None:
        """End it, and with it all its guests; wait until it is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        await asyncio.shield(self.gone)

    def retire(self, then: Callable[[], None]) -> None:
        """Fork no more; end when the last guest has, and call ``then``."""
        self._retired = then
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._retired is not None and not self.guests and self.alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def printed(self) -> str:
        """Return the last of what it printed."""
        size = os.fstat(self.words).st_size
        return os.pread(self.words, WORDS_KEPT, max(0, size - WORDS_KEPT)).decode(errors="replace").strip()

    # -- what it says ---------------------------------------------------------------

    def _read(self) -> None:
        while True:
            try:
                data, handed, _, _ = socket.recv_fds(self.control, MESSAGE_MAX, 1)
            except BlockingIOError:
                return
            except OSError:
                data, handed = b"", []
            if not data:
                # It has closed, so it is ending: the pidfd says when.
                asyncio.get_running_loop().remove_reader(self.control.fileno())
                return
            try:
                self._heard(json.loads(data), handed)
            except (ValueError, KeyError, TypeError, AttributeError):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                return
            finally:
                for descriptor in handed:
                    os.close(descriptor)

    def _heard(self, message: dict[str, Any], handed: list[int]) -> None:
        match message["t"]:
            case "importing":
                self._importing = str(message["name"])
            case "up":
                self._is_up(message)
            case "threads":
                self._fail(ZygoteFailed("it started threads", importing=str(message["name"])))
            case "unconfined":
                layer, errno = str(message["layer"]), int(message["errno"])
                self._fail(ZygoteFailed(str(message["why"]), layer=layer, errno=errno))
            case "forked":
                self._forked(message["id"], handed.pop())
            case "refused":
                asked = self._asked.pop(message["id"], None)
                if asked is not None and not asked.done():
                    asked.set_exception(ZygoteGone(str(message["why"])))
            case "exited":
                ended = self._guests.pop(message["id"], None)
                if ended is not None and not ended.done():
                    ended.set_result((message["signal"], message["code"]))
                self._end_if_idle()
            case other:
                raise ValueError(other)

    def _is_up(self, message: dict[str, Any]) -> None:
        self._importing = ""
        self.python = str(message["python"])
        self.preloaded = tuple(map(str, message["preloaded"]))
        self.failed = {str(name): str(why) for name, why in message["failed"].items()}
        self.own_processes = bool(message["own_processes"])
        self.why_not = str(message["why_not"])
        self.isolation = dict(message["isolation"])
        if self._up is not None and not self._up.done():
            self._up.set_result(None)

    def _fail(self, problem: ZygoteFailed) -> None:
        if self._up is not None and not self._up.done():
            self._up.set_exception(problem)

    def _forked(self, number: int, pidfd: int) -> None:
        asked = self._asked.pop(number, None)
        ended: asyncio.Future[tuple[int | None, int | None]] = asyncio.get_running_loop().create_future()
        self._guests[number] = ended
        if asked is None or asked.done():
            # Whoever asked has gone: nobody may run in a workspace for nobody.
            _end(pidfd)
            return
        asked.set_result(Forked(_pid_of(pidfd), pidfd, ended))

    def _buried(self) -> None:
        """Reap the process: its pidfd became readable."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        # What it said last is still in the socket.
        self._read()
        loop.remove_reader(self.control.fileno())
        self.control.close()
        os.close(self.pidfd)
        words = self.last_words = self.printed()
        if words and self.python:
            log.warning("zygote.ended", words=words)
        self._fail(ZygoteFailed(words or "it ended without a word", importing=self._importing, silent=not words))
        if self._up is not None:
            self._up.exception()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ZygoteGone("the zygote ended"))
        self._asked.clear()
        for ended in self._guests.values():
            if not ended.done():
                ended.set_result(UNKNOWN)
        self._guests.clear()
        os.close(self.words)
        self.gone.set_result(None)
        if self._retired is not None:
            self._retired()


def _order(plan: Plan) -> tuple[bytes, list[str]]:
    policy, command = plan.policy, argv(plan.python, "zygote")
    if plan.bwrap is not None:
        wrapped = wrap(plan.bwrap, plan.policy)
        policy, command = wrapped.policy, [*wrapped.argv, *command]
    order = {
        "policy": policy.to_wire(),
        "preload": list(plan.preload),
        "namespaces": plan.bwrap is not None,
        "own_processes": plan.own_processes,
        "readable": list(map(str, plan.readable)),
    }
    return json.dumps(order).encode(), command


def _end(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def _pid_of(pidfd: int) -> int:
    """The number of the process here, whatever namespace it has one in; 0 if it is gone already."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text("ascii").splitlines()
    return next((max(0, int(line.split()[1])) for line in lines if line.startswith("Pid:")), 0)


def _spawn(python: str, command: list[str], control: int, words: int) -> int:
    nowhere = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    # dup2 of a descriptor onto itself would leave it close-on-exec: move it out of the way of its target first.
    high = fcntl.fcntl(control, fcntl.F_DUPFD_CLOEXEC, 64)
    try:
        return os.posix_spawn(
            command[0],
            command,
            environment(python),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nowhere, 0),
                (os.POSIX_SPAWN_DUP2, words, 1),
                (os.POSIX_SPAWN_DUP2, words, 2),
                (os.POSIX_SPAWN_DUP2, high, 3),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD],
        )
    finally:
        os.close(nowhere)
        os.close(high)
