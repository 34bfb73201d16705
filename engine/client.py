"""The client: sessions, executions, answers. What it was told is durable when a call returns."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import secrets
import traceback
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import ValidationError

from perdure.capabilities.base import Capability
from perdure.capabilities.values import decode, encode

from .checkpoints import compose
from .durable import now_ms
from .errors import (
    AlreadySettled,
    BadSubmission,
    ExecutionFailed,
    ExecutionNotFound,
    ForkRefused,
    PromiseNotFound,
    SessionBusy,
    SessionNotFound,
    SettingsRefused,
)
from .files import gather_files
from .following import follow as follow_events
from .following import result_of, state_of
from .forks import fork_session
from .ids import cancel_id, execution_id, parse_execution, parse_record, session_name
from .inspection import shown_call, tree_of
from .life import after
from .records import ExecutionInfo, Merged, NameReport, PendingCall, Result, SessionInfo, TreeNode
from .refs import fetched, stored
from .sessions import base_of, ensure_session, find_head, read_settings
from .settings import EXECUTION_TIMEOUT_MS, MAX_CODE, MAX_VARIABLES, Limits, Strategy, Submission, Variables
from .substrate import Substrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path

    from perdure.capabilities.registry import Grant

    from .durable import Promise
    from .life import Happening, SessionState
    from .records import Event

__all__ = ["AGAIN", "Client", "Execution", "Session"]

#: The worker is found by name: this layer may not know the one above it.
WORKER_MODULE = "perdure.workers.service"
#: What ``fork`` takes for an answer to have the call asked anew: no value of anybody's.
AGAIN: Any = object()
#: Seconds within which somebody has stopped what was cancelled, if somebody is there: the usual grace, and some more.
CANCEL_WAIT = 7.0
#: Between two looks at a session that somebody else holds (s).
BUSY_POLL = 0.1


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
        found = await self.substrate.promises.search("settings")
        names = sorted({promise.id.partition(":")[0] for promise in found})
        return [await Session(self, name).info() for name in names]

    # -- executions --------------------------------------------------------------------

    def execution(self, id: str) -> Execution:
        """Return a handle on an execution, whether or not it exists. Raises InvalidName."""
        parse_execution(id)
        return Execution(self, id)

    async def executions(self, session: str | None = None, limit: int = 100) -> list[ExecutionInfo]:
        """Return the newest executions (of a session, or of all), newest first."""
        if session is None:
            names = [info.name for info in await self.sessions()]
        else:
            names = [session_name(session)]
        infos: list[ExecutionInfo] = []
        for name in names:
            last, _ = await find_head(self.substrate.promises, name)
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
        if execution is not None:
            tree = await tree_of(self.substrate, execution)
            ids = [record.id for step in tree.children for record in step.children if record.kind == "call"]
            found = [promise for id in ids if (promise := await self.substrate.promises.get(id))]
        else:
            found = await self.substrate.promises.search("call", pending=True)
        waiting = [
            PendingCall(
                id=promise.id,
                name=promise.param["name"],
                args=promise.param["args"],
                prompt=_prompt(promise.param),
                asked_at=promise.param["at"],
            )
            for promise in found
            if not promise.settled and promise.param.get("effect") == "external"
        ]
        return sorted(waiting, key=lambda call: (call.asked_at, call.id))

    async def answer(self, call_id: str, value: object) -> None:
        """Settle a pending call with plain data; the code goes on with it, now or when a worker is there.

        Raises InvalidName, PromiseNotFound, AlreadySettled, BadAnswer, NotPlain.
        """
        promise = await self._open_call(call_id)
        await self._settle(call_id, await self._encoded(promise, value), state="resolved")

    async def checked(self, call_id: str, value: object) -> Any:
        """Return an answer to a call, open or not, as a record has it. Raises PromiseNotFound, BadAnswer, NotPlain."""
        promise = await self.substrate.promises.get(call_id)
        if promise is None or promise.param.get("kind") != "call":
            msg = f"there is no call {call_id}: 'perdure show' lists those of an execution"
            raise PromiseNotFound(msg)
        return await self._encoded(promise, value)

    async def _encoded(self, promise: Promise, value: object) -> Any:
        capability = self._known(promise.param["name"])
        if capability is not None and capability.answer is not None:
            data = await fetched(self.substrate.blobs, promise.param["args"])
            bound = capability.bind((), decode(data))
            value = capability.answer(bound.arguments, value)
        return encode(value)

    async def fail(self, call_id: str, message: str) -> None:
        """Reject a pending call: the code gets ``CallFailed`` with this message. Raises as ``answer``."""
        await self._open_call(call_id)
        await self._settle(call_id, {"type": "CallFailed", "message": message, "data": None}, state="rejected")

    async def _open_call(self, call_id: str) -> Promise:
        parse_record(call_id)
        promise = await self.substrate.promises.get(call_id)
        if promise is None or promise.param.get("kind") != "call":
            msg = f"there is no call {call_id}: 'perdure pending' lists those that wait"
            raise PromiseNotFound(msg)
        if promise.settled:
            msg = f"{call_id} was settled already: what was offered now was not recorded"
            raise AlreadySettled(msg)
        if promise.param.get("effect") != "external":
            msg = f"{call_id} is a call of {promise.param['name']}, which its worker answers, not a person"
            raise PromiseNotFound(msg)
        return promise

    async def _settle(self, call_id: str, value: Any, *, state: Any) -> None:
        settled = await self.substrate.promises.settle(call_id, value, state=state)
        if settled is None or settled.state != state or settled.value != value:
            msg = f"{call_id} was settled by somebody else at the same time: what was offered now was not recorded"
            raise AlreadySettled(msg)

    def _known(self, name: str) -> Capability | None:
        with contextlib.suppress(Exception):
            found: Capability = self._registry.get(name)
            return found
        return None


class Session:
    """A named namespace and workspace."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name
        self._last = 0

    def __repr__(self) -> str:
        return f"Session({self.name!r})"

    async def submit(  # noqa: PLR0913 - one keyword a choice, each with its default
        self,
        code: str,
        *,
        filename: str | None = None,
        argv: Sequence[str] = (),
        files: Sequence[str | Path] = (),
        grants: Sequence[str] | None = None,
        variables: Mapping[str, Any] | None = None,
        strategy: Strategy = "overwrite",
        source: str = "client",
        atomic: bool = False,
        seconds: float | None = None,
        wait: bool = False,
        on_divergence: Literal["fail", "fork"] = "fail",
        strict_output: bool = False,
    ) -> Execution:
        """Hand in code; returns once it is durably accepted.

        ``files`` are brought into the workspace, ``variables`` (plain data) into the namespace before the code runs:
        ``strategy`` says how they meet those that are there (``overwrite``, ``preserve``, ``smart``), ``source`` where
        they come from; ``result.merged`` tells what they changed. ``atomic``: if the code fails, the session is what it
        was before (effects outside are not undone). ``seconds`` bounds the run. ``wait`` waits while another execution
        holds the session. ``on_divergence``: where a replay does something else than the first run, the execution
        fails; with "fork" another session goes on there, named in the error's data;
        ``strict_output``: writing something else is a divergence too, not a note.
        Raises BadSubmission, FileRefused, SessionBusy, NotPlain.
        """
        check_code(code, filename)
        substrate = self._client.substrate
        merge = await self._variables(variables, strategy, source) if variables is not None else None
        brought = await gather_files(files, substrate.blobs)
        nonce = secrets.token_hex(16)
        while True:
            last, root = await find_head(substrate.promises, self.name, self._last)
            self._last = last
            if root is None or root.settled:
                submission = Submission(
                    code=code,
                    session=self.name,
                    base=execution_id(self.name, last) if last else None,
                    filename=filename,
                    argv=tuple(argv),
                    grants=tuple(grants) if grants is not None else None,
                    files=brought,
                    variables=merge,
                    atomic=atomic,
                    seconds=checked_seconds(seconds),
                    nonce=nonce,
                    on_divergence=on_divergence,
                    strict_output=strict_output,
                )
                made = await self._claim(last + 1, submission)
                if made is not None:
                    self._last = last + 1
                    return made
            if not wait:
                holder = execution_id(self.name, last if root is not None and not root.settled else last + 1)
                msg = f"session {self.name!r} is busy with {holder}: wait for it, or cancel it"
                raise SessionBusy(msg)
            await substrate.changed(BUSY_POLL)

    async def set(
        self,
        values: Mapping[str, Any],
        *,
        strategy: Strategy = "overwrite",
        source: str = "client",
        wait: bool = False,
    ) -> Merged:
        """Put variables (plain data) into the namespace, durably, and return what changed.

        It is an execution like any other: numbered, recorded with its values, and done again if it is interrupted.
        Raises as ``submit``, and ExecutionFailed.
        """
        execution = await self.submit("", variables=values, strategy=strategy, source=source, wait=wait)
        result = await execution.result()
        if result.merged is None:
            why = result.error.message if result.error else result.status
            msg = f"the variables of {execution.id} were not set: {why}"
            raise ExecutionFailed(msg)
        return result.merged

    async def _variables(self, values: Mapping[str, Any], strategy: Strategy, source: str) -> Variables:
        wrong = [name for name in values if not str(name).isidentifier() or iskeyword(name)]
        if wrong or len(values) > MAX_VARIABLES:
            msg = f"{wrong[0]!r} cannot be a variable" if wrong else f"more than {MAX_VARIABLES} variables"
            raise BadSubmission(f"{msg}; nothing was recorded")
        encoded = {name: encode(value) for name, value in values.items()}
        held = await stored(self._client.substrate.blobs, encoded)
        try:
            return Variables(values=held, strategy=strategy, source=source)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            msg = f"{'.'.join(map(str, first['loc']))}: {first['msg']}; nothing was recorded"
            raise BadSubmission(msg) from None

    async def _claim(self, n: int, submission: Submission) -> Execution | None:
        id = execution_id(self.name, n)
        promises = self._client.substrate.promises
        param = {"func": "execute", "args": [submission.model_dump(mode="json")], "kwargs": {}, "version": 1}
        made = await promises.create(id, "execution", param, timeout_at=now_ms() + EXECUTION_TIMEOUT_MS, target=True)
        ours = made.param.get("args", [{}])[0].get("nonce") == submission.nonce
        return Execution(self._client, id) if ours else None

    async def info(self) -> SessionInfo:
        """Return what the session is set to and how far it is. Raises SessionNotFound."""
        promises = self._client.substrate.promises
        head = await read_settings(promises, self.name)
        if head is None:
            msg = f"there is no session {self.name!r}: 'perdure sessions' lists those there are"
            raise SessionNotFound(msg)
        last, root = await find_head(promises, self.name)
        return SessionInfo(
            name=self.name,
            incarnation=head.settings.incarnation,
            created_at=head.created_at,
            last=last,
            grants=head.settings.grants,
            isolation=head.settings.isolation,
            state=await self._state(root),
            limits=head.settings.limits.model_dump(),
        )

    async def _state(self, root: Promise | None) -> SessionState:
        if root is None:
            return "new"
        promises = self._client.substrate.promises
        happened: list[Happening] = ["submitted"]
        if root.settled:
            return after([*happened, "settled"])
        if await promises.waiting(root.id):
            happened.append("rested")
        cancel = await promises.get(cancel_id(root.id))
        if cancel is not None and cancel.settled:
            happened.append("asked_to_stop")
        return after(happened)

    async def last(self) -> Execution | None:
        """Return the session's newest execution, if it has one."""
        last, _ = await find_head(self._client.substrate.promises, self.name)
        return Execution(self._client, execution_id(self.name, last)) if last else None

    async def fork(self, *, at: str, name: str, answer: Any = AGAIN) -> Session:
        """Make a session that has seen what this one saw before the call ``at``, and hand in the same code there.

        Every earlier call keeps its recorded outcome. The call itself gets ``answer``, or is asked anew if there is
        none. ``last()`` of the new session is the execution; made again under the same name, it is the same fork.
        Raises InvalidName, PromiseNotFound, ForkRefused, BadAnswer, NotPlain.
        """
        session_name(name)
        outcome: dict[str, Any] | None = None
        if parse_record(at).execution.session != self.name:
            msg = f"{at} is not a call of session {self.name!r}"
            raise ForkRefused(msg)
        if answer is not AGAIN:
            outcome = {"value": await stored(self._client.substrate.blobs, await self._client.checked(at, answer))}
        await fork_session(self._client.substrate, at, outcome, name)
        return Session(self._client, name)

    async def variables(self) -> list[NameReport]:
        """Return the variables of the session's last checkpoint: what was kept, rebuilt or lost, and why."""
        promises = self._client.substrate.promises
        last, root = await find_head(promises, self.name)
        after = last + 1 if root is None or root.settled else last
        base = await base_of(promises, self.name, after)
        if base is None or base.value is None:
            return []
        composed = await compose(promises, self._client.substrate.blobs, base.value)
        return composed.reports() if composed is not None else []


class Execution:
    """A handle on one execution."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    def __repr__(self) -> str:
        return f"Execution({self.id!r})"

    async def info(self) -> ExecutionInfo:
        """Return its state now. Raises ExecutionNotFound."""
        return await state_of(self._client.substrate, self.id)

    def events(self, from_offset: int = 0, *, follow: bool = True) -> AsyncIterator[Event]:
        """Yield what was recorded and, unless ``follow`` is False, what comes, until it is settled.

        Output starts at ``from_offset`` (in characters). Raises ExecutionNotFound.
        """
        return follow_events(self._client.substrate, self.id, from_offset, on=follow)

    async def result(self) -> Result:
        """Wait until it is settled, and return how. Raises ExecutionNotFound."""
        return await result_of(self._client.substrate, self.id)

    async def tree(self) -> TreeNode:
        """Return its promises. Raises ExecutionNotFound."""
        return await tree_of(self._client.substrate, self.id)

    async def submission(self) -> dict[str, Any]:
        """Return what was handed in: code, filename, argv, grants, files. Raises ExecutionNotFound."""
        root = await self._root()
        submission: dict[str, Any] = (root.param.get("args") or [{}])[0]
        return submission

    async def cancel(self, *, wait: float = CANCEL_WAIT) -> Result | None:
        """Ask, durably, for it to be stopped; return its result, whose ``stop`` says how it did.

        None if nobody has stopped it within ``wait`` seconds, or no worker is there that could: the request stands, and
        the next worker comes to it first.
        Raises ExecutionNotFound, AlreadySettled.
        """
        root = await self._root()
        if root.settled:
            msg = f"{self.id} has ended already"
            raise AlreadySettled(msg)
        promises = self._client.substrate.promises
        id = cancel_id(self.id)
        await promises.create(id, "cancel", {"at": now_ms()}, timeout_at=root.timeout_at, external=True)
        await promises.settle(id, {"at": now_ms()})
        if await self._client.attended() is False:
            return None
        try:
            async with asyncio.timeout(wait):
                return await self.result()
        except TimeoutError:
            return None

    async def _root(self) -> Promise:
        root = await self._client.substrate.promises.get(self.id)
        if root is None:
            msg = f"there is no execution {self.id}: 'perdure ps' lists those there are"
            raise ExecutionNotFound(msg)
        return root


def check_code(code: str, filename: str | None) -> None:
    """Raise BadSubmission for code that no worker would run."""
    if len(code) > MAX_CODE:
        msg = f"the code has {len(code)} characters, more than {MAX_CODE}: bring data as a file (--with)"
        raise BadSubmission(msg)
    try:
        compile(
            code, filename or "<code>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST, dont_inherit=True
        )
    except SyntaxError as exc:
        where = f"{filename or 'code'}, line {exc.lineno}"
        # The line and what marks the place, as Python shows them.
        shown = [line for line in traceback.format_exception_only(exc) if line.startswith("    ")]
        msg = f"SyntaxError: {exc.msg} ({where}); nothing was recorded\n{''.join(shown)}".rstrip()
        raise BadSubmission(msg) from None
    except ValueError as exc:
        msg = f"the code cannot be compiled: {exc}; nothing was recorded"
        raise BadSubmission(msg) from None


def checked_seconds(seconds: float | None) -> float | None:
    """Return the bound of a run. Raises BadSubmission."""
    if seconds is not None and not seconds > 0:
        msg = f"an execution cannot be bounded to {seconds} seconds; nothing was recorded"
        raise BadSubmission(msg)
    return seconds


def _prompt(param: dict[str, Any]) -> str:
    args = param.get("args")
    prompt = args.get("prompt") if isinstance(args, dict) else None
    return prompt if isinstance(prompt, str) else shown_call(param)
