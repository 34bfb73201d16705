"""Which system calls a confined guest may make, by name, with their numbers on x86_64 and aarch64.

A name is in exactly one group; what is in none answers ENOSYS, so that a kernel's new calls are refused until somebody
has read them. The numbers are the kernel's user-space interface and never change.
"""

from __future__ import annotations

__all__ = [
    "ALLOWED",
    "ARCHITECTURES",
    "FAKED",
    "NO_ATTRIBUTES",
    "REFUSED",
    "RULED",
    "SETUP",
    "Architecture",
    "Number",
    "number",
]

from typing import Final, NamedTuple

Number = tuple[int | None, int | None]


class Architecture(NamedTuple):
    """One instruction set: the audit word the kernel reports for it, and its column in the tables."""

    audit: int
    column: int


ARCHITECTURES: Final = {
    "x86_64": Architecture(0xC000003E, 0),
    "aarch64": Architecture(0xC00000B7, 1),
}


def _numbers(table: str) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for line in table.splitlines():
        if line.lstrip().startswith("#"):
            continue
        for word in line.split():
            name, _, pair = word.partition("=")
            x86_64, _, aarch64 = pair.partition("/")
            found[name] = (_number(x86_64), _number(aarch64))
    return found


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)


def number(group: dict[str, Number], name: str, machine: str) -> int | None:
    """The call's number on this machine, or None where the machine has no such call."""
    return group[name][ARCHITECTURES[machine].column]


# Allowed whatever the arguments.
ALLOWED: Final = _numbers(
    """
    # files and directories, already narrowed by Landlock
    read=0/63 write=1/64 readv=19/65 writev=20/66 pread64=17/67 pwrite64=18/68 preadv=295/69
    pwritev=296/70 preadv2=327/286 pwritev2=328/287 close=3/57 close_range=436/436 lseek=8/62
    dup=32/23 dup2=33/- dup3=292/24 creat=85/- stat=4/- fstat=5/80 lstat=6/- newfstatat=262/79
    statx=332/291 statfs=137/43 fstatfs=138/44 access=21/- faccessat=269/48 faccessat2=439/439
    getdents=78/- getdents64=217/61 getcwd=79/17 chdir=80/49 fchdir=81/50 rename=82/-
    renameat=264/38 renameat2=316/276 mkdir=83/- mkdirat=258/34 rmdir=84/- link=86/-
    linkat=265/37 unlink=87/- unlinkat=263/35 symlink=88/- symlinkat=266/36 readlink=89/-
    readlinkat=267/78 ftruncate=77/46 fallocate=285/47 flock=73/32 fsync=74/82 fdatasync=75/83
    sync=162/81 syncfs=306/267 sync_file_range=277/84 fadvise64=221/223 readahead=187/213
    copy_file_range=326/285 sendfile=40/71 umask=95/166 cachestat=451/451
    # memory
    mmap=9/222 mprotect=10/226 munmap=11/215 mremap=25/216 brk=12/214 msync=26/227
    mincore=27/232 madvise=28/233 mlock=149/228 mlock2=325/284 munlock=150/229
    pkey_mprotect=329/288 pkey_alloc=330/289 pkey_free=331/290 get_mempolicy=239/236
    membarrier=324/283 map_shadow_stack=453/- mseal=462/462 arch_prctl=158/-
    # threads, signals and waiting
    futex=202/98 futex_waitv=449/449 futex_wake=454/454 futex_wait=455/455 futex_requeue=456/456
    set_robust_list=273/99 set_tid_address=218/96 gettid=186/178 rseq=334/293 sched_yield=24/124
    sched_getaffinity=204/123 sched_getparam=143/121 sched_getscheduler=145/120
    sched_get_priority_max=146/125 sched_get_priority_min=147/126 sched_rr_get_interval=148/127
    getpriority=140/141 getcpu=309/168 rt_sigaction=13/134 rt_sigprocmask=14/135
    rt_sigreturn=15/139 rt_sigpending=127/136 rt_sigtimedwait=128/137 rt_sigsuspend=130/133
    sigaltstack=131/132 restart_syscall=219/128 pause=34/- wait4=61/260 waitid=247/95 exit=60/93
    exit_group=231/94
    # time
    nanosleep=35/101 clock_nanosleep=230/115 clock_gettime=228/113 clock_getres=229/114
    gettimeofday=96/169 time=201/- times=100/153 getitimer=36/102 setitimer=38/103 alarm=37/-
    timer_create=222/107 timer_settime=223/110 timer_gettime=224/108 timer_getoverrun=225/109
    timer_delete=226/111 timerfd_create=283/85 timerfd_settime=286/86 timerfd_gettime=287/87
    # event loops, pipes and connected pairs
    poll=7/- ppoll=271/73 select=23/- pselect6=270/72 epoll_create=213/- epoll_create1=291/20
    epoll_ctl=233/21 epoll_wait=232/- epoll_pwait=281/22 epoll_pwait2=441/441 eventfd=284/-
    eventfd2=290/19 signalfd=282/- signalfd4=289/74 pipe=22/- pipe2=293/59 recvfrom=45/207
    recvmsg=47/212 recvmmsg=299/243 shutdown=48/210 getsockname=51/204 getpeername=52/205
    getsockopt=55/209
    # who and where am I
    getpid=39/172 getppid=110/173 getpgrp=111/- getpgid=121/155 getsid=124/156 getuid=102/174
    geteuid=107/175 getgid=104/176 getegid=108/177 getresuid=118/148 getresgid=120/150
    getgroups=115/158 capget=125/90 uname=63/160 sysinfo=99/179 getrusage=98/165
    getrlimit=97/163 setrlimit=160/164 getrandom=318/278
    """
)

# EPERM, which Python shows as PermissionError: asked for by ordinary programs, and never granted.
REFUSED: Final = _numbers(
    """
    # processes and programs
    fork=57/- vfork=58/- execve=59/221 execveat=322/281 setsid=112/157 setpgid=109/154
    unshare=272/97 setns=308/268 chroot=161/51 pivot_root=155/41
    # other processes
    ptrace=101/117 process_vm_readv=310/270 process_vm_writev=311/271 kcmp=312/272
    pidfd_open=434/434 pidfd_getfd=438/438 pidfd_send_signal=424/424 tkill=200/130
    setpriority=141/140 sched_setparam=142/118 sched_setscheduler=144/119 sched_setattr=314/274
    # sockets
    socket=41/198 bind=49/200 listen=50/201 accept=43/202 accept4=288/242 connect=42/203
    sendmsg=46/211 sendmmsg=307/269
    # identity and rights
    setuid=105/146 setgid=106/144 setreuid=113/145 setregid=114/143 setresuid=117/147
    setresgid=119/149 setgroups=116/159 setfsuid=122/151 setfsgid=123/152 capset=126/91
    chown=92/- fchown=93/55 lchown=94/- fchownat=260/54 personality=135/92 iopl=172/-
    ioperm=173/-
    # the machine
    mount=165/40 umount2=166/39 swapon=167/224 swapoff=168/225 reboot=169/142
    sethostname=170/161 setdomainname=171/162 settimeofday=164/170 clock_settime=227/112
    clock_adjtime=305/266 adjtimex=159/171 init_module=175/105 finit_module=313/273
    delete_module=176/106 kexec_load=246/104 kexec_file_load=320/294 acct=163/89 bpf=321/280
    perf_event_open=298/241 userfaultfd=323/282 open_by_handle_at=304/265 fanotify_init=300/262
    syslog=103/116 vhangup=153/58 quotactl=179/60
    # memory no limit counts
    memfd_create=319/279 memfd_secret=447/- vmsplice=278/75
    # nodes, and watching other people's folders
    mknod=133/- mknodat=259/33 inotify_init=253/- inotify_init1=294/26 inotify_add_watch=254/27
    """
)

# Answered 0 and not done: Landlock does not govern a file's mode and times, even through a read-only descriptor, and
# EPERM would break shutil.copy2 and archive extraction. Real where read-only mounts protect what is outside.
FAKED: Final = _numbers(
    """
    chmod=90/- fchmod=91/52 fchmodat=268/53 fchmodat2=452/452 utime=132/- utimes=235/-
    utimensat=280/88 futimesat=261/-
    """
)

# ENOTSUP, as on a file system without extended attributes.
NO_ATTRIBUTES: Final = _numbers(
    """
    getxattr=191/8 lgetxattr=192/9 fgetxattr=193/10 setxattr=188/5 lsetxattr=189/6
    fsetxattr=190/7 listxattr=194/11 llistxattr=195/12 flistxattr=196/13 removexattr=197/14
    lremovexattr=198/15 fremovexattr=199/16 setxattrat=463/463 getxattrat=464/464
    listxattrat=465/465 removexattrat=466/466
    """
)

# Decided by their arguments, in confine_seccomp.
RULED: Final = _numbers(
    """
    clone=56/220 kill=62/129 tgkill=234/131 rt_sigqueueinfo=129/138 rt_tgsigqueueinfo=297/240
    prlimit64=302/261 sched_setaffinity=203/122 socketpair=53/199 sendto=44/206
    setsockopt=54/208 prctl=157/167 ioctl=16/29 fcntl=72/25 open=2/- openat=257/56
    truncate=76/45
    """
)

# Needed by the one who confines: never by the confined.
SETUP: Final = _numbers(
    """
    seccomp=317/277 landlock_create_ruleset=444/444 landlock_add_rule=445/445
    landlock_restrict_self=446/446
    """
)
