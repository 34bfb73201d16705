"""The second wall: a command line that starts a zygote in namespaces of its own, through the system's bubblewrap.

It is added where a probe shows it to work and never replaces a layer of the core: bubblewrap alone leaves system calls
open that only the filter closes.
"""

from __future__ import annotations

__all__ = ["Wrapped", "find_bwrap", "wrap"]

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .policy import Policy

# A kernel file system is mounted afresh at these; binding the host's would show the host's.
_FRESH: Final = (Path("/proc"), Path("/dev"))

_NAMESPACES: Final = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
    # Not --disable-userns: guests have namespaces of their own for their processes, and the filter refuses all others.
    *("--die-with-parent", "--hostname", "guest"),
)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """What goes before the guest's own command line, and the policy as it is to be inside.

    The process started is bubblewrap's; it dies with the *thread* that started it, takes everything inside with it, and
    exits with the guest's status, or 128 plus the signal that ended the guest.
    """

    argv: tuple[str, ...]
    policy: Policy


def find_bwrap() -> Path | None:
    """Where bubblewrap is, or None."""
    found = shutil.which("bwrap")
    return Path(found) if found else None


def wrap(bwrap: Path, policy: Policy) -> Wrapped:
    """The command line for this strict policy, whose first writable folder is where the process starts."""
    return Wrapped((str(bwrap), *_NAMESPACES, *_mounts(policy), "--"), replace(policy, parent=None))


def _mounts(policy: Policy) -> Iterator[str]:
    bound = sorted(path for path in policy.read_only if not _beneath(path, _FRESH))
    for path in bound:
        yield from ("--ro-bind-try", str(path), str(path))
    for link, target in policy.links:
        if not _beneath(link, (*bound, *_FRESH)):
            yield from ("--symlink", target, str(link))
    yield from ("--proc", "/proc", "--dev", "/dev")
    for path in policy.read_write:
        yield from ("--bind", str(path), str(path))
    yield from ("--remount-ro", "/", "--chdir", str(policy.read_write[0]))


def _beneath(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
