"""The inside of a probe: put one layer on this process, try what it must refuse, and print what was found as JSON.

Run as a program by `probe`; it imports the guest's half only, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from perdure.workers.guest import confine_kernel, confine_landlock, confine_namespaces, confine_seccomp
from perdure.workers.guest.confine_kernel import ConfinementFailed


def _seccomp() -> dict[str, Any]:
    confine_kernel.prctl(confine_kernel.PR_SET_NO_NEW_PRIVS, 1)
    wanted = confine_seccomp.Filter(confine_kernel.machine(), os.getpid(), confine_landlock.KNOWN_ABI)
    confine_seccomp.install(confine_seccomp.program(wanted))
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except PermissionError:
        return {}
    raise ConfinementFailed("seccomp", 0, "a filter was accepted and has no effect")


def _landlock() -> dict[str, Any]:
    abi = confine_landlock.kernel_abi()
    list(Path("/").iterdir())
    confine_kernel.prctl(confine_kernel.PR_SET_NO_NEW_PRIVS, 1)
    confine_landlock.restrict(min(abi, confine_landlock.KNOWN_ABI), [], [])
    try:
        list(Path("/").iterdir())
    except PermissionError:
        return {"version": abi}
    raise ConfinementFailed("landlock", 0, "a ruleset was accepted and has no effect")


def _namespaces() -> dict[str, Any]:
    confine_namespaces.check()
    return {}


_PROBES = {"seccomp": _seccomp, "landlock": _landlock, "namespaces": _namespaces}


def main(layer: str) -> None:
    try:
        answer = {"available": True, **_PROBES[layer]()}
    except ConfinementFailed as problem:
        answer = {"available": False, "errno": problem.errno, "reason": problem.message}
    except OSError as problem:
        answer = {"available": False, "errno": problem.errno or 0, "reason": str(problem)}
    sys.stdout.write(json.dumps(answer))
