"""Which paths and how much of the machine one guest gets, computed by the host from trusted settings alone.

Laws: what is not granted is denied; nothing a guest can write to is ever followed to decide what is granted; a grant
that had to be left out is named in the policy.
"""

from __future__ import annotations

__all__ = [
    "IsolationLevel",
    "Limits",
    "Namespaces",
    "Policy",
    "Readable",
    "Refused",
    "readable_paths",
    "strict_policy",
    "unconfined_policy",
    "zygote_policy",
]

import os
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perdure.workers.guest import confine as guest_confine

from .errors import PolicyRefused
from .grants import Refused, outermost, sift, with_linked_packages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .interpreter import Interpreter

_GIB: Final = 1 << 30

# Descriptors 0, 1, 2 and the channel.
_KEPT: Final = (0, 1, 2, 3)

# What the C library, the loader, certificate checks and mimetypes read; none of it is anyone's own.
_SYSTEM: Final = (
    *("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/usr/share/locale", "/usr/share/fonts"),
    *("/usr/share/ca-certificates", "/usr/share/fontconfig", "/usr/share/mime", "/etc/ld.so.cache"),
    *("/etc/localtime", "/etc/timezone"),
    *("/etc/mime.types", "/etc/fonts", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs"),
    *("/etc/os-release", "/dev/urandom", "/dev/random"),
)
# The guest's own process and the machine's size: no other process, no mounts of the host's choosing.
_FACTS: Final = (
    *("/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat"),
    *("/sys/devices/system/cpu/online", "/sys/devices/system/cpu/possible"),
)
# How much of the machine this process may use. What finds such a file and may not read it gives up: joblib, DuckDB.
_CGROUP: Final = Path("/sys/fs/cgroup")
_QUOTAS: Final = (
    *("cpu.max", "memory.max", "memory.high", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes"),
    *("cpuset.cpus", "cpuset.cpus.effective"),
)
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full")
_PREFIX_PARTS: Final = ("lib", "lib64", "share", "ssl")

# Openable by all before confinement, so that refusing it afterwards proves something.
_CANARY: Final = "/etc/passwd"


class IsolationLevel(StrEnum):
    """How a guest is held: `strict` denies by default; `process` is no security boundary and never a fallback."""

    STRICT = "strict"
    PROCESS = "process"


class Namespaces(StrEnum):
    """Whether the second wall, private namespaces, is used where it works, insisted on, or left out."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one guest may use, in bytes, CPU seconds and descriptors; None leaves that one to the host's own measuring.

    `memory` bounds private writable memory (heap, arrays, thread stacks). `address_space` bounds all mappings, shared
    and read-only ones too, and leaves room for reservations that are never touched.
    """

    memory: int | None = 2 * _GIB
    address_space: int | None = 8 * _GIB
    # A session may live for days; the host stops an execution that uses too much.
    cpu_seconds: int | None = None
    file_size: int | None = 1 * _GIB
    # Each pipe holds up to 64 kB that no other limit counts.
    open_files: int | None = 256
    # Processes and threads together; the kernel counts them by user, so only a guest with users of its own has this.
    processes: int | None = None

    def to_wire(self) -> dict[str, int | None]:
        """The limits by name."""
        return {
            "memory": self.memory,
            "address_space": self.address_space,
            "cpu_seconds": self.cpu_seconds,
            "file_size": self.file_size,
            "open_files": self.open_files,
            "processes": self.processes,
        }


@dataclass(frozen=True, slots=True)
class Readable:
    """What the guests of one interpreter may read, what was left out, and the folders it was kept apart from.

    `links` are the symbolic links, and their targets, that lead to what is granted.
    """

    granted: tuple[Path, ...]
    links: tuple[tuple[Path, str], ...]
    refused: tuple[Refused, ...]
    private: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything the guest needs to confine itself, and what had to be left out."""

    level: IsolationLevel
    limits: Limits = field(default_factory=Limits)
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()
    forbidden: tuple[Path, ...] = ()
    links: tuple[tuple[Path, str], ...] = ()
    refused: tuple[Refused, ...] = ()
    parent: int | None = None
    keep_fds: tuple[int, ...] = _KEPT

    def to_wire(self) -> dict[str, Any]:
        """The policy as plain data for `perdure.workers.guest.confine.apply`."""
        return {
            "version": guest_confine.WIRE_VERSION,
            "level": str(self.level),
            "limits": self.limits.to_wire(),
            "read_only": [str(path) for path in self.read_only],
            "read_write": [str(path) for path in (*self.read_write, *self.devices)],
            "read_write_folders": [str(path) for path in self.read_write],
            "forbidden": [str(path) for path in self.forbidden],
            "parent": self.parent,
            "keep_fds": list(self.keep_fds),
        }


def unconfined_policy(*, limits: Limits | None = None, parent: int | None = None) -> Policy:
    """The policy of level `process`: limits, an own session and closed descriptors, and no security boundary."""
    return Policy(IsolationLevel.PROCESS, limits or Limits(), parent=parent)


def readable_paths(
    interpreter: Interpreter, *, private: Iterable[Path], also_readable: Iterable[Path] = ()
) -> Readable:
    """What every guest of this interpreter may read; compute it once, since it looks at each installed package.

    `private` names the folders that hold state and workspaces: nothing granted lies in one or contains one.
    """
    runtime = Path(guest_confine.__file__).parent
    wanted = [*_interpreter_paths(interpreter), runtime, *also_readable]
    everything = [*wanted, *with_linked_packages(interpreter.search_path)]
    kept_apart = tuple(path.resolve() for path in private)
    sifted = sift(everything, private=kept_apart)
    system = tuple(path for path in (*map(Path, (*_SYSTEM, *_FACTS)), *_quotas()) if path.exists())
    return Readable(outermost((*system, *sifted.granted)), sifted.links, sifted.refused, kept_apart)


def _quotas() -> Iterator[Path]:
    """Where the limits of this process's control groups can be, of either version, and of those that they lie in."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        parts = tuple(part for part in Path(group).parts if part not in {"/", ".."})
        for controller in {"", controllers, *controllers.split(",")}:
            for depth in range(len(parts) + 1):
                yield from (_CGROUP.joinpath(controller, *parts[:depth], name) for name in _QUOTAS)


def strict_policy(
    readable: Readable, writable: Iterable[Path], *, limits: Limits | None = None, parent: int | None = None
) -> Policy:
    """The policy of level `strict`: read the interpreter and its packages, write in the `writable` folders.

    `parent` is the process the guest must die with, when that is its real parent. Raises PolicyRefused where a writable
    folder is missing, too wide, or not in a folder that `readable_paths` was told is private.
    """
    return Policy(
        IsolationLevel.STRICT,
        limits or Limits(),
        read_only=readable.granted,
        read_write=tuple(_writable_folder(path, readable.private) for path in writable),
        devices=tuple(path for path in map(Path, _DEVICES) if path.exists()),
        forbidden=(Path(_CANARY),),
        links=readable.links,
        refused=readable.refused,
        parent=parent,
    )


def zygote_policy(readable: Readable, workspaces: Path) -> Policy:
    """The policy of the process that guests are forked from: theirs, for all workspaces and all of /proc.

    A guest narrows it to its own workspace and its own part of /proc, which has no name before the guest is there.
    """
    wider = replace(readable, granted=(*readable.granted, Path("/proc")))
    return strict_policy(wider, [workspaces], limits=Limits(*(None,) * 6), parent=os.getpid())


def _interpreter_paths(interpreter: Interpreter) -> list[Path]:
    parts = [prefix / part for prefix in interpreter.prefixes for part in _PREFIX_PARTS]
    # The executable itself is read by platform.platform().
    return [
        *(interpreter.executable, *parts, *interpreter.search_path),
        *(prefix / "pyvenv.cfg" for prefix in interpreter.prefixes),
        *(*interpreter.zones, *interpreter.library_folders),
    ]


def _writable_folder(path: Path, private: tuple[Path, ...]) -> Path:
    real = path.resolve()
    if not real.is_dir():
        raise PolicyRefused(f"{path} is not a folder, so no guest can work in it")
    if not any(folder in real.parents for folder in private):
        raise PolicyRefused(f"{path} is not in a folder kept for workspaces, so no guest may write in it")
    return real
