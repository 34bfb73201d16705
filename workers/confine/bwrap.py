"""The second wall: a command line that starts a guest in namespaces of its own, through the system's bubblewrap.

It is added where a probe shows it to work and never replaces a layer of the core: bubblewrap alone leaves system calls
open that only the filter closes.
"""

from __future__ import annotations

__all__ = ["Wrapped", "find_bwrap", "inner_pid", "wrap"]

import os
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
    *("--disable-userns", "--die-with-parent", "--hostname", "guest"),
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


def wrap(bwrap: Path, policy: Policy, *, info_fd: int | None = None) -> Wrapped:
    """The command line for this strict policy, whose first writable folder is where the guest starts.

    `info_fd` is an inherited descriptor on which bubblewrap writes JSON with `child-pid`, the init process inside as
    the host counts, for `inner_pid`. Changes of file mode and time are real inside unless the user is root, who owns
    the device files shared with the host.
    """
    inside = replace(policy, parent=None, read_only_mounts=os.getuid() != 0)
    told = () if info_fd is None else ("--info-fd", str(info_fd))
    return Wrapped((str(bwrap), *_NAMESPACES, *told, *_mounts(policy), "--"), inside)


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


def inner_pid(init: int) -> int | None:
    """The guest's own process as the host counts, given the init process inside; None where there is none."""
    try:
        children = Path(f"/proc/{init}/task/{init}/children").read_text("ascii").split()
    except OSError:
        # The process is gone, or this kernel does not list children: look at who names it as parent.
        return next((pid for pid, parent in _parents() if parent == init), None)
    return int(children[0]) if children else None


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            after_name = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        yield int(entry.name), int(after_name[1])
