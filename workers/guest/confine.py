"""Confine this guest process, for good, before any user code runs in it.

Laws: deny by default, so what the policy does not grant is refused; nothing is silent, so a layer that cannot be put
on ends the guest and the report names the ones that were; what confines is checked by trying, not by asking.

A zygote confines itself with ``apply_to_zygote``; a guest forked from it does all that needs no session in
``Ground.prepare``, waits, and narrows the rest with ``apply`` once it has one.
"""

from __future__ import annotations

__all__ = ["REFUSED_EXIT", "WIRE_VERSION", "Beneath", "ConfinementFailed", "Ground", "apply", "apply_to_zygote"]

import errno as errors
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from . import confine_canary, confine_kernel, confine_landlock, confine_seccomp, confine_semaphores
from .confine_kernel import ConfinementFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

WIRE_VERSION = 1

# A guest whose confinement failed exits so; the number means nothing to Python, shells or signals.
REFUSED_EXIT = 97

# The soft limit's SIGXCPU names the cause of death; whoever catches it is killed this many CPU seconds later.
_CPU_GRACE_SECONDS = 5

_ON_LINUX = sys.platform.startswith("linux")

_LIMITS = {
    "memory": resource.RLIMIT_DATA,
    "address_space": resource.RLIMIT_AS,
    "file_size": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
}
# No core files; no locked memory (which also starves io_uring); no message queues; no real-time priority, no raised
# priority.
_NONE_OF = ("RLIMIT_CORE", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_RTPRIO", "RLIMIT_NICE")


class Beneath(NamedTuple):
    """What a guest has from its zygote: whom it must die with, and what was openable before the zygote's own layer.

    ``own_processes``: it is the first process of a namespace of its own, where its parent has no number.
    ``readable`` is what every guest of it may read; None where nothing is refused.
    """

    parent: int
    controls: tuple[str, ...] = ()
    own_processes: bool = False
    readable: tuple[str, ...] | None = None


class Ground(NamedTuple):
    """What is done of a guest's confinement before it has a session: it waits with that, and all of its zygote's."""

    beneath: Beneath
    parent: int
    bounding_empty: bool = False
    abi: int = 0
    ruleset: confine_landlock.Ruleset | None = None
    packed: bytes = b""

    @classmethod
    def prepare(cls, beneath: Beneath, keep: Iterable[int]) -> Ground:
        """Do it; every descriptor but those of ``keep`` is closed. Raises ConfinementFailed."""
        parent = 0 if beneath.own_processes else beneath.parent
        _own_session()
        _close_others(set(keep))
        _follow_parent(parent)
        if beneath.readable is None:
            return cls(beneath, parent)
        _one_thread()
        abi = min(confine_landlock.kernel_abi(), confine_landlock.KNOWN_ABI)
        bounding_empty = _drop_rights()
        # Before the rules: what may be read of /proc is this process's own part, which has a name only now.
        ruleset = confine_landlock.Ruleset(abi, beneath.readable)
        wanted = confine_seccomp.Filter(confine_kernel.machine(), os.getpid(), abi)
        return cls(beneath, parent, bounding_empty, abi, ruleset, confine_seccomp.assembled(wanted))


def apply(policy: Mapping[str, Any], *, keep: Iterable[int] = (), ground: Ground | None = None) -> dict[str, Any]:
    """Put on every layer of the policy's level and return which; nothing can take them off again.

    `policy` is what `Policy.to_wire` made. `keep` names descriptors the guest opened for itself, kept beside the
    policy's own; every other one is closed. `ground` is what a guest that was forked from a zygote has done already.
    The process must have one thread. Raises ConfinementFailed, after which the process must exit with REFUSED_EXIT.
    """
    level = _level(policy)
    parent = policy["parent"] if ground is None else ground.parent
    layers = ["session", "descriptors", "limits"]
    _own_session()
    ruleset = ground.ruleset if ground is not None else None
    closed = _close_others({*policy["keep_fds"], *keep, *([ruleset.fd] if ruleset is not None else ())})
    if _ON_LINUX:
        _follow_parent(parent)
        layers.append("parent")
    _set_limits(policy["limits"])
    report: dict[str, Any] = {"level": level, "layers": layers, "closed": closed, "uid": os.getuid()}
    if level == "strict":
        report.update(_confine(policy, ground))
        layers += ["capabilities", "no_new_privs", "landlock", "seccomp", "canary"]
    if ground is not None and ground.beneath.own_processes:
        layers.append("own_processes")
    _still_following(parent)
    return report


def apply_to_zygote(policy: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Confine the process that guests are forked from, before it imports anything that is not ours.

    Returns a report as ``apply`` does, and what could be opened before: the guests' controls. What is left to it is
    what its guests need to confine themselves further. Raises ConfinementFailed.
    """
    level = _level(policy)
    _own_session()
    closed = _close_others(set(policy["keep_fds"]))
    _follow_parent(policy["parent"])
    report: dict[str, Any] = {"level": level, "closed": closed, "uid": os.getuid()}
    controls: tuple[str, ...] = ()
    if level == "strict":
        machine = confine_kernel.machine()
        _one_thread()
        controls = tuple(_controls(policy))
        abi = min(confine_landlock.kernel_abi(), confine_landlock.KNOWN_ABI)
        _drop_rights()
        confine_landlock.restrict(abi, policy["read_only"], policy["read_write"])
        wanted = confine_seccomp.Filter(machine, os.getpid(), abi, zygote=True)
        confine_seccomp.put_on(confine_seccomp.assembled(wanted))
        confine_seccomp.assembled(confine_seccomp.Filter(machine, os.getpid(), abi))
        confine_semaphores.install()
        report["landlock_abi"] = abi
        report["canary"] = confine_canary.check_zygote(controls)
    _still_following(policy["parent"])
    return report, controls


def _level(policy: Mapping[str, Any]) -> str:
    level = policy.get("level")
    if policy.get("version") != WIRE_VERSION or level not in ("strict", "process"):
        raise ConfinementFailed("policy", errors.EINVAL, f"version {policy.get('version')!r}, level {level!r}")
    return str(level)


def _confine(policy: Mapping[str, Any], ground: Ground | None) -> dict[str, Any]:
    machine = confine_kernel.machine()
    _one_thread()
    folders = policy["read_write_folders"]
    if ground is None:
        forbidden, beside = _controls(policy), []
        abi, bounding_empty = min(confine_landlock.kernel_abi(), confine_landlock.KNOWN_ABI), _drop_rights()
        packed = confine_seccomp.assembled(confine_seccomp.Filter(machine, os.getpid(), abi))
    else:
        forbidden, beside = list(ground.beneath.controls), _beside(folders)
        abi, bounding_empty, packed = ground.abi, ground.bounding_empty, ground.packed
        if ground.ruleset is None:
            raise ConfinementFailed("policy", errors.EINVAL, "it is not for guests of this zygote")
    prepared = ground.ruleset if ground is not None else None
    absent = confine_landlock.restrict(abi, policy["read_only"], policy["read_write"], prepared)
    confine_seccomp.put_on(packed)
    confine_semaphores.install()
    tried = confine_canary.check(forbidden, folders, beside)
    return {
        "landlock_abi": abi,
        "absent": absent,
        "bounding_set_empty": bounding_empty,
        "filter_bytes": len(packed),
        "canary": tried,
    }


def _beside(folders: Iterable[str]) -> list[str]:
    """The folders above the granted ones, which the zygote's layer leaves open: refused later, this layer is on."""
    above = [os.path.dirname(folder) for folder in folders]
    closed = [folder for folder in above if not confine_canary.openable(folder)]
    if closed:
        why = f"cannot list {closed[0]} before confinement, so cannot prove it after"
        raise ConfinementFailed("canary", errors.EACCES, why)
    return above


def _own_session() -> None:
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.getsid(0) != os.getpid():
        try:
            os.setsid()
        except PermissionError as problem:
            why = "this process leads a process group; start it with a new session, or without a group of its own"
            raise ConfinementFailed("session", problem.errno or 0, why) from problem


def _close_others(keep: set[int]) -> list[int]:
    with os.scandir("/proc/self/fd" if _ON_LINUX else "/dev/fd") as entries:
        found = [int(entry.name) for entry in entries]
    closed = []
    for descriptor in sorted(set(found) - keep):
        try:
            os.close(descriptor)
        except OSError as problem:
            # The descriptor of the listing itself is gone already.
            if problem.errno != errors.EBADF:
                raise
        else:
            closed.append(descriptor)
    return closed


def _follow_parent(parent: int | None) -> None:
    try:
        confine_kernel.prctl(confine_kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    except OSError as problem:
        raise ConfinementFailed("parent", problem.errno or 0, "cannot ask to die with the parent") from problem
    _still_following(parent)


def _still_following(parent: int | None) -> None:
    if parent is not None and os.getppid() != parent:
        raise ConfinementFailed("parent", errors.ESRCH, "the process that started this guest is gone")


def _set_limits(limits: Mapping[str, int | None]) -> None:
    try:
        for name in _NONE_OF:
            if hasattr(resource, name):
                resource.setrlimit(getattr(resource, name), (0, 0))
        for name, which in _LIMITS.items():
            value = limits[name]
            if value is not None:
                _lower(which, value, value)
        seconds = limits["cpu_seconds"]
        if seconds is not None:
            _lower(resource.RLIMIT_CPU, seconds, seconds + _CPU_GRACE_SECONDS)
    except (OSError, ValueError) as problem:
        code = problem.errno or 0 if isinstance(problem, OSError) else errors.EINVAL
        raise ConfinementFailed("limits", code, str(problem)) from problem


def _lower(which: int, soft: int, hard: int) -> None:
    _, ceiling = resource.getrlimit(which)
    if ceiling != resource.RLIM_INFINITY:
        hard = min(hard, ceiling)
    resource.setrlimit(which, (min(soft, hard), hard))


def _one_thread() -> None:
    """Landlock, capabilities and the filter bind the calling thread and those it starts: any other would stay free."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise ConfinementFailed("threads", errors.EBUSY, f"{threads} threads run before confinement, not one")


def _controls(policy: Mapping[str, Any]) -> list[str]:
    """The forbidden files that can be opened now, without which refusing them later would prove nothing."""
    forbidden = [path for path in policy["forbidden"] if confine_canary.openable(path)]
    if not confine_canary.openable("/"):
        raise ConfinementFailed("canary", errors.EACCES, "cannot list / before confinement, so cannot prove it after")
    return forbidden


def _drop_rights() -> bool:
    layer = "capabilities"
    try:
        bounding_empty = confine_kernel.bounding_set_drop()
        confine_kernel.drop_capabilities()
        layer = "no_new_privs"
        confine_kernel.prctl(confine_kernel.PR_SET_NO_NEW_PRIVS, 1)
    except OSError as problem:
        raise ConfinementFailed(layer, problem.errno or 0, "the kernel refused to take rights away") from problem
    return bounding_empty
