"""Runs a program outside and inside, and says what there was to see of it, alike for both."""

from __future__ import annotations

import array
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from perdure.workers.guest.launch import argv, environment
from tests.guest.harness import Done, Host

from .corpus import Program

if TYPE_CHECKING:
    from perdure.engine import Client

__all__ = ["Seen", "Warm", "genuine", "inside", "outside", "restored"]

HERE = Path(__file__).parent
DESCRIBE = HERE / "describe.py"
FILE = "prog.py"
#: The same for both sides: what iteration orders depend on.
SEED = 42
#: Seconds a program may take outside; inside, the harness has its own patience.
PATIENCE = 20.0

_ADDRESS = re.compile(r"\b0x[0-9a-f]{4,}")
_IDENTITY = re.compile(r"\bid='\d+'")
_WORKSPACE = re.compile(r"/[\w/.-]*/workspaces/[\w-]+(/prog\.py)?")
_TEMPORARY = re.compile(r"\btmp\w{8}\b")
_CELL = re.compile(r"<d[\w-]*@\d+>")
#: Run in a guest when the program is over: the description is the value of the expression.
_SHOW_SENT = f"(lambda to: (exec({DESCRIBE.read_text()!r}, to), to['describe'](globals()))[1])({{'__name__': 'd'}})"
_SHOW = "__import__('sys').modules['_perdure_describe'].describe(globals())"


@dataclass(slots=True)
class Seen:
    """What a program did: its output, how it ended, and what it left."""

    stdout: str = ""
    stderr: str = ""
    code: int = 0
    error: dict[str, Any] = field(default_factory=dict)
    names: Any = None
    #: What results said that a checkpoint could not keep.
    lost: set[str] = field(default_factory=set)

    def differences(self, other: Seen) -> dict[str, tuple[Any, Any]]:
        """Return by field what differs, as pairs."""
        found: dict[str, tuple[Any, Any]] = {}
        for name in ("stdout", "stderr", "code", "error"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "error" and mine and "line" not in theirs:
                # The line is one of the submission that failed; where functions of others fail, the traceback tells.
                mine = {key: value for key, value in mine.items() if key != "line"}
            if mine != theirs:
                found[name] = (mine, theirs)
        mine, theirs = dict(self.names or []), dict(other.names or [])
        if list(mine) != list(theirs):
            found["names"] = (list(mine), list(theirs))
        for name in mine.keys() & theirs.keys():
            if mine[name] != theirs[name]:
                found[f"names[{name}]"] = (mine[name], theirs[name])
        return found


def refuse(_call: dict[str, Any]) -> dict[str, Any]:
    """Answer a call that no program has any business to make."""
    return {"error": {"type": "CapabilityNotGranted", "message": "nothing is granted to a program of the corpus"}}


class Warm:
    """A warm process that is forked for each program."""

    def __init__(self, kind: str) -> None:
        mine, theirs = socket.socketpair()
        command = [*argv(sys.executable)[:-2], str(HERE / "warm.py"), kind, *_places()]
        self._folder = tempfile.TemporaryDirectory()
        env = {**environment(), "HOME": self._folder.name, "TMPDIR": self._folder.name}
        env = {name: value for name, value in env.items() if not name.startswith("PERDURE")}
        self._process = subprocess.Popen(command, stdin=theirs.fileno(), env=env, cwd=self._folder.name)
        theirs.close()
        self._line = mine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()
        self._process.wait()
        self._folder.cleanup()

    def fork(self, order: dict[str, Any], fds: list[int]) -> int:
        """Fork for this order; returns the process's id."""
        socket.send_fds(self._line, [json.dumps(order).encode()], fds)
        return array.array("i", self._line.recv(4))[0]

    def spawn(self, _python: str, _config: dict[str, Any], channel: int, log: int) -> int:
        """Start a guest, as the harness of the guest's tests has it."""
        return self.fork({}, [channel, log])


def _places() -> list[str]:
    return environment()["PERDURE_GUEST"].split(os.pathsep)


def outside(warm: Warm, program: Program) -> Seen:
    """Run a program as ``python FILE`` does."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        path = Path(folder) / FILE
        path.write_text(program.code, newline="")
        reading, writing = os.pipe()
        order = {"file": str(path), "awaits": program.awaits}
        warm.fork(order, [out.fileno(), err.fileno(), writing])
        os.close(writing)
        with open(reading, "rb") as names:
            data = names.read()
        out.seek(0)
        err.seek(0)
        seen = Seen(_plain(out.read().decode("utf-8", "backslashreplace"), folder), _plain(err.read().decode(), folder))
        assert data, f"{program.name} ended outside without a word: {seen.stderr}"
        answer = json.loads(data)
        seen.code, seen.error, seen.names = answer["code"], answer["error"], _plain_data(answer["names"], folder)
        if seen.error:
            seen.error["message"] = _plain(seen.error["message"], folder)
        return seen


def genuine(program: Program) -> Seen:
    """Run a program by a new interpreter: the very ``python FILE`` that the warm one stands for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_text(program.code, newline="")
        env = {**environment(), "HOME": folder, "TMPDIR": folder, "PWD": folder}
        env = {name: value for name, value in env.items() if not name.startswith("PERDURE")}
        command = [sys.executable, "-s", "-X", "utf8", str(path)]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=PATIENCE, check=False)
        out, err = (each.decode("utf-8", "backslashreplace") for each in (done.stdout, done.stderr))
        return Seen(_plain(out, folder), _plain(err, folder), done.returncode)


def inside(host: Host, codes: list[str], *, as_file: bool = True) -> Seen:
    """Run pieces of code one after another in a guest, until one fails."""
    named: dict[str, Any] = {"filename": FILE, "argv": [FILE]} if as_file else {}
    seen = Seen()
    folder = str(host.workspace)
    for code in codes:
        done = host.run(code, refuse, grants=[], **named)
        _add(seen, done, folder)
        if done.status != "ok":
            break
    shown = host.run(_SHOW, grants=[])
    assert shown.status == "ok", shown.error
    seen.names = _plain_data(shown.result, folder)
    if not as_file:
        seen.error.pop("line", None)
    return seen


async def restored(client: Client, session: str, codes: list[str]) -> Seen:
    """Run pieces of code one after another in a new session whose worker keeps no guest, until one fails.

    Each begins in a new process, with what the checkpoint of the one before gave back.
    """
    made = await client.session(session)
    seen = Seen()
    for code in codes:
        execution = await made.submit(code, wait=True)
        async with asyncio.timeout(PATIENCE):
            result = await execution.result()
        async for event in execution.events():
            if event.type == "output":
                text = _plain(event.text, "/nowhere")
                seen.stdout += text if event.stream == "stdout" else ""
                seen.stderr += text if event.stream == "stderr" else ""
        seen.lost |= {each.name for each in result.lost}
        if result.status == "exit":
            seen.code = result.exit_code or 0
        elif result.status != "ok":
            assert result.error is not None
            seen.code = 1
            seen.stderr += _plain(result.error.traceback, "/nowhere")
            seen.error = {
                name: _plain(getattr(result.error, name), "/nowhere") for name in ("type", "module", "message")
            }
        if result.status != "ok" or seen.lost:
            break  # what is lost was named: whoever waits for it waits in vain
    if seen.lost:
        return seen
    shown = await (await made.submit(_SHOW_SENT, wait=True)).result()
    assert shown.status == "ok", shown.error
    seen.names = _plain_data(shown.value, "/nowhere")
    return seen


def _add(seen: Seen, done: Done, folder: str) -> None:
    seen.stdout += _plain(done.stdout, folder)
    seen.stderr += _plain(done.stderr, folder)
    if done.status == "exit":
        seen.code = done.code
    elif done.status != "ok":
        seen.code = 1
        seen.stderr += _plain(done.error["traceback"], folder)
        seen.error = {name: done.error[name] for name in ("type", "module", "message", "line")}
        seen.error["message"] = _plain(seen.error["message"], folder)


def _plain(text: str, folder: str) -> str:
    """Take out of a text what no two runs share: addresses, the folder, the names of submissions."""
    text = _WORKSPACE.sub(lambda found: FILE if found[1] else ".", text)
    text = _CELL.sub(FILE, text.replace(f"{folder}/{FILE}", FILE).replace(folder, "."))
    return _ADDRESS.sub("0x", _IDENTITY.sub("id=", _TEMPORARY.sub("tmp", text)))


def _plain_data(data: Any, folder: str) -> Any:
    return json.loads(_plain(json.dumps(data), folder))
