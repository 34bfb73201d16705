"""The client: sessions, executions, answers. What it was told is durable when a call returns."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from perdure.capabilities.base import Capability

from .answers import Answers
from .client_execution import Execution
from .client_session import AGAIN, Session
from .errors import ExecutionNotFound, RecordDamaged, SessionNotFound, SettingsRefused
from .ids import execution_id, parse_execution, session_name
from .records import SessionInfo
from .sessions import ensure_session, find_head, read_settings
from .settings import Limits
from .substrate import Substrate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from perdure.capabilities.registry import Grant

    from .records import ExecutionInfo, PendingCall

__all__ = ["AGAIN", "Client", "Execution", "Session"]

#: The worker is found by name: this layer may not know the one above it.
WORKER_MODULE = "perdure.workers.service"


class Client:
    """Opens a state and talks to it; an async context manager.

    >>> async with Client.open("state") as client:  # doctest: +SKIP
    ...     session = await client.session("analysis", grants=["http", "ask"])
    ...     execution = await session.submit("1 + 1")
    ...     print((await execution.result()).value)
    """

    def __init__(
        self, substrate: Substrate, *, worker: bool, capabilities: Iterable[Grant] = (), settings: Any = None
    ) -> None:
        self.substrate = substrate
        self._capabilities = list(capabilities)
        self._with_worker = worker
        self._settings = settings
        self._worker: Any = None
        self._registry: Any = None

    @classmethod
    def open(
        cls,
        state: str | Path = ".perdure",
        *,
        worker: bool = True,
        capabilities: Iterable[Grant] = (),
        create: bool = True,
        settings: Any = None,
    ) -> Client:
        """Use a state folder on this machine, with a worker in this process unless ``worker`` is False.

        ``capabilities`` makes your own known (Capability objects or ``module:attr``); ``settings`` is a WorkerSettings.
        Entering it raises StateNotFound, StateNewer, StateUnusable or the store's own errors.
        """
        return cls(
            Substrate.embedded(state, create=create, working=worker),
            worker=worker,
            capabilities=capabilities,
            settings=settings,
        )

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        folder: str | Path = ".perdure",
        blobs: str | Path | None = None,
        group: str = "default",
        worker: bool = False,
        capabilities: Iterable[Grant] = (),
        settings: Any = None,
        key: str | Path | None = None,
    ) -> Client:
        """Use a Resonate server (``http://...``) or Resonate on Postgres (``postgresql://...``).

        ``blobs`` is where large values are, for every worker and client of the fleet alike: a folder that all of them
        see, or a bucket (``s3://bucket/prefix``, ``gs://``, ``az://``). ``key`` is the file of the fleet's key,
        with which checkpoints are sealed.
        """
        substrate = Substrate.remote(url, folder=folder, blobs=blobs, group=group, working=worker, key=key)
        return cls(substrate, worker=worker, capabilities=capabilities, settings=settings)

    async def __aenter__(self) -> Self:
        service = importlib.import_module(WORKER_MODULE)
        self._registry = service.standard_registry(self._capabilities)
        if self._with_worker:
            self._worker = service.Worker(self.substrate, self._registry, self._settings)
            await self._worker.start()
        else:
            await self.substrate.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._worker is not None:
            await self._worker.stop()
        else:
            await self.substrate.stop()

    async def attended(self) -> bool | None:
        """Whether a worker is there now that takes what is submitted; None where the store cannot say."""
        return await self.substrate.attended()

    # -- sessions ---------------------------------------------------------------------

    async def session(
        self,
        name: str,
        *,
        grants: Sequence[Grant] | None = None,
        isolation: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        namespaces: str | None = None,
        python: str | Path | None = None,
        tenant: str | None = None,
        create: bool = True,
    ) -> Session:
        """Return a session, made if it is new; what is given replaces what it has.

        ``isolation`` is ``strict`` or, by this choice alone, ``process``: no security boundary. ``namespaces`` is
        ``auto``, ``require`` or ``off``. ``python`` is the interpreter of a virtual environment on the worker's
        machine; it must be an absolute path. Guests of one ``tenant`` share a zygote. ``limits`` may be a mapping of
        some of them: the others stay as they are.

        Raises InvalidName, SessionNotFound (with ``create=False``), SettingsRefused, UnknownGrant.
        """
        session_name(name)
        names: list[str] | None = None
        if grants is not None:
            self._registry.resolve_all(grants)
            names = [grant.name if isinstance(grant, Capability) else grant for grant in grants]
        if not create and await read_settings(self.substrate.promises, name) is None:
            msg = f"there is no session {name!r}: 'perdure sessions' lists those there are"
            raise SessionNotFound(msg)
        try:
            await ensure_session(
                self.substrate.promises,
                name,
                grants=names,
                isolation=isolation,
                limits=await self._limits(name, limits),
                namespaces=namespaces,
                python=None if python is None else str(python),
                tenant=tenant,
            )
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            msg = f"{'.'.join(map(str, first['loc']))}: {first['msg']} (limits: {', '.join(Limits.model_fields)})"
            raise SettingsRefused(msg) from None
        return Session(self, name)

    async def _limits(self, name: str, given: Limits | Mapping[str, Any] | None) -> Limits | None:
        if given is None or isinstance(given, Limits):
            return given
        head = await read_settings(self.substrate.promises, name)
        return Limits.model_validate((head.settings.limits.model_dump() if head else {}) | dict(given))

    async def sessions(self) -> list[SessionInfo]:
        """Return every session, by name. Raises NotImplementedError on a store that cannot search."""
        return [await self._listed(name) for name in await self._names()]

    async def _names(self) -> list[str]:
        found = await self.substrate.promises.search("settings", strict=False)
        return sorted({promise.id.partition(":")[0] for promise in found})

    async def _listed(self, name: str) -> SessionInfo:
        try:
            return await Session(self, name).info()
        except RecordDamaged as exc:
            # One session that is damaged hides none of the others.
            unknown: dict[str, Any] = {"incarnation": "", "created_at": 0, "last": 0, "grants": (), "isolation": ""}
            return SessionInfo(name=name, **unknown, damaged=str(exc))

    # -- executions --------------------------------------------------------------------

    def execution(self, id: str) -> Execution:
        """Return a handle on an execution, whether or not it exists. Raises InvalidName."""
        parse_execution(id)
        return Execution(self, id)

    async def executions(self, session: str | None = None, limit: int = 100) -> list[ExecutionInfo]:
        """Return the newest executions (of a session, or of all), newest first."""
        if session is None:
            names = await self._names()
        else:
            names = [session_name(session)]
        infos: list[ExecutionInfo] = []
        for name in names:
            last, _ = await find_head(self.substrate.promises, name, strict=False)
            for n in range(last, max(0, last - limit), -1):
                try:
                    infos.append(await Execution(self, execution_id(name, n)).info())
                except ExecutionNotFound:  # collected, and so is what came before it
                    break
        infos.sort(key=lambda info: info.created_at, reverse=True)
        return infos[:limit]

    # -- answers ---------------------------------------------------------------------------

    async def pending(self, execution: str | None = None) -> list[PendingCall]:
        """Return the calls that wait for somebody, oldest first."""
        return await self._answers.pending(execution)

    async def answer(self, call_id: str, value: object) -> None:
        """Settle a pending call with plain data; the code goes on with it, now or when a worker is there.

        Raises InvalidName, PromiseNotFound, AlreadySettled, BadAnswer, NotPlain.
        """
        await self._answers.answer(call_id, value)

    async def checked(self, call_id: str, value: object) -> Any:
        """Return an answer to a call, open or not, as a record has it. Raises PromiseNotFound, BadAnswer, NotPlain."""
        return await self._answers.checked(call_id, value)

    async def fail(self, call_id: str, message: str) -> None:
        """Reject a pending call: the code gets ``CallFailed`` with this message. Raises as ``answer``."""
        await self._answers.fail(call_id, message)

    @property
    def _answers(self) -> Answers:
        return Answers(self.substrate, self._registry)
