"""Ordinary programs go on working inside, with and without the second wall."""

from __future__ import annotations

import signal

import pytest

from perdure.workers.confine.bwrap import find_bwrap, wrap
from perdure.workers.confine.policy import Policy

from .kit import run_guest
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


def outcomes(policy: Policy, workloads: dict[str, str], wrap_argv: tuple[str, ...] = ()) -> dict[str, str]:
    outcome = run_guest(policy, ALL_IN_ONE.format(workloads=workloads), wrap=wrap_argv)
    assert outcome.done, outcome
    failed = {m["failed_workload"][0]: m["failed_workload"][1] for m in outcome.said if "failed_workload" in m}
    worked = {m["worked"]: "" for m in outcome.said if "worked" in m}
    assert failed.keys() | worked.keys() == workloads.keys()
    return failed


def test_workloads_in_the_core(strict: Policy) -> None:
    assert outcomes(strict, WORKLOADS) == {}


def test_what_the_core_cannot_give_says_so(strict: Policy) -> None:
    failed = outcomes(strict, NOT_GIVEN)
    assert failed.keys() == NOT_GIVEN.keys()
    assert all("PermissionError" in text for text in failed.values())


def test_workloads_in_namespaces(strict: Policy) -> None:
    bwrap = find_bwrap()
    assert bwrap is not None, "install bubblewrap to run these tests"
    wrapped = wrap(bwrap, strict)
    assert outcomes(wrapped.policy, WORKLOADS, wrapped.argv) == {}


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_guest_may_end_itself(strict: Policy, sent: signal.Signals) -> None:
    outcome = run_guest(strict, f"import os; os.kill(os.getpid(), {int(sent)})")
    assert outcome.status == -sent


def test_a_fault_ends_the_guest_alone(strict: Policy) -> None:
    outcome = run_guest(strict, "import ctypes; ctypes.string_at(0)")
    assert outcome.status == -signal.SIGSEGV
