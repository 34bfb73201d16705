"""Shows what an execution does until it has ended, waits, or the user leaves.

1. Output goes to the stream the code wrote it to, once: what was shown is noted after each print.
2. Everything of ours goes to stderr; progress only on a terminal, and it leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from .app import FAILED, WAITS
from .asking import ask_here, how_to_answer
from .failing import leave
from .plain import plain

if TYPE_CHECKING:
    from rich.status import Status

    from ..client import Client, Execution
    from ..records import CallEvent, DisplayEvent, Event, Result, Stop, WaitingEvent
    from .choosing import Choices
    from .offsets import Offsets

__all__ = ["HOW_STOPPED", "Following", "say"]

#: What is said of an execution that was stopped, by how it was.
HOW_STOPPED: dict[Stop, str] = {
    "stopped": "{} stopped by itself when it was asked to; its variables stand as they are",
    "killed": "{} went on after it was asked to stop, and was killed; the session is as its last step left it",
}

#: Characters of a call that the line of progress shows.
SHOWN_CALL = 60
#: Reasons for one thing that are told; the result has them all.
SHOWN_REASONS = 3
#: Variables that could not be kept which are named one by one; `perdure vars` has them all.
SHOWN_LOST = 10


def say(text: str, choices: Choices) -> None:
    """Print a line of ours."""
    if not choices.json:
        sys.stderr.write(f"perdure: {plain(text)}\n")
        sys.stderr.flush()


class Following:
    """Shows one execution; ``value`` also shows the value of its last expression, as a REPL does."""

    def __init__(
        self, client: Client, execution: Execution, choices: Choices, offsets: Offsets, *, value: bool = False
    ) -> None:
        self._client = client
        self._execution = execution
        self._choices = choices
        self._offsets = offsets
        self._value = value
        #: How it ended, once it has.
        self.result: Result | None = None
        self._calls: dict[str, CallEvent] = {}
        self._said: set[str] = set()
        #: The end of what was printed here: a question that is among it is not put again.
        self._last = ""
        self._asks = choices.ask and not choices.json and sys.stdin.isatty()
        self._status: Status | None = None
        if sys.stderr.isatty() and not choices.json:
            self._status = Console(stderr=True).status("starting")

    async def to_the_end(self) -> int:
        """Return the exit code."""
        self._progress("starting")
        try:
            async for event in self._execution.events(self._offsets.read(self._execution.id)):
                if self._choices.json:
                    typer.echo(event.model_dump_json())
                code = await self._on(event)
                if code is not None:
                    return code
        except asyncio.CancelledError:
            self._hide()
            how = "'perdure worker' goes on with it" if self._value else "the same command goes on with it"
            say(f"left {self._execution.id} unfinished; nothing is lost: {how}", self._choices)
            leave()
            raise
        finally:
            self._hide()
        return FAILED

    async def _on(self, event: Event) -> int | None:
        match event.type:
            case "output":
                self._print(event.stream, event.text)
                self._offsets.write(self._execution.id, event.offset + len(event.text))
            case "display":
                self._display(event)
                self._offsets.write(self._execution.id, event.offset + 1)
            case "call":
                self._calls[event.id] = event
                self._progress(f"{event.name}({event.args})")
            case "waiting":
                return await self._waits(event)
            case "finished":
                self._hide()
                return self._finished(event.result)
        return None

    def _display(self, event: DisplayEvent) -> None:
        """Print what a terminal can show, and say where the rest is."""
        if event.lost:
            say(f"a display is lost: {event.lost}", self._choices)
        text = event.data.get("text/plain", "")
        if text:
            self._print("stdout", text if text.endswith("\n") else f"{text}\n")
        rich = ", ".join(
            f"{mime} ({len(content)} bytes)" for mime, content in event.data.items() if mime != "text/plain"
        )
        if rich:
            say(f"displayed {rich}: 'perdure output {self._execution.id} --json' has it", self._choices)

    def _print(self, stream: str, text: str) -> None:
        if self._choices.json:
            return
        self._hide()
        out = sys.stderr if stream == "stderr" else sys.stdout
        out.write(text)
        out.flush()
        self._last = text if out.isatty() else ""
        if self._status and text.endswith("\n"):
            self._status.start()

    def _progress(self, doing: str) -> None:
        if self._status:
            line = f"{self._execution.id}: {len(self._calls)} calls, {plain(doing)[:SHOWN_CALL]}"
            self._status.update(Text(line))
            self._status.start()

    def _hide(self) -> None:
        if self._status:
            self._status.stop()

    async def _waits(self, event: WaitingEvent) -> int | None:
        """Ask here if there is a terminal to ask in; otherwise say, once, who can answer and how."""
        self._hide()
        waiting = [call for call in await self._client.pending(self._execution.id) if call.id in event.calls]
        if waiting and self._asks and not self._choices.detach:
            self._asks = await ask_here(self._client, self._execution.id, waiting[0], self._last)
            self._last = ""
            if self._asks:
                return None
        for call in waiting:
            if call.id not in self._said:
                self._said.add(call.id)
                say(how_to_answer(call), self._choices)
        until = f"until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event.until / 1000))}" if event.until else ""
        if self._choices.detach:
            what = " or ".join(part for part in ("for an answer" if waiting else "", until) if part)
            how = "'perdure worker' goes on with it" if self._value else "the same command goes on with it"
            say(f"{self._execution.id} waits {what}; nothing runs meanwhile, and {how} then", self._choices)
            return WAITS
        self._progress(f"waits {until}" if not waiting else f"waits for {len(waiting)} answers")
        return None

    def _finished(self, result: Result) -> int:
        self.result = result
        self._offsets.drop(self._execution.id)
        if not self._choices.json:
            self._show(result)
        if result.status == "exit" and result.exit_code:
            return result.exit_code
        return 0 if result.ok else FAILED

    def _show(self, result: Result) -> None:
        if self._value and result.ok and result.repr is not None and result.repr != "None":
            typer.echo(result.repr)
        # Code that left by `exit` has said itself why.
        if result.status != "exit" and result.error is not None:
            if result.error.traceback:
                sys.stderr.write(result.error.traceback)
            else:
                say(f"{result.status}: {result.error.message}", self._choices)
        elif not result.ok and result.status != "exit":
            say(result.status, self._choices)
        # A script in a session of its own has no next execution that would miss anything.
        # What was lost before has been said, by the execution that made it.
        lost = [report for report in result.lost if not report.earlier]
        if lost and (self._value or self._choices.session is not None):
            names = ", ".join(f"{report.name} ({report.why})" for report in lost[:SHOWN_LOST])
            more = f" and {len(lost) - SHOWN_LOST} more" if len(lost) > SHOWN_LOST else ""
            say(f"not kept for the next execution: {names}{more}", self._choices)
        if result.not_restored and not result.kept_guest:
            names = ", ".join(f"{report.name} ({report.why})" for report in result.not_restored[:SHOWN_LOST])
            more = f" and {len(result.not_restored) - SHOWN_LOST} more" if len(result.not_restored) > SHOWN_LOST else ""
            say(f"could not be restored here, and stays stored: {names}{more}", self._choices)
        if result.changed and (self._value or self._choices.session is not None):
            say(f"the next execution may not find: {'; '.join(result.changed[:SHOWN_REASONS])}", self._choices)
        for each in result.prevented[:SHOWN_REASONS]:
            held = f"from line {each.line} on no step could end for a while; a crash there computes it again"
            say(f"{held} ({each.what})", self._choices)
        for note in (*_stopped(result), *_walls(result), *result.notes):
            say(note, self._choices)


def _walls(result: Result) -> list[str]:
    return ["isolation: process, which is no security boundary"] if result.isolation == "process" else []


def _stopped(result: Result) -> list[str]:
    said = [result.error.message] if result.status == "timeout" and result.stop == "stopped" and result.error else []
    if result.stop:
        said.append(HOW_STOPPED[result.stop].format(result.execution))
    if result.rolled_back:
        said.append(f"{result.execution} is rolled back: the session is as it was before it")
    return said
