"""What `apply` puts on, what it reports, and that it refuses to go on without a layer."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from perdure.workers.confine.policy import Limits, Policy, unconfined_policy
from perdure.workers.guest import confine, confine_landlock

from .kit import Guest, run_guest

STUBS = {
    "landlock": "confine.confine_landlock.restrict = lambda *a: []",
    "seccomp": "confine.confine_seccomp.put_on = lambda code: None",
    "capabilities and no_new_privs": "confine._drop_rights = lambda: True\n"
    "confine.confine_kernel.prctl(38, 1) if os.getuid() else None",
}


def test_strict_reports_every_layer(strict: Policy) -> None:
    outcome = run_guest(strict, "")
    assert outcome.done, outcome
    assert outcome.report is not None
    assert outcome.report["layers"] == [
        *("session", "descriptors", "limits", "parent"),
        *("capabilities", "no_new_privs", "landlock", "seccomp", "canary"),
    ]
    assert outcome.report["landlock_abi"] == min(confine_landlock.kernel_abi(), confine_landlock.KNOWN_ABI)
    assert "open /etc/passwd" in outcome.report["canary"]
    assert outcome.report["absent"] == []


def test_process_reports_that_it_is_no_boundary() -> None:
    outcome = run_guest(unconfined_policy(parent=os.getpid()), "open('/etc/passwd').close()")
    assert outcome.done
    assert outcome.report is not None
    assert outcome.report["layers"] == ["session", "descriptors", "limits", "parent"]


#: An ordinary user has no capabilities to lose, and without no_new_privs there is no filter to put on.
OF_ROOT = {"capabilities and no_new_privs"}


@pytest.mark.parametrize("layer", [layer for layer in STUBS if os.getuid() == 0 or layer not in OF_ROOT])
def test_canary_refuses_a_guest_whose_layer_does_nothing(strict: Policy, layer: str) -> None:
    outcome = run_guest(strict, "say(ran=True)", before=STUBS[layer])
    assert outcome.status == confine.REFUSED_EXIT
    assert not any("ran" in message for message in outcome.said)
    assert outcome.failed is not None
    assert outcome.failed[0] in {"canary", "landlock", "seccomp"}


@pytest.mark.parametrize("abi", range(1, 8))
def test_every_landlock_abi_confines(strict: Policy, abi: int) -> None:
    outcome = run_guest(
        strict,
        "open('a', 'w').write('x'); os_ = __import__('os'); os_.mkdir('d'); os_.unlink('a')",
        before=f"confine.confine_landlock.kernel_abi = lambda: {abi}",
    )
    assert outcome.done, outcome
    assert outcome.report is not None
    assert outcome.report["landlock_abi"] == abi


def test_a_second_thread_before_confinement_is_refused(strict: Policy) -> None:
    started = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    outcome = run_guest(strict, "", before=started)
    assert outcome.failed is not None
    assert outcome.failed[:2] == ["threads", errno.EBUSY]


def test_a_policy_of_another_version_is_refused(strict: Policy) -> None:
    outcome = run_guest(strict, "", before="confine.WIRE_VERSION = 99")
    assert outcome.failed is not None
    assert outcome.failed[0] == "policy"


def test_a_missing_workspace_is_refused(strict: Policy) -> None:
    policy = replace(strict, read_write=(*strict.read_write, Path("/nonexistent/workspace")))
    with Guest(policy, "") as guest:
        outcome = guest.finish()
    assert outcome.failed is not None
    assert outcome.failed[:2] == ["landlock", errno.ENOENT]


def test_an_orphan_refuses_to_start(strict: Policy) -> None:
    outcome = run_guest(replace(strict, parent=1), "")
    assert outcome.failed is not None
    assert outcome.failed[:2] == ["parent", errno.ESRCH]


def test_stray_descriptors_are_closed_and_named(strict: Policy) -> None:
    code = "import os; say(open=sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    outcome = run_guest(strict, code, before="os.dup2(0, 77); os.dup2(0, 900)")
    assert outcome.report is not None
    assert {77, 900} <= set(outcome.report["closed"])
    # The fifth is the listing itself.
    assert outcome.value("open")[:4] == [0, 1, 2, 3]
    assert len(outcome.value("open")) == 5


def test_limits_are_in_force(strict: Policy) -> None:
    limits = Limits(memory=1 << 29, address_space=1 << 31, cpu_seconds=100, file_size=1 << 20, open_files=64)
    code = """
import resource as r, mmap
names = 'DATA AS CPU FSIZE NOFILE CORE MEMLOCK'.split()
say(limits={n: r.getrlimit(getattr(r, 'RLIMIT_' + n)) for n in names})
try:
    bytearray(1 << 30)
except MemoryError:
    say(heap='refused')
try:
    mmap.mmap(-1, 1 << 32)
except OSError as problem:
    say(shared=problem.errno)
try:
    with open('big', 'wb') as f: f.truncate(1 << 30)
except OSError as problem:
    say(file=problem.errno)
held = []
try:
    while True: held.append(open('/dev/null'))
except OSError as problem:
    say(files=problem.errno)
"""
    outcome = run_guest(replace(strict, limits=limits), code)
    assert outcome.done, outcome
    assert outcome.value("limits") == {
        "DATA": [1 << 29] * 2,
        "AS": [1 << 31] * 2,
        "CPU": [100, 105],
        "FSIZE": [1 << 20] * 2,
        "NOFILE": [64] * 2,
        "CORE": [0, 0],
        "MEMLOCK": [0, 0],
    }
    assert outcome.value("heap") == "refused"
    assert outcome.value("shared") == errno.ENOMEM
    assert outcome.value("file") == errno.EFBIG
    assert outcome.value("files") == errno.EMFILE


def test_cpu_limit_names_itself_by_its_signal(strict: Policy) -> None:
    outcome = run_guest(replace(strict, limits=Limits(cpu_seconds=1)), "while True: pass")
    assert outcome.status == -signal.SIGXCPU


def test_the_host_still_measures_and_ends_a_strict_guest(strict: Policy) -> None:
    with Guest(strict, "block = bytearray(50_000_000); say(up=True); hear()") as guest:
        while "up" not in (guest.hear() or {"up": None}):
            pass
        pid = guest.process.pid
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        assert resident > 50_000_000
        assert "Pss:" in Path(f"/proc/{pid}/smaps_rollup").read_text()
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        assert all(tick.isdigit() for tick in ticks)
        assert list(Path(f"/proc/{pid}/task").iterdir())
        os.kill(pid, signal.SIGKILL)
        assert guest.finish().status == -signal.SIGKILL
