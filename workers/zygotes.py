"""The zygotes of one worker: one for each interpreter, level and tenant, started when first needed and renewed in time.

1. What cannot be had is found out by having it: a zygote that puts on every layer is the proof that this machine gives
   them. Nothing weaker than what was asked for is ever started in its place.
2. Namespaces under `auto` are the one thing that may be missing; which and why is kept with the zygote.
3. A package that cannot be preloaded is named and left out.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from .bytecode import compile_all
from .confine import probe
from .confine.bwrap import find_bwrap
from .confine.errors import InterpreterUnusable, SandboxUnavailable
from .confine.interpreter import inspect_interpreter
from .confine.policy import IsolationLevel, Namespaces, readable_paths, strict_policy, unconfined_policy, zygote_policy
from .guest import launch
from .ready import Ready
from .zygote import START_TIMEOUT, Plan, Zygote, ZygoteFailed, ZygoteGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    from .confine.policy import Limits, Policy, Readable
    from .guests import Guest

__all__ = ["Kind", "Source", "Zygotes"]

log = structlog.get_logger()

#: Seconds for a zygote in namespaces; what makes them may hang, and then those who only prefer them go on without.
NAMESPACES_TIMEOUT = 15.0
#: How often a zygote in namespaces is started that ends without a word, as one does that is killed; and for how long
#: (s) one without them is then used before they are asked for again. A machine that has none says so, once.
TRIES, UNPROVEN = 3, 5.0
#: Guests of one zygote share the layout of its memory, which one that was broken into may give away: no more than this
#: many of them, and none born later than this (s).
FORKS, AGE = 1000, 3600.0
#: Zygotes kept, and those of them that keep guests ready: a machine with a thousand tenants has memory for those who
#: are there, and not for a zygote of 15 MB and its guests for everyone who ever was.
KEPT, WITH_READY = 32, 8


@dataclass(frozen=True, slots=True)
class Kind:
    """What guests of one zygote have in common."""

    python: Path
    level: IsolationLevel = IsolationLevel.STRICT
    namespaces: Namespaces = Namespaces.AUTO
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A zygote that is up, what its guests may read, and what it lacks of what was asked for."""

    zygote: Zygote
    kind: Kind
    readable: Readable | None
    ready: Ready
    missing: tuple[str, ...] = ()
    #: Whether what is missing was not refused by the machine: what asked for it ended without a word.
    unproven: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The walls around its guests, as results name them."""
        if self.kind.level is IsolationLevel.PROCESS:
            return ()
        landlock = f"landlock:{self.zygote.isolation.get('landlock_abi')}"
        apart = ("namespaces",) if self.zygote.plan.bwrap is not None else ()
        own = ("own-processes",) if self.zygote.own_processes else ()
        return ("seccomp", landlock, *apart, *own)

    async def guest(self) -> Guest:
        """Return a guest that has no session yet. Raises ZygoteGone."""
        return await self.ready.take()

    def policy(self, workspace: Path, limits: Limits) -> Policy:
        """The policy of one of its guests."""
        if self.readable is None:
            return unconfined_policy(limits=limits)
        return strict_policy(self.readable, [workspace], limits=limits)


class Zygotes:
    """Zygotes by kind."""

    def __init__(
        self,
        state: Path,
        workspaces: Path,
        preload: tuple[str, ...] = (),
        also_readable: tuple[Path, ...] = (),
        ready: int = 0,
    ) -> None:
        """Guests may read ``also_readable`` beside their interpreter, and work in folders of ``workspaces``.

        Each zygote keeps up to ``ready`` of them waiting.
        """
        self._state = state
        self._workspaces = workspaces
        self._preload = preload
        self._also_readable = also_readable
        self._ready = ready
        self._readable: dict[Path, asyncio.Task[Readable]] = {}
        self._current: OrderedDict[Kind, asyncio.Task[Source]] = OrderedDict()
        self._ending: set[asyncio.Task[int]] = set()
        self._retired: set[Zygote] = set()
        self._closed = False
        #: Packages that could not be preloaded, and why, by interpreter.
        self._failed: dict[str, dict[str, str]] = {}

    async def get(self, kind: Kind) -> Source:
        """Return the zygote of this kind. Raises SandboxUnavailable, ZygoteFailed, ZygoteGone, InterpreterUnusable."""
        if self._closed:
            # A task that was given back may be handed to this worker again before it has stopped.
            raise ZygoteGone("the worker is stopping")
        task = self._current.get(kind)
        if task is not None and task.done() and self._spent(task):
            self._current.pop(kind, None)
            task = None
        if task is None:
            task = self._current[kind] = asyncio.create_task(self._start(kind))
        self._current.move_to_end(kind)
        self._make_room()
        return await asyncio.shield(task)

    def _make_room(self) -> None:
        """Give up what those keep who have not been here for longest."""
        kinds = list(self._current)
        for kind in kinds[:-WITH_READY]:
            source = _of(self._current[kind])
            if source is not None and len(source.ready):
                self._end(source.ready.drop("its tenant has not been here for long"))
        for kind in kinds[:-KEPT]:
            source = _of(self._current[kind])
            if source is not None:
                del self._current[kind]
                self._retire(source)

    async def relieve(self) -> int:
        """End the guests that wait for a session: the machine is short of memory. Returns how many there were."""
        sources = [source for task in self._current.values() if (source := _of(task)) is not None]
        return sum(await asyncio.gather(*(each.ready.drop("the machine is short of memory") for each in sources)))

    def _end(self, ending: Coroutine[None, None, int]) -> None:
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def start(self, kind: Kind, begin: Callable[[Source], Awaitable[Guest]]) -> Guest:
        """Have a guest started by ``begin``, from another zygote if the first one ends meanwhile."""
        source = await self.get(kind)
        try:
            return await begin(source)
        except ZygoteGone as exc:
            log.warning("zygote.lost", reason=str(exc))
            # Whatever ended that guest may have ended others that wait, and nobody has seen it yet.
            await source.ready.drop("another that waited had ended")
            return await begin(await self.get(kind))

    def _spent(self, task: asyncio.Task[Source]) -> bool:
        source = _of(task)
        if source is None:
            return True
        zygote = source.zygote
        if not zygote.alive:
            return True
        age = UNPROVEN if source.unproven else AGE
        if zygote.forks < FORKS and asyncio.get_running_loop().time() - zygote.born < age:
            return False
        self._retire(source)
        return True

    def _retire(self, source: Source) -> None:
        """Let a zygote end when its last guest has."""
        zygote = source.zygote
        self._end(source.ready.close())
        self._retired.add(zygote)
        zygote.retire(lambda: self._retired.discard(zygote))

    async def readable(self, python: Path) -> Readable:
        """Find out, once, what guests of this interpreter may read."""
        task = self._readable.get(python)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._readable[python] = asyncio.create_task(asyncio.to_thread(self._inspect, python))
        return await asyncio.shield(task)

    def _inspect(self, python: Path) -> Readable:
        if python.is_relative_to(self._state) or python.resolve().is_relative_to(self._state):
            msg = f"{python} lies in {self._state}, where guests may write: an interpreter there could be anybody's"
            raise InterpreterUnusable(msg)
        interpreter = inspect_interpreter(python)
        if interpreter.version[:2] == sys.version_info[:2]:
            compile_all(launch.needed_files())
        return readable_paths(
            interpreter, private=[self._state], also_readable=[*launch.needed_files(), *self._also_readable]
        )

    async def _start(self, kind: Kind) -> Source:
        if kind.level is IsolationLevel.PROCESS:
            zygote = await self._preloaded(Plan(str(kind.python), unconfined_policy()))
            return self._source(zygote, kind, None)
        readable = await self.readable(kind.python)
        policy = zygote_policy(readable, self._workspaces)
        plain = Plan(
            str(kind.python), policy, own_processes=kind.namespaces is not Namespaces.OFF, readable=readable.granted
        )
        missing: list[str] = []
        apart, unproven = await self._in_namespaces(plain, kind.namespaces, missing)
        zygote = apart if apart is not None else await self._core(plain)
        if plain.own_processes and not zygote.own_processes:
            missing.append(f"own-processes: {zygote.why_not}")
        return self._source(zygote, kind, readable, tuple(missing), unproven=unproven)

    def _source(
        self,
        zygote: Zygote,
        kind: Kind,
        readable: Readable | None,
        missing: tuple[str, ...] = (),
        *,
        unproven: bool = False,
    ) -> Source:
        source = Source(zygote, kind, readable, Ready(zygote, self._ready), missing, unproven)
        source.ready.fill()
        return source

    async def _in_namespaces(self, plain: Plan, wanted: Namespaces, missing: list[str]) -> tuple[Zygote | None, bool]:
        """Start a zygote in namespaces; none where they are not wanted, or missing and not insisted on.

        Also returned is whether they are missing by what may have been an accident.
        """
        if wanted is Namespaces.OFF:
            return None, False
        bwrap = await asyncio.to_thread(find_bwrap)
        finding, silent = probe.NO_BWRAP, bwrap is not None
        for _ in range(TRIES if bwrap is not None else 0):
            try:
                return await self._preloaded(replace(plain, bwrap=bwrap), NAMESPACES_TIMEOUT), False
            except ZygoteFailed as exc:
                if exc.layer not in ("", "namespaces"):
                    # A layer of the core is missing, with or without namespaces.
                    raise _unavailable(exc) from exc
                finding, silent = probe.explain(exc.why), exc.silent
            if not silent:
                break
        if wanted is Namespaces.REQUIRE:
            raise SandboxUnavailable(finding.layer, finding.errno, finding.reason, finding.ways_out)
        missing.append(f"namespaces: {finding.reason}")
        log.warning("isolation.missing", layer="namespaces", reason=finding.reason)
        return None, silent

    async def _core(self, plan: Plan) -> Zygote:
        try:
            return await self._preloaded(plan)
        except ZygoteFailed as exc:
            if exc.layer:
                raise _unavailable(exc) from exc
            raise

    async def _preloaded(self, plan: Plan, timeout: float = START_TIMEOUT) -> Zygote:
        """Start a zygote, without the packages that keep it from starting."""
        failed = self._failed.setdefault(plan.python, {})
        wanted = tuple(name for name in self._preload if name not in failed)
        silent: list[str] = []
        while True:
            try:
                zygote = await Zygote.start(replace(plan, preload=wanted), timeout)
            except ZygoteFailed as exc:
                if exc.importing not in wanted:
                    raise
                silent.append(exc.importing)
                if exc.silent and silent.count(exc.importing) < TRIES:
                    continue  # Somebody may have killed it: that says nothing of the package.
                self._not_preloaded(plan.python, {exc.importing: exc.why})
                wanted = tuple(name for name in wanted if name != exc.importing)
            else:
                self._not_preloaded(plan.python, zygote.failed)
                return zygote

    def failed(self, python: Path) -> dict[str, str]:
        """Packages that could not be preloaded for this interpreter, and why."""
        return self._failed.get(str(python), {})

    def _not_preloaded(self, python: str, failed: dict[str, str]) -> None:
        for name, why in failed.items():
            self._failed[python][name] = why
            log.warning("zygote.not_preloaded", package=name, reason=why)

    async def close(self) -> None:
        """End every zygote, and with it every guest; there are no more after it."""
        self._closed = True
        tasks = list(self._current.values())
        self._current.clear()
        for task in tasks:
            if not task.done():
                task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        # A thread cannot be cancelled: the interpreter that it asks would outlive the worker.
        await asyncio.gather(*self._readable.values(), return_exceptions=True)
        sources = [each for each in found if isinstance(each, Source)]
        await asyncio.gather(*(source.ready.close() for source in sources), *self._ending, return_exceptions=True)
        zygotes = {source.zygote for source in sources} | self._retired
        await asyncio.gather(*(zygote.kill() for zygote in zygotes))


def _of(task: asyncio.Task[Source]) -> Source | None:
    """What is there already; None while it is being started, or if it cannot be."""
    return task.result() if task.done() and not task.cancelled() and task.exception() is None else None


def _unavailable(failed: ZygoteFailed) -> SandboxUnavailable:
    return SandboxUnavailable(failed.layer, failed.errno, failed.why, probe.CORE_WAYS_OUT)
