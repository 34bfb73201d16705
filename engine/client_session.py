"""A session as a client has it: what is handed in, what is set, and what is there."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal

from .checkpoints import compose
from .client_execution import Execution
from .durable import now_ms
from .errors import ExecutionFailed, ForkRefused, SessionBusy, SessionNotFound
from .files import gather_files
from .forks import fork_session
from .ids import cancel_id, execution_id, parse_record, session_name
from .inspection import submitted
from .life import after
from .records import Merged, NameReport, SessionInfo
from .refs import stored
from .sessions import base_of, find_head, read_settings
from .settings import EXECUTION_TIMEOUT_MS, Strategy, Submission
from .submitting import check_code, checked_seconds, checked_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .client import Client
    from .durable import Promise
    from .life import Happening, SessionState

__all__ = ["AGAIN", "Session"]

#: What ``fork`` takes for an answer to have the call asked anew: no value of anybody's.
AGAIN: Any = object()
#: Between two looks at a session that somebody else holds (s).
BUSY_POLL = 0.1


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
        merge = await checked_variables(substrate.blobs, variables, strategy, source) if variables is not None else None
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

    async def _claim(self, n: int, submission: Submission) -> Execution | None:
        id = execution_id(self.name, n)
        promises = self._client.substrate.promises
        param = {"func": "execute", "args": [submission.model_dump(mode="json")], "kwargs": {}, "version": 1}
        made = await promises.create(id, "execution", param, timeout_at=now_ms() + EXECUTION_TIMEOUT_MS, target=True)
        ours = submitted(made).get("nonce") == submission.nonce
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
        if cancel is not None and cancel.settled and "unused" not in cancel.value:
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
