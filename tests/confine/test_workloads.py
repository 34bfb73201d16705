"""Ordinary programs go on working inside, with and without the second wall."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from perdure.workers.confine.policy import Policy

from .kit import run_guest
from .real import KINDS, SAY, Place, run
from .workloads import NOT_GIVEN, WORKLOADS

ALL_IN_ONE = """
import traceback
for name, source in {workloads!r}.items():
    try:
        exec(compile(source, name, "exec"), {{"__name__": "__main__"}})
    except BaseException:
        say(failed_workload=[name, traceback.format_exc()])
    else:
        say(worked=name)
"""


async def outcomes(folder: Path, level: str, workloads: dict[str, str]) -> dict[str, str]:
    place = Place(folder.resolve() / "state")
    try:
        guest = await place.start(KINDS[level])
        ran = await run(guest, SAY + ALL_IN_ONE.format(workloads=workloads))
    finally:
        await place.close()
    assert ran.done is not None, ran
    failed = {m["failed_workload"][0]: m["failed_workload"][1] for m in ran.said() if "failed_workload" in m}
    worked = {m["worked"]: "" for m in ran.said() if "worked" in m}
    assert failed.keys() | worked.keys() == workloads.keys()
    return failed


@pytest.mark.parametrize("level", ["core", "full"])
async def test_workloads_work(tmp_path: Path, level: str) -> None:
    assert await outcomes(tmp_path, level, WORKLOADS) == {}


async def test_what_the_core_cannot_give_says_so(tmp_path: Path) -> None:
    failed = await outcomes(tmp_path, "core", NOT_GIVEN)
    assert failed.keys() == NOT_GIVEN.keys()
    assert all("PermissionError" in text for text in failed.values())


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_guest_may_end_itself(strict: Policy, sent: signal.Signals) -> None:
    outcome = run_guest(strict, f"import os; os.kill(os.getpid(), {int(sent)})")
    assert outcome.status == -sent


def test_a_fault_ends_the_guest_alone(strict: Policy) -> None:
    outcome = run_guest(strict, "import ctypes; ctypes.string_at(0)")
    assert outcome.status == -signal.SIGSEGV
