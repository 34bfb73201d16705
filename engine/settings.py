"""What a session is set to, and what a submission asks for: validated once, where it enters."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "COMMON",
    "DEFAULT_LIMITS",
    "ISOLATION_LEVELS",
    "STRATEGIES",
    "ForkPoint",
    "Limits",
    "SessionSettings",
    "Strategy",
    "Submission",
    "Variables",
    "WorkerSettings",
]

ISOLATION_LEVELS = ("strict", "process")

#: Executions live for a year: longer than anybody waits for an answer, and children may not outlive their parent.
EXECUTION_TIMEOUT_MS = 365 * 24 * 3600 * 1000

#: Code above this is data in disguise; it belongs into a file (--with).
MAX_CODE = 1 << 20


#: What Linux allows of a name, and of a path below a workspace's own (PATH_MAX is 4,096).
MAX_NAME = 255
MAX_PATH = 3072

#: Variables that one submission may bring.
MAX_VARIABLES = 10_000

#: How variables from outside meet those that are there: ``overwrite`` writes everything; ``preserve`` only what is new;
#: ``smart`` what differs, but never None over a value and never an empty container over a full one.
Strategy = Literal["overwrite", "preserve", "smart"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Settings):
    """Bounds of a session's guest, each enforced and named when it bites."""

    #: Address space of the guest: room for large data, far below what would hurt its neighbours on a small machine.
    memory_bytes: Annotated[int, Field(ge=64 << 20)] = 8 << 30
    #: Threads of the guest: far above any pool's default, far below what a machine can take.
    threads: Annotated[int, Field(ge=8)] = 512
    #: Seconds an execution may run; waiting for somebody's answer does not count, time on a replay counts again. Then
    #: it is stopped as by a cancel, and its status is `timeout`. None is no bound: analyses run long.
    wall_seconds: Annotated[float, Field(gt=0)] | None = None
    #: CPU seconds of one guest process; None is no bound: analyses run long.
    cpu_seconds: Annotated[int, Field(ge=1)] | None = None
    #: Characters of output one execution may record: beyond, output is cut and the result says so.
    output_characters: Annotated[int, Field(ge=1000)] = 64 << 20
    #: Calls that are open at once: to be started, under way, or waiting for somebody. Each holds a little memory of the
    #: worker; far more than any server is asked at once. The next one is refused, and raises `TooManyCalls`.
    open_calls: Annotated[int, Field(ge=1)] = 10_000
    #: Seconds between asking code to stop and killing it: time for `finally` blocks, short beside a person's patience.
    grace_seconds: Annotated[float, Field(ge=0)] = 5.0
    #: Bytes of what `display` and figures show in one execution, encoded: beyond, displays are cut, and it is said.
    display_bytes: Annotated[int, Field(ge=1000)] = 64 << 20
    #: Bytes of a value that travels inside its record, encoded.
    inline_bytes: Annotated[int, Field(ge=1024, le=256 * 1024)] = 256 * 1024
    #: Bytes of an execution's value, encoded, that are stored at all: beyond, the result holds its repr and says so.
    result_bytes: Annotated[int, Field(ge=1024, le=2 << 30)] = 1 << 30
    #: Characters of a repr that are kept in the result.
    repr_characters: Annotated[int, Field(ge=100)] = 10_000
    #: Seconds a repr may take: long for a repr, short for who waits for the result.
    repr_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    #: Results and inputs kept in `Out` and `In`: enough to look back, few enough that they hold no memory for ever.
    history: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    #: The largest file a guest may write, and with it the largest it can checkpoint as one file.
    file_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    #: Files and folders in a workspace; counted while code runs, and when it is checkpointed.
    files: Annotated[int, Field(ge=16)] = 100_000
    #: Bytes in a workspace; counted likewise.
    workspace_bytes: Annotated[int, Field(ge=1 << 20)] = 16 << 30
    #: Bytes that all variables have in a checkpoint: they cross to the worker and back in one piece, which it holds in
    #: memory for a moment. More belongs into files, which are read in pieces.
    namespace_bytes: Annotated[int, Field(ge=1 << 20, le=4 << 30)] = 4 << 30
    #: Seconds a guest may take to write its namespace.
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 600.0
    #: Every so many checkpoints all of the namespace is looked at again, whatever code can have touched; 1 is always.
    #: A look costs what pickling everything costs, a fifth of a second in half a gigabyte: seldom enough.
    verify_every: Annotated[int, Field(ge=1, le=1000)] = 32


DEFAULT_LIMITS = Limits()


class SessionSettings(_Settings):
    """One version of a session's settings, as its promise holds them."""

    format: Literal[1] = 1
    incarnation: str
    grants: tuple[str, ...] = ()
    isolation: Literal["strict", "process"] = "strict"
    #: The second wall: used where it works, insisted on, or left out.
    namespaces: Literal["auto", "require", "off"] = "auto"
    #: The interpreter of a virtual environment, on the worker's machine; empty is the worker's own.
    python: Annotated[str, Field(max_length=4096, pattern=r"^(/.*)?$")] = ""
    #: Guests of different tenants never come from the same zygote.
    tenant: Annotated[str, Field(max_length=64)] = ""
    limits: Limits = DEFAULT_LIMITS
    #: The first execution that is kept for sure: those before it may have been collected, and are never made again.
    first: Annotated[int, Field(ge=1)] = 1
    nonce: str = ""
    #: The incarnation whose seed a fork has up to the point where it forks; empty for a session of its own.
    birth: str = ""


class ForkPoint(_Settings):
    """Where a forked session leaves the other: at which call, in which step, asked by whom (lineage path)."""

    at: str
    step: Annotated[int, Field(ge=0)]
    path: Annotated[str, Field(max_length=4096)]


class Variables(_Settings):
    """Variables that come with a submission: encoded values by name, or the reference to a blob that holds them.

    ``source`` says where they come from, for whoever reads the record.
    """

    values: dict[str, Any]
    strategy: Strategy = "overwrite"
    source: Annotated[str, Field(max_length=200)] = "client"


def _in_the_workspace(path: str) -> str:
    """Refuse a path that leaves the workspace, or names no file: nobody could ever bring it in."""
    names = path.split("/")
    if any(name in ("", ".", "..") or "\0" in name for name in names):
        msg = f"{path[:MAX_NAME]!r} does not name a file in the workspace"
        raise ValueError(msg)
    if len(path) > MAX_PATH or any(len(name.encode(errors="surrogatepass")) > MAX_NAME for name in names):
        msg = f"{path[:MAX_NAME]!r}... is longer than file systems allow ({MAX_NAME} bytes a name, {MAX_PATH} a path)"
        raise ValueError(msg)
    return path


class Submission(BaseModel):
    """What ``execute`` is asked to run: the one argument of the durable function; nothing in it is trusted.

    Only ``code`` is needed. ``grants`` None asks for everything the session has; ``files`` maps paths in the workspace
    to blobs; ``base`` names the execution before this one. ``atomic``: if the code fails, the session is as before it.
    ``seconds`` bounds the run below what the session allows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    code: Annotated[str, Field(max_length=MAX_CODE)]
    session: str | None = None
    base: str | None = None
    filename: Annotated[str, Field(max_length=4096)] | None = None
    argv: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    grants: tuple[str, ...] | None = None
    files: dict[Annotated[str, AfterValidator(_in_the_workspace)], str] = {}
    variables: Variables | None = None
    atomic: bool = False
    seconds: Annotated[float, Field(gt=0)] | None = None
    flags: dict[str, Any] = {}
    fork: ForkPoint | None = None
    #: Where a replay does something else the execution fails, and with "fork" another session goes on there.
    on_divergence: Literal["fail", "fork"] = "fail"
    #: Output that differs on a replay from what was shown is a divergence, not a note.
    strict_output: bool = False
    nonce: str = ""


#: What guests find imported anyway: cheap, common, and the same in every environment.
COMMON = (
    *("base64", "collections.abc", "copy", "csv", "dataclasses", "datetime", "decimal", "enum", "fractions", "hashlib"),
    *("heapq", "itertools", "math", "pathlib", "pprint", "re", "statistics", "string", "textwrap", "urllib.parse"),
    *("uuid", "zoneinfo"),
)


class WorkerSettings(_Settings):
    """How a worker behaves."""

    group: str = "default"
    #: Lease of a task: a dead worker is noticed after this long where nobody can see it die; heartbeats come three
    #: times as often.
    lease_seconds: Annotated[float, Field(gt=0)] = 10.0
    #: A handler is not started, and a guest not let run, within this long of the lease's end.
    lease_margin_seconds: Annotated[float, Field(ge=0)] = 1.0
    #: Executions this worker runs at once; suspended ones do not count.
    concurrency: Annotated[int, Field(ge=1)] = 64
    #: Guests kept alive between executions and parked while waiting, together.
    kept_guests: Annotated[int, Field(ge=0)] = 16
    #: Memory that kept guests may hold together; 0 is a quarter of the machine's, so that work goes first.
    kept_bytes: Annotated[int, Field(ge=0)] = 0
    #: Guests kept waiting for a session, of each kind of session (interpreter, isolation, tenant): a new one starts in
    #: milliseconds then. Each costs a few MB; a burst larger than this waits for forks.
    ready_guests: Annotated[int, Field(ge=0)] = 4
    #: From the order to stop until running code is stopped (s): what is about to end may end. What is stopped goes on
    #: with the next worker, from what is recorded.
    drain_seconds: Annotated[float, Field(ge=0)] = 5.0
    #: Packages imported once, for all guests: each costs every guest a little memory, and saves whoever uses it its
    #: import. Those that are not installed, or start threads, are left out and named.
    preload: tuple[str, ...] = COMMON
    #: Deaths of a guest, in a row and with nothing newly recorded between them, after which its step has failed.
    poison_deaths: Annotated[int, Field(ge=1)] = 3
    #: The same, counting those that its code did not bring on itself: somebody's SIGKILL, the kernel short of memory.
    #: Many, as each may be the last; not endless, as code that has the machine run out of memory does it each time.
    outside_deaths: Annotated[int, Field(ge=1)] = 30
    #: A step ends inside an execution once replaying it would take this much computing (s): a commit costs
    #: milliseconds, and nobody minds a second. 0: wherever it can (for tests); None: not for this.
    step_cpu_seconds: Annotated[float, Field(ge=0)] | None = 1.0
    #: And once this many replies and timers would have to be replayed: at some 0.1 ms each, a tenth of a second.
    step_calls: Annotated[int, Field(ge=0)] | None = 1000
