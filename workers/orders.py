"""What a guest is told: the counterpart of messages.py, and of the table by which a guest reads it (guest/orders.py).

A field that is not set is not sent; what is inside of values and of replays is theirs who made it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from perdure.engine.settings import Limits

__all__ = [
    "Cancel",
    "Config",
    "Execute",
    "MakeCheckpoint",
    "OpenStream",
    "Order",
    "Reply",
    "Restore",
    "Settled",
    "Shutdown",
    "Start",
]


#: Text that may hold half a character pair, which pydantic's own refuses.
Text = InstanceOf[str]


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    def to_wire(self) -> dict[str, Any]:
        """Return the message: its type and the fields that are set."""
        return {"t": self.t, **{name: getattr(self, name) for name in self.model_fields_set}}  # type: ignore[attr-defined]


class Config(BaseModel):
    """All that a guest is told of its session, checked where it is made: a guest takes what it is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session: Annotated[str, Field(min_length=1)]
    incarnation: str
    seed: int
    grants: list[dict[str, Any]]
    limits: Limits
    isolation: dict[str, Any]
    #: An absolute path.
    workspace: Annotated[str, Field(pattern=r"^/")]


class Start(_Order):
    """Once, first: who the guest is."""

    t: Literal["start"] = "start"
    config: Config

    def to_wire(self) -> dict[str, Any]:
        """Return the message, its configuration as plain data."""
        return {"t": self.t, "config": self.config.model_dump(mode="json")}


class OpenStream(_Order):
    """Chunks follow."""

    t: Literal["stream"] = "stream"
    id: Annotated[int, Field(ge=1)]
    size: Annotated[int, Field(ge=0)]


class Restore(_Order):
    """Load this checkpoint."""

    t: Literal["restore"] = "restore"
    stream: int


class Execute(_Order):
    """Put the variables in, then run the code."""

    t: Literal["execute"] = "execute"
    execution: str
    code: Text = ""
    code_stream: int = 0
    filename: Text | None = None
    argv: list[Text] = []
    flags: dict[str, Any] = {}
    replay: dict[str, Any] = {}
    replay_stream: int = 0
    step: int = 0
    grants: list[dict[str, Any]] = []
    fork: dict[str, Any] | None = None
    variables: dict[str, Any] = {}
    variables_stream: int = 0
    strategy: str = "overwrite"
    steps: dict[str, Any] | None = None
    lost_ends: bool = False
    #: The checkpoint is wanted with the end, if nothing is left that could change what it holds.
    image: bool = False


class Reply(_Order):
    """The outcome of a call."""

    t: Literal["reply"] = "reply"
    path: Text
    value: Any = None
    value_stream: int = 0
    error: dict[str, Any] = {}


class MakeCheckpoint(_Order):
    """Say what changed since the checkpoint of that number; everything if it is not the last one."""

    t: Literal["checkpoint"] = "checkpoint"
    since: int = 0


class Settled(_Order):
    """The step that the guest offered to end is settled, or not."""

    t: Literal["settled"] = "settled"
    ok: bool


class Cancel(_Order):
    """A cancel was asked for; the signal follows."""

    t: Literal["cancel"] = "cancel"


class Shutdown(_Order):
    """Leave."""

    t: Literal["shutdown"] = "shutdown"


type Order = Start | OpenStream | Restore | Execute | Reply | MakeCheckpoint | Settled | Cancel | Shutdown
