"""A small host: starts a real guest process over a real socket pair and speaks frames with it."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from perdure.capabilities.values import decode, encode
from perdure.workers.guest.launch import argv, environment
from perdure.workers.guest.wire import CHUNK, MESSAGE, Chunk, Decoder, Framer, Streams, chunk_payloads, message_payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GRANTS = [
    {
        "name": name,
        "doc": "",
        "signature": "(x=None, y=None, *, z=None)",
        "params": [
            {"name": "x", "keyword_only": False, "required": False},
            {"name": "y", "keyword_only": False, "required": False},
            {"name": "z", "keyword_only": True, "required": False},
        ],
    }
    for name in ("http.get", "http.post", "ask", "echo")
]

#: Seconds a test waits for one message before it says so.
PATIENCE = 20.0

#: Starts a guest: interpreter, configuration, channel, descriptor of its log; returns the process's id.
type Spawn = Callable[[str, dict[str, Any], int, int], int]
type Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


def echo(call: dict[str, Any]) -> dict[str, Any]:
    """Answer a call with its argument ``x``."""
    return {"value": call["args"].get("x")}


class Done:
    """What came of an execution."""

    def __init__(self, message: dict[str, Any], seen: list[dict[str, Any]]) -> None:
        self.message = message
        self.seen = seen

    def __getattr__(self, name: str) -> Any:
        return self.message.get(name)

    @property
    def result(self) -> Any:
        return decode(self.message.get("value"))

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(each["stream"], each["text"]) for each in self.seen if each["t"] == "output"]

    @property
    def stdout(self) -> str:
        return "".join(text for stream, text in self.writes if stream == "stdout")

    @property
    def stderr(self) -> str:
        return "".join(text for stream, text in self.writes if stream == "stderr")

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [each for each in self.seen if each["t"] == "call"]

    @property
    def entered(self) -> list[list[Any]]:
        """All deliveries reported, checking that their numbers have no gap."""
        items: list[list[Any]] = []
        reports = [each["entered"] for each in [*self.seen, self.message] if each.get("entered")]
        for report in reports:
            assert report["at"] == reports[0]["at"] + len(items)
            items += report["items"]
        return items


class Host:
    """The other end of a guest."""

    def __init__(
        self,
        session: str = "analysis",
        seed: int = 42,
        python: str = sys.executable,
        limits: Any = None,
        spawn: Spawn | None = None,
        folder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.folder = folder or tempfile.TemporaryDirectory()
        self.workspace = Path(self.folder.name)
        self.session = session
        self.number = 0
        self.config = {
            "session": session,
            "seed": seed,
            "grants": GRANTS,
            "limits": limits or {},
            "isolation": None,
            "workspace": str(self.workspace),
            "incarnation": "i",
        }
        self._sock, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as log, theirs:
            self.log = os.dup(log.fileno())
            self.pid = (spawn or _spawn)(python, self.config, theirs.fileno(), self.log)
        self._status: int | None = None
        self._decoder = Decoder()
        self._framer = Framer()
        self.streams = Streams()
        self._next_stream = 0
        self._frames: list[dict[str, Any]] = []
        self.send({"t": "start", "config": self.config})
        self.ready = self.receive()
        assert self.ready["t"] == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.folder.cleanup()

    def kill(self) -> None:
        """Kill the guest; its workspace stays."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self._sock.close()
        os.close(self.log)

    def wait(self) -> int:
        """Return the exit code of the guest, negative for a signal, once it has ended."""
        if self._status is None:
            try:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # `spawn` had somebody else start it
                self._status = -signal.SIGKILL
        return self._status

    def leave(self) -> None:
        """Close our end of the channel."""
        self._sock.close()

    def send(self, message: dict[str, Any]) -> None:
        self._sock.sendall(self._framer.frame(MESSAGE, message_payload(message)))

    def send_stream(self, data: bytes) -> int:
        self._next_stream += 1
        self.send({"t": "stream", "id": self._next_stream, "size": len(data)})
        for payload in chunk_payloads(self._next_stream, data):
            self._sock.sendall(self._framer.frame(CHUNK, payload))
        return self._next_stream

    def printed(self) -> str:
        return os.pread(self.log, 100_000, 0).decode(errors="replace")

    def maybe_receive(self, timeout: float) -> dict[str, Any] | None:
        """Return the next message, or None after that long."""
        until = time.monotonic() + timeout
        while not self._frames:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._sock], [], [], left)[0]:
                return None
            try:
                data = self._sock.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                code = self.wait()
                msg = f"the guest is gone ({code}): {self.printed()}"
                raise EOFError(msg)
            for frame in self._decoder.feed(data):
                if isinstance(frame, Chunk):
                    self.streams.add(frame)
                elif frame["t"] == "stream":
                    self.streams.announce(frame["id"], frame["size"])
                else:
                    self._frames.append(frame)
        return self._frames.pop(0)

    def receive(self) -> dict[str, Any]:
        message = self.maybe_receive(PATIENCE)
        if message is None:
            msg = f"nothing came for {PATIENCE} s: {self.printed()}"
            raise TimeoutError(msg)
        return message

    def begin(self, code: str, replay: Any = None, **fields: Any) -> None:
        """Send an execution without waiting for anything."""
        self.number += 1
        execution = f"{self.session}@{self.number}"
        message: dict[str, Any] = {"t": "execute", "execution": execution, "code": code, "filename": None, "argv": []}
        message |= {"flags": {}, "step": 0, "grants": GRANTS, **fields}
        if replay is not None:
            data = json.dumps(replay).encode()
            message["replay_stream"] = self.send_stream(data)
        self.send(message)

    def reply(self, path: str, **outcome: Any) -> None:
        if "value" in outcome:
            outcome["value"] = encode(outcome["value"])
        self.send({"t": "reply", "path": path, **outcome})

    def finish(self, answer: Answer = echo, seen: list[dict[str, Any]] | None = None) -> Done:
        """Answer calls until the execution is over."""
        seen = [] if seen is None else seen
        while True:
            message = self.receive()
            if message["t"] == "done":
                if "value_stream" in message:
                    message["value"] = json.loads(self.streams.take(message["value_stream"]))
                return Done(message, seen)
            seen.append(message)
            if message["t"] == "diverged":
                return Done({"status": "diverged", **message}, seen)
            if message["t"] == "call" and (outcome := answer(message)) is not None:
                self.send({"t": "reply", "path": message["path"], **outcome})

    def run(self, code: str, answer: Answer = echo, replay: Any = None, **fields: Any) -> Done:
        """Run code to its end."""
        self.begin(code, replay, **fields)
        return self.finish(answer)

    def until(self, kind: str, seen: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Return the next message of that type."""
        while True:
            message = self.receive()
            if message["t"] == kind:
                return message
            if seen is not None:
                seen.append(message)

    def cancel(self) -> None:
        self.send({"t": "cancel"})
        os.kill(self.pid, signal.SIGUSR1)

    def idle(self, seen: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        return self.until("idle", seen)


def recorded(entered: Iterable[list[Any]], outcomes: dict[str, Any]) -> dict[str, Any]:
    """Return the replay for reported deliveries, with the outcomes of calls by path."""
    deliveries = [[*item, outcomes[item[1]]] if item[0] == "r" else item for item in entered]
    return {"deliveries": deliveries, "timers": {}, "consumed": len(deliveries)}


def _spawn(python: str, config: dict[str, Any], channel: int, log: int) -> int:
    high = fcntl.fcntl(channel, fcntl.F_DUPFD_CLOEXEC, 64)
    nowhere = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in ((nowhere, 0), (log, 1), (log, 2), (high, 3))]
    folder = os.open(".", os.O_RDONLY)
    try:
        os.chdir(config["workspace"])
        return os.posix_spawn(python, argv(python), environment(), file_actions=actions, setsid=True)
    finally:
        os.fchdir(folder)
        for fd in (folder, high, nowhere):
            os.close(fd)
