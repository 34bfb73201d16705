"""What becomes of an execution whose replay does something else: it fails, and is forked if the caller chose that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.engine.errors import ForkRefused
from perdure.engine.forks import fork_session
from perdure.engine.ids import parse_execution
from perdure.engine.records import ErrorInfo

if TYPE_CHECKING:
    from perdure.engine.journal import Divergence

    from .run import Run
    from .service import Services

__all__ = ["divergence_error"]

#: Characters of a session's name that its forks keep: room for their number.
MAX_NAME = 48
#: Forks of one execution whose names are tried.
MAX_FORKS = 100


async def divergence_error(services: Services, run: Run, found: Divergence, choice: str) -> ErrorInfo:
    """Return a divergence as the error of a result; with ``choice`` "fork" the session's fork is in its data."""
    data = {"path": found.path, "expected": found.expected, "got": found.got, "call": _call(run, found)}
    message = str(found)
    if choice == "fork" and data["call"] is not None:
        data["fork"] = await _fork(services, run.execution, data["call"])
        message += f"; {data['fork']} goes on from there"
    elif data["call"] is not None:
        message += f" ('perdure fork {data['call']} NAME' goes on from there in another session)"
    return ErrorInfo(type="ReplayDivergence", module="perdure", message=message, line=found.line, data=data)


def _call(run: Run, found: Divergence) -> str | None:
    """Return the recorded call at which the replay left the first run."""
    call = run.journal.calls.get(found.path) or run.journal.first_unasked()
    return call.id if call is not None else None


async def _fork(services: Services, execution: str, call: str) -> str:
    id = parse_execution(execution)
    for number in range(1, MAX_FORKS):
        name = f"{id.session[:MAX_NAME]}-{id.n}-fork" + (f"-{number}" if number > 1 else "")
        try:
            # Named and written alike by the next attempt, if this one ends before it has said so.
            return await fork_session(services.substrate, call, None, name)
        except ForkRefused:
            continue
    msg = f"{execution} has {MAX_FORKS} forks already"
    raise ForkRefused(msg)
