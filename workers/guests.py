"""Guest processes: starting, freezing, killing and burying them. The only file that signals one.

1. A guest dies with its zygote, and that with its worker: told by the kernel (PDEATHSIG) and by a closed channel.
2. A guest holds the lock of its session's workspace for as long as it lives, so the next one cannot start beside it.
3. A dead guest is noticed at once, through its pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import words as last_words
from .guest.ends import BY_SIGNAL, NOTE_AT, own_signal
from .identity import identity_of
from .link import Link, LinkClosed
from .messages import PROTOCOL, ProtocolViolation, Ready
from .orders import Start
from .zygote import STATUS_TIMEOUT, UNKNOWN, ZygoteGone

if TYPE_CHECKING:
    from pathlib import Path

    from perdure.engine.records import NameReport

    from .checkpoints import Held
    from .orders import Config
    from .zygote import Forked, Zygote

__all__ = ["Death", "Guest", "GuestDied", "GuestFailed", "WorkspaceLock", "WorkspaceTaken"]

#: Seconds a forked guest may take until it is ready: 10 ms are usual, a loaded machine may need many times that.
START_TIMEOUT = 30.0
#: Seconds to wait for a killed process to be gone, and for a predecessor to give up its workspace.
KILL_TIMEOUT = 10.0
#: A guest that still holds its workspace when its successor has the lease is killed after this (s): its worker is
#: paused, or has not noticed yet.
EVICT_AFTER = 0.5
#: Room for a process's identity in a lock file, and its parts.
IDENTITY_SIZE = NOTE_AT
IDENTITY_PARTS = 3


#: Signals that code brings on itself; any other was sent, by the code itself if it has noted that.
OF_CODE = frozenset(
    (
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP),
        *(signal.SIGXCPU, signal.SIGXFSZ, signal.SIGPIPE, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF),
    )
)


class GuestFailed(Exception):
    """A guest could not be started, with what it printed."""


class WorkspaceTaken(Exception):
    """Another guest still holds the session's workspace."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a guest ended: by a signal, with an exit code, or killed by the worker for a stated reason."""

    signal: int | None
    code: int | None
    reason: str = ""
    #: The limit it was ended for, by its name in the session's settings.
    limit: str = ""
    #: Whether the code did it: not a signal that only somebody else can have sent.
    own: bool = True
    #: The last of what it printed outside of its channel.
    words: str = ""

    def __str__(self) -> str:
        if self.limit:
            return f"{self.reason} (the limit {self.limit} of the session can be raised)"
        if self.reason:
            return self.reason
        if self.signal is not None:
            name = f"signal {self.signal}"
            with contextlib.suppress(ValueError):
                name = signal.Signals(self.signal).name
            return f"killed by {name} {last_words.scene(self.words)}".rstrip()
        if self.code is None:
            return "ended, and nobody could say how"
        return f"exited with code {self.code}: {last_words.closing(self.words)}".rstrip(": ")


class GuestDied(Exception):
    """The guest is dead; ``death`` says how."""

    def __init__(self, death: Death) -> None:
        self.death = death
        super().__init__(str(death))


class WorkspaceLock:
    """The exclusive lock on a session's workspace; handed on to the guest that works in it."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    @classmethod
    async def take(cls, path: Path, timeout: float = KILL_TIMEOUT) -> WorkspaceLock:
        """Take the lock, waiting for a dying predecessor. Raises WorkspaceTaken after ``timeout`` seconds, OSError."""
        lock = cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), path)
        try:
            await lock._wait(timeout)
        except BaseException:
            # Who stops waiting, because its attempt has ended, say, holds nothing.
            lock.release()
            raise
        return lock

    async def _wait(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        give_up, evict = began + timeout, began + EVICT_AFTER
        wait = 0.001
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno not in (errno.EAGAIN, errno.EACCES):
                    # No other guest: a file system without locks, or a disk that fails.
                    what = f"the workspace's lock cannot be taken: {exc.strerror}"
                    raise OSError(exc.errno, what, str(self.path)) from None
                if loop.time() > give_up:
                    msg = f"another guest still works in the workspace guarded by {self.path.name}"
                    raise WorkspaceTaken(msg) from None
                if loop.time() > evict:
                    _evict(self.fd)
                await asyncio.sleep(wait)
                wait = min(wait * 2, 0.05)
            else:
                return

    def held_by(self, pid: int) -> None:
        """Note which guest holds the lock, so that a successor can end one whose worker does not."""
        os.ftruncate(self.fd, 0)  # with what a guest before noted of its own end
        os.pwrite(self.fd, identity_of(pid).encode().ljust(IDENTITY_SIZE), 0)

    def release(self) -> None:
        """Give up this process's hold; a guest that inherited the lock keeps it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(slots=True, eq=False)
class Guest:
    """A live guest process and the link to it."""

    session: str
    process: Forked
    link: Link
    died: asyncio.Future[Death]
    isolation: dict[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    python: str = ""
    frozen: bool = False
    #: Variables that are stored and that it could not load.
    not_restored: tuple[NameReport, ...] = ()
    #: What the next checkpoint of it adds to; None: nothing, it is new.
    held: Held | None = None
    pidfd: int = -1
    #: The file of its workspace's lock, in which it notes the signals that it sends itself.
    _lock: Path | None = None
    #: What it prints outside of its channel: why it did not start, where it crashed.
    words: int = -1
    #: Until it has a session: our end of its channel.
    handover: socket.socket | None = None
    #: Whether it was there before anybody wanted it.
    waited: bool = False
    _reason: str = ""
    _limit: str = ""
    _how: tuple[int | None, int | None] | None = None

    def __post_init__(self) -> None:
        self.pidfd = self.process.pidfd

    @classmethod
    async def fork(cls, zygote: Zygote) -> Guest:
        """Have a guest forked that waits for a session: confined as its zygote is, with nothing to run yet.

        Raises ZygoteGone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        words = last_words.create("guest")
        try:
            forked = await zygote.fork(theirs.fileno(), words)
        except BaseException:
            ours.close()
            os.close(words)
            raise
        finally:
            theirs.close()
        loop = asyncio.get_running_loop()
        try:
            link = await Link.over(ours)
        except BaseException:
            signal.pidfd_send_signal(forked.pidfd, signal.SIGKILL)
            for descriptor in (forked.pidfd, words):
                os.close(descriptor)
            ours.close()
            raise
        guest = cls("", forked, link, loop.create_future(), words=words, handover=ours)
        forked.ended.add_done_callback(guest._ended)
        loop.add_reader(guest.pidfd, guest._gone)
        return guest

    async def begin(self, config: Config, lock: WorkspaceLock) -> None:
        """Give it a session and wait until it is confined to that. Raises GuestFailed, ZygoteGone; it is dead then."""
        self.session = config.session
        lock.held_by(self.pid)
        self._lock = lock.path
        handover, self.handover = self.handover, None
        try:
            assert handover is not None  # noqa: S101 - it begins once
            socket.send_fds(handover, [b"L"], [lock.fd])
        except OSError as exc:
            await self.kill("it ended while it waited for a session")
            raise ZygoteGone("a guest that was kept ready has ended") from exc
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self.link.send(Start(config=config))
                ready = await self.link.receive()
        except (LinkClosed, ProtocolViolation, TimeoutError) as exc:
            if isinstance(exc, LinkClosed):
                await asyncio.wait({self.died}, timeout=KILL_TIMEOUT)
            death = await self.kill("it did not become ready")
            if not (death.own or death.reason):
                # Somebody's SIGKILL: the next one may start. One that waited may have been killed long ago, unseen.
                if self.waited:
                    raise ZygoteGone("a guest that was kept ready was killed") from exc
                raise GuestDied(death) from exc
            msg = f"a guest did not start ({str(exc) or 'no answer in time'}): {death.words}"
            raise GuestFailed(msg) from exc
        except BaseException:
            await self.kill("its start was given up")
            raise
        if not isinstance(ready, Ready):
            await self.kill("it spoke before it was ready")
            msg = f"a guest began with a message of type {ready.t}"
            raise GuestFailed(msg)
        if ready.protocol != PROTOCOL:
            # A zygote that another version of this package started, or half of an update.
            await self.kill("it speaks another version of the protocol")
            msg = (
                f"a guest speaks version {ready.protocol} of the protocol and this worker version {PROTOCOL}: "
                "start the worker again, with one version of perdure installed"
            )
            raise GuestFailed(msg)
        self.isolation, self.python = ready.isolation, ready.python

    @classmethod
    async def start(cls, config: Config, lock: WorkspaceLock, zygote: Zygote) -> Guest:
        """Fork a guest for a session that is there. Raises GuestFailed, ZygoteGone."""
        guest = await cls.fork(zygote)
        await guest.begin(config, lock)
        return guest

    @property
    def pid(self) -> int:
        """Its number, as this side counts."""
        return self.process.pid

    def _gone(self) -> None:
        """Its pidfd became readable: the process has ended; the zygote says how, a moment later."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.pidfd)
        self._closed()
        if self._how == UNKNOWN:
            self._die(signal.SIGKILL, None)
        elif self._how is None:
            loop.call_later(STATUS_TIMEOUT, self._die, None, None)

    def _ended(self, ended: asyncio.Future[tuple[int | None, int | None]]) -> None:
        """The zygote told how it ended."""
        self._how = ended.result()
        if self._how == UNKNOWN:
            # The zygote has ended, and the kernel is ending this guest: dead is only who is seen dead.
            if self.pidfd < 0:
                self._die(signal.SIGKILL, None)
            self.signal(signal.SIGKILL)
            return
        if self.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            self._closed()
        self._die(*self._how)

    def _closed(self) -> None:
        os.close(self.pidfd)
        self.pidfd = -1
        # Where code may start processes, they share its process group; nothing of a guest outlives it.
        if self.pid > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.link.close()

    def _die(self, number: int | None, code: int | None) -> None:
        if number == signal.SIGXCPU and not self._reason:
            self._limit, self._reason = "cpu_seconds", "it used all the CPU seconds it may"
        if not self.died.done():
            if number is None and code is not None and code - BY_SIGNAL == self._sent_itself():
                number, code = code - BY_SIGNAL, None
            own = number is None or number in OF_CODE or number == self._sent_itself()
            words = last_words.take(self.words)
            self.died.set_result(Death(number, code, self._reason, self._limit, own, words))

    def _sent_itself(self) -> int | None:
        if self._lock is None:
            return None
        with contextlib.suppress(OSError):
            fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return own_signal(fd)
            finally:
                os.close(fd)
        return None

    @property
    def alive(self) -> bool:
        """Whether the process has not been seen dead."""
        return not self.died.done()

    def signal(self, number: int) -> None:
        """Send the guest a signal, if it lives."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def freeze(self) -> None:
        """Stop every thread of the guest where it is."""
        self.signal(signal.SIGSTOP)
        self.frozen = self.link.frozen = True

    def thaw(self) -> None:
        """Let a frozen guest go on."""
        self.frozen = self.link.frozen = False
        self.signal(signal.SIGCONT)

    async def exceed(self, limit: str, reason: str) -> Death:
        """Kill the guest for a limit of its session, and wait until it is gone."""
        self._limit = limit
        return await self.kill(reason)

    async def kill(self, reason: str) -> Death:
        """Kill the guest and wait until it is gone."""
        if self.alive:
            self._reason = self._reason or reason
            self.signal(signal.SIGKILL)
        return await asyncio.shield(self.died)


def _evict(lock: int) -> None:
    identity = os.pread(lock, IDENTITY_SIZE, 0).decode(errors="replace").strip()
    parts = identity.split("/")
    if len(parts) != IDENTITY_PARTS or not parts[1].isdigit() or identity_of(int(parts[1])) != identity:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(int(parts[1]), signal.SIGKILL)
