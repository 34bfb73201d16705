"""Tasks and futures by their birth: the numbers they hash by, and whose child a task is.

1. Nothing that decides an order depends on an address: sets of tasks and futures iterate alike in every process.
2. In C, where it was built, they are CPython's own classes; the substitute here makes subclasses, which asyncio awaits
   on a slower path. Both give the same numbers.
"""

from __future__ import annotations

import _asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .native_parts import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lineage import Node

__all__ = [
    "Future",
    "Task",
    "bear",
    "birth",
    "install",
    "next_name",
    "number",
    "numbered",
    "set_birth",
    "set_state",
    "state",
]


class _Numbers:
    """What was given: numbers to what was hashed, and to the names of tasks that were given none."""

    def __init__(self) -> None:
        self.next = 1
        self.names = 0

    def state(self) -> tuple[int, int]:
        return self.next, self.names

    def set_state(self, number: int, names: int) -> None:
        self.next, self.names = number, names

    def next_name(self) -> str:
        self.names += 1
        return f"Task-{self.names}"


_numbers = _Numbers()


def _hash(self: Any) -> int:
    try:
        number: int = self._perdure_number
    except AttributeError:
        number = self._perdure_number = _numbers.next
        _numbers.next += 1
    return number


class _Future(_asyncio.Future):  # type: ignore[type-arg]
    __slots__ = ("_perdure_number",)
    __hash__ = _hash


class _Task(_asyncio.Task):  # type: ignore[type-arg]
    __slots__ = ("_perdure_birth", "_perdure_number")
    __hash__ = _hash


# They stand in for CPython's classes, in reprs and logs too.
for _class, _name in ((_Future, "Future"), (_Task, "Task")):
    _class.__module__, _class.__name__, _class.__qualname__ = "_asyncio", _name, _name


def _set_birth(task: Any, node: Node, nth: int) -> None:
    task._perdure_birth = (node, nth) if nth else node


def _number(future: Any) -> int:
    given: int = getattr(future, "_perdure_number", 0)
    return given


def _birth(task: Any) -> Any:
    return getattr(task, "_perdure_birth", None)


def _bear(*_: object) -> None:
    """Leave it to the loop."""


_native = load("_births")
_given: Any = _numbers if _native is None else _native
if TYPE_CHECKING or _native is not None:
    from _asyncio import Future, Task
else:
    Future, Task = _Future, _Task
#: ``bear(Task, loop, coroutine, name, context)``: the task, as the next child of the one that runs on that loop; None
#: where the loop has to find out whose it is.
bear: Callable[..., Any] = _bear if _native is None else _native.bear
#: ``set_birth(task, node, nth)``: the task is the nth child of that node, or with 0 it is the node itself.
set_birth: Callable[[Any, Node, int], None] = _set_birth if _native is None else _native.set_birth
#: The node of a task, or whose child it is and which, or None.
birth: Callable[[Any], Node | tuple[Node, int] | None] = _birth if _native is None else _native.birth
#: The number that a future or task hashes by, without giving it one: 0 if nobody has asked yet.
number: Callable[[Any], int] = _number if _native is None else _native.number
#: The name of the next task that is given none.
next_name: Callable[[], str] = _given.next_name
#: What a checkpoint keeps: sets order their members by these numbers, so they go on as they would.
state: Callable[[], tuple[int, int]] = _given.state
#: Go on where a checkpoint was.
set_state: Callable[[int, int], None] = _given.set_state


@contextmanager
def numbered(wanted: int) -> Iterator[Callable[[Any], Any]]:
    """Give what is made in the body this number, by the function that is passed to it; 0: it has none yet."""
    before = state()
    if wanted:
        set_state(wanted, before[1])

    def take(made: Any) -> Any:
        if wanted:
            hash(made)
        return made

    try:
        yield take
    finally:
        set_state(*before)


def install() -> None:
    """Have every task and future of this process hash by its birth."""
    if _native is not None:
        _native.install(_asyncio.Task, _asyncio.Future, tuple(_below(_asyncio.Task, _asyncio.Future)))


def _below(*classes: type) -> Iterator[type]:
    for each in classes:
        below: list[type] = each.__subclasses__()
        yield from below
        yield from _below(*below)
