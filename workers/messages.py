"""What a guest may say. Everything else ends it (DESIGN law 7); docs/design.md has the table of both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from perdure.engine.records import Mode

__all__ = [
    "PROTOCOL",
    "Abandon",
    "Call",
    "Checkpoint",
    "Display",
    "Diverged",
    "Done",
    "Entered",
    "FromGuest",
    "Idle",
    "Output",
    "ProtocolViolation",
    "Ready",
    "Restored",
    "StateLost",
    "StepEnds",
    "StreamOpened",
    "Written",
    "parse",
]

#: The version of the messages of both directions; what a guest says it speaks (guest/main.py) must be the same.
PROTOCOL: Final = 2
#: A path grows by two characters a generation of tasks; no honest program comes near this.
MAX_PATH = 4096
#: Seconds until a timer: the guest says no more for one that is never due (hub.py), and nothing else is a time.
FAR = 1e9
#: Deliveries reported at once: the guest reports at every message, so there are few.
MAX_ENTERED = 100_000


#: Names that a restore says it could not load.
MAX_ABSENT = 200


class ProtocolViolation(Exception):
    """The guest sent what a guest never sends; it is killed."""


#: Reasons a guest gives for one thing.
MAX_REASONS = 100


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entered(_Message):
    """Deliveries consumed by the guest from number ``at`` on that it had not reported before."""

    at: Annotated[int, Field(ge=0)]
    items: Annotated[list[list[str | int | float]], Field(max_length=MAX_ENTERED)]


#: Contents by MIME type; the guest makes far fewer parts.
Bundle = Annotated[dict[Annotated[str, Field(max_length=200)], str], Field(max_length=64)]
Path = Annotated[str, Field(min_length=1, max_length=MAX_PATH)]


class Ready(_Message):
    t: Literal["ready"]
    pid: int
    python: str
    protocol: int
    isolation: dict[str, Any]


class Restored(_Message):
    t: Literal["restored"]
    #: What is stored and could not be loaded: name, status, why, where in it; and how many there are besides.
    absent: Annotated[list[tuple[Path, Literal["lost"], str, str]], Field(max_length=MAX_ABSENT)] = []
    more: Annotated[int, Field(ge=0)] = 0


class StreamOpened(_Message):
    t: Literal["stream"]
    id: Annotated[int, Field(ge=1)]
    size: Annotated[int, Field(ge=0)]


class Call(_Message):
    t: Literal["call"]
    path: Path
    name: Annotated[str, Field(max_length=200)]
    args: dict[str, Any] | None = None
    args_stream: int | None = None
    line: int | None = None
    entered: Entered | None = None


class Abandon(_Message):
    t: Literal["abandon"]
    path: Path
    entered: Entered | None = None


class Output(_Message):
    t: Literal["output"]
    stream: Literal["stdout", "stderr"]
    text: str
    entered: Entered | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """Writes to one stream, which came as frames of their own; each is recorded as one."""

    t: ClassVar = "output"
    entered: ClassVar = None
    stream: Literal["stdout", "stderr"]
    texts: list[str]


class Display(_Message):
    t: Literal["display"]
    data: Bundle | None = None
    data_stream: int | None = None
    entered: Entered | None = None


class Idle(_Message):
    t: Literal["idle"]
    waiting: list[Path]
    timers: list[tuple[Path, Annotated[float, Field(ge=0, le=FAR)]]]
    consumed: int
    threads: int = 0
    held_up: int = 0
    names: Annotated[int, Field(ge=0)] | None = None
    entered: Entered | None = None


class Done(_Message):
    t: Literal["done"]
    status: Literal["ok", "error", "exit", "cancelled"]
    value: Any = None
    has_value: bool = False
    value_stream: int | None = None
    repr: str | None = None
    display: Bundle | None = None
    display_stream: int | None = None
    mode: Mode = "UNKNOWN"
    blocking: Annotated[list[str], Field(max_length=100)] = []
    merged: dict[str, list[str]] | None = None
    error: dict[str, Any] | None = None
    code: int | None = None
    line: int | None = None
    left: list[str] = []
    notes: list[str] = []
    commits: Annotated[int, Field(ge=0)] = 0
    names: Annotated[int, Field(ge=0)] = 0
    prevented: Annotated[list[tuple[str, int]], Field(max_length=MAX_REASONS)] = []
    changed: Annotated[list[str], Field(max_length=MAX_REASONS)] = []
    #: Whether the checkpoint comes without being asked for.
    follows: bool = False
    entered: Entered | None = None


class Checkpoint(_Message):
    t: Literal["checkpoint"]
    stream: int
    #: The checkpoint that it adds to, as its guest has it.
    since: Annotated[int, Field(ge=0)] = 0


class StepEnds(_Message):
    """The guest stands before statement ``statement`` and waits: with this checkpoint the step can be settled."""

    t: Literal["step"]
    stream: int
    statement: Annotated[int, Field(ge=1)]
    #: Where that statement begins.
    line: int | None = None
    entered: Entered | None = None


class StateLost(_Message):
    """Code of a replay touched what the guest of the first run still had, and its checkpoint does not."""

    t: Literal["state_lost"]
    what: str
    where: str = ""
    why: str = ""
    line: int | None = None
    entered: Entered | None = None


class Diverged(_Message):
    t: Literal["diverged"]
    message: str
    expected: str = ""
    path: str = ""
    entered: Entered | None = None


FromGuest = Annotated[
    Ready
    | Restored
    | StreamOpened
    | Call
    | Abandon
    | Output
    | Display
    | Idle
    | Done
    | Checkpoint
    | StepEnds
    | StateLost
    | Diverged,
    Field(discriminator="t"),
]

_ADAPTER: TypeAdapter[FromGuest] = TypeAdapter(FromGuest)


def parse(payload: bytes) -> FromGuest:
    """Read one message of a guest. Raises ProtocolViolation."""
    try:
        return _ADAPTER.validate_json(payload)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"malformed message: {where}: {first['msg']}"
        raise ProtocolViolation(msg) from None
