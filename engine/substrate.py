"""An opened state: the store, the SDK on top of it, the blobs, and where this process may put files.

The only place that knows which kinds of store there are.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonate.connections import HttpConnection, SSEConnection
from resonate.error import ResonateError
from resonate.resonate import Resonate
from resonate.retry import Never

from .blobs import open_blobs
from .durable import Promises, decoded, watch
from .errors import StateUnusable
from .seals import Seals, derived_key
from .sessions import know_blobs, state_identity
from .state import StateFolder, read_key
from .store import SqliteConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from .blobs import BlobStore
    from .durable import Promise

__all__ = ["Substrate"]

#: How often a client asks a remote store for news: output is followed live within this (s).
REMOTE_POLL = 0.05


@dataclass
class Substrate:
    """What everything else stands on; made by ``embedded`` or ``remote``, then ``start``ed once."""

    folder: StateFolder
    blobs: BlobStore
    network: Any
    source: Any
    group: str
    pid: str
    state_id: str = ""
    #: The file of a fleet's key; None: that of the state folder, or one derived from the state's id.
    key: Path | None = None
    #: Whether every process of this state means the same blobs, not each those of its own folder.
    shared_blobs: bool = True
    _settled: list[Callable[[Promise], None]] = field(default_factory=list)
    _resonate: Resonate | None = None
    _promises: Promises | None = None

    @classmethod
    def embedded(
        cls, state: str | Path, *, group: str = "default", create: bool = True, working: bool = True
    ) -> Substrate:
        """Open a state folder on this machine. Raises the StateUnusable family and the store's errors on ``start``.

        A process that only asks (not ``working``) listens in a group of its own, so that no work is offered to it.
        """
        folder = StateFolder.open(state, create=create)
        pid = _pid()
        connection = SqliteConnection(folder.database, pid=pid, group=_listening(group, working=working))
        return cls(folder, open_blobs(folder.blobs), connection, connection, group, pid)

    @classmethod
    def remote(
        cls,
        url: str,
        *,
        folder: str | Path,
        blobs: str | Path | None = None,
        group: str = "default",
        working: bool = True,
        key: str | Path | None = None,
    ) -> Substrate:
        """Use a Resonate server (``http://``) or Resonate on Postgres (``postgresql://``).

        ``folder`` is this process's own; ``blobs`` a folder that every worker and client shares, or a
        bucket (``s3://``, ``gs://``, ``az://``).
        """
        own = StateFolder.open(folder)
        pid = _pid()
        listening = _listening(group, working=working)
        network: Any
        source: Any
        if url.startswith(("postgresql://", "postgres://", "host=")):
            try:
                from .postgres import TimedPostgres
            except ImportError:
                msg = "Postgres needs an extra: install 'perdure[postgres]'"
                raise StateUnusable(msg) from None
            network = source = TimedPostgres(url, pid=pid, group=listening)
        elif url.startswith(("http://", "https://")):
            network = HttpConnection(url=url, auth=None)
            source = SSEConnection(url=url, pid=pid, group=listening, auth=None)
        else:
            msg = f"{url!r} names no kind of store: use http://, https:// or postgresql://"
            raise StateUnusable(msg)
        made = cls(own, open_blobs(blobs or own.blobs), network, source, group, pid)
        made.key = Path(key) if key else None
        made.shared_blobs = blobs is not None
        return made

    @property
    def promises(self) -> Promises:
        """Promises of this state; once it is started."""
        assert self._promises is not None, "the substrate is not started"  # noqa: S101
        return self._promises

    def seals(self) -> Seals:
        """Return what seals this state's checkpoints, once it is started. Raises StateUnusable, OSError."""
        if self.key is not None:
            key = read_key(self.key)
        elif isinstance(self.network, SqliteConnection):
            key = self.folder.key()
        else:
            key = derived_key(self.state_id)
        return Seals(key, self.promises)

    def on_settled(self, callback: Callable[[Promise], None]) -> None:
        """Call back with every promise whose settlement is announced to this process."""
        self._settled.append(callback)

    def no_longer(self, callback: Callable[[Promise], None]) -> None:
        """Stop calling back."""
        self._settled.remove(callback)

    async def start(
        self,
        *,
        functions: dict[str, Any] | None = None,
        heartbeat: Any = None,
        wrap: Callable[[Any], Any] | None = None,
        lease: timedelta | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Open the store and begin to take tasks for ``functions`` (none: this process only asks).

        Raises the store's errors, StateNewer, StateUnusable.
        """
        resonate = Resonate(
            network=wrap(self.network) if wrap else self.network,
            sources=[self.source],
            group=self.group,
            pid=self.pid,
            ttl=lease,
            heartbeat=heartbeat,
            retry_policy=Never(),
            max_concurrent_tasks=concurrency,
            autostart=False,
        )
        for name, function in (functions or {}).items():
            resonate.register(function, name=name, retry_policy=Never())
        if heartbeat is not None:
            heartbeat.attach(resonate._sender)  # noqa: SLF001 - see durable.py
        watch(self.source, self._announce)
        self._resonate = resonate
        embedded = self.network if isinstance(self.network, SqliteConnection) else None
        self._promises = Promises(resonate, self.group, embedded)
        try:
            resonate.start()
            self.state_id = await state_identity(self._promises)
            if self.shared_blobs:
                await know_blobs(self._promises, self.blobs, self.state_id)
        except BaseException:
            await self.stop()
            raise

    def _announce(self, promise: Promise) -> None:
        for callback in list(self._settled):
            callback(promise)

    async def scan(self, prefix: str, *, strict: bool = True) -> list[Promise] | None:
        """Return every promise whose id begins so, or None where the store cannot list them."""
        if not isinstance(self.network, SqliteConnection):
            return None
        found: list[Promise] = []
        while True:
            page = await self.network.scan(prefix, after=found[-1].id if found else None)
            if not page:
                return found
            found += [decoded(record, strict=strict) for record in page]

    async def attended(self) -> bool | None:
        """Whether a worker of this state's group is there now; None where the store cannot say."""
        return await self.network.attended(self.group) if isinstance(self.network, SqliteConnection) else None

    async def changed(self, timeout: float, since: int | None = None) -> int:
        """Wait until something may have changed, at most ``timeout`` seconds; returns what to pass next time."""
        if isinstance(self.network, SqliteConnection):
            return await self.network.changed(timeout, since)
        await asyncio.sleep(min(timeout, REMOTE_POLL))
        return 0

    @property
    def generation(self) -> int:
        """What to pass to ``changed`` to miss nothing that comes after now."""
        return self.network.generation if isinstance(self.network, SqliteConnection) else 0

    async def rest(self) -> None:
        """Take no more work; on a server or Postgres what comes all the same has to be given back."""
        if isinstance(self.network, SqliteConnection):
            await self.network.rest()

    async def stop(self) -> None:
        """Close everything; what runs is expected to have been stopped before."""
        resonate, self._resonate = self._resonate, None
        if resonate is not None:
            with suppress(ResonateError):
                await resonate.stop()


def _listening(group: str, *, working: bool) -> str:
    return group if working else f"{group}-asking"


def _pid() -> str:
    return f"{socket.gethostname().partition('.')[0]}-{uuid.uuid4().hex[:12]}"
