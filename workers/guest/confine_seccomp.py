"""The system-call filter of a guest, assembled by hand as classic BPF.

Laws: what is not listed is refused; what is decided by arguments is decided by registers only, never by memory the
guest could change after the check; a foreign instruction set kills the process.
"""

from __future__ import annotations

__all__ = ["Filter", "assemble", "assembled", "install", "program", "put_on"]

import ctypes
import errno as errors
import signal
import socket
import struct
from functools import cache
from typing import NamedTuple

from . import confine_kernel, confine_syscalls
from .confine_kernel import ConfinementFailed

Instruction = tuple[int, int, int, int]
Code = list[Instruction]

_LOAD, _AND = 0x20, 0x54
_JUMP, _EQUAL, _AT_LEAST, _ANY_BIT = 0x05, 0x15, 0x35, 0x45
_RETURN = 0x06
# Bytes of an instruction.
_SIZE = 8
# Stands for the process's number in a filter that is built before there is the process: no pid is so large, and no
# other constant of a filter.
_SOME_PID = 0x5EED_BEEF
_SOME_PID_BYTES = struct.pack("=I", _SOME_PID)
# Conditional jumps carry an 8-bit distance; the kernel takes at most 4096 instructions.
_SHORT_JUMP, _MOST_INSTRUCTIONS = 255, 4096

_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000

_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16
_X32_BIT = 0x40000000

_CLONE_THREAD = 0x00010000
# What the C libraries pass when they start a thread: VM FS FILES SIGHAND THREAD SYSVSEM SETTLS PARENT_SETTID
# CHILD_CLEARTID DETACHED CHILD_SETTID. No namespace, no tracing, no other parent.
_CLONE_FOR_THREADS = 0x0100_0000 | 0x0020_0000 | 0x0040_0000 | 0x0010_0000 | 0x000D_0000 | 0x0000_0F00

# PDEATHSIG, NAME, DUMPABLE (reading), timer slack, no_new_privs (both ways), huge pages, TID address, SVE length.
_PRCTL = (2, 3, 15, 16, 21, 23, 29, 30, 38, 39, 40, 41, 42, 51, 0x53564D41)
# Terminal queries, FIONREAD and the three descriptor flags; 0xC0606610 reads one's own page table (PAGEMAP_SCAN).
_IOCTL = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0xC0606610)
# Every request of a userfaultfd that was opened before this filter was put on.
_IOCTL_USERFAULT, _IOCTL_TYPE = 0xAA00, 0xFF00
# SETOWN, SETSIG and SETOWN_EX send signals to others; SETLEASE makes the host's open() of a workspace file wait;
# SETPIPE_SZ takes memory that no limit counts.
_FCNTL_REFUSED = (8, 10, 15, 1024, 1031)
_SO_BUFFERS_AND_TIMEOUTS = (7, 8, 20, 21)
_ACCESS_MODES, _O_TRUNC = 3, 0o1000
_TRUNCATE_SINCE_ABI = 3


# What a zygote may besides: fork a guest, confine it, and give its user and processes namespaces of their own.
_ZYGOTE_ALLOWED = (
    "memfd_create",
    "sendmsg",
    "setsid",
    "capset",
    "userfaultfd",
    "pidfd_open",
    "prctl",
    *confine_syscalls.SETUP,
)
# What the C library passes when it forks: CHILD_SETTID CHILD_CLEARTID SIGCHLD.
_CLONE_TO_FORK = 0x0100_0000 | 0x0020_0000 | int(signal.SIGCHLD)
# NEWUSER and NEWPID, together only.
_UNSHARED = 0x1000_0000 | 0x2000_0000
_SIGN = 0x8000_0000


class Filter(NamedTuple):
    """What a filter depends on: this process, this machine, this kernel's Landlock.

    ``zygote`` is the filter of the process that guests are forked from, beneath their own: it alone may fork.
    """

    machine: str
    pid: int
    landlock_abi: int
    zygote: bool = False


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _answer(action: int) -> Code:
    return [(_RETURN, 0, 0, action)]


def _refuse(code: int) -> Code:
    return _answer(_ERRNO | code)


_YES = _answer(_ALLOW)
_NO = _refuse(errors.EPERM)


def _argument(index: int, *, high: bool = False) -> Code:
    return [(_LOAD, 0, 0, _AT_ARGUMENTS + 8 * index + 4 * high)]


def _when(test: int, value: int, then: Code, otherwise: Code) -> Code:
    """Branch on the accumulator; both sides end in an answer, so neither falls into the other."""
    if len(then) <= _SHORT_JUMP:
        return [(test, 0, len(then), value), *then, *otherwise]
    return [(test, 0, 1, value), (_JUMP, 0, 0, 1), (_JUMP, 0, 0, len(then)), *then, *otherwise]


def _one_of(values: tuple[int, ...], then: Code, otherwise: Code) -> Code:
    code = otherwise
    for value in reversed(values):
        code = _when(_EQUAL, value, then, code)
    return code


def _null(index: int, then: Code, otherwise: Code) -> Code:
    rest = _argument(index, high=True) + _when(_EQUAL, 0, then, otherwise)
    return _argument(index) + _when(_EQUAL, 0, rest, otherwise)


def _clone(*, fork: bool) -> Code:
    thread = _argument(0) + _when(_ANY_BIT, _CLONE_THREAD, _YES, _NO)
    strange = ~_CLONE_FOR_THREADS & 0xFFFFFFFF
    threads = [*_argument(0), *_when(_ANY_BIT, strange, _NO, thread)]
    return [*_argument(0), *_when(_EQUAL, _CLONE_TO_FORK, _YES, threads)] if fork else threads


def _one_process() -> Code:
    """A signal to one process: which, its guests' own filters decide. Never to a group, nor to everyone."""
    some = _argument(0) + _when(_EQUAL, 0, _NO, _YES)
    return _argument(0) + _when(_ANY_BIT, _SIGN, _NO, some)


def _socketpair() -> Code:
    kinds = (int(socket.SOCK_STREAM), int(socket.SOCK_SEQPACKET))
    masked: Code = [*_argument(1), (_AND, 0, 0, 0xF)]
    kind = masked + _one_of(kinds, _YES, _NO)
    return _argument(0) + _when(_EQUAL, int(socket.AF_UNIX), kind, _NO)


def _ioctl() -> Code:
    no_such = _refuse(errors.ENOTTY)
    masked: Code = [(_AND, 0, 0, _IOCTL_TYPE)]
    userfault = masked + _when(_EQUAL, _IOCTL_USERFAULT, _YES, no_such)
    return _argument(1) + _one_of(_IOCTL, _YES, userfault)


def _setsockopt() -> Code:
    no_such = _refuse(errors.ENOPROTOOPT)
    option = _argument(2) + _one_of(_SO_BUFFERS_AND_TIMEOUTS, _YES, no_such)
    return _argument(1) + _when(_EQUAL, int(socket.SOL_SOCKET), option, no_such)


def _open(flags: int, abi: int) -> Code:
    """Refuse access mode 3, which opens any file without a right, and truncation by opening to read.

    Landlock asks for no right on a descriptor that can neither read nor write, and knows truncation since ABI 3 only.
    """
    writing = [*_argument(flags), (_AND, 0, 0, _ACCESS_MODES), *_when(_EQUAL, 0, _NO, _YES)]
    truncating = _argument(flags) + _when(_ANY_BIT, _O_TRUNC, writing, _YES)
    proper = _YES if abi >= _TRUNCATE_SINCE_ABI else truncating
    mode: Code = [*_argument(flags), (_AND, 0, 0, _ACCESS_MODES)]
    return mode + _when(_EQUAL, _ACCESS_MODES, _refuse(errors.EINVAL), proper)


def _rules(wanted: Filter) -> dict[str, Code]:
    own = (wanted.pid,)
    self_only = _argument(0) + _one_of(own, _YES, _NO)
    zero_too = _argument(0) + _one_of((0, wanted.pid), _YES, _NO)
    abi = wanted.landlock_abi
    if wanted.zygote:
        self_only, zero_too = _one_process(), _argument(0) + _when(_EQUAL, 0, _YES, _one_process())
    return {
        "clone": _clone(fork=wanted.zygote),
        "kill": self_only,
        "tgkill": self_only,
        "rt_sigqueueinfo": self_only,
        "rt_tgsigqueueinfo": self_only,
        "prlimit64": zero_too,
        "sched_setaffinity": zero_too,
        "socketpair": _socketpair(),
        "sendto": _null(4, _YES, _NO),
        "setsockopt": _setsockopt(),
        "prctl": _argument(0) + _one_of(_PRCTL, _YES, _NO),
        "ioctl": _ioctl(),
        "fcntl": _argument(1) + _one_of(_FCNTL_REFUSED, _NO, _YES),
        "open": _open(1, abi),
        "openat": _open(2, abi),
        "truncate": _YES if abi >= _TRUNCATE_SINCE_ABI else _NO,
    }


def _leaves(wanted: Filter) -> dict[int, Code]:
    column = confine_syscalls.ARCHITECTURES[wanted.machine].column
    rules = _rules(wanted)
    metadata = _answer(_ERRNO)
    groups: list[tuple[dict[str, confine_syscalls.Number], Code | None]] = [
        (confine_syscalls.ALLOWED, _YES),
        (confine_syscalls.REFUSED, _NO),
        (confine_syscalls.FAKED, metadata),
        (confine_syscalls.NO_ATTRIBUTES, _refuse(errors.ENOTSUP)),
        (confine_syscalls.RULED, None),
    ]
    leaves: dict[int, Code] = {}
    for group, code in groups:
        for name, numbers in group.items():
            number = numbers[column]
            if number is not None:
                leaves[number] = rules[name] if code is None else code
    if wanted.zygote:
        tables = {
            name: numbers[column]
            for group in (confine_syscalls.SETUP, *(g for g, _ in groups))
            for name, numbers in group.items()
        }
        leaves |= {number: _YES for name in _ZYGOTE_ALLOWED if (number := tables[name]) is not None}
        unshare = tables["unshare"]
        assert unshare is not None  # noqa: S101 - every architecture has it
        leaves[unshare] = _argument(0) + _when(_EQUAL, _UNSHARED, _YES, _NO)
    return leaves


def _intervals(leaves: dict[int, Code]) -> list[tuple[int, Code]]:
    """First number and answer of each run of calls that share one, gaps included."""
    unknown = _refuse(errors.ENOSYS)
    runs: list[tuple[int, Code]] = [(0, leaves.get(0, unknown))]
    for number in range(1, max(leaves) + 2):
        code = leaves.get(number, unknown)
        if code != runs[-1][1]:
            runs.append((number, code))
    return runs


def _search(runs: list[tuple[int, Code]]) -> Code:
    if len(runs) == 1:
        return runs[0][1]
    middle = len(runs) // 2
    below, above = _search(runs[:middle]), _search(runs[middle:])
    return _when(_AT_LEAST, runs[middle][0], above, below)


def program(wanted: Filter) -> Code:
    """The whole filter; raises ConfinementFailed for an instruction set without a table."""
    architecture = confine_syscalls.ARCHITECTURES.get(wanted.machine)
    if architecture is None:
        raise ConfinementFailed("seccomp", errors.ENOSYS, f"no system-call table for {wanted.machine}")
    kill = _answer(_KILL_PROCESS)
    known = _search(_intervals(_leaves(wanted)))
    number: Code = [(_LOAD, 0, 0, _AT_NUMBER), *_when(_AT_LEAST, _X32_BIT, kill, known)]
    return [(_LOAD, 0, 0, _AT_ARCH), *_when(_EQUAL, architecture.audit, [(_JUMP, 0, 0, 1)], kill), *number]


@cache
def _assembled(wanted: Filter) -> bytes:
    return assemble(program(wanted))


def assembled(wanted: Filter) -> bytes:
    """The filter as the kernel takes it; built once for all processes that are forked after it was asked for.

    Building takes longer than all else that a guest does to confine itself, and only the process's number differs.
    """
    code = _assembled(wanted._replace(pid=_SOME_PID))
    own = struct.pack("=I", wanted.pid)
    return b"".join(piece[:-4] + own if piece.endswith(_SOME_PID_BYTES) else piece for piece in _instructions(code))


def _instructions(code: bytes) -> list[bytes]:
    return [code[at : at + _SIZE] for at in range(0, len(code), _SIZE)]


def assemble(code: Code) -> bytes:
    """The program as the kernel's array of instructions."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install(code: Code) -> None:
    """Put a filter on this thread for good; no_new_privs must be set. Raises ConfinementFailed."""
    put_on(assemble(code))


def put_on(packed: bytes) -> None:
    """Put an assembled filter on this thread for good; no_new_privs must be set. Raises ConfinementFailed."""
    handed = _Program(len(packed) // _SIZE, packed)
    try:
        confine_kernel.prctl(confine_kernel.PR_SET_SECCOMP, 2, ctypes.cast(ctypes.pointer(handed), ctypes.c_void_p))
    except OSError as problem:
        why = {
            errors.EINVAL: "this kernel has no system-call filters, or a substitute for one refused ours",
            errors.EACCES: "no_new_privs was not set",
        }.get(problem.errno or 0, "the kernel refused the filter; a container's own filter may forbid prctl")
        raise ConfinementFailed("seccomp", problem.errno or 0, why) from problem
