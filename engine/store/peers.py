"""The wires between the processes of one file: one Unix socket each, beside it.

1. What travels here is only ever a hint that the file has something new; the file alone decides.
2. A wire that ends is how a death is noticed at once; whether it was one, the member's lock says.
3. A peer that does not read (a stopped process) is never waited for: what it misses it finds in the file.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from .members import Peer

BY_DESCRIPTOR: Final = Path("/proc/self/fd").is_dir()  # whether a folder can be named by its descriptor
BACKLOG_BYTES: Final = 1 << 20  # unread by a peer: it is stopped, and finds the rest in the file
BACKLOG_PEERS: Final = 100  # connecting at once: as many as asyncio's servers hold
DEAF_SECONDS: Final = 1.0  # where no descriptor is left for a peer that connects
EARLY_NOTICES: Final = 1_000  # kept for a member that is listed but not connected yet
LINE_LIMIT: Final = 1 << 20  # a notice holds one promise id


class Notice(Struct, omit_defaults=True):
    """One line between two members."""

    hello: int = 0  # the sender's member id; the first line of the connecting side
    execute: tuple[str, int] | None = None  # a task offered to the receiver, and its version
    fetch: bool = False  # the outbox has something for the receiver
    watch: bool = False  # the sender wants to hear of the receiver's next commit
    changed: bool = False  # the sender has committed


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Notice)


class Listener(Protocol):
    """What a process does about its peers."""

    def on_execute(self, task: str, version: int) -> None: ...
    def on_fetch(self) -> None: ...
    def on_changed(self) -> None: ...
    def on_lost(self, member: int) -> None: ...


class _Wire:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._armed = False
        self._told = -1

    def send(self, notice: Notice) -> None:
        if self._writer.transport.get_write_buffer_size() < BACKLOG_BYTES:
            self._writer.write(_encoder.encode(notice) + b"\n")

    def watched(self, commits: int) -> None:
        """The peer wants to hear of the next commit: of one it has not heard of yet, right away."""
        self._armed = True
        if self._told != commits:
            self.committed(commits)

    def committed(self, commits: int) -> None:
        if self._armed:
            self._armed = False
            self._told = commits
            self.send(Notice(changed=True))

    def close(self) -> None:
        self._writer.close()


class Peers:
    """This process's wires to the others; lives on one event loop."""

    def __init__(self, folder: Path, name: str, listener: Listener) -> None:
        self._folder = folder
        self._name = name
        self._listener = listener
        self._member = 0
        self._directory: int | None = None
        self._ear: socket.socket | None = None
        self._incoming: set[socket.socket] = set()
        self._wires: dict[int, _Wire] = {}
        self._reaching: set[int] = set()
        self._early: dict[int, list[Notice]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._commits = 0
        self._watching = False

    def listen(self) -> None:
        """Open this process's socket, or another in its place; to be done before it is listed, on the event loop.

        Raises:
            OSError: the folder cannot hold a socket.
        """
        self._deafen()
        if BY_DESCRIPTOR:
            self._directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._ear.bind(self._address(self._name))
        self._ear.listen(BACKLOG_PEERS)
        asyncio.get_running_loop().add_reader(self._ear, self._accept, self._ear)

    def _deafen(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            asyncio.get_running_loop().remove_reader(ear)
            ear.close()
        directory, self._directory = self._directory, None
        if directory is not None:
            os.close(directory)

    def heard(self) -> bool:
        """Whether others can still find the socket."""
        return (self._folder / f"{self._name}.sock").exists()

    def _address(self, name: str) -> str:
        # A socket's address is bound to 107 bytes, a folder's path is not.
        folder = self._folder if self._directory is None else f"/proc/self/fd/{self._directory}"
        return f"{folder}/{name}.sock"

    def connect(self, member: int, others: list[Peer]) -> None:
        """Connect to every member that was there first; those that come later connect to us."""
        self._member = member
        for peer in others:
            if peer.id < member and peer.id not in self._reaching:
                self._reaching.add(peer.id)
                self._spawn(self._reach(peer))

    def connected(self, member: int) -> bool:
        """Whether a wire to a member is open, so that its end would be noticed."""
        return member in self._wires

    async def close(self) -> None:
        """Cut every wire."""
        self._deafen()  # first: what came in afterwards would be cut by nobody
        for wire in self._wires.values():
            wire.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for accepted in self._incoming:  # a task cancelled before its first step has taken nothing over
            accepted.close()
        self._incoming.clear()

    def send(self, member: int, notice: Notice) -> None:
        """Tell one member; one that is not connected yet is told when it is."""
        wire = self._wires.get(member)
        if wire is not None:
            wire.send(notice)
            return
        early = self._early.setdefault(member, [])
        if len(early) < EARLY_NOTICES:
            early.append(notice)

    def committed(self) -> None:
        """Tell those who watch that this process has committed."""
        self._commits += 1
        for wire in self._wires.values():
            wire.committed(self._commits)

    def watch(self, *, on: bool) -> None:
        """Ask every peer for word of its next commit, or stop asking those that come."""
        self._watching = on
        if on:
            for wire in self._wires.values():
                wire.send(Notice(watch=True))

    def forget(self, member: int) -> None:
        """A member is gone for good."""
        self._early.pop(member, None)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reach(self, peer: Peer) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._address(peer.name), limit=LINE_LIMIT)
        except OSError:
            self._listener.on_lost(peer.id)
            return
        finally:
            self._reaching.discard(peer.id)
        writer.write(_encoder.encode(Notice(hello=self._member)) + b"\n")
        await self._serve(peer.id, reader, writer)

    def _accept(self, ear: socket.socket) -> None:
        try:
            accepted, _ = ear.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # no descriptor is left: without a pause, the loop would spin on this until one is
            loop = asyncio.get_running_loop()
            loop.remove_reader(ear)
            loop.call_later(DEAF_SECONDS, self._hear_again, ear)
            return
        self._incoming.add(accepted)
        self._spawn(self._greet(accepted))

    def _hear_again(self, ear: socket.socket) -> None:
        if ear is self._ear:
            asyncio.get_running_loop().add_reader(ear, self._accept, ear)

    async def _greet(self, accepted: socket.socket) -> None:
        self._incoming.discard(accepted)
        try:
            reader, writer = await asyncio.open_unix_connection(sock=accepted, limit=LINE_LIMIT)
        except OSError:
            return
        try:
            member = _decoder.decode(await reader.readline()).hello
        except (OSError, ValueError, msgspec.MsgspecError):
            writer.close()
        except asyncio.CancelledError:
            writer.close()
            raise
        else:
            await self._serve(member, reader, writer)

    async def _serve(self, member: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = self._wires[member] = _Wire(writer)
        for notice in self._early.pop(member, []):
            wire.send(notice)
        if self._watching:
            wire.send(Notice(watch=True))
        try:
            while line := await reader.readline():
                self._heard(_decoder.decode(line), wire)
        except (OSError, ValueError, msgspec.MsgspecError):
            pass  # a wire that cannot be read is a wire that ended
        finally:
            if self._wires.get(member) is wire:
                del self._wires[member]
            writer.close()
        self._listener.on_lost(member)

    def _heard(self, notice: Notice, wire: _Wire) -> None:
        if notice.execute is not None:
            self._listener.on_execute(*notice.execute)
        if notice.fetch:
            self._listener.on_fetch()
        if notice.changed:
            self._listener.on_changed()
        if notice.watch:
            wire.watched(self._commits)
