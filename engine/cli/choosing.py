"""Which run of a script a command means: the unfinished one, or a new one.

1. The same command again goes on with what is unfinished; it never runs anything a second time.
2. A script or arguments that differ from the unfinished run's are a choice for the user, never guessed.
"""

from __future__ import annotations

import io
import tokenize
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import BadSubmission, FileRefused
from ..ids import session_name
from ..sessions import read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..client import Client, Execution, Session

__all__ = ["Choices", "Script", "read_limits", "read_script", "unfinished"]

#: Runs of one script that are looked through for the newest: REPORT, REPORT-2, ...
MAX_RUNS = 100_000
#: Characters of a file's name that name its sessions: leaves room for the number within the 64 of a session's name.
MAX_STEM = 50


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen on the command line."""

    session: str | None = None
    grants: list[str] | None = None
    bring: list[Path] = field(default_factory=list)
    isolation: str | None = None
    namespaces: str | None = None
    python: Path | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    atomic: bool = False
    seconds: float | None = None
    new: bool = False
    resume: bool = False
    detach: bool = False
    ask: bool = True
    json: bool = False

    def settings(self) -> dict[str, Any]:
        """What was chosen of the session's settings."""
        python = None if self.python is None else str(self.python.absolute())
        return {
            "isolation": self.isolation,
            "namespaces": self.namespaces,
            "python": python,
            "limits": self.limits or None,
        }


@dataclass(frozen=True, slots=True)
class Script:
    """A script as it was read, and its arguments."""

    name: str
    code: str
    argv: Sequence[str]
    stem: str


def read_limits(given: Sequence[str] | None) -> dict[str, Any]:
    """Return limits from NAME=VALUE; what they may be is checked where they are set. Raises BadSubmission."""
    limits: dict[str, Any] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not equals:
            msg = f"--limit takes NAME=VALUE, as in --limit wall_seconds=60, and not {each!r}"
            raise BadSubmission(msg)
        limits[name.strip()] = None if value.strip().lower() == "none" else value.strip()
    return limits


def read_script(file: Path, argv: Sequence[str]) -> Script:
    """Read a file as Python reads source. Raises FileRefused, BadSubmission."""
    try:
        data = file.read_bytes()
    except OSError as exc:
        msg = f"{file} cannot be read ({exc.strerror}): name a Python file"
        raise FileRefused(msg) from None
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        code = io.IncrementalNewlineDecoder(None, translate=True).decode(data.decode(encoding), final=True)
    except (UnicodeDecodeError, SyntaxError) as exc:
        msg = f"{file} is not Python source: {exc}"
        raise BadSubmission(msg) from None
    return Script(file.name, code, tuple(argv), _stem(file))


async def unfinished(client: Client, script: Script, choices: Choices) -> tuple[str, Execution | None]:
    """Return the session to use, and the execution in it that is to be gone on with. Raises BadSubmission."""
    name, session = await _latest(client, script, choices.session)
    last = await session.last() if session is not None else None
    if last is None:
        return name, None
    if (await last.info()).state == "settled" or choices.new:
        return (name if choices.session else _next_name(name)), None
    submission = await last.submission()
    differs = [
        what
        for what, same in (
            ("content", submission.get("code") == script.code),
            ("arguments", tuple(submission.get("argv", ())) == script.argv),
        )
        if not same
    ]
    if differs and not choices.resume:
        way = "--new starts this one beside it"
        if choices.session:
            way = "another --session starts this one beside it"
        msg = (
            f"{last.id} is unfinished, and its {' and '.join(differs)} are not those of this run of {script.name}: "
            f"--resume finishes it as it was, {way}"
        )
        raise BadSubmission(msg)
    return name, last


async def _latest(client: Client, script: Script, session: str | None) -> tuple[str, Session | None]:
    if session is not None:
        session_name(session)
        exists = await read_settings(client.substrate.promises, session) is not None
        return session, await client.session(session) if exists else None
    name = script.stem
    found: Session | None = None
    for _ in range(MAX_RUNS):
        if await read_settings(client.substrate.promises, name) is None:
            break
        found = await client.session(name)
        name = _next_name(name)
    return (found.name, found) if found is not None else (name, None)


def _stem(file: Path) -> str:
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "-" for char in file.stem)
    return session_name((kept.lstrip("-_") or "script")[:MAX_STEM])


def _next_name(name: str) -> str:
    stem, dash, number = name.rpartition("-")
    if dash and number.isdecimal() and int(number) > 1:
        return f"{stem}-{int(number) + 1}"
    return f"{name}-2"
