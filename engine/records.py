"""What a client sees: results, events, and the promises of an execution as data.

Everything here is plain data with a JSON form (``model_dump(mode="json")``): it is what ``--json`` prints.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from perdure.capabilities.values import decode

from .life import SessionState

__all__ = [
    "CallEvent",
    "DisplayEvent",
    "ErrorInfo",
    "Event",
    "ExecutionInfo",
    "FinishedEvent",
    "Merged",
    "Mode",
    "NameReport",
    "OutputEvent",
    "PendingCall",
    "Prevented",
    "Result",
    "SessionInfo",
    "Status",
    "Stop",
    "Timings",
    "TreeNode",
    "Usage",
    "WaitingEvent",
]

#: How an execution ended. ``ok``, and ``exit`` with code 0, are successes; ``refused`` and ``busy``: nothing ran.
Status = Literal[
    "ok", "error", "exit", "cancelled", "diverged", "state_lost", "crashed", "timeout", "refused", "busy", "failed"
]


#: How the code ran, as its guest saw it before running it: a hint for people.
Mode = Literal["TOP_LEVEL_AWAIT", "ASYNC_DEF", "BLOCKING_SYNC", "SIMPLE_SYNC", "UNKNOWN"]

#: How code that was asked to stop did: ``stopped`` by itself, its namespace as it stands; ``killed`` when it went on
#: past its grace, and the session is as its last step left it.
Stop = Literal["stopped", "killed"]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ErrorInfo(_Data):
    """An exception of user code, or the reason an execution did not run; ``traceback`` shows the user's frames only."""

    type: str
    message: str
    module: str = "builtins"
    traceback: str = ""
    line: int | None = None
    notes: tuple[str, ...] = ()
    data: Any = None


class NameReport(_Data):
    """One variable in a checkpoint: kept as it was, rebuilt (near enough, ``why`` says how), or lost (``why``).

    ``where`` is the part of it that is meant, if not all of it. What is lost and ``stored`` could not be loaded by the
    last process that restored the session, for want of a library, say: each restore tries it again.
    """

    name: str
    type: str
    size: int = 0
    status: Literal["kept", "rebuilt", "lost"] = "kept"
    why: str = ""
    where: str = ""
    stored: bool = False

    @property
    def earlier(self) -> bool:
        """Whether it was lost before: what is stored is a stand-in, its type ``lost: `` and what it was."""
        return self.type.startswith("lost: ")


class Prevented(_Data):
    """Why a step could not end inside the execution, and the line from which on."""

    what: str
    line: int | None = None


class Timings(_Data):
    """Seconds: ``total`` from start to end of the last attempt, ``ran`` in user code, ``checkpoint`` writing it."""

    total: float = 0.0
    ran: float = 0.0
    checkpoint: float = 0.0


class Usage(_Data):
    """What the guest used, measured from outside as the code ended: bytes of memory, CPU seconds of this execution."""

    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    #: Names in the namespace.
    names: int = 0


class Merged(_Data):
    """What variables from outside did: names that are new, that changed, and that were left as they were."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    source: str = ""


class Result(_Data):
    """The outcome of an execution, as its root promise holds it."""

    execution: str
    status: Status
    data: Any = None
    has_value: bool = False
    repr: str | None = None
    display: dict[str, Any] | None = None
    error: ErrorInfo | None = None
    exit_code: int | None = None
    stop: Stop | None = None
    mode: Mode = "UNKNOWN"
    blocking: tuple[str, ...] = ()
    merged: Merged | None = None
    rolled_back: bool = False
    #: Variables that the next execution will not find as they were.
    lost: tuple[NameReport, ...] = ()
    #: Variables that are stored, and that the process which ran this could not load.
    not_restored: tuple[NameReport, ...] = ()
    left: tuple[str, ...] = ()
    #: State of libraries and of the process that the code changed, and the next execution may not find.
    changed: tuple[str, ...] = ()
    #: Steps that were settled before the end: what came before the last of them never runs again.
    commits: int = 0
    prevented: tuple[Prevented, ...] = ()
    notes: tuple[str, ...] = ()
    isolation: str = "unknown"
    #: The walls around the guest, and those that could not be had and were not insisted on, with why.
    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    base: str | None = None
    checkpoint: str | None = None
    kept_guest: bool = False
    calls: int = 0
    writes: int = 0
    characters: int = 0
    attempts: int = 1
    replayed: int = 0
    timings: Timings = Timings()
    usage: Usage = Usage()

    @property
    def value(self) -> Any:
        """The value of the trailing expression if it is plain data, else None (see ``repr``, ``has_value``)."""
        return decode(self.data) if self.has_value else None

    @property
    def ok(self) -> bool:
        """True if the code ran to its end, or called ``exit`` with success."""
        return self.status == "ok" or (self.status == "exit" and not self.exit_code)


class OutputEvent(_Data):
    """Output that is recorded; ``offset`` counts characters of the execution's whole output before ``text``."""

    type: Literal["output"] = "output"
    offset: int
    stream: Literal["stdout", "stderr"]
    text: str
    record: str


class DisplayEvent(_Data):
    """Something was displayed: contents by MIME type, binary ones in base64. It takes one character of the output.

    ``lost`` says why there are none any more, if what was stored is missing or damaged.
    """

    type: Literal["display"] = "display"
    offset: int
    data: dict[str, str]
    record: str
    lost: str | None = None


class CallEvent(_Data):
    """A call was recorded as started (``pending``), answered (``resolved``) or failed (``rejected``)."""

    type: Literal["call"] = "call"
    id: str
    name: str
    args: str
    state: Literal["pending", "resolved", "rejected"]
    external: bool = False


class WaitingEvent(_Data):
    """Nothing runs: the execution waits for these calls to be answered, or for this time (ms since 1970)."""

    type: Literal["waiting"] = "waiting"
    calls: tuple[str, ...] = ()
    until: int | None = None


class FinishedEvent(_Data):
    """The execution is settled; no event follows."""

    type: Literal["finished"] = "finished"
    result: Result


Event = Annotated[OutputEvent | DisplayEvent | CallEvent | WaitingEvent | FinishedEvent, Field(discriminator="type")]


class PendingCall(_Data):
    """A call that waits for somebody: answer it with ``client.answer(id, value)`` or ``perdure answer``."""

    id: str
    name: str
    args: Any
    prompt: str
    asked_at: int


class Beat(_Data):
    """What a guest was seen doing a moment ago, measured from outside: it need not answer for it.

    ``computing``: it uses the processor; ``waiting``: it said what it waits for; ``silent``: neither, such as a lock
    that nobody opens, or a C function that sleeps.
    """

    execution: str
    #: When, in ms since 1970.
    at: int
    doing: Literal["computing", "waiting", "silent"]
    #: Seconds since it last said anything: printed, asked, answered.
    quiet_seconds: float
    memory_bytes: int
    cpu_seconds: float
    threads: int
    #: Names in its namespace, when it last said so; None: it has not yet.
    names: int | None = None


class ExecutionInfo(_Data):
    """One line of ``perdure ps``; times in ms since 1970. ``beat``: of one that runs, on its worker's machine.

    ``damaged`` says that its own record cannot be read, and how.
    """

    id: str
    session: str
    n: int
    state: Literal["running", "waiting", "settled"]
    status: Status | None = None
    filename: str | None = None
    created_at: int
    settled_at: int | None = None
    pending: tuple[str, ...] = ()
    mode: Mode | None = None
    beat: Beat | None = None
    damaged: str | None = None


class SessionInfo(_Data):
    """A session's name, birth, settings, the number of its last execution (0: none yet), and what it does now.

    ``damaged`` says what of that cannot be read, and how: only its name is known then.
    """

    name: str
    incarnation: str
    created_at: int
    last: int
    grants: tuple[str, ...]
    isolation: str
    state: SessionState = "idle"
    limits: dict[str, Any] = {}
    damaged: str | None = None


class TreeNode(_Data):
    """A promise of an execution; ``kind`` is execution, step, call, output, timer, death or cancel."""

    id: str
    kind: str
    state: str
    label: str = ""
    path: str = ""
    created_at: int = 0
    settled_at: int | None = None
    param: Any = None
    value: Any = None
    children: tuple[TreeNode, ...] = ()
