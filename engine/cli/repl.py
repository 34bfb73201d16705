"""A REPL over a session: each statement is a durable execution, and leaving loses nothing.

1. The terminal belongs to the main thread; client and worker have a loop of their own in another, so that a prompt
   that waits for hours holds nothing up.
2. Ctrl-C cancels what runs, and a second one leaves it running; at the prompt it drops the line.
3. What an execution did while nobody looked is shown when somebody comes back.
"""

from __future__ import annotations

import ast
import asyncio
import codeop
import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

import uvloop

from .offsets import Offsets
from .opening import client_of
from .running import opened_session, reach_own_modules
from .showing import Following, say

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from ..client import Client, Execution, Session
    from .choosing import Choices

__all__ = ["Reader", "run_repl"]

#: Executions whose code the arrow keys bring back.
HISTORY = 100


class Reader:
    """Lines until they are a whole statement, as the interactive interpreter takes them."""

    def __init__(self) -> None:
        self._compile = codeop.CommandCompiler()
        self._compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._lines: list[str] = []

    @property
    def more(self) -> bool:
        """Whether a statement has begun and is not whole."""
        return bool(self._lines)

    def drop(self) -> None:
        """Forget the lines of a statement that has begun."""
        self._lines.clear()

    def add(self, line: str) -> str | None:
        """Take a line; return the code once it is whole, errors included: whoever runs it says what is wrong."""
        self._lines.append(line)
        code = "\n".join(self._lines)
        try:
            whole = self._compile(code, "<input>", "single") is not None
        except (SyntaxError, ValueError, OverflowError):
            whole = True
        if not whole:
            return None
        self._lines.clear()
        return code if code.strip() else ""


class _Loop:
    """An event loop in a thread of its own, with the client and the worker on it."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="perdure")
        self._thread.start()

    def do[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Run something there and wait for it here. Raises KeyboardInterrupt; the work goes on then."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def run_repl(state: Path, name: str, choices: Choices) -> int:
    """Read, run and print until the end of input or ``exit()``; returns the exit code."""
    reach_own_modules()
    loop = _Loop()
    stack = contextlib.AsyncExitStack()
    try:
        client = loop.do(
            stack.enter_async_context(client_of(state, worker=True, create=True, capabilities=choices.grants or ()))
        )
        session = loop.do(opened_session(client, name, choices))
        return _Repl(loop, client, session, choices, Offsets(state)).talk()
    finally:
        loop.do(stack.aclose())
        loop.stop()


class _Repl:
    def __init__(self, loop: _Loop, client: Client, session: Session, choices: Choices, offsets: Offsets) -> None:
        self._loop = loop
        self._client = client
        self._session = session
        self._choices = choices
        self._offsets = offsets
        self._reader = Reader()
        self._number = 1

    def talk(self) -> int:
        self._catch_up()
        while True:
            try:
                line = input(f"[{self._number}] {'...' if self._reader.more else '>>>'} ")
            except EOFError:
                sys.stdout.write("\n")
                return 0
            except KeyboardInterrupt:
                sys.stdout.write("\n")
                self._reader.drop()
                continue
            code = self._reader.add(line)
            if code:
                left = self._run(code)
                if left is not None:
                    return left

    def _catch_up(self) -> None:
        last = self._loop.do(self._session.last())
        if sys.stdin.isatty():
            self._remember()
        if last is None:
            return
        self._number = int(last.id.rpartition("@")[2]) + 1
        settled = self._loop.do(last.info()).state == "settled"
        if not settled or self._offsets.knows(last.id):
            say(f"going on with {last.id}" if not settled else f"{last.id} ended meanwhile:", self._choices)
            self._follow(last)

    def _remember(self) -> None:
        """Give the arrow keys what the session was told before; it is durable, so no file is needed."""
        try:
            import readline
        except ImportError:
            return
        for info in reversed(self._loop.do(self._client.executions(self._session.name, HISTORY))):
            code = self._loop.do(self._client.execution(info.id).submission()).get("code", "")
            for line in code.splitlines():
                readline.add_history(line)

    def _run(self, code: str) -> int | None:
        """Run a statement; returns an exit code if it left."""
        try:
            execution = self._loop.do(self._session.submit(code, files=self._choices.bring, wait=True))
        except Exception as exc:  # noqa: BLE001 - one line, and the prompt again
            say(str(exc), self._choices)
            return None
        self._choices.bring.clear()
        self._number = int(execution.id.rpartition("@")[2]) + 1
        return self._follow(execution)

    def _follow(self, execution: Execution) -> int | None:
        if not self._offsets.knows(execution.id):
            self._offsets.write(execution.id, 0)
        following = Following(self._client, execution, self._choices, self._offsets, value=True)
        shown = asyncio.run_coroutine_threadsafe(following.to_the_end(), self._loop.loop)
        asked = False
        while True:
            try:
                shown.result()
                break
            except KeyboardInterrupt:
                if asked:
                    shown.cancel()
                    return 0
                asked = True
                say("stopping it; Ctrl-C again leaves it running", self._choices)
                with contextlib.suppress(Exception):
                    self._loop.do(execution.cancel(wait=0))
        if following.result is not None and following.result.status == "exit":
            return following.result.exit_code or 0
        return None
