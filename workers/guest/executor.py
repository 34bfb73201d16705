"""Running code: statement by statement, in one namespace, synchronous ones with no loop running.

1. Every statement runs exactly once, in the one dictionary of ``__main__``; the last expression's value is the result.
2. A statement that awaits is a task on the session's loop; any other runs directly, and may start loops of its own.
3. Nothing of an execution is left that would leak into the next but what the code itself left.
"""

from __future__ import annotations
import __future__

import ast
import asyncio
import contextvars
import sys
from dataclasses import dataclass, field
from inspect import CO_COROUTINE
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from types import CodeType

    from .loop import SessionLoop
    from .runtime import Runtime

__all__ = ["Executor", "Outcome"]

_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag


@dataclass(slots=True)
class Outcome:
    """How a submission ended."""

    status: str
    value: Any = None
    has_value: bool = False
    error: BaseException | None = None
    code: int | None = None
    notes: list[str] = field(default_factory=list)


class Executor:
    """Runs submissions in a namespace, one after another."""

    def __init__(self, namespace: dict[str, Any], loop: SessionLoop, runtime: Runtime) -> None:
        self._namespace = namespace
        self._loop = loop
        self._runtime = runtime
        self._context = contextvars.copy_context()
        self._flags = 0

    def run(self, source: str, filename: str) -> Outcome:
        """Run a submission to its end, whatever it does."""
        flags = self._flags
        try:
            tree = self._compile(source, filename, ast.PyCF_ONLY_AST)
            statements = tree.body
            ends_in_value = bool(statements) and isinstance(statements[-1], ast.Expr)
            value: Any = None
            for index, statement in enumerate(statements):
                last = index == len(statements) - 1
                if isinstance(statement, ast.Expr) and _bare_string(statement) and not (last or index == 0):
                    continue
                value = self._statement(statement, filename, value=last and ends_in_value)
        except (SystemExit, errors.Cancelled, KeyboardInterrupt, asyncio.CancelledError, Exception) as exc:
            return self._ended(exc)
        except BaseException as exc:
            return Outcome("error", error=exc)
        finally:
            del flags
            asyncio.set_event_loop(self._loop)
        return Outcome("ok", value, ends_in_value)

    def _statement(self, statement: ast.stmt, filename: str, *, value: bool) -> Any:
        node: ast.AST
        if value and isinstance(statement, ast.Expr):
            node = ast.Expression(statement.value)
            code = self._compile(node, filename, 0, "eval")
        else:
            code = self._compile(ast.Module([statement], []), filename, 0)
        self._flags |= code.co_flags & _FUTURES
        if not code.co_flags & CO_COROUTINE:
            asyncio.set_event_loop(self._loop)
            return self._context.run(eval, code, self._namespace)
        return self._awaiting(code)

    def _awaiting(self, code: CodeType) -> Any:
        loop = self._loop
        coroutine = self._context.run(eval, code, self._namespace)
        loop.announced = self._runtime.family.main
        task = loop.create_task(coroutine, context=self._context)
        self._runtime.foreground = task
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            if self._runtime.cancelled:
                msg = "the execution was cancelled"
                raise errors.Cancelled(msg) from None
            raise
        except (KeyboardInterrupt, SystemExit):
            self._finish_foreground(task)
            raise
        finally:
            self._runtime.foreground = None

    def _finish_foreground(self, task: asyncio.Task[Any]) -> None:
        """Let an interrupted foreground task run its ``finally`` blocks."""
        if not task.done():
            task.cancel()
            try:
                self._loop.run_until_complete(task)
            except BaseException:
                return

    def _compile(self, source: Any, filename: str, flags: int, mode: str = "exec") -> Any:
        return compile(
            source,
            filename,
            mode,
            flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | self._flags,
            dont_inherit=True,
        )

    def _ended(self, exc: BaseException) -> Outcome:
        if isinstance(exc, errors.Cancelled) or (self._runtime.cancelled and isinstance(exc, asyncio.CancelledError)):
            return Outcome("cancelled", error=exc)
        if isinstance(exc, SystemExit):
            code = exc.code
            if code is None:
                return Outcome("exit", code=0)
            if isinstance(code, int):
                return Outcome("exit", code=code)
            sys.stderr.write(f"{code}\n")
            return Outcome("exit", code=1)
        return Outcome("error", error=exc)


def _bare_string(statement: ast.Expr) -> bool:
    return isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
