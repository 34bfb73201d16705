"""The host that is attacked: a program of its own, so that it may be an ordinary user, and be harmed.

It sets out what a host has (secrets, sockets, a sibling guest), starts real guests at one level, lets them run the
attack list, looks at itself and its files for what was done to it, and prints all of it as JSON.

Usage: victim.py FOLDER LEVEL ABI [UID PATH...]   where LEVEL is process, core or full, and ABI is the version of
Landlock that the kernel is made to have (0: its own); with one, what has nothing to do with it is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

MARKER = "marker-of-a-secret-that-no-guest-may-see"
HERE = Path(__file__).parent
#: As it was when nobody had attacked: whoever runs the tests may have chosen another than the usual one.
PRIORITY = os.getpriority(os.PRIO_PROCESS, 0)

RUNNER = """
import json
TARGETS.update(json.loads({targets!r}))
for name in {names!r}:
    say(trying=name)
    say(outcome=[name, attempt({table}[name])])
say(controls=controls())
"""

_MS_REC_PRIVATE, _MS_BIND = 0x4000 | 0x40000, 0x1000 | 0x4000


def become_ordinary(uid: int, needed: list[Path]) -> None:
    """Give up root for good, keeping what lies in folders that only root may enter reachable for this process."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
        if libc.mount(source.encode(), bytes(target), kind.encode(), ctypes.c_ulong(flags), data.encode()):
            raise OSError(ctypes.get_errno(), f"mount {target}")

    os.unshare(os.CLONE_NEWNS)
    mount("none", Path("/"), "none", _MS_REC_PRIVATE)
    handles = [(path, os.open(path, os.O_PATH)) for path in needed if closed_folder(path)]
    for closed in {closed_folder(path) for path, _ in handles}:
        assert closed is not None
        mount("none", closed, "tmpfs", 0, "mode=755")
    for path, handle in handles:
        path.mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{handle}", path, "none", _MS_BIND)
        os.close(handle)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def closed_folder(path: Path) -> Path | None:
    """The outermost folder on the way to the path that others may not enter."""
    folders = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & stat.S_IXOTH]
    return folders[0] if folders else None


class Scene:
    """What a host has that a guest may want, and what was done to it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.library = folder / "library"
        self.workspaces = folder / "state" / "workspaces"
        for each in (self.home, self.library, self.workspaces / "sibling"):
            each.mkdir(parents=True)
        names = ("secret", "profile", "movable", "deletable", "truncatable", "chmodable")
        self.files = {name: self.home / name for name in names}
        self.files["module"] = self.library / "module.py"
        self.files["readable"] = self.library / "readable.py"
        self.files["sibling_file"] = self.workspaces / "sibling" / "data"
        for path in self.files.values():
            path.write_text(f"{MARKER}\n")
            path.chmod(0o640)
        self.signals: list[int] = []
        for number in (signal.SIGUSR1, signal.SIGIO):
            signal.signal(number, lambda got, _: self.signals.append(got))
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = self._unix(socket.SOCK_STREAM, str(folder / "s"))
        self.datagram = self._unix(socket.SOCK_DGRAM, str(folder / "d"))
        self.abstract_name = f"perdure-attack-{os.getpid()}"
        self.abstract = self._unix(socket.SOCK_STREAM, "\0" + self.abstract_name)
        self.listing = self._listing()

    @staticmethod
    def _unix(kind: int, address: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    def targets(self, sibling: int) -> dict[str, Any]:
        return {
            **{name: str(path) for name, path in self.files.items()},
            "home": str(self.home),
            "host": os.getpid(),
            "sibling": sibling,
            "marker": MARKER,
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "unix": self.unix.getsockname(),
            "unix_datagram": self.datagram.getsockname(),
            "abstract": self.abstract_name,
        }

    def _listing(self) -> set[str]:
        parent = self.home.parent
        return {str(path.relative_to(parent)) for path in parent.rglob("*") if "workspace-" not in str(path)}

    def effects(self, limits: tuple[int, int], processors: set[int]) -> dict[str, bool]:
        """What was done: true where something changed or arrived."""
        changed = {f"{name} gone or altered": _altered(path) for name, path in self.files.items()}
        return {
            **changed,
            "files appeared": bool(self._listing() - self.listing),
            "a signal arrived": bool(self.signals),
            "limits changed": resource.getrlimit(resource.RLIMIT_STACK) != limits,
            "priority changed": os.getpriority(os.PRIO_PROCESS, 0) != PRIORITY,
            "processors changed": os.sched_getaffinity(0) != processors,
            "a TCP connection arrived": _arrived(self.tcp),
            "a datagram arrived": _arrived(self.udp),
            "a Unix connection arrived": _arrived(self.unix),
            "an abstract Unix connection arrived": _arrived(self.abstract),
            "a Unix datagram arrived": _arrived(self.datagram),
        }


def _altered(path: Path) -> bool:
    try:
        found = path.stat()
        attributes = os.listxattr(path)
        return (
            path.read_text() != f"{MARKER}\n"
            or stat.S_IMODE(found.st_mode) != 0o640
            or found.st_mtime < 1000
            or found.st_nlink != 1
            or bool(attributes)
        )
    except OSError:
        return True


def _arrived(sock: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


OLDER = "say(moved=outcome(move_between_folders), truncated=outcome(truncate_its_own))"


def become_older(abi: int) -> None:
    """Have zygotes, and the guests they fork, find this version of Landlock."""
    from perdure.workers.guest import launch

    found = f"    from _perdure_guest import confine_landlock\n    confine_landlock.kernel_abi = lambda: {abi}\n"
    first = '    load("_perdure_cloudpickle"'
    assert first in launch._BOOT
    launch._BOOT = launch._BOOT.replace(first, found + first)


async def attack_all(folder: Path, level: str, abi: int) -> dict[str, Any]:
    """Let guests of one level loose on this host, started as a worker starts them."""
    import attacks  # type: ignore[import-not-found]
    from real import KINDS, SAY, Place, run  # type: ignore[import-not-found]

    from perdure.engine.settings import Limits
    from perdure.workers.confine.host import protect_host

    protect_host()
    if abi:
        become_older(abi)
    scene = Scene(folder)
    small = Limits(memory_bytes=1 << 29, file_bytes=64 << 20, files=500, threads=64)
    place = Place(folder / "state", also_readable=(scene.library,))
    source = SAY + (HERE / "attacks.py").read_text()
    limits, processors = resource.getrlimit(resource.RLIMIT_STACK), os.sched_getaffinity(0)
    try:
        sibling = await place.start(KINDS[level])
        targets = json.dumps(scene.targets(sibling.pid))
        guest = await place.start(KINDS[level], limits=small)
        everything = RUNNER.format(targets=targets, names=list(attacks.ATTACKS), table="ATTACKS")
        ran = await run(guest, source + everything + OLDER)
        said = ran.said()
        result: dict[str, Any] = {
            "report": guest.isolation,
            "outcomes": dict(m["outcome"] for m in said if "outcome" in m),
            "controls": next((m["controls"] for m in said if "controls" in m), f"{ran.death}: {ran.printed[-2000:]}"),
            "own": next((m for m in said if "moved" in m), {}),
            "survivors": 0,
        }
        for name in () if abi else attacks.LONELY:
            guest = await place.start(KINDS[level], limits=small)
            ran = await run(guest, source + RUNNER.format(targets=targets, names=[name], table="LONELY"))
            said = [m["outcome"][1] for m in ran.said() if "outcome" in m]
            result["outcomes"][name] = said[0] if said else f"ended: {ran.death}"
            await guest.kill("it has had its turn")
            result["survivors"] += await _sweep(place.workspaces / guest.session)
        result["effects"] = scene.effects(limits, processors) | {"the sibling was killed": not sibling.alive}
    finally:
        await place.close()
    return result


async def _sweep(workspace: Path) -> int:
    """End what an attack left behind in its workspace, and say how many processes that was."""
    # Whoever is being ended with its guest has a moment to be gone.
    await asyncio.sleep(0.1)
    found = [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _works_in(entry, workspace)
    ]
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(found)


def _works_in(process: Path, workspace: Path) -> bool:
    try:
        return (process / "cwd").readlink() == workspace
    except OSError:
        return False


def main() -> None:
    folder, level, abi, *identity = sys.argv[1:]
    if identity:
        uid, *needed = identity
        become_ordinary(int(uid), [Path(path) for path in needed])
    os.environ["HOME"] = folder
    found = asyncio.run(attack_all(Path(folder), level, int(abi)))
    # After whatever was logged.
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
