"""CPython's own tests in a session and outside, and where they differ, why."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.workers.guest.launch import environment

if TYPE_CHECKING:
    from perdure.engine import Client

__all__ = [
    "BY_CHANCE",
    "DIFFERENT",
    "MODULES",
    "NOT_RUN",
    "QUICK",
    "inside",
    "needs_what_a_guest_has_not",
    "outside",
    "reason",
]

RUNNER = Path(__file__).with_name("cpython_runner.txt")
#: Seconds for one module, far more than any takes on a quiet machine.
PATIENCE = 240.0

#: Part of every full run.
QUICK = ("test_scope", "test_patma", "test_contextlib", "test_decorators")

#: Without test_time: its test of `clock_settime` sets the machine's clock where it may.
MODULES = (
    *QUICK,
    "test_asyncgen", "test_asyncio.test_locks", "test_asyncio.test_queues", "test_asyncio.test_taskgroups",
    "test_asyncio.test_tasks", "test_asyncio.test_timeouts", "test_asyncio.test_futures", "test_asyncio.test_runners",
    "test_augassign", "test_binop", "test_bool", "test_call", "test_class", "test_collections", "test_compare",
    "test_complex", "test_contextlib_async", "test_context", "test_copy", "test_coroutines", "test_dataclasses",
    "test_decimal", "test_defaultdict", "test_deque", "test_descr", "test_dict", "test_dictcomps", "test_enum",
    "test_enumerate", "test_except_star", "test_exception_group", "test_exception_variations", "test_exceptions",
    "test_extcall", "test_float", "test_format", "test_fractions", "test_fstring", "test_functools", "test_future_stmt",
    "test_generator_stop", "test_generators", "test_genericalias", "test_genexps", "test_global", "test_grammar",
    "test_heapq", "test_inspect", "test_int", "test_isinstance", "test_iter", "test_itertools", "test_json",
    "test_keywordonlyarg", "test_list", "test_listcomps", "test_logging", "test_named_expressions", "test_opcodes",
    "test_operator", "test_ordered_dict", "test_pep646_syntax", "test_pickle", "test_positional_only_arg", "test_pow",
    "test_property", "test_queue", "test_raise", "test_random", "test_range", "test_re", "test_richcmp", "test_scope",
    "test_set", "test_setcomps", "test_slice", "test_sort", "test_statistics", "test_string", "test_struct",
    "test_subclassinit", "test_super", "test_symtable", "test_sys_setprofile", "test_sys_settrace", "test_syntax",
    "test_textwrap", "test_threading", "test_threading_local", "test_traceback", "test_tuple",
    "test_type_aliases", "test_type_params", "test_typing", "test_unicode_identifiers", "test_unpack", "test_unpack_ex",
    "test_userdict", "test_warnings", "test_weakref", "test_weakset", "test_with", "test_yield_from", "test_zoneinfo",
)  # fmt: skip

#: What a guest refuses, as its errors say it: another process, a socket that leads outside, a file outside.
_REFUSALS = re.compile(
    r"PermissionError: \[Errno (1|13)\]|BlockingIOError: \[Errno 11\] Resource temporarily|"
    r"OSError: \[Errno (1|13|30|97)\]|can't start new process|RuntimeError: can't fork"
)

#: Other differences: by the test's id, or a beginning of it that ends with ``*``, the reason.
DIFFERENT: dict[str, str] = {
    "test.test_asyncio.test_timeouts.TimeoutTests.test_nested_timeouts": (
        "two timers that are due at once fire in different turns of the loop: what enters, enters one at a time"
    ),
    "test.test_generators.SignalAndYieldFromTest.test_raise_and_yield_from": (
        "`sys.monitoring` watches what code touches, and a function that is watched looks for signals where one that "
        "is not does not: a signal in the middle of a `yield from` is raised one generator further out"
    ),
}

DIFFERENT |= dict.fromkeys(
    (
        "test.test_logging.DatagramHandlerTest.test_output",
        "test.test_logging.IPv6SysLogHandlerTest.test_output",
        "test.test_logging.IPv6SysLogHandlerTest.test_udp_reconnection",
        "test.test_logging.SMTPHandlerTest.test_basic",
        "test.test_logging.SocketHandlerTest.test_noserver",
        "test.test_logging.SocketHandlerTest.test_output",
        "test.test_logging.SysLogHandlerTest.test_output",
        "test.test_logging.SysLogHandlerTest.test_udp_reconnection",
        "test.test_logging.UnixDatagramHandlerTest.test_output",
        "test.test_logging.UnixSocketHandlerTest.test_noserver",
        "test.test_logging.UnixSocketHandlerTest.test_output",
        "test.test_logging.UnixSysLogHandlerTest.test_output",
        "test.test_logging.UnixSysLogHandlerTest.test_udp_reconnection",
    ),
    "opens a socket, and skips itself or fails for another reason where that is refused",
)
DIFFERENT |= dict.fromkeys(
    (
        "test.test_logging.TimedRotatingFileHandlerTest.test_rollover_at_midnight",
        "test.test_logging.TimedRotatingFileHandlerTest.test_rollover_at_weekday",
    ),
    "sets the time of a file, which stays what it is (docs/security.md)",
)

#: Tests that are not run inside, by a part of their id: they wait, without an end, for what a guest refuses.
NOT_RUN: dict[str, str] = {
    ".ConfigDictTest.test_listen": "waits for a server whose thread ended when its socket was refused",
}

#: Of these, the ones that a slow machine may make alike: they say nothing when they agree.
BY_CHANCE = ("test.test_asyncio.test_timeouts.TimeoutTests.test_nested_timeouts",)


def outside(folder: Path, name: str) -> dict[str, str]:
    """Run a module's tests in a plain interpreter."""
    code = f"{RUNNER.read_text()}\nimport json\nprint('\\n' + json.dumps(run({name!r})))"
    (folder / "outside.py").write_text(code)
    env = {**environment(), "HOME": str(folder), "TMPDIR": str(folder), "PWD": str(folder)}
    env = {key: value for key, value in env.items() if not key.startswith("PERDURE")}
    command = [sys.executable, "-s", "-X", "utf8", str(folder / "outside.py")]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"outside, {name} ended with {done.returncode}: {done.stderr[-2000:]}"
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


async def inside(client: Client, name: str) -> dict[str, str]:
    """Run a module's tests in a session of its own."""
    session = await client.session(re.sub(r"\W", "-", name))
    execution = await session.submit(f"{RUNNER.read_text()}\nrun({name!r}, {tuple(NOT_RUN)!r})")
    async with asyncio.timeout(PATIENCE):
        result = await execution.result()
    assert result.status == "ok", f"inside, {name} ended as {result.status}: {result.error}"
    found: dict[str, str] = result.value
    return found


def needs_what_a_guest_has_not(outcome: str) -> bool:
    """Whether a test failed inside because it starts a process, opens a socket, or writes outside its folder."""
    return _REFUSALS.search(outcome) is not None


def reason(test: str) -> str | None:
    """Return why a test is known to differ."""
    for name, why in DIFFERENT.items():
        if test == name or (name.endswith("*") and test.startswith(name[:-1])):
            return why
    return None
