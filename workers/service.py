"""The worker: takes executions from the store and runs them. Thin: it only puts the parts together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from perdure.capabilities import standard
from perdure.capabilities.registry import Registry
from perdure.engine.beats import forget_old_beats
from perdure.engine.logs import StandardError
from perdure.engine.settings import WorkerSettings
from perdure.engine.substrate import Substrate

from .confine.policy import IsolationLevel, Namespaces
from .executions import Executions
from .guests import Guest
from .identity import own_identity
from .launching import guest_config
from .leases import LeaseKeeper, TimedNetwork
from .pool import Pool
from .walls import must_have
from .watchdog import Watchdog
from .zygotes import Kind, Source, Zygotes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perdure.capabilities.base import Capability
    from perdure.capabilities.registry import Grant
    from perdure.engine.blobs import BlobStore
    from perdure.engine.durable import Promise, Promises
    from perdure.engine.events import Observer
    from perdure.engine.seals import Seals
    from perdure.engine.settings import SessionSettings

    from .admission import Job
    from .guests import WorkspaceLock

__all__ = ["Services", "Worker", "serve", "standard_registry"]

log = structlog.get_logger()

if not structlog.is_configured():
    # A program that configured nothing gets plain lines on stderr, and no values of variables in them.
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=StandardError(),
    )


@dataclass
class Services:
    """What running an execution needs of its worker."""

    substrate: Substrate
    registry: Registry
    settings: WorkerSettings
    leases: LeaseKeeper
    pool: Pool
    identity: str
    zygotes: Zygotes
    watchdog: Watchdog
    observer: Observer | None = None
    alarms: Counter[str] = field(default_factory=Counter)
    """What should never be and was found, since the worker began: how often, by name."""
    _descriptions: dict[Capability, dict[str, Any]] = field(default_factory=dict)

    @property
    def promises(self) -> Promises:
        """Promises of the state."""
        return self.substrate.promises

    @property
    def blobs(self) -> BlobStore:
        """Large values and images."""
        return self.substrate.blobs

    @cached_property
    def seals(self) -> Seals:
        """What seals checkpoints."""
        return self.substrate.seals()

    @property
    def state_id(self) -> str:
        """The state's own id."""
        return self.substrate.state_id

    @property
    def run_folder(self) -> Path:
        """Where locks are."""
        return self.substrate.folder.run

    def workspace(self, session: str) -> Path:
        """Return the one stable path of a session's workspace."""
        return self.substrate.folder.workspaces / session

    def names(self, grant: str) -> list[str]:
        """Return the names of the capabilities a grant names. Raises UnknownGrant."""
        return [capability.name for capability in self.registry.resolve(grant)]

    def describe(self, grants: Sequence[str]) -> list[dict[str, Any]]:
        """Return what a guest is told of its grants; nobody may change it."""
        # Signatures and schemas are looked through for it, which takes longer than a short execution has.
        return [self._described(capability) for capability in self.registry.resolve_all(grants).values()]

    def _described(self, capability: Capability) -> dict[str, Any]:
        found = self._descriptions.get(capability)
        if found is None:
            found = self._descriptions[capability] = capability.describe()
        return found

    async def source(self, settings: SessionSettings) -> Source:
        """Return what a session's guests are forked from. Raises SandboxUnavailable, InterpreterUnusable."""
        return await self.zygotes.get(_kind(settings))

    async def start_guest(
        self, job: Job, workspace: Path, lock: WorkspaceLock, isolation: dict[str, Any] | None
    ) -> Guest:
        """Start a guest for the job's session. Raises GuestFailed, SandboxUnavailable, IsolationWeaker."""
        settings = job.head.settings

        async def begin(source: Source) -> Guest:
            must_have(source, isolation)
            config = guest_config(settings, job.id.session, workspace, self.describe(job.grants), source)
            guest = await source.guest()
            await guest.begin(config, lock)
            guest.layers, guest.missing = source.layers, source.missing
            self.watchdog.watch(guest, settings.limits, workspace)
            return guest

        return await self.zygotes.start(_kind(settings), begin)


def _quarter_of_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def _kind(settings: SessionSettings) -> Kind:
    python = Path(settings.python or sys.executable)
    level, namespaces = IsolationLevel(settings.isolation), Namespaces(settings.namespaces)
    return Kind(python, level, namespaces, settings.tenant)


def standard_registry(extra: Iterable[Grant] = ()) -> Registry:
    """Return a registry of the standard capabilities and of what ``extra`` names. Raises UnknownGrant."""
    registry = Registry(standard())
    registry.resolve_all(extra)
    return registry


class Worker:
    """One worker on one substrate."""

    def __init__(
        self,
        substrate: Substrate,
        registry: Registry,
        settings: WorkerSettings | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._substrate = substrate
        self._settings = settings or WorkerSettings(group=substrate.group)
        self._leases = LeaseKeeper(substrate.pid, self._settings.lease_seconds, self._settings.lease_margin_seconds)
        self._pool = Pool(self._settings.kept_guests, self._settings.kept_bytes or _quarter_of_memory())
        folder = substrate.folder
        ready = self._settings.ready_guests
        self._zygotes = Zygotes(folder.root, folder.workspaces, self._settings.preload, ready=ready)
        self._watchdog = Watchdog(self._relieve)
        self._services = Services(
            substrate,
            registry,
            self._settings,
            self._leases,
            self._pool,
            own_identity(),
            self._zygotes,
            self._watchdog,
            observer,
        )
        self._executions = Executions(self._services)
        self._heard: set[asyncio.Task[None]] = set()
        self._warm: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the substrate and begin to take executions."""
        self._warm = asyncio.create_task(self._warm_up())
        self._substrate.on_settled(self._hear)
        try:
            await asyncio.to_thread(forget_old_beats, self._services.run_folder, time.time())
            await self._substrate.start(
                functions={"execute": self._executions.execute},
                heartbeat=self._leases,
                wrap=lambda network: TimedNetwork(network, self._leases),
                lease=timedelta(seconds=self._settings.lease_seconds),
                concurrency=self._settings.concurrency,
            )
        except BaseException:
            # Nobody stops a worker that did not start: its zygote would live on, and its socket with it.
            await self._zygotes.close()
            await asyncio.gather(self._warm, return_exceptions=True)
            raise

    async def _relieve(self) -> None:
        """The machine is short of memory: give up what costs least to have again."""
        if not await self._zygotes.relieve():
            await self._pool.relieve()

    async def _warm_up(self) -> None:
        """Start the zygote that most sessions need; who needs it hears what is wrong with it."""
        with contextlib.suppress(Exception):
            await self._zygotes.get(Kind(Path(sys.executable)))

    @property
    def settings(self) -> WorkerSettings:
        """How it behaves."""
        return self._settings

    @property
    def alarms(self) -> dict[str, int]:
        """What should never be and was found, since it began: how often, by name. Each is a line of its log too."""
        return dict(self._services.alarms)

    def _hear(self, promise: Promise) -> None:
        task = asyncio.create_task(self._executions.heard(promise))
        self._heard.add(task)
        task.add_done_callback(self._heard.discard)

    async def stop(self, drain: float = 0.0) -> None:
        """Give every task back, kill every guest, close the substrate; code may still end within ``drain`` seconds."""
        # What is given back would be offered to this worker again, as long as it takes work.
        await self._substrate.rest()
        if drain:
            await self._executions.drain(drain)
        await self._executions.close()
        await self._pool.close()
        await self._watchdog.close()
        if self._warm is not None:
            await asyncio.gather(self._warm, return_exceptions=True)
        await self._zygotes.close()
        await self._substrate.stop()


async def serve(substrate: Substrate, grants: Iterable[Grant] = (), settings: WorkerSettings | None = None) -> None:
    """Run a worker until SIGTERM or SIGINT; ``grants`` make capabilities known beyond the standard ones."""
    worker = Worker(substrate, standard_registry(grants), settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    await worker.start()
    log.info("worker.ready", group=substrate.group, pid=substrate.pid)
    try:
        await stop.wait()
    finally:
        await worker.stop(worker.settings.drain_seconds)
