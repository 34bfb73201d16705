"""Commands that run code: they start a worker in this process, follow the execution, and leave nothing behind."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console

from ..client import Client
from ..errors import BadSubmission, FileRefused, SessionBusy
from ..ids import session_name
from ..sessions import read_settings
from ..substrate import Substrate
from .app import FAILED, WAITS
from .asking import ask_here
from .offsets import Offsets

if TYPE_CHECKING:
    from pathlib import Path

    from rich.status import Status

    from ..client import Execution, Session
    from ..records import CallEvent, Event, Result, WaitingEvent

__all__ = ["Choices", "run_code", "run_script", "run_worker"]

#: Sessions of one script that are looked through for an unfinished run: REPORT, REPORT-2, ...
MAX_RUNS = 100_000


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen on the command line."""

    session: str | None = None
    grants: list[str] | None = None
    bring: list[Path] = field(default_factory=list)
    isolation: str | None = None
    new: bool = False
    resume: bool = False
    detach: bool = False
    ask: bool = True
    json: bool = False


async def run_script(state: Path, file: Path, argv: list[str], choices: Choices) -> int:
    """Run a script, or go on with the run of it that is unfinished."""
    code = _read(file)
    async with Client.open(state, capabilities=choices.grants or ()) as client:
        name, execution = await _unfinished(client, file, code, choices)
        if execution is None:
            session = await client.session(name, grants=choices.grants or None, isolation=choices.isolation)
            execution = await session.submit(code, filename=file.name, argv=argv, files=choices.bring, wait=True)
        else:
            _say(f"going on with {execution.id}", choices)
        return await _Following(client, execution, choices, Offsets(state)).to_the_end()


async def run_code(state: Path, name: str, code: str, choices: Choices) -> int:
    """Run code in a session, and print its value."""
    async with Client.open(state, capabilities=choices.grants or ()) as client:
        session = await client.session(name, grants=choices.grants, isolation=choices.isolation)
        last = await session.last()
        if last is not None and (await last.info()).state != "settled":
            return await _finish_first(client, session, last, choices, Offsets(state))
        execution = await session.submit(code, files=choices.bring)
        return await _Following(client, execution, choices, Offsets(state), value=True).to_the_end()


async def _finish_first(client: Client, session: Session, last: Execution, choices: Choices, offsets: Offsets) -> int:
    del client, offsets, choices
    msg = (
        f"session {session.name!r} is busy with {last.id}: see it with 'perdure show {last.id}', answer what it asks, "
        f"or stop it with 'perdure cancel {last.id}'"
    )
    raise SessionBusy(msg)


async def run_worker(state: Path, grants: list[str], url: str | None, blobs: Path | None, group: str) -> None:
    """Run a worker until it is told to stop."""
    if url is None:
        substrate = Substrate.embedded(state, group=group)
    else:
        substrate = Substrate.remote(url, folder=state, blobs=blobs, group=group)
    await importlib.import_module("perdure.workers.service").serve(substrate, grants)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        msg = f"{file} is not UTF-8 text ({exc.reason} at byte {exc.start})"
        raise BadSubmission(msg) from None
    except OSError as exc:
        msg = f"{file} cannot be read ({exc.strerror})"
        raise FileRefused(msg) from None


async def _unfinished(client: Client, file: Path, code: str, choices: Choices) -> tuple[str, Execution | None]:
    """Return the session to use, and the execution in it that is to be gone on with."""
    name, session = await _latest(client, file, choices.session)
    last = await session.last() if session is not None else None
    if last is None:
        return name, None
    if (await last.info()).state == "settled" or choices.new:
        return (name if choices.session else _next_name(name)), None
    submission = await last.submission()
    if submission.get("code") != code and not choices.resume:
        msg = (
            f"{last.id} is an unfinished run of another version of {file.name}: --resume finishes it as it was, "
            "--new starts this one beside it"
        )
        raise BadSubmission(msg)
    return name, last


async def _latest(client: Client, file: Path, session: str | None) -> tuple[str, Session | None]:
    if session is not None:
        session_name(session)
        exists = await read_settings(client.substrate.promises, session) is not None
        return session, await client.session(session) if exists else None
    name = _stem(file)
    found: Session | None = None
    for _ in range(MAX_RUNS):
        if await read_settings(client.substrate.promises, name) is None:
            break
        found = await client.session(name)
        name = _next_name(name)
    return (found.name, found) if found is not None else (name, None)


def _stem(file: Path) -> str:
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "-" for char in file.stem)
    return session_name((kept.lstrip("-_") or "script")[:50])


def _next_name(name: str) -> str:
    stem, dash, number = name.rpartition("-")
    if dash and number.isdigit() and int(number) > 1:
        return f"{stem}-{int(number) + 1}"
    return f"{name}-2"


def _say(text: str, choices: Choices) -> None:
    if not choices.json:
        sys.stderr.write(f"perdure: {text}\n")


class _Following:
    """Prints what an execution does until it has ended."""

    def __init__(
        self, client: Client, execution: Execution, choices: Choices, offsets: Offsets, *, value: bool = False
    ) -> None:
        self._client = client
        self._execution = execution
        self._choices = choices
        self._offsets = offsets
        self._value = value
        self._status: Status | None = None
        self._calls: dict[str, CallEvent] = {}
        if sys.stderr.isatty() and not choices.json:
            self._status = Console(stderr=True).status("starting")

    async def to_the_end(self) -> int:
        """Return the exit code."""
        shown = self._offsets.read(self._execution.id)
        if self._status:
            self._status.start()
        try:
            async for event in self._execution.events(shown):
                if self._choices.json:
                    print(event.model_dump_json(), flush=True)
                code = await self._on(event)
                if code is not None:
                    return code
        finally:
            if self._status:
                self._status.stop()
        return FAILED

    async def _on(self, event: Event) -> int | None:
        match event.type:
            case "output":
                self._print(event.stream, event.text)
                self._offsets.write(self._execution.id, event.offset + len(event.text))
            case "call":
                self._calls[event.id] = event
                self._progress(f"{event.name}({event.args})")
            case "waiting":
                return await self._waits(event)
            case "finished":
                return self._finished(event.result)
        return None

    def _print(self, stream: str, text: str) -> None:
        if self._choices.json:
            return
        if self._status:
            self._status.stop()
        out = sys.stderr if stream == "stderr" else sys.stdout
        out.write(text)
        out.flush()
        if self._status and text.endswith("\n"):
            self._status.start()

    def _progress(self, doing: str) -> None:
        if self._status:
            self._status.update(f"{self._execution.id}: {len(self._calls)} calls, {doing[:60]}")

    async def _waits(self, event: WaitingEvent) -> int | None:
        if self._status:
            self._status.stop()
        questions = [self._calls[call] for call in event.calls if call in self._calls]
        for question in questions:
            if self._choices.detach:
                _say(f"waits for {question.name}({question.args}): perdure answer {question.id} VALUE", self._choices)
            elif self._choices.ask and sys.stdin.isatty():
                await ask_here(self._client, question)
                return None
            else:
                _say(f"waits for {question.name}({question.args}): perdure answer {question.id} VALUE", self._choices)
        if self._choices.detach and questions:
            _say("nothing runs meanwhile; the same command goes on when it is answered", self._choices)
            return WAITS
        return None

    def _finished(self, result: Result) -> int:
        self._offsets.drop(self._execution.id)
        if not self._choices.json:
            self._show(result)
        if result.status == "exit" and result.exit_code:
            return result.exit_code
        return 0 if result.ok else FAILED

    def _show(self, result: Result) -> None:
        if self._value and result.ok and result.repr is not None and result.repr != "None":
            print(result.repr)
        if result.error is not None:
            if result.error.traceback:
                sys.stderr.write(result.error.traceback)
            else:
                _say(f"{result.status}: {result.error.message}", self._choices)
        elif not result.ok:
            _say(result.status, self._choices)
        if result.lost and not self._is_last_of_its_session():
            names = ", ".join(f"{report.name} ({report.why})" for report in result.lost[:10])
            _say(f"not kept for the next execution: {names}", self._choices)
        for note in result.notes:
            _say(note, self._choices)

    def _is_last_of_its_session(self) -> bool:
        """A script run in a session of its own has no next execution that would miss anything."""
        return not self._value and self._choices.session is None
