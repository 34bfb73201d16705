"""Machines that lack a layer, made from this one: what is found, what is said, and that nothing runs weaker."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perdure.workers.confine import probe
from perdure.workers.confine.errors import SandboxUnavailable
from perdure.workers.confine.policy import IsolationLevel, Namespaces
from perdure.workers.confine.probe import Finding, Findings
from perdure.workers.zygotes import Kind

from .real import KINDS, Place

# For each case, a child puts a filter on itself, as a container would, and then runs one probe.
POOR_MACHINE = """
import json, os, sys
from perdure.workers.guest import confine_kernel, confine_seccomp
from perdure.workers.confine import probe
for name, layer, code in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        confine_kernel.prctl(38, 1)
        confine_seccomp.install(code)
        found = getattr(probe, f"probe_{layer}")().to_json()
        os.write(1, json.dumps({name: found}).encode() + b"\\n")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""

LANDLOCK = (444, 445, 446)
CLONE, PRCTL = {"x86_64": (56, 157), "aarch64": (220, 167)}[os.uname().machine]
CLONE_NEWUSER = 0x10000000

Code = list[tuple[int, int, int, int]]


def refusing(numbers: tuple[int, ...], error: int) -> Code:
    """A filter that answers an error (0: pretends success) to these calls."""
    code: Code = [(0x20, 0, 0, 0)]
    for number in numbers:
        code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
    return [*code, (0x06, 0, 0, 0x7FFF0000)]


def refusing_user_namespaces() -> Code:
    """What a container's default filter does to clone."""
    refused, allowed = (0x06, 0, 0, 0x00050000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)
    return [(0x20, 0, 0, 0), (0x15, 0, 3, CLONE), (0x20, 0, 0, 16), (0x45, 0, 1, CLONE_NEWUSER), refused, allowed]


@pytest.fixture(scope="session")
def poor() -> dict[str, dict[str, Any]]:
    cases: list[tuple[str, str, Code]] = [
        ("no Landlock", "landlock", refusing(LANDLOCK, errno.ENOSYS)),
        ("Landlock off", "landlock", refusing(LANDLOCK, errno.EOPNOTSUPP)),
        ("Landlock refused", "landlock", refusing(LANDLOCK, errno.EPERM)),
        ("Landlock pretended", "landlock", refusing(LANDLOCK[1:], 0)),
        ("filter pretended", "seccomp", refusing((PRCTL,), 0)),
        ("filter refused", "seccomp", refusing((PRCTL,), errno.EPERM)),
        ("no user namespaces", "namespaces", refusing_user_namespaces()),
    ]
    done = subprocess.run(
        [sys.executable, "-c", POOR_MACHINE, json.dumps(cases)], capture_output=True, check=True, timeout=50
    )
    found: dict[str, dict[str, Any]] = {}
    for line in done.stdout.splitlines():
        found.update(json.loads(line))
    assert found.keys() == {name for name, _, _ in cases}
    return found


def fake_bwrap(folder: Path, body: str) -> Path:
    program = folder / "bwrap"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.fixture(scope="session")
def findings() -> Findings:
    return probe.probe_all()


def test_this_machine_gives_every_layer(findings: Findings) -> None:
    missing = [each for each in (findings.seccomp, findings.landlock, findings.namespaces) if not each.available]
    assert missing == [], "these tests need Landlock, and bubblewrap installed"
    assert probe.require(IsolationLevel.STRICT, findings, Namespaces.REQUIRE) == ()


@pytest.mark.parametrize(
    "machine,code,words",
    [
        ("no Landlock", errno.ENOSYS, "has no Landlock"),
        ("Landlock off", errno.EOPNOTSUPP, "lsm="),
        ("Landlock refused", errno.EPERM, "refused"),
        ("Landlock pretended", 0, "no effect"),
        ("filter pretended", 0, "no effect"),
        ("filter refused", errno.EPERM, ""),
        ("no user namespaces", 0, "user namespaces are refused"),
    ],
)
def test_a_machine_that_lacks_a_layer_is_found_out(
    poor: dict[str, dict[str, Any]], machine: str, code: int, words: str
) -> None:
    found = poor[machine]
    assert not found["available"]
    assert found["errno"] == code
    assert words in found["reason"]
    assert found["ways_out"]


def test_without_a_layer_of_the_core_nothing_is_given(findings: Findings) -> None:
    ways = ("do this",)
    for layer in ("landlock", "seccomp"):
        gone = Finding(layer, available=False, reason="gone", errno=errno.ENOSYS, ways_out=ways)
        poor = replace(findings, landlock=gone) if layer == "landlock" else replace(findings, seccomp=gone)
        with pytest.raises(SandboxUnavailable, match=r"ENOSYS.*gone.*do this") as caught:
            probe.require(IsolationLevel.STRICT, poor)
        assert (caught.value.layer, caught.value.errno) == (layer, errno.ENOSYS)
        assert probe.require(IsolationLevel.PROCESS, poor) == ()


def test_missing_namespaces_are_named_or_refused(findings: Findings) -> None:
    gone = Finding("namespaces", available=False, reason="gone")
    poor = replace(findings, namespaces=gone)
    assert probe.require(IsolationLevel.STRICT, poor) == (gone,)
    assert probe.require(IsolationLevel.STRICT, poor, Namespaces.OFF) == ()
    with pytest.raises(SandboxUnavailable, match="namespaces"):
        probe.require(IsolationLevel.STRICT, poor, Namespaces.REQUIRE)


def test_without_bwrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = probe.probe_namespaces()
    assert (found.available, found.reason) == (False, "bwrap is not on PATH")


@pytest.mark.parametrize(
    "said,reason",
    [
        ("bwrap: No permissions to create a new namespace", "user namespaces are refused"),
        ("bwrap: setting up uid map: Permission denied", "security module"),
        ("bwrap: Creating new namespace failed: No space left on device", "no further user namespaces"),
        ("bwrap: Unknown option --disable-userns", "too old"),
        ("bwrap: something else", "status 1: bwrap: something else"),
    ],
)
def test_a_bwrap_that_fails(tmp_path: Path, said: str, reason: str) -> None:
    found = probe.probe_namespaces(bwrap=fake_bwrap(tmp_path, f"echo '{said}' >&2; exit 1"))
    assert not found.available
    assert reason in found.reason


def test_a_bwrap_that_does_nothing_is_found_out(tmp_path: Path) -> None:
    skip = 'while [ "$1" != "--" ]; do shift; done; shift; exec "$@"'
    found = probe.probe_namespaces(bwrap=fake_bwrap(tmp_path, skip))
    assert not found.available


def test_a_bwrap_that_hangs(tmp_path: Path) -> None:
    started = time.monotonic()
    found = probe.probe_namespaces(bwrap=fake_bwrap(tmp_path, "sleep 60 & wait"))
    assert not found.available
    assert "killed" in found.reason
    assert time.monotonic() - started < 15


# The same machines, for a worker that starts guests on them.
POOR_START = """
import asyncio, json, os, sys, tempfile
from pathlib import Path
from perdure.workers.guest import confine_kernel, confine_seccomp
from perdure.workers.confine.errors import SandboxUnavailable
from perdure.workers.zygotes import Kind, Zygotes
async def start():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        (root / "workspaces").mkdir()
        zygotes = Zygotes(root, root / "workspaces")
        try:
            source = await zygotes.get(Kind(Path(sys.executable)))
            return {"layers": source.layers, "missing": source.missing}
        except SandboxUnavailable as problem:
            return {"layer": problem.layer, "reason": str(problem)}
        finally:
            await zygotes.close()
for name, code in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        confine_kernel.prctl(38, 1)
        confine_seccomp.install(code)
        os.write(3, json.dumps({name: asyncio.run(start())}).encode() + b"\\n")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_worker_on_a_poor_machine_starts_nothing_or_says_what_is_missing(tmp_path: Path) -> None:
    cases = [
        ("no Landlock", refusing(LANDLOCK, errno.ENOSYS)),
        ("Landlock pretended", refusing(LANDLOCK[1:], 0)),
        ("filter refused", refusing((PRCTL,), errno.EPERM)),
        ("no user namespaces", refusing_user_namespaces()),
    ]
    told = tmp_path / "told"
    with told.open("wb") as out:
        subprocess.run(
            [sys.executable, "-c", POOR_START.replace("os.write(3", f"os.write({out.fileno()}"), json.dumps(cases)],
            check=True,
            stdout=subprocess.DEVNULL,
            pass_fds=(out.fileno(),),
            timeout=55,
        )
    found: dict[str, dict[str, Any]] = {}
    for line in told.read_bytes().splitlines():
        found.update(json.loads(line))
    assert found["no Landlock"]["layer"] == "landlock"
    assert "ENOSYS" in found["no Landlock"]["reason"]
    assert found["Landlock pretended"]["layer"] == "canary"
    assert "layer" in found["filter refused"]
    assert "namespaces" not in found["no user namespaces"]["layers"]
    assert any("user namespaces are refused" in why for why in found["no user namespaces"]["missing"])


async def test_a_worker_with_a_bwrap_that_hangs_does_without_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_bwrap(tmp_path, "sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = Place(tmp_path.resolve() / "state")
    try:
        with monkeypatch.context() as patch:
            patch.setattr("perdure.workers.zygotes.NAMESPACES_TIMEOUT", 0.5)
            source = await place.zygotes.get(Kind(KINDS["core"].python))
        assert "namespaces" not in source.layers
        assert any("no answer within" in why for why in source.missing)
    finally:
        await place.close()
