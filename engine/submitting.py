"""What is looked at before anything is recorded: code that no worker would run is refused here."""

from __future__ import annotations

import ast
import traceback
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from perdure.capabilities.values import encode

from .errors import BadSubmission
from .refs import stored
from .settings import MAX_CODE, MAX_VARIABLES, Strategy, Variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .blobs import BlobStore

__all__ = ["check_code", "checked_seconds", "checked_variables"]


def check_code(code: str, filename: str | None) -> None:
    """Raise BadSubmission for code that no worker would run."""
    if len(code) > MAX_CODE:
        msg = f"the code has {len(code)} characters, more than {MAX_CODE}: bring data as a file (--with)"
        raise BadSubmission(msg)
    try:
        compile(
            code, filename or "<code>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST, dont_inherit=True
        )
    except SyntaxError as exc:
        where = f"{filename or 'code'}, line {exc.lineno}"
        # The line and what marks the place, as Python shows them.
        shown = [line for line in traceback.format_exception_only(exc) if line.startswith("    ")]
        msg = f"SyntaxError: {exc.msg} ({where}); nothing was recorded\n{''.join(shown)}".rstrip()
        raise BadSubmission(msg) from None
    except ValueError as exc:
        msg = f"the code cannot be compiled: {exc}; nothing was recorded"
        raise BadSubmission(msg) from None


def checked_seconds(seconds: float | None) -> float | None:
    """Return the bound of a run. Raises BadSubmission."""
    if seconds is not None and not seconds > 0:
        msg = f"an execution cannot be bounded to {seconds} seconds; nothing was recorded"
        raise BadSubmission(msg)
    return seconds


async def checked_variables(blobs: BlobStore, values: Mapping[str, Any], strategy: Strategy, source: str) -> Variables:
    """Return variables as a submission has them. Raises BadSubmission, NotPlain."""
    wrong = [name for name in values if not str(name).isidentifier() or iskeyword(name)]
    if wrong or len(values) > MAX_VARIABLES:
        msg = f"{wrong[0]!r} cannot be a variable" if wrong else f"more than {MAX_VARIABLES} variables"
        raise BadSubmission(f"{msg}; nothing was recorded")
    encoded = {name: encode(value) for name, value in values.items()}
    held = await stored(blobs, encoded)
    try:
        return Variables(values=held, strategy=strategy, source=source)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        msg = f"{'.'.join(map(str, first['loc']))}: {first['msg']}; nothing was recorded"
        raise BadSubmission(msg) from None
