"""Admission: from an untrusted param to a job that may run, or a reason why it may not.

Nothing in the param is believed: order, base and grants are checked against what is recorded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from perdure.capabilities.errors import UnknownGrant
from perdure.capabilities.registry import intersect
from perdure.engine.checkpoints import compose
from perdure.engine.errors import InvalidName, PerdureError
from perdure.engine.ids import parse_execution, step_id
from perdure.engine.sessions import base_of, ensure_session
from perdure.engine.settings import Submission

from .confine.errors import InterpreterUnusable, SandboxUnavailable

if TYPE_CHECKING:
    from perdure.engine.ids import ExecutionId
    from perdure.engine.sessions import Base, Head

    from .service import Services

__all__ = ["Job", "Refused", "admit"]


#: Attempts that give an execution back whose capability their worker does not know, before it is refused: with the
#: pauses between them some seconds, in which a worker that knows it takes it.
TRIES = 4
#: Names that a refusal shows.
SHOWN_NAMES = 10


class CapabilityUnknown(PerdureError):
    """This worker does not know a capability that the session was granted."""


class Refused(Exception):
    """The submission cannot run; the execution resolves with this reason, and nothing of it ran."""

    def __init__(self, status: str, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Job:
    """A submission that was checked, and what it starts from."""

    id: ExecutionId
    submission: Submission
    head: Head
    base: Base
    grants: tuple[str, ...]


async def admit(services: Services, execution: str, raw: list[Any], *, version: int = 1) -> Job:
    """Check a submission against what is recorded. Raises Refused; PerdureError for what another attempt may have.

    `version` counts the attempts, from 1.
    """
    id, submission = _parsed(execution, raw)
    promises = services.promises
    base, head = await asyncio.gather(base_of(promises, id.session, id.n), ensure_session(promises, id.session))
    if id.n < head.settings.first:
        msg = f"{id.session} has come to execution {head.settings.first} or beyond: submit it as the next one"
        raise Refused("busy", msg)
    if base is None:
        msg = f"{id.session}@{id.n - 1} has not settled: submit again when it has"
        raise Refused("busy", msg)
    before = f"{id.session}@{id.n - 1}" if id.n > 1 else None
    if submission.base not in (None, before, base.step):
        msg = f"the submission builds on {submission.base!r}, but execution {id.n} follows {before!r}"
        raise Refused("BadSubmission", msg)
    if submission.atomic:
        await _can_roll_back(services, before, base)
    allowed = head.settings.grants
    grants = tuple(allowed if submission.grants is None else intersect(submission.grants, allowed))
    try:
        await services.source(head.settings)
        services.describe(grants)
    except UnknownGrant as exc:
        # Every worker of a state takes every execution, and a command starts one too: another may know it. What has
        # begun has been in the hands of one that does.
        if version < TRIES or await promises.get(step_id(execution, 0), strict=False) is not None:
            msg = f"{exc}. Another worker of this state may know it: the execution is given back"
            raise CapabilityUnknown(msg) from None
        raise Refused(type(exc).__name__, str(exc)) from None
    except (SandboxUnavailable, InterpreterUnusable) as exc:
        if version > 1:
            # It has begun, perhaps where more is to be had: nothing of it is lost, and it goes on when it can.
            raise
        raise Refused(type(exc).__name__, str(exc)) from None
    return Job(id, submission, head, base, grants)


async def _can_roll_back(services: Services, before: str | None, base: Base) -> None:
    """Raise Refused where going back to the base would lose what lives in the session now."""
    if base.value is None:
        return
    composed = await compose(services.promises, services.blobs, base.value)
    reports = composed.reports() if composed else []
    lost = [report.name for report in reports if report.status == "lost" and not report.stored]
    left = list((base.value.get("result") or {}).get("left", ()))
    if lost or left:
        names = ", ".join([*lost, *left][:SHOWN_NAMES])
        msg = f"an atomic submission could not be rolled back: the checkpoint of {before} lacks {names}"
        raise Refused("NotAtomic", f"{msg}. Delete or end them first, or submit without atomic")


def _parsed(execution: str, raw: list[Any]) -> tuple[ExecutionId, Submission]:
    if len(raw) != 1:
        msg = f"a submission is one argument, an object, and these are {len(raw)}"
        raise Refused("BadSubmission", msg)
    try:
        id = parse_execution(execution)
        submission = Submission.model_validate(raw[0])
    except InvalidName as exc:
        raise Refused("BadSubmission", str(exc)) from None
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "submission"
        raise Refused("BadSubmission", f"{where}: {first['msg']}") from None
    if submission.session not in (None, id.session):
        msg = f"the submission names session {submission.session!r}, its promise {id.session!r}"
        raise Refused("BadSubmission", msg)
    return id, submission
