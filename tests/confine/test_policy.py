"""What is granted: never what a guest could have planted, never what holds state, and nothing left out unsaid."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from perdure.workers.confine import grants
from perdure.workers.confine.errors import InterpreterUnusable, PolicyRefused
from perdure.workers.confine.interpreter import Interpreter, inspect_interpreter
from perdure.workers.confine.policy import Readable, readable_paths, strict_policy
from perdure.workers.guest import confine_seccomp, confine_syscalls, launch

from .kit import run_guest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("packages/lib", "state/workspace", "elsewhere/ssh", "cache/pack"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path.resolve()


@pytest.mark.parametrize("path", ["/", "/etc", "/etc/shadow", "/proc/1", "/home", "/root", "/var", "/usr", "~"])
def test_what_is_too_wide_is_refused(path: str) -> None:
    sifted = grants.sift([Path(path).expanduser()], private=[])
    assert sifted.granted == ()
    assert len(sifted.refused) == Path(path).expanduser().exists()


def test_a_link_a_guest_could_plant_is_no_grant(tree: Path) -> None:
    planted = tree / "state/workspace/lib"
    planted.symlink_to(tree / "elsewhere/ssh")
    through = tree / "packages/lib/innocent"
    through.symlink_to(planted)
    sifted = grants.sift([planted, through], private=[tree / "state"])
    assert sifted.granted == ()
    assert {each.path for each in sifted.refused} == {planted, through}
    assert all("guests write" in each.why for each in sifted.refused)


def test_what_contains_state_is_refused(tree: Path) -> None:
    (refused,) = grants.sift([tree], private=[tree / "state"]).refused
    assert "keep them apart" in refused.why


def test_a_loop_of_links_is_refused(tree: Path) -> None:
    (tree / "a").symlink_to(tree / "b")
    (tree / "b").symlink_to(tree / "a")
    assert len(grants.sift([tree / "a"], private=[]).refused) == 1


def test_packages_installed_as_links_are_granted_where_they_lie(tree: Path) -> None:
    (tree / "cache/pack/__init__.py").touch()
    (tree / "cache/single.py").touch()
    (tree / "packages/lib/pack").mkdir()
    (tree / "packages/lib/pack/__init__.py").symlink_to(tree / "cache/pack/__init__.py")
    (tree / "packages/lib/data").mkdir()
    (tree / "packages/lib/data/x").symlink_to(tree / "elsewhere/ssh")
    (tree / "packages/lib/single.py").symlink_to(tree / "cache/single.py")
    found = grants.sift(grants.with_linked_packages([tree / "packages/lib"]), private=[])
    assert set(found.granted) == {tree / "cache/pack", tree / "cache/single.py"}


def test_only_the_outermost_are_kept() -> None:
    paths = [Path("/a/b/c"), Path("/a/b"), Path("/a/bc"), Path("/a/b")]
    assert grants.outermost(paths) == (Path("/a/b"), Path("/a/bc"))


def test_writing_is_granted_only_where_workspaces_are_kept(readable: Readable, tree: Path) -> None:
    with pytest.raises(PolicyRefused, match="kept for workspaces"):
        strict_policy(readable, [tree / "elsewhere"])
    with pytest.raises(PolicyRefused, match="not a folder"):
        strict_policy(readable, [tree / "missing"])
    with pytest.raises(PolicyRefused, match="kept for workspaces"):
        strict_policy(readable, [readable.private[0]])


def test_the_interpreter_speaks_for_itself(interpreter: Interpreter) -> None:
    assert interpreter.version == sys.version_info[:3]
    assert Path(sys.base_prefix) in interpreter.prefixes


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterpreterUnusable):
        inspect_interpreter(tmp_path / "python")
    with pytest.raises(InterpreterUnusable):
        inspect_interpreter(Path("/bin/false"))


def test_a_package_refused_is_named_and_not_importable(interpreter: Interpreter, workspaces: Path, tree: Path) -> None:
    (tree / "state/workspace/planted").mkdir()
    readable = readable_paths(
        interpreter, private=[workspaces, tree / "state"], also_readable=[tree / "state/workspace/planted"]
    )
    assert [each.path for each in readable.refused] == [tree / "state/workspace/planted"]
    policy = strict_policy(readable, [tree / "state/workspace"])
    outcome = run_guest(policy, "import json; open('x', 'w').close()")
    assert outcome.done, outcome


def test_whoever_asks_how_much_of_the_machine_there_is_may_read_it(interpreter: Interpreter, workspaces: Path) -> None:
    readable = readable_paths(interpreter, private=[workspaces])
    for version in ("cpu/cpu.cfs_quota_us", "cpu.max"):
        quota = Path("/sys/fs/cgroup") / version
        assert not quota.exists() or quota in readable.granted


def test_what_a_guest_loads_is_named_where_it_really_lies() -> None:
    places = [Path(place) for place in launch.environment()["PERDURE_GUEST"].split(os.pathsep)]
    assert places == [place.resolve() for place in places] == launch.needed_files()


@pytest.mark.parametrize("machine", confine_syscalls.ARCHITECTURES)
@pytest.mark.parametrize("abi", [1, 3, 7])
def test_the_filter_answers_each_call_as_its_group_says(machine: str, abi: int) -> None:
    wanted = confine_seccomp.Filter(machine, 1234, abi)
    code = confine_seccomp.program(wanted)
    column = confine_syscalls.ARCHITECTURES[machine].column
    groups = {
        0x7FFF0000: confine_syscalls.ALLOWED,
        0x00050001: confine_syscalls.REFUSED,
        0x00050000: confine_syscalls.FAKED,
        0x0005005F: confine_syscalls.NO_ATTRIBUTES,
        0x00050026: confine_syscalls.SETUP,
    }
    for answer, group in groups.items():
        for name, numbers in group.items():
            number = numbers[column]
            if number is not None:
                assert evaluate(code, machine, number) == answer, name
    for unknown in (333, 600, 0x3FFFFFFF):
        assert evaluate(code, machine, unknown) == 0x00050026
    assert evaluate(code, machine, 0x40000000) == 0x80000000
    other = "aarch64" if machine == "x86_64" else "x86_64"
    assert evaluate(code, other, 1) == 0x80000000


@pytest.mark.parametrize("machine", confine_syscalls.ARCHITECTURES)
@pytest.mark.parametrize(
    "name,arguments,allowed",
    [
        ("kill", (1234, 9), True),
        ("kill", (1, 9), False),
        ("kill", (0, 9), False),
        ("kill", (0xFFFFFFFF, 9), False),
        ("tgkill", (1234, 1, 9), True),
        ("clone", (0x003D0F00,), True),
        ("clone", (17,), False),
        ("clone", (0x013D0F00 | 0x10000000,), False),
        ("prlimit64", (0,), True),
        ("prlimit64", (1,), False),
        ("socketpair", (1, 0o2000001, 0), True),
        ("socketpair", (1, 2, 0), False),
        ("socketpair", (2, 1, 0), False),
        ("sendto", (3, 0, 0, 0, 0), True),
        ("sendto", (3, 0, 0, 0, 1), False),
        ("sendto", (3, 0, 0, 0, 1 << 32), False),
        ("prctl", (1,), False),
        ("prctl", (4,), False),
        ("prctl", (15,), True),
        ("ioctl", (0, 0x5401), True),
        ("ioctl", (0, 0x5412), False),
        ("ioctl", (0, 0xC018AA3F), True),
        ("fcntl", (0, 8), False),
        ("fcntl", (0, 1024), False),
        ("fcntl", (0, 4), True),
        ("openat", (0, 0, 0o1000), False),
        ("openat", (0, 0, 0o1001), True),
        ("openat", (0, 0, 3), False),
        ("truncate", (0,), False),
    ],
)
def test_the_filter_looks_at_arguments(machine: str, name: str, arguments: tuple[int, ...], allowed: bool) -> None:
    code = confine_seccomp.program(confine_seccomp.Filter(machine, 1234, 2))
    number = confine_syscalls.number(confine_syscalls.RULED, name, machine)
    assert number is not None
    assert (evaluate(code, machine, number, arguments) == 0x7FFF0000) == allowed


def test_no_call_is_in_two_groups() -> None:
    groups = [
        *(confine_syscalls.ALLOWED, confine_syscalls.REFUSED, confine_syscalls.FAKED),
        *(confine_syscalls.NO_ATTRIBUTES, confine_syscalls.RULED, confine_syscalls.SETUP),
    ]
    for column in (0, 1):
        numbers = [pair[column] for group in groups for pair in group.values() if pair[column] is not None]
        assert len(numbers) == len(set(numbers))


def evaluate(code: confine_seccomp.Code, machine: str, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Run a filter on one call, as the kernel's machine does."""
    words = {0: number, 4: confine_syscalls.ARCHITECTURES[machine].audit}
    for index, value in enumerate((*arguments, 0, 0, 0, 0, 0, 0)[:6]):
        words[16 + 8 * index], words[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32
    accumulator = at = 0
    while True:
        operation, true, false, value = code[at]
        at += 1
        match operation:
            case 0x20:
                accumulator = words[value]
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x06:
                return value
            case _:
                holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
                at += true if holds[operation] else false
