"""What a program of the corpus is, and what a case does to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Case", "Order", "Played", "Program", "Waiting"]

#: A label of an event, which of its occurrences, and what is done there. ``*`` is any event; ``+`` is every event at
#: which it was not done yet, up to so many.
Order = tuple[str, int, str]

#: When a question is answered: as soon as it is seen, once the execution is suspended, while no worker lives, or once
#: another attempt has begun.
Waiting = Literal["at once", "suspended", "dead", "retaken"]

PRELUDE = """\
import asyncio, perdure
doubts = []
def sure(what, behind=""):
    try:
        return pay(what, behind)
    except perdure.CallInDoubt:
        doubts.append(what)
        return {"paid": what}
async def surely(what, behind=""):
    try:
        return await pay(what, behind)
    except perdure.CallInDoubt:
        doubts.append(what)
        return {"paid": what}
"""


@dataclass(frozen=True)
class Program:
    """One or more executions in one session.

    ``answers`` are given by prompt. ``free`` says that the order of things is not fixed (threads, replies that race):
    values are then held to ``check`` instead of to the undisturbed run, output is compared line by line in any order;
    with ``raced`` not even that: what is printed says who won.
    ``unlike`` says that a replay asks for something else, so that it must end as diverged. ``restless`` says that a
    handler runs until the question is answered: the execution is never suspended before that.
    """

    name: str
    codes: tuple[str, ...]
    answers: dict[str, Any] = field(default_factory=dict)
    free: bool = False
    raced: bool = False
    check: Callable[[Played], str] | None = None
    unlike: bool = False
    restless: bool = False
    isolation: Literal["strict", "process"] = "strict"
    about: str = ""

    @property
    def sources(self) -> list[str]:
        """The code as it is submitted."""
        return [PRELUDE + code if "sure" in code else code for code in self.codes]


@dataclass(frozen=True)
class Case:
    """A program and how it is disturbed."""

    program: str
    scenario: str
    orders: tuple[Order, ...] = ()
    waiting: Waiting = "at once"
    backwards: bool = False
    workers: int = 1
    elsewhere: bool = False
    swaps: bool = False
    powerless: bool = False
    steps: bool = False

    @property
    def name(self) -> str:
        where = ", ".join(map(_words, self.orders))
        steps = " over steps" if self.steps and "steps" not in self.scenario else ""
        return f"{self.program} / {self.scenario}{steps}" + (f" / {where}" if where else "")


def _words(order: Order) -> str:
    label, nth, action = order
    if label == "+":
        return f"{action} at each event"
    return f"{action} at {label}" + (f" #{nth}" if nth > 1 else "")


@dataclass
class Played:
    """What came of a case."""

    session: str = ""
    statuses: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    output: list[tuple[str, str]] = field(default_factory=list)
    names: Any = None
    doubts: list[str] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    acts: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    ordered: int = 0
    #: SIGKILLs of each kind of process.
    killed: Counter[str] = field(default_factory=Counter)
    contradicted: str = ""
    stuck: str = ""
    unplayed: str = ""
    """Why the case says nothing: a worker that ended of itself, or could not be reached."""

    @property
    def kills(self) -> int:
        """SIGKILLs in all."""
        return self.killed.total()

    @property
    def text(self) -> str:
        """Everything on stdout."""
        return "".join(text for stream, text in self.output if stream == "stdout")
