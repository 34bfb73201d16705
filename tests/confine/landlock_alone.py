"""What each version of Landlock refuses by itself, without the filter of system calls: a program, and its table.

Run as a program in a folder of its own, it prints what came of each attempt under each version this kernel can be.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.workers.guest import confine_kernel, confine_landlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: The first kernel of each version.
KERNELS = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7", 5: "6.10", 6: "6.12", 7: "6.15"}
REFUSED, SUCCEEDS = "refused", "succeeds"
#: Each attempt, and the first version that refuses it.
SINCE = {
    "read a file outside": 1,
    "truncate a file outside": 3,
    "connect to a TCP port": 4,
    "command a device": 5,
    "signal the host": 6,
    "connect to an abstract Unix socket": 6,
}
#: What guests may do, and the first version that can tell it from what they may not.
MOVE, MOVES_SINCE = "move a file between folders of the workspace", 2


def expected(versions: Iterable[int] = KERNELS) -> dict[str, dict[str, str]]:
    """What is to come of each attempt, by version."""
    return {
        str(abi): {
            **{what: REFUSED if abi >= since else SUCCEEDS for what, since in SINCE.items()},
            MOVE: SUCCEEDS if abi >= MOVES_SINCE else REFUSED,
        }
        for abi in versions
    }


def versions() -> range:
    """Those that this kernel can be made to have."""
    return range(1, min(confine_landlock.kernel_abi(), confine_landlock.KNOWN_ABI) + 1)


def found(folder: Path) -> dict[str, dict[str, str]]:
    """Run the attempts in a process of their own."""
    command = [sys.executable, "-m", "tests.confine.landlock_alone", str(folder)]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True, timeout=60)
    said: dict[str, dict[str, str]] = json.loads(done.stdout)
    return said


def table(said: dict[str, dict[str, str]]) -> str:
    """The attempts by version, in words."""
    lines = [
        f"| by Landlock alone | {' | '.join(f'{abi} (Linux {KERNELS[int(abi)]})' for abi in said)} |",
        f"|---|{'---|' * len(said)}",
    ]
    for what in (*SINCE, MOVE):
        cells = [f"**{said[abi][what]}**" if said[abi][what] == SUCCEEDS else said[abi][what] for abi in said]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _attempts(folder: Path) -> dict[str, Callable[[], Any]]:
    outside, workspace = folder / "outside", folder / "workspace"
    tcp = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0perdure-landlock-{os.getpid()}")
    abstract.listen()
    host = os.getpid()

    def command() -> None:
        with Path("/dev/null").open("rb") as device:
            try:
                fcntl.ioctl(device, termios.TCGETS, ctypes.create_string_buffer(64))
            except OSError as problem:
                # The device itself said that it is no terminal.
                if problem.errno != errno.ENOTTY:
                    raise

    return {
        "read a file outside": outside.read_bytes,
        "truncate a file outside": lambda: os.truncate(outside, 0),
        "connect to a TCP port": lambda: socket.socket().connect(tcp.getsockname()),
        "command a device": command,
        "signal the host": lambda: os.kill(host, signal.SIGUSR1),
        "connect to an abstract Unix socket": lambda: socket.socket(socket.AF_UNIX).connect(abstract.getsockname()),
        MOVE: lambda: (workspace / "one" / "file").rename(workspace / "two" / "file"),
    }


def _outcomes(abi: int, workspace: Path, attempts: dict[str, Callable[[], Any]]) -> dict[str, str]:
    confine_kernel.prctl(confine_kernel.PR_SET_NO_NEW_PRIVS, 1)
    confine_landlock.restrict(abi, ["/dev/null"], [str(workspace)])
    outcomes = {}
    for what, attempt in attempts.items():
        try:
            attempt()
        except OSError as problem:
            refused = problem.errno in (errno.EACCES, errno.EPERM, errno.EXDEV)
            outcomes[what] = REFUSED if refused else str(problem)
        else:
            outcomes[what] = SUCCEEDS
    return outcomes


def main(folder: Path) -> None:
    """Try everything under each version, in a child each, and print it."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    (folder / "outside").write_text("kept")
    for name in ("one", "two"):
        (folder / "workspace" / name).mkdir(parents=True)
    attempts = _attempts(folder)
    said = {}
    for abi in versions():
        (folder / "workspace" / "one" / "file").touch()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, json.dumps(_outcomes(abi, folder / "workspace", attempts)).encode())
            os._exit(0)
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0, abi
        said[str(abi)] = json.loads(os.read(reader, 4096))
        os.close(reader)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
