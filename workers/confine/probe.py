"""Find out, by trying, which layers of isolation this machine gives: each in a child process with a time limit.

A feature flag or a version number is no finding: a container's filter, a boot parameter or a security module may take
away what the kernel's version promises.
"""

from __future__ import annotations

__all__ = [
    "CORE_WAYS_OUT",
    "NO_BWRAP",
    "Finding",
    "Findings",
    "explain",
    "probe_all",
    "probe_landlock",
    "probe_namespaces",
    "probe_seccomp",
    "require",
]

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .bwrap import find_bwrap, wrap
from .errors import SandboxUnavailable
from .interpreter import GUEST_FLAGS, Interpreter, guest_environment, inspect_interpreter
from .policy import IsolationLevel, Namespaces, readable_paths, strict_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

# A probe takes about 50 ms; one that takes 2 s is stuck, and waiting longer would hold up the start of the service.
_PROBE_SECONDS: Final = 2.0

_CHILD: Final = "import sys; from perdure.workers.confine.probe_child import main; main(sys.argv[1])"

CORE_WAYS_OUT: Final = (
    "run on Linux 5.13 or newer with Landlock enabled at boot (lsm=...,landlock)",
    "allow landlock_* and seccomp in the container's system-call filter",
    "choose level 'process', which is no security boundary, if something else confines the whole service",
)
_NAMESPACE_WAYS_OUT: Final = ("set namespaces to 'auto' or 'off': the core layers confine without them",)

# What bubblewrap says where the machine refuses it, what that means, and what to do.
_BWRAP_WORDS: Final = (
    (
        "setting up uid map: Permission denied",
        "a security module (Ubuntu's AppArmor) restricts user namespaces",
        "give bwrap an AppArmor profile that allows userns",
    ),
    (
        "RTM_NEWADDR",
        "a security module (Ubuntu's AppArmor) restricts user namespaces",
        "give bwrap an AppArmor profile that allows userns",
    ),
    (
        "No permissions to create",
        "user namespaces are refused, as by a container's default filter",
        "start the container with a filter that allows unshare and clone of namespaces",
    ),
    (
        "No space left on device",
        "no further user namespaces may be made",
        "raise the sysctl user.max_user_namespaces",
    ),
    (
        "Unknown option",
        "this bubblewrap is too old; 0.8 is needed",
        "install bubblewrap 0.8 or newer",
    ),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found: whether the layer works here, why not, and what to do about it."""

    layer: str
    available: bool
    reason: str = ""
    errno: int = 0
    ways_out: tuple[str, ...] = ()
    version: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {
            "layer": self.layer,
            "available": self.available,
            "reason": self.reason,
            "errno": self.errno,
            "ways_out": list(self.ways_out),
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Findings:
    """What this machine gives, layer by layer; `notes` says what holds but deserves attention."""

    seccomp: Finding
    landlock: Finding
    namespaces: Finding
    #: What was tried beyond the layers themselves.
    others: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[Finding, ...]:
        """Every finding, the layers of the core first."""
        return (self.seccomp, self.landlock, self.namespaces, *self.others)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain data."""
        return {"layers": [finding.to_json() for finding in self.all], "notes": list(self.notes)}


NO_BWRAP: Final = Finding(
    "namespaces", available=False, reason="bwrap is not on PATH", ways_out=("install bubblewrap", *_NAMESPACE_WAYS_OUT)
)


def explain(words: str) -> Finding:
    """Say what bubblewrap's last words mean, and what to do."""
    for said, reason, way_out in _BWRAP_WORDS:
        if said in words:
            ways_out = (way_out, *_NAMESPACE_WAYS_OUT)
            return Finding("namespaces", available=False, reason=f"{reason} ({words})", ways_out=ways_out)
    return Finding("namespaces", available=False, reason=words, ways_out=_NAMESPACE_WAYS_OUT)


def probe_all(interpreter: Interpreter | None = None) -> Findings:
    """Try every layer; blocks for about 0.3 s, and at most a few seconds."""
    notes = []
    if os.getuid() == 0:
        notes.append("running as root: guests keep uid 0, without any capability; an ordinary user is better")
    return Findings(probe_seccomp(), probe_landlock(), probe_namespaces(interpreter), notes=tuple(notes))


def probe_seccomp() -> Finding:
    """Put the guest's own filter on a child and have it try to make a socket."""
    return _try_layer("seccomp", (sys.executable,), CORE_WAYS_OUT)


def probe_landlock() -> Finding:
    """Confine a child with Landlock and have it try to list the root folder; `version` is the kernel's ABI."""
    return _try_layer("landlock", (sys.executable,), CORE_WAYS_OUT)


def probe_namespaces(interpreter: Interpreter | None = None, bwrap: Path | None = None) -> Finding:
    """Start a child exactly as a guest would be in namespaces, and have it look around."""
    layer = "namespaces"
    found = bwrap or find_bwrap()
    if found is None:
        return NO_BWRAP
    with tempfile.TemporaryDirectory(prefix="perdure-probe-") as folder:
        workspace = Path(folder).resolve() / "workspace"
        workspace.mkdir()
        interpreter = interpreter or inspect_interpreter(Path(sys.executable))
        child_code = Path(__file__).parent
        readable = readable_paths(interpreter, private=[workspace.parent], also_readable=[child_code])
        wrapped = wrap(found, strict_policy(readable, [workspace]))
        return _try_layer(layer, (*wrapped.argv, str(interpreter.executable)), _NAMESPACE_WAYS_OUT)


def require(level: IsolationLevel, findings: Findings, namespaces: Namespaces = Namespaces.AUTO) -> tuple[Finding, ...]:
    """Raise SandboxUnavailable unless this machine gives the level; return what is missing and was not insisted on.

    What is returned belongs in the log and in every result of the session.
    """
    if level is IsolationLevel.PROCESS:
        return ()
    for finding in (findings.landlock, findings.seccomp):
        if not finding.available:
            raise _unavailable(finding)
    if namespaces is Namespaces.OFF or findings.namespaces.available:
        return ()
    if namespaces is Namespaces.REQUIRE:
        raise _unavailable(findings.namespaces)
    return (findings.namespaces,)


def _unavailable(finding: Finding) -> SandboxUnavailable:
    return SandboxUnavailable(finding.layer, finding.errno, finding.reason, finding.ways_out)


def _try_layer(layer: str, command: Sequence[str], ways_out: tuple[str, ...]) -> Finding:
    status, output, words = _run([*command, *GUEST_FLAGS, "-c", _CHILD, layer])
    if status is None:
        return Finding(layer, available=False, reason=words, ways_out=ways_out)
    try:
        answer = json.loads(output)
    except ValueError:
        return _unspoken(layer, status, words, ways_out)
    if answer["available"]:
        return Finding(layer, available=True, version=answer.get("version"))
    return Finding(layer, available=False, reason=answer["reason"], errno=answer["errno"], ways_out=ways_out)


def _unspoken(layer: str, status: int, words: str, ways_out: tuple[str, ...]) -> Finding:
    if any(said in words for said, _, _ in _BWRAP_WORDS):
        return explain(words)
    reason = f"the probe ended with status {status}: {words or 'it said nothing'}"
    return Finding(layer, available=False, reason=reason, ways_out=ways_out)


def _run(command: Sequence[str]) -> tuple[int | None, bytes, str]:
    """Status, output and last words of a child that is gone, with all it started, when this returns."""
    environment = guest_environment(Path("/"), Path("/"))
    try:
        child = subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as problem:
        return None, b"", f"cannot start {command[0]}: {problem.strerror}"
    with child:
        try:
            output, errors = child.communicate(timeout=_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return None, b"", f"no answer within {_PROBE_SECONDS:g} s, so it was killed"
    return child.returncode, output, errors.decode("utf-8", "replace").strip()[-500:]
