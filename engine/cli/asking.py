"""Questions of a running script, asked in the terminal it was started from."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from perdure.capabilities.errors import BadAnswer

from ..errors import AlreadySettled

if TYPE_CHECKING:
    from ..client import Client
    from ..records import CallEvent

__all__ = ["ask_here"]


async def ask_here(client: Client, question: CallEvent) -> None:
    """Ask for an answer until one fits, or somebody else has given one."""
    while True:
        prompt = "" if question.name == "input" else f"{question.args.strip(chr(39))} "
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            raise KeyboardInterrupt
        try:
            await client.answer(question.id, line.rstrip("\n"))
        except BadAnswer as exc:
            sys.stderr.write(f"perdure: {exc}\n")
        except AlreadySettled:
            sys.stderr.write("perdure: it was answered elsewhere meanwhile\n")
            return
        else:
            return
