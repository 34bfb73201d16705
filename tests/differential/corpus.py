"""The programs: read from ``programs/*.txt``, where each begins with a line ``=== NAME`` and ends at the next.

``=== NAME await`` is a program with ``await`` at its top level, which ``python FILE`` refuses: outside it is compiled
with Python's own flag for that, and run by ``asyncio.run``.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROGRAMS", "Program", "pieces"]

FOLDER = Path(__file__).with_name("programs")
_MARK = "=== "


@dataclass(frozen=True, slots=True)
class Program:
    """A small program; ``name`` is unique and begins with its topic."""

    name: str
    code: str
    awaits: bool


def _read() -> dict[str, Program]:
    found: dict[str, Program] = {}
    for file in sorted(FOLDER.glob("*.txt")):
        for text in ("\n" + file.read_text()).split("\n" + _MARK)[1:]:
            title, _, code = text.partition("\n")
            name, *marks = title.split()
            program = Program(f"{file.stem}/{name}", code.strip("\n") + "\n", "await" in marks)
            assert program.name not in found, f"two programs are called {program.name}"
            found[program.name] = program
    return found


PROGRAMS = _read()


def pieces(code: str) -> list[str]:
    """Split at every top-level statement; each piece keeps its line numbers. What does not compile is one piece."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(code).body
            compile(code, "<program>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return [code]
    lines = code.splitlines(keepends=True)
    spans: list[list[int]] = []
    for statement in body:
        first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", ()))])
        last = statement.end_lineno or first
        if spans and first <= spans[-1][1]:
            spans[-1][1] = max(last, spans[-1][1])
        else:
            spans.append([first, last])
    return ["\n" * (first - 1) + "".join(lines[first - 1 : last]) for first, last in spans]
