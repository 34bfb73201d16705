"""Threads and pools of the user: their lineage, how many run, and sleeping in any thread."""

from __future__ import annotations

import concurrent.futures.thread as pools
import functools
import os
import sys
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .hub import Hub
    from .lineage import Family, Node

__all__ = ["Threads"]

#: Where threads wait for others: their local ``timeout`` says how long, and a time to be kept is no rest.
_WAITS = {threading.Condition.wait.__code__, threading.Thread.join.__code__}
_ends: Any = getattr(threading.Thread, "_wait_for_tstate_lock", None)  # Python 3.12
if _ends is not None:
    _WAITS.add(_ends.__code__)

#: Seconds below which ``time.sleep`` just sleeps: recording it would cost more than sleeping it again.
SHORT_SLEEP = 0.005


class Threads:
    """What is hooked of ``threading``, ``concurrent.futures`` and ``time``."""

    def __init__(self, hub: Hub, family: Family) -> None:
        self._hub = hub
        self._family = family
        #: Work given to pools that has not ended, by its pool, and the part of it that a thread has begun.
        self._work: dict[Future[Any], Any] = {}
        self._begun: set[Future[Any]] = set()

    def install(self) -> None:
        """Hook them, at class level."""
        self._hub.running_threads, self._hub.held_up_threads = self.running, self.held_up
        family = self._family
        start: Any = threading.Thread.start
        bootstrap: Any = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]
        submit: Any = pools.ThreadPoolExecutor.submit
        run: Any = pools._WorkItem.run
        sleep = time.sleep

        @functools.wraps(start)
        def start_known(thread: threading.Thread) -> None:
            family.start_thread(thread)
            start(thread)

        def bootstrap_known(thread: threading.Thread) -> None:
            node = family.node_of_thread(thread)
            with self._hub.wall.lane(node) if node else nullcontext():
                bootstrap(thread)

        @functools.wraps(submit)
        def submit_known(pool: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            node = family.current().child()
            with family.no_births():
                future: Future[Any] = submit(pool, self._work_as, node, fn, args, kwargs)
            self._work[future] = pool
            # What never begins ends with this: it was cancelled, or its pool broke.
            future.add_done_callback(self._dropped)
            return future

        @functools.wraps(run)
        def run_known(item: Any, *args: Any) -> None:
            self._begun.add(item.future)
            try:
                run(item, *args)
            finally:
                # Not before everybody was told, or a loop that is about to be told would look as if nobody ran.
                self._begun.discard(item.future)
                self._work.pop(item.future, None)

        @functools.wraps(sleep)
        def sleep_known(seconds: Any, /) -> None:
            hub = self._hub
            execution = hub.execution
            if type(seconds) not in (int, float) or not seconds >= SHORT_SLEEP or not execution or hub.hooks_run:
                sleep(seconds)
                return
            hub.sleep(family.current().next_timer(execution), seconds, execution)

        threading.Thread._bootstrap_inner = bootstrap_known  # type: ignore[attr-defined]
        threading.Thread.start = start_known  # type: ignore[assignment, method-assign]
        pools.ThreadPoolExecutor.submit = submit_known  # type: ignore[method-assign]
        pools._WorkItem.run = run_known  # type: ignore[assignment, method-assign]
        time.sleep = sleep_known

    def _work_as(self, node: Node, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._hub.wall.lane(node):
            return self._family.run_as(node, fn, args, kwargs)

    def _dropped(self, future: Future[Any]) -> None:
        if future not in self._begun:
            self._work.pop(future, None)

    def running(self, blocked: set[int]) -> int:
        """Return how many threads run, not counting the given ones and the idle workers of pools."""
        workers = pools._threads_queues
        alive = threading.enumerate()
        plain = sum(each.ident not in blocked and each not in workers for each in alive)
        waiting = sum(each.ident in blocked and each in workers for each in alive)
        return plain + max(0, len(self._begun) - waiting) + self._about_to_begin()

    def _about_to_begin(self) -> int:
        """Return how much work of pools a free thread of its pool is about to begin; the rest waits for one."""
        waits: dict[Any, int] = {}
        for work, pool in list(self._work.items()):
            begun = work in self._begun
            waits[pool] = waits.get(pool, 0) + (0 if begun else 1)
        busy = {pool: sum(self._work.get(each) is pool for each in list(self._begun)) for pool in waits}
        return sum(max(0, min(many, pool._max_workers - busy[pool])) for pool, many in waits.items())

    def held_up(self, blocked: set[int]) -> int:
        """Return how many of the threads that count as running seem to wait for another one, without end.

        One may just have been woken: whoever acts on this looks at the process from outside, whether it stirs.
        """
        frames = sys._current_frames()
        found = 0
        for thread in threading.enumerate():
            frame = frames.get(thread.ident or 0)
            if thread.ident not in blocked and frame is not None and frame.f_code in _WAITS:
                found += frame.f_locals.get("timeout") in (None, -1)
        return found

    def alive(self) -> list[threading.Thread]:
        """Return the user's threads that live, without the workers of pools."""
        main = threading.main_thread()
        workers = pools._threads_queues
        return [each for each in threading.enumerate() if each is not main and each not in workers]

    def names(self) -> list[str]:
        """Return their names."""
        return [each.name for each in self.alive()]

    def working(self) -> bool:
        """Whether work that was given to a pool has not ended."""
        return any(not work.done() for work in list(self._work))

    def forget_forked(self) -> None:
        """In a forked child: whatever it does is not of this session."""
        os.close(self._hub.channel.fd)
