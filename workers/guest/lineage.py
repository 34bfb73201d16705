"""Who asks: a path for every task and thread, by birth, and counters of what each asked.

1. A path depends on the order of births within each parent, never on time, addresses or names.
2. Counters belong to the one who asks and run over its whole life.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .births import Task, birth, set_birth

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Family", "Node"]


class Node:
    """A task, a thread or the main program: its path and what it has asked so far."""

    __slots__ = ("_calls", "_timers", "births", "execution", "name")

    def __init__(self, name: str, execution: str) -> None:
        self.name = name
        self.execution = execution
        self._calls = 0
        #: How many tasks and threads were born here.
        self.births = 0
        self._timers = 0

    def path(self, execution: str) -> str:
        """Return the path as seen in that execution: one born in another keeps its own in front."""
        return self.name if self.execution == execution else f"{self.execution}|{self.name}"

    def child(self) -> Node:
        """Return the node of the next task or thread born here."""
        self.births += 1
        return self.nth(self.births)

    def nth(self, number: int) -> Node:
        """Return the node of that child. Most tasks ask for nothing and bear none: theirs are never made."""
        return Node(f"{self.name}/{number}", self.execution)

    def next_call(self, execution: str) -> str:
        """Return the path of the next call, counted from 0."""
        number = self._calls
        self._calls += 1
        return f"{self.path(execution)}.{number}"

    def next_timer(self, execution: str) -> str:
        """Return the path of the next timer, counted from 0."""
        number = self._timers
        self._timers += 1
        return f"{self.path(execution)}~{number}"

    def counters(self) -> tuple[int, int, int]:
        """Return the counters, for a step that ends inside an execution."""
        return (self._calls, self.births, self._timers)

    def set_counters(self, counters: tuple[int, int, int]) -> None:
        """Set counters that a checkpoint kept."""
        self._calls, self.births, self._timers = counters


class _Local(threading.local):
    node: Node | None = None
    quiet: bool = False


class Family:
    """The nodes of this process, and which one is asking now."""

    def __init__(self) -> None:
        self.execution = ""
        self.main = Node("main", "")
        #: Nodes of tasks of other makes than the loop's own.
        self._foreign: WeakKeyDictionary[Any, Node] = WeakKeyDictionary()
        self._threads: WeakKeyDictionary[threading.Thread, Node] = WeakKeyDictionary()
        self._local = _Local()
        self._local.node = self.main

    def begin(self, execution: str) -> None:
        """Start counting for an execution: the main program is new, whoever lives on keeps its path."""
        self.execution = execution
        self.main = Node("main", execution)
        self._local.node = self.main

    def current(self) -> Node:
        """Return the node of the running task, else of this thread."""
        loop = asyncio._get_running_loop()
        if loop is not None:
            task = asyncio.current_task(loop)
            if task is not None:
                return self.of_task(task, loop)
        return self.of_thread()

    def of_task(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> Node:
        """Return a task's node; one that nobody announced (an eager start, a foreign constructor) is born now."""
        born = birth(task)
        if type(born) is Node:
            return born
        node: Node | None
        if type(born) is tuple:
            node = born[0].nth(born[1])
        else:
            node = self._foreign.get(task)
            if node is not None:
                return node
            node = getattr(loop, "announced", None)
            if node is None:
                node = self.of_thread().child()
            else:
                loop.announced = None  # type: ignore[attr-defined]
        self._give(task, node)
        return node

    def adopt(self, task: asyncio.Future[Any], node: Node) -> None:
        """Give a task its node, unless its eager start has taken it already."""
        if birth(task) is None and task not in self._foreign:
            self._give(task, node)

    def _give(self, task: asyncio.Future[Any], node: Node) -> None:
        if isinstance(task, Task):
            set_birth(task, node, 0)
        else:
            self._foreign[task] = node

    def of_thread(self) -> Node:
        """Return this thread's node; one not started through ``threading`` is born now, of the main program."""
        node = self._local.node
        if node is None:
            node = self._threads.get(threading.current_thread()) or self.main.child()
            self._local.node = node
        return node

    def start_thread(self, thread: threading.Thread) -> None:
        """Give a thread about to start its node, as a child of whoever starts it."""
        if not self._local.quiet:
            self._threads[thread] = self.current().child()

    def node_of_thread(self, thread: threading.Thread) -> Node | None:
        """Return the node that a thread was given when it was started; the workers of pools have none."""
        return self._threads.get(thread)

    def no_births(self) -> AbstractContextManager[None]:
        """Return a context in which this thread's new threads are nobody's children: the workers of a pool."""
        return _Quiet(self._local)

    def run_as(self, node: Node, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call ``function`` in this thread under a node of its own: one piece of work given to a pool."""
        before = self._local.node
        self._local.node = node
        try:
            return function(*args, **kwargs)
        finally:
            self._local.node = before


class _Quiet:
    def __init__(self, local: _Local) -> None:
        self._local = local

    def __enter__(self) -> None:
        self._before = self._local.quiet
        self._local.quiet = True

    def __exit__(self, *_: object) -> None:
        self._local.quiet = self._before
