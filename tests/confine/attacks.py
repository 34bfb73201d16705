"""The attack list: what a hostile guest tries, and what is to come of it at each level.

This file is sent to the guest as source and run there, so it imports nothing that lies outside the standard library;
the tests read the expectations from the same file. An attack that returns has succeeded; one that raises was refused.
"""

# ruff: noqa: SIM115
# Attackers speak to the kernel, not to pathlib.

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

Attempt = Callable[[], None]

SUCCEEDS, REFUSED, VARIES, FAKED = "succeeds", "refused", "varies", "faked"


class Attack(NamedTuple):
    """One attempt, and its expected outcome at `process`, in the strict core, and in the core with namespaces."""

    kind: str
    run: Attempt
    process: str
    core: str
    full: str


ATTACKS: dict[str, Attack] = {}
LONELY: dict[str, Attack] = {}
TARGETS: dict[str, Any] = {}

_NUMBERS = {
    "x86_64": {
        "process_vm_readv": 310, "ptrace": 101, "kcmp": 312, "ioprio_set": 251, "clone3": 435, "mount": 165,
        "bpf": 321, "perf_event_open": 298, "add_key": 248, "userfaultfd": 323, "io_uring_setup": 425,
        "memfd_create": 319, "personality": 135, "shmget": 29, "mq_open": 240, "fanotify_init": 300,
        "open_by_handle_at": 304, "pidfd_getfd": 438, "openat2": 437, "setxattr": 188, "inotify_init1": 294,
        "inotify_add_watch": 254, "name_to_handle_at": 303, "prctl": 157, "fchmodat2": 452, "setns": 308,
    },
    "aarch64": {
        "process_vm_readv": 270, "ptrace": 117, "kcmp": 272, "ioprio_set": 30, "clone3": 435, "mount": 40,
        "bpf": 280, "perf_event_open": 241, "add_key": 217, "userfaultfd": 282, "io_uring_setup": 425,
        "memfd_create": 279, "personality": 92, "shmget": 194, "mq_open": 180, "fanotify_init": 262,
        "open_by_handle_at": 265, "pidfd_getfd": 438, "openat2": 437, "setxattr": 5, "inotify_init1": 26,
        "inotify_add_watch": 27, "name_to_handle_at": 264, "prctl": 167, "fchmodat2": 452, "setns": 268,
    },
}  # fmt: skip


class Failed(Exception):
    """The attack came to nothing for a reason that has no errno."""


def attack(
    kind: str, *, process: str = SUCCEEDS, core: str = REFUSED, full: str = REFUSED, lonely: bool = False
) -> Callable[[Attempt], Attempt]:
    def note(function: Attempt) -> Attempt:
        into = LONELY if lonely else ATTACKS
        into[function.__name__] = Attack(kind, function, process, core, full)
        return function

    return note


def call(name: str, *arguments: Any) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    number = _NUMBERS[os.uname().machine][name]
    result = int(libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def libc_call(name: str, *arguments: Any) -> int:
    result = int(getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


# --- first, before any attack opens something of its own


@attack("processes", process=REFUSED)
def find_a_stray_descriptor() -> None:
    sockets = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            where = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            # The listing has a descriptor of its own, which is gone by now.
            continue
        sockets += where.startswith("socket:")
        # Its own memory, and which pages of it were written to: what a checkpoint compares large buffers by.
        memory = ("anon_inode:[userfaultfd]", f"/proc/{os.readlink('/proc/self')}/pagemap")
        own = ("/memfd:", "socket:", "anon_inode:[eventpoll]", "/dev/null", *memory)
        if not where.startswith(own) and not where.endswith(".lock"):
            return
    # The channel, and the pair that wakes the event loop.
    if sockets > 3:
        return
    raise Failed("not there")


# --- files


@attack("files")
def read_a_secret() -> None:
    read(TARGETS["secret"])


@attack("files")
def read_etc_passwd() -> None:
    read("/etc/passwd")


@attack("files")
def list_the_home_folder() -> None:
    os.listdir(TARGETS["home"])


@attack("files", core=SUCCEEDS)
def learn_that_a_file_exists_and_its_size() -> None:
    os.stat(TARGETS["secret"])


@attack("files")
def append_to_a_start_up_file() -> None:
    with open(TARGETS["profile"], "a") as file:
        file.write("evil\n")


@attack("files")
def create_beside_the_workspace() -> None:
    with open(os.path.join(os.path.dirname(os.getcwd()), "dropped"), "w") as file:
        file.write("evil")


@attack("files")
def climb_out_of_the_workspace() -> None:
    read("../" * 20 + TARGETS["secret"])


@attack("files")
def read_through_a_symlink_in_the_workspace() -> None:
    os.symlink(TARGETS["secret"], "link")
    read("link")


@attack("files")
def hard_link_a_secret_into_the_workspace() -> None:
    os.link(TARGETS["secret"], "hard")
    read("hard")


@attack("files")
def move_a_file_into_the_workspace() -> None:
    os.rename(TARGETS["movable"], "moved")


@attack("files")
def delete_a_file() -> None:
    os.unlink(TARGETS["deletable"])


@attack("files")
def truncate_a_file() -> None:
    os.truncate(TARGETS["truncatable"], 0)


@attack("files")
def truncate_by_opening_to_read() -> None:
    os.close(os.open(TARGETS["module"], os.O_RDONLY | os.O_TRUNC))


@attack("files")
def open_with_no_access_mode() -> None:
    os.close(os.open(TARGETS["secret"], 3))


@attack("files", core=FAKED, full=FAKED)
def change_a_mode() -> None:
    os.chmod(TARGETS["chmodable"], 0)


@attack("files", core=FAKED, full=FAKED)
def change_a_mode_through_a_readable_descriptor() -> None:
    descriptor = os.open(TARGETS["readable"], os.O_RDONLY)
    os.fchmod(descriptor, 0o777)


@attack("files", core=FAKED, full=FAKED)
def change_a_mode_through_proc() -> None:
    descriptor = os.open(TARGETS["chmodable"], os.O_PATH)
    os.chmod(f"/proc/self/fd/{descriptor}", 0o777)


@attack("files", core=FAKED, full=FAKED)
def change_a_time() -> None:
    os.utime(TARGETS["chmodable"], (1, 1))


@attack("files")
def set_an_extended_attribute() -> None:
    os.setxattr(TARGETS["chmodable"], "user.evil", b"1")


@attack("files")
def write_into_the_packages() -> None:
    with open(os.path.join(os.path.dirname(TARGETS["module"]), "sitecustomize.py"), "w") as file:
        file.write("evil")


@attack("files")
def read_another_workspace() -> None:
    read(TARGETS["sibling_file"])


@attack("files")
def write_into_another_workspace() -> None:
    with open(TARGETS["sibling_file"], "a") as file:
        file.write("evil")


@attack("files")
def leave_a_file_in_shared_memory() -> None:
    path = f"/dev/shm/perdure-attack-{os.getpid()}"
    with open(path, "w") as file:
        file.write("evil")
    os.unlink(path)


@attack("files")
def leave_a_file_in_tmp() -> None:
    path = f"/tmp/perdure-attack-{os.getpid()}"
    with open(path, "w") as file:
        file.write("evil")
    os.unlink(path)


@attack("files")
def make_a_named_pipe_for_the_host_to_block_on() -> None:
    os.mkfifo("result.json")
    os.unlink("result.json")


@attack("files")
def make_a_socket_file() -> None:
    one, _ = socket.socketpair()
    with socket.socket(fileno=one.detach()) as bound:
        bound.bind("socket-file")


@attack("files")
def lease_a_file_so_that_the_host_waits() -> None:
    with open("leased", "w") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


@attack("files")
def watch_a_folder_for_names() -> None:
    descriptor = call("inotify_init1", 0)
    call("inotify_add_watch", descriptor, ctypes.c_char_p(TARGETS["home"].encode()), 0xFFF)


@attack("files", process=REFUSED)
def open_by_handle() -> None:
    call("open_by_handle_at", -1, 0, 0)


# --- other processes


@attack("processes", process=REFUSED)
def find_the_secret_in_the_environment() -> None:
    if TARGETS["marker"] not in str(dict(os.environ)):
        raise Failed("not there")


@attack("processes", process=REFUSED)
def read_the_host_s_environment() -> None:
    read(f"/proc/{TARGETS['host']}/environ")


@attack("processes", process=REFUSED)
def find_the_secret_in_any_environment() -> None:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if TARGETS["marker"].encode() in read(f"/proc/{name}/environ"):
                    return
    raise Failed("not there")


@attack("processes")
def read_the_host_s_command_line() -> None:
    read(f"/proc/{TARGETS['host']}/cmdline")


@attack("processes", process=REFUSED)
def read_the_host_s_memory_map() -> None:
    read(f"/proc/{TARGETS['host']}/maps")


@attack("processes", process=REFUSED)
def write_the_host_s_memory() -> None:
    os.close(os.open(f"/proc/{TARGETS['host']}/mem", os.O_RDWR))


@attack("processes", process=REFUSED)
def go_through_the_host_s_root() -> None:
    read(f"/proc/{TARGETS['host']}/root{TARGETS['secret']}")


@attack("processes", process=REFUSED)
def open_the_host_s_descriptors() -> None:
    os.listdir(f"/proc/{TARGETS['host']}/fd")


@attack("processes", process=REFUSED)
def read_the_host_with_process_vm_readv() -> None:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    call("process_vm_readv", TARGETS["host"], vector, 1, vector, 1, 0)


@attack("processes", process=REFUSED)
def trace_the_host() -> None:
    call("ptrace", 0x4206, TARGETS["host"], 0, 0)


@attack("processes")
def signal_the_host() -> None:
    os.kill(TARGETS["host"], signal.SIGUSR1)


@attack("processes")
def signal_everybody() -> None:
    os.kill(-1, 0)


@attack("processes")
def kill_a_sibling() -> None:
    os.kill(TARGETS["sibling"], signal.SIGKILL)


@attack("processes")
def signal_the_host_through_a_descriptor() -> None:
    one, two = socket.socketpair()
    fcntl.fcntl(one, fcntl.F_SETOWN, TARGETS["host"])
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC)
    two.send(b"x")
    fcntl.fcntl(one, fcntl.F_SETFL, 0)


@attack("processes")
def change_the_host_s_limits() -> None:
    resource.prlimit(TARGETS["host"], resource.RLIMIT_STACK, (1 << 20, 1 << 20))


@attack("processes")
def slow_the_host_down() -> None:
    os.setpriority(os.PRIO_PROCESS, TARGETS["host"], 5)


@attack("processes")
def pin_the_host_to_a_processor() -> None:
    os.sched_setaffinity(TARGETS["host"], {min(os.sched_getaffinity(0))})


@attack("processes")
def change_the_host_s_disk_priority() -> None:
    call("ioprio_set", 1, TARGETS["host"], (3 << 13))


@attack("processes", process=REFUSED)
def take_a_descriptor_from_the_host() -> None:
    call("pidfd_getfd", os.pidfd_open(TARGETS["host"]), 0, 0)


@attack("processes", process=REFUSED)
def compare_with_the_host() -> None:
    call("kcmp", os.getpid(), TARGETS["host"], 1, 0, 0)


@attack("processes", process=REFUSED)
def join_the_host_s_namespaces() -> None:
    with open(f"/proc/{TARGETS['host']}/ns/net") as namespace:
        call("setns", namespace.fileno(), 0)


@attack("processes", process=REFUSED)
def list_the_host_s_folder() -> None:
    os.listdir(f"/proc/{TARGETS['host']}/cwd")


@attack("processes")
def signal_its_group() -> None:
    os.kill(0, 0)


@attack("processes")
def change_the_host_s_scheduling() -> None:
    os.sched_setscheduler(TARGETS["host"], os.SCHED_BATCH, os.sched_param(0))


@attack("processes")
def outlive_the_host() -> None:
    libc_call("prctl", 1, 0, 0, 0, 0)


@attack("processes", process=REFUSED)
def raise_a_limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


# --- network


@attack("network")
def connect_to_a_tcp_port() -> None:
    with socket.create_connection(("127.0.0.1", TARGETS["tcp"]), 2):
        pass


@attack("network", process=VARIES)
def connect_by_tcp_fast_open() -> None:
    with socket.socket() as sock:
        sock.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", TARGETS["tcp"]))


@attack("network", process=VARIES)
def connect_by_multipath_tcp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as sock:
        sock.connect(("127.0.0.1", TARGETS["tcp"]))


@attack("network")
def send_a_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"attack", ("127.0.0.1", TARGETS["udp"]))


@attack("network")
def listen_on_a_port() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()


@attack("network")
def connect_to_a_unix_socket() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(TARGETS["unix"])


@attack("network")
def connect_to_an_abstract_unix_socket() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + TARGETS["abstract"])


@attack("network")
def aim_a_datagram_pair_at_a_named_socket() -> None:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"attack", TARGETS["unix_datagram"])


@attack("network")
def open_a_netlink_socket() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


@attack("network", process=VARIES)
def open_a_vsock() -> None:
    socket.socket(40, socket.SOCK_STREAM).close()


@attack("network", process=VARIES)
def open_a_packet_socket() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


@attack("network", process=VARIES)
def use_the_kernel_s_ciphers() -> None:
    socket.socket(38, socket.SOCK_SEQPACKET).close()


@attack("network")
def pass_a_descriptor_over_the_channel() -> None:
    socket.socket(fileno=os.dup(3)).sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\0\0\0\0")])


@attack("network", core=SUCCEEDS, full=SUCCEEDS)
def read_the_table_of_connections() -> None:
    read("/proc/self/net/tcp")


# --- kernel


@attack("kernel", process=VARIES)
def make_a_user_namespace_with_clone3() -> None:
    arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, signal.SIGCHLD)
    child = call("clone3", arguments, ctypes.sizeof(arguments))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@attack("kernel", process=REFUSED)
def mount_a_file_system() -> None:
    call("mount", ctypes.c_char_p(b"none"), ctypes.c_char_p(os.getcwd().encode()), ctypes.c_char_p(b"tmpfs"), 0, 0)


@attack("kernel", process=VARIES)
def load_a_bpf_program() -> None:
    call("bpf", 0, ctypes.create_string_buffer(128), 128)


@attack("kernel", process=VARIES)
def open_a_performance_event() -> None:
    event = ctypes.create_string_buffer(bytes([1, 0, 0, 0, 64, 0, 0, 0]), 64)
    call("perf_event_open", event, 0, -1, -1, 0)


@attack("kernel", process=VARIES)
def add_a_key() -> None:
    call("add_key", ctypes.c_char_p(b"user"), ctypes.c_char_p(b"evil"), ctypes.c_char_p(b"x"), 1, -3)


@attack("kernel", process=VARIES)
def open_a_userfaultfd() -> None:
    os.close(call("userfaultfd", 1))


@attack("kernel", process=VARIES)
def set_up_io_uring() -> None:
    os.close(call("io_uring_setup", 4, ctypes.create_string_buffer(120)))


@attack("kernel")
def make_a_file_in_memory() -> None:
    os.close(call("memfd_create", ctypes.c_char_p(b"evil"), 0))


@attack("kernel")
def change_the_personality() -> None:
    call("personality", 0x0400000)


@attack("kernel", process=REFUSED)
def call_what_is_not_known_yet() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(600), 0) < 0:
        raise OSError(ctypes.get_errno(), "600")


@attack("kernel")
def make_system_v_shared_memory() -> None:
    libc_call("shmctl", call("shmget", 0, 4096, 0o1600), 0, 0)


@attack("kernel", process=VARIES)
def make_a_message_queue() -> None:
    os.close(call("mq_open", ctypes.c_char_p(b"perdure-attack"), os.O_CREAT | os.O_RDWR, 0o600, 0))


@attack("kernel", process=VARIES)
def watch_with_fanotify() -> None:
    os.close(call("fanotify_init", 0x200, 0))


@attack("files", process=VARIES)
def open_a_device() -> None:
    devices = ("/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/mem", "/dev/kmsg")
    for device in devices:
        with contextlib.suppress(OSError):
            os.close(os.open(device, os.O_RDWR))
            return
    raise Failed("none could be opened")


@attack("kernel", process=VARIES)
def read_the_kernel_s_log() -> None:
    libc_call("klogctl", 3, ctypes.create_string_buffer(4096), 4096)


@attack("kernel", process=REFUSED)
def change_the_host_name() -> None:
    socket.sethostname("evil")


@attack("kernel", process=REFUSED)
def change_the_root() -> None:
    os.chroot(os.getcwd())


@attack("kernel")
def fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@attack("kernel")
def run_a_program() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


@attack("kernel")
def run_a_program_of_one_s_own() -> None:
    with open("script", "w") as file:
        file.write("#!/bin/sh\nexit 0\n")
    os.chmod("script", 0o700)
    os.waitpid(os.posix_spawn("./script", ["script"], {}), 0)


@attack("kernel", process=VARIES)
def type_into_the_terminal() -> None:
    fcntl.ioctl(0, 0x5412, b"x")


@attack("network")
def look_up_a_name() -> None:
    socket.getaddrinfo("localhost", 80)


@attack("network", process=VARIES)
def reach_the_cloud_s_metadata() -> None:
    with socket.socket() as sock:
        sock.settimeout(0.2)
        sock.connect(("169.254.169.254", 80))


@attack("processes")
def write_its_own_memory_through_proc() -> None:
    own = ctypes.create_string_buffer(b"before")
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(ctypes.addressof(own))
        memory.write(b"behind")
    if own.value != b"behind":
        raise Failed("it was not written")


@attack("files", process=VARIES)
def write_into_its_own_program() -> None:
    open(os.path.realpath("/proc/self/exe"), "r+b").close()


@attack("kernel", core=SUCCEEDS, full=SUCCEEDS)
def load_a_library_of_one_s_own() -> None:
    import _struct
    import shutil

    folder = os.path.dirname(getattr(_struct, "__file__", "") or os.__file__ + "/lib-dynload")
    name = next(name for name in os.listdir(folder) if name.endswith(".so"))
    shutil.copyfile(os.path.join(folder, name), "own.so")
    ctypes.CDLL(os.path.abspath("own.so"))


@attack("kernel")
def ask_for_a_socket_by_machine_code_of_one_s_own() -> None:
    import mmap

    if os.uname().machine != "x86_64":
        raise Failed("another instruction set")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b829000000bf02000000be0100000031d20f05c3"))  # socket(AF_INET, SOCK_STREAM, 0)
    got = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    if got < 0:
        raise OSError(-got, "socket")
    os.close(got)


# --- each in a guest of its own


@attack("kernel", lonely=True, process=VARIES)
def make_a_user_namespace() -> None:
    os.unshare(0x10000000)


@attack("kernel", lonely=True, process=VARIES)
def call_through_32_bit_interrupts() -> None:
    if os.uname().machine != "x86_64":
        raise Failed("another instruction set")
    import mmap

    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # getpid by its 32-bit number
    entry = ctypes.addressof(ctypes.c_char.from_buffer(code))
    if ctypes.CFUNCTYPE(ctypes.c_int)(entry)() != os.getpid():
        raise Failed("no answer")


@attack("kernel", lonely=True, process=REFUSED)
def call_through_x32() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if os.uname().machine != "x86_64" or libc.syscall(ctypes.c_long(0x40000000 + 39)) < 0:
        raise Failed("no such calls")


@attack("resources", lonely=True)
def leave_a_process_behind() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open("daemon.pid", "w") as file:
                file.write(str(os.getpid()))
            os.closerange(0, 10)
            time.sleep(30)
        os._exit(0)
    while not os.path.exists("daemon.pid") or not os.path.getsize("daemon.pid"):
        time.sleep(0.005)


@attack("resources", lonely=True, process=REFUSED)
def take_more_memory_than_allowed() -> None:
    held: list[bytearray] = []
    with contextlib.suppress(MemoryError):
        while len(held) < 64:
            held.append(bytearray(64 << 20))
    if len(held) * 64 < 1024:
        raise OSError(errno.ENOMEM, "limited")


@attack("resources", lonely=True, full=VARIES)
def leave_a_process_behind_by_the_c_library() -> None:
    if _fork() == 0:
        os.setsid()
        if _fork() == 0:
            with open("daemon.pid", "w") as file:
                file.write("here")
            os.closerange(0, 10)
            time.sleep(30)
        os._exit(0)
    while not os.path.exists("daemon.pid") or not os.path.getsize("daemon.pid"):
        time.monotonic()


def _fork() -> int:
    # Keeping the interpreter's lock: the child goes on in the middle of this call.
    libc = ctypes.PyDLL(None, use_errno=True)
    child = int(libc.fork())
    if child < 0:
        raise OSError(ctypes.get_errno(), "fork")
    return child


@attack("resources", lonely=True)
def start_a_hundred_processes() -> None:
    for _ in range(100):
        if _fork() == 0:
            until = time.monotonic() + 10
            while time.monotonic() < until:
                select.select([], [], [], 1)
            os._exit(0)


@attack("resources", lonely=True, process=REFUSED)
def take_more_shared_memory_than_allowed() -> None:
    import mmap

    held = mmap.mmap(-1, 1 << 30)
    for at in range(0, len(held), 4096):
        held[at] = 1
    stay()


@attack("resources", lonely=True, process=REFUSED)
def start_a_thousand_threads() -> None:
    import threading

    stop = threading.Event()
    started = []
    try:
        for _ in range(1000):
            thread = threading.Thread(target=stop.wait)
            thread.start()
            started.append(thread)
    except RuntimeError as problem:
        raise OSError(errno.EAGAIN, f"limited at {len(started)}") from problem
    finally:
        stop.set()
        for thread in started:
            thread.join()


@attack("resources", lonely=True, process=REFUSED)
def open_a_thousand_files() -> None:
    held = [open("/dev/null") for _ in range(1000)]
    raise Failed(f"{len(held)} opened")


@attack("resources", lonely=True, process=REFUSED)
def write_one_huge_file() -> None:
    with open("huge", "wb") as file:
        file.truncate(1 << 40)


@attack("resources", lonely=True, process=REFUSED)
def write_many_files() -> None:
    for number in range(2000):
        with open(f"file-{number}", "wb") as file:
            file.write(b"x" * 4096)
    stay()


def stay() -> None:
    """Go on until somebody looks; what was not ended by then has succeeded."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        select.select([], [], [], 0.05)


@attack("resources", lonely=True, core=SUCCEEDS, full=SUCCEEDS)
def burn_processor_time() -> None:
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass


# --- what must go on working in the same guest


def controls() -> dict[str, bool]:
    import sqlite3
    import threading

    with open("control", "w") as file:
        file.write("fine")
    seen: list[int] = []
    thread = threading.Thread(target=seen.append, args=(1,))
    thread.start()
    thread.join()
    one, two = socket.socketpair()
    one.send(b"x")
    with sqlite3.connect("control.sqlite") as database:
        database.execute("create table if not exists t(n)")
    return {
        "write and read in the workspace": read("control") == b"fine",
        "threads": seen == [1],
        "connected pairs": two.recv(1) == b"x",
        "a database": os.path.exists("control.sqlite"),
        "import": "wave" not in sys.modules and bool(__import__("wave")),
    }


def move_between_folders() -> None:
    for name in ("one", "two"):
        os.makedirs(name, exist_ok=True)
    with open("one/file", "w") as file:
        file.write("moved")
    os.rename("one/file", "two/file")


def truncate_its_own() -> None:
    with open("long", "w") as file:
        file.write("long")
        file.truncate(2)
    os.truncate("long", 0)


def attempt(one: Attack) -> str:
    return outcome(one.run)


def outcome(attempted: Attempt) -> str:
    try:
        attempted()
    except OSError as problem:
        return errno.errorcode.get(problem.errno or 0, "OSError")
    except (Failed, ValueError) as problem:
        return str(problem)
    return SUCCEEDS
