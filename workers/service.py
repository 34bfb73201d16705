"""The worker: takes executions from the store and runs them. Thin: it only puts the parts together."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from perdure.capabilities.registry import Registry
from perdure.engine.settings import WorkerSettings
from perdure.engine.substrate import Substrate

from .confine import policy as confinement
from .confine import probe
from .executions import Executions
from .identity import own_identity
from .leases import LeaseKeeper, TimedNetwork
from .pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from perdure.engine.blobs import BlobStore
    from perdure.engine.durable import Promise, Promises
    from perdure.engine.settings import SessionSettings

__all__ = ["Services", "Worker", "serve"]

log = structlog.get_logger()


@dataclass
class Services:
    """What running an execution needs of its worker."""

    substrate: Substrate
    registry: Registry
    settings: WorkerSettings
    leases: LeaseKeeper
    pool: Pool
    identity: str

    @property
    def promises(self) -> Promises:
        """Promises of the state."""
        return self.substrate.promises

    @property
    def blobs(self) -> BlobStore:
        """Large values and images."""
        return self.substrate.blobs

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
        """Return what a guest is told of its grants."""
        return [capability.describe() for capability in self.registry.resolve_all(grants).values()]

    def require(self, level: str) -> None:
        """Refuse a level of isolation that this machine does not give. Raises SandboxUnavailable."""
        probe.require(level)

    def policy(self, settings: SessionSettings, workspace: Path) -> dict[str, Any]:
        """Return the isolation a session's guest is put under."""
        raise NotImplementedError


class Worker:
    """One worker on one substrate."""

    def __init__(self, substrate: Substrate, registry: Registry, settings: WorkerSettings | None = None) -> None:
        self._substrate = substrate
        self._settings = settings or WorkerSettings(group=substrate.group)
        self._leases = LeaseKeeper(substrate.pid, self._settings.lease_seconds, self._settings.lease_margin_seconds)
        self._pool = Pool(self._settings.kept_guests)
        services = Services(substrate, registry, self._settings, self._leases, self._pool, own_identity())
        self._executions = Executions(services)
        self._heard: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the substrate and begin to take executions."""
        self._substrate.on_settled(self._hear)
        await self._substrate.start(
            functions={"execute": self._executions.execute},
            heartbeat=self._leases,
            wrap=lambda network: TimedNetwork(network, self._leases),
            lease=timedelta(seconds=self._settings.lease_seconds),
            concurrency=self._settings.concurrency,
        )

    def _hear(self, promise: Promise) -> None:
        task = asyncio.create_task(self._executions.heard(promise))
        self._heard.add(task)
        task.add_done_callback(self._heard.discard)

    async def stop(self) -> None:
        """Give every task back, kill every guest, close the substrate."""
        await self._executions.close()
        await self._pool.close()
        await self._substrate.stop()


async def serve(substrate: Substrate, grants: Iterable[Any] = (), settings: WorkerSettings | None = None) -> None:
    """Run a worker until SIGTERM or SIGINT; ``grants`` make capabilities known beyond the standard ones."""
    registry = standard_registry()
    registry.resolve_all(grants)
    worker = Worker(substrate, registry, settings)
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
        await worker.stop()
