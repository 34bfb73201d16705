"""Start a real guest process at a level, run code in it, and say what came back.

Used by the tests and, as a plain module, by the host process that the attacks are aimed at; so it imports no test tool.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from perdure.workers.confine.interpreter import GUEST_FLAGS, guest_environment
from perdure.workers.confine.policy import Policy

PATIENCE = 20.0

# The order the real guest keeps: own runtime first, then confinement, then user code.
BOOTSTRAP = """
import json, os, socket, struct, sys
number = int(sys.argv[1])
if number != 3:
    os.dup2(number, 3)
    os.close(number)
channel = socket.socket(fileno=3)
def say(**message):
    body = json.dumps(message).encode()
    channel.sendall(struct.pack(">I", len(body)) + body)
def hear():
    size, = struct.unpack(">I", channel.recv(4, socket.MSG_WAITALL))
    return json.loads(channel.recv(size, socket.MSG_WAITALL))
from perdure.workers.guest import confine
order = hear()
exec(order["before"], {"confine": confine, "os": os, "sys": sys})
try:
    report = confine.apply(order["policy"])
except confine.ConfinementFailed as problem:
    say(failed=[problem.layer, problem.errno, problem.message])
    os._exit(confine.REFUSED_EXIT)
say(report=report)
import traceback
try:
    exec(compile(order["code"], "<guest>", "exec"), {"__name__": "__main__", "say": say, "hear": hear})
except BaseException as problem:
    say(error=type(problem).__name__, text="".join(traceback.format_exception(problem)))
    os._exit(1)
say(done=True)
"""


@dataclass
class Outcome:
    """How a guest ended: what it said, and its exit status (negative: the signal)."""

    said: list[dict[str, Any]] = field(default_factory=list)
    status: int | None = None
    stderr: str = ""

    @property
    def report(self) -> dict[str, Any] | None:
        """The layers the guest reported, or None where it was never confined."""
        return next((message["report"] for message in self.said if "report" in message), None)

    @property
    def failed(self) -> list[Any] | None:
        """Layer, errno and message of a confinement that failed."""
        return next((message["failed"] for message in self.said if "failed" in message), None)

    @property
    def done(self) -> bool:
        """Whether the code ran to its end."""
        return {"done": True} in self.said

    def value(self, name: str) -> Any:
        """What the code said under this name; fails loudly, with the guest's own words, where it said nothing."""
        for message in self.said:
            if name in message:
                return message[name]
        raise AssertionError(f"the guest never said {name!r}: {self}")


class Guest:
    """One guest process with its channel; a context manager that leaves nothing behind."""

    def __init__(
        self,
        policy: Policy,
        code: str,
        *,
        before: str = "",
        folder: Path = Path("/"),
        keep: tuple[int, ...] = (),
    ) -> None:
        """Start it; `before` runs in the guest ahead of confinement.

        It starts in the policy's first writable folder, or in `folder` where the policy names none.
        """
        here, there = socket.socketpair()
        folders = policy.read_write or (folder,)
        command = [sys.executable, *GUEST_FLAGS, "-c", BOOTSTRAP, str(there.fileno())]
        self.channel = here
        self.channel.settimeout(PATIENCE)
        self.process = subprocess.Popen(
            command,
            env=guest_environment(folders[0], folders[-1]),
            cwd=folders[0],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(there.fileno(), *keep),
            start_new_session=True,
        )
        there.close()
        self.outcome = Outcome()
        self.tell(policy=policy.to_wire(), code=code, before=before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def tell(self, **message: Any) -> None:
        """Send the guest one message."""
        body = json.dumps(message).encode()
        self.channel.sendall(struct.pack(">I", len(body)) + body)

    def hear(self) -> dict[str, Any] | None:
        """The guest's next message, or None once it is gone."""
        try:
            head = self.channel.recv(4, socket.MSG_WAITALL)
            if len(head) < 4:
                return None
            (size,) = struct.unpack(">I", head)
            body = self.channel.recv(size, socket.MSG_WAITALL)
        except ConnectionResetError:
            return None
        message: dict[str, Any] = json.loads(body)
        self.outcome.said.append(message)
        return message

    def finish(self) -> Outcome:
        """Hear the guest out and reap it."""
        while self.hear() is not None:
            pass
        _, stderr = self.process.communicate(timeout=PATIENCE)
        self.outcome.status = self.process.returncode
        self.outcome.stderr = stderr.decode("utf-8", "replace")
        return self.outcome


def run_guest(policy: Policy, code: str, *, before: str = "", folder: Path = Path("/")) -> Outcome:
    """Run code in a guest to its end."""
    with Guest(policy, code, before=before, folder=folder) as guest:
        return guest.finish()


def ready_workspace(folder: Path) -> Path:
    """A fresh workspace with its own folder for temporary files."""
    workspace = folder / f"workspace-{os.urandom(4).hex()}"
    (workspace / "tmp").mkdir(parents=True)
    return workspace
