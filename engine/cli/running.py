"""Commands that run code: they start a worker in this process, follow the execution, and leave nothing behind."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..client import AGAIN
from ..errors import SessionBusy
from ..ids import execution_id, parse_record
from ..sessions import read_settings
from ..settings import COMMON, WorkerSettings
from ..substrate import Substrate
from .choosing import Choices, read_script, unfinished
from .failing import hear_worker, leave
from .looking import answered
from .offsets import Offsets
from .opening import client_of
from .showing import Following, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..client import Client, Session

__all__ = ["Choices", "opened_session", "reach_own_modules", "run_code", "run_fork", "run_script", "run_worker"]


def reach_own_modules() -> None:
    """Let ``module:attr`` name a module of the current folder, last, so that it hides nobody else's.

    Not only for grants on this command line: a session remembers its own.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _protect() -> None:
    """Keep guests of level `process` from reading this process: it is ours alone, no program of the user's."""
    # Off Linux there is no such protection, and what needs it says so itself.
    with contextlib.suppress(OSError):
        importlib.import_module("perdure.workers.confine.host").protect_host()


async def run_script(state: Path, file: Path, argv: Sequence[str], choices: Choices) -> int:
    """Run a script, or go on with the run of it that is unfinished; returns the exit code."""
    script = read_script(file, argv)
    _protect()
    reach_own_modules()
    async with client_of(state, worker=True, create=True, capabilities=choices.grants or ()) as client:
        name, execution = await unfinished(client, script, choices)
        if execution is None:
            session = await opened_session(client, name, choices)
            execution = await session.submit(
                script.code,
                filename=script.name,
                argv=script.argv,
                files=choices.bring,
                seconds=choices.seconds,
                wait=True,
            )
        else:
            say(f"going on with {execution.id}", choices)
        return await _to_the_end(Following(client, execution, choices, Offsets(state)))


async def run_code(state: Path, name: str, code: str, choices: Choices) -> int:
    """Run code in a session, and print its value; returns the exit code."""
    _protect()
    reach_own_modules()
    async with client_of(state, worker=True, create=True, capabilities=choices.grants or ()) as client:
        session = await opened_session(client, name, choices)
        last = await session.last()
        if last is not None and (await last.info()).state != "settled":
            msg = (
                f"session {session.name!r} is busy with {last.id}: see it with 'perdure show {last.id}', answer what "
                f"it asks, or stop it with 'perdure cancel {last.id}'"
            )
            raise SessionBusy(msg)
        execution = await session.submit(code, files=choices.bring, atomic=choices.atomic, seconds=choices.seconds)
        return await _to_the_end(Following(client, execution, choices, Offsets(state), value=True))


async def _to_the_end(following: Following) -> int:
    code = await following.to_the_end()
    # This worker stops: what else it had taken meanwhile is given back, and that is nobody's trouble.
    leave()
    return code


async def opened_session(client: Client, name: str, choices: Choices) -> Session:
    """Return the session that was chosen, set as was chosen. Raises SettingsRefused, UnknownGrant."""
    return await client.session(name, grants=await _granted(client, name, choices), **choices.settings())


async def run_fork(state: Path, call: str, name: str, answer: str | None, choices: Choices, *, as_json: bool) -> int:
    """Fork a session at a call, and follow what becomes of it; returns the exit code."""
    reach_own_modules()
    given = answered(answer, as_json=as_json) if answer is not None else AGAIN
    async with client_of(state, worker=True) as client:
        source = await client.session(parse_record(call).execution.session, create=False)
        forked = await source.fork(at=call, answer=given, name=name)
        execution = client.execution(execution_id(forked.name, 1))
        say(f"{execution.id} goes on from {call}", choices)
        return await _to_the_end(Following(client, execution, choices, Offsets(state), value=True))


async def _granted(client: Client, name: str, choices: Choices) -> list[str] | None:
    """Return what a session is to be granted: what was asked for, and ``input()``, which who runs it answers here."""
    if choices.grants:
        return [*choices.grants, "input"]
    return None if await read_settings(client.substrate.promises, name) is not None else ["input"]


async def run_worker(
    state: Path,
    grants: list[str],
    url: str | None,
    blobs: str | None,
    group: str,
    key: Path | None,
    preload: tuple[str, ...] = (),
    **kept: int | None,
) -> None:
    """Run a worker until it is told to stop; ``kept`` are settings of its kept guests, None where nothing was said."""
    hear_worker()
    _protect()
    reach_own_modules()
    if url is None:
        substrate = Substrate.embedded(state, group=group)
    else:
        substrate = Substrate.remote(url, folder=state, blobs=blobs, group=group, key=key)
    said = {name: value for name, value in kept.items() if value is not None}
    await importlib.import_module("perdure.workers.service").serve(
        substrate, grants, WorkerSettings.model_validate({"group": group, "preload": (*COMMON, *preload), **said})
    )
