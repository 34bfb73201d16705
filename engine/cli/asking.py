"""Questions of a running script, asked in the terminal it was started from.

1. The terminal is read a line at a time, and never in a thread: one that is blocked there would outlive us.
2. A question may be answered elsewhere while it is shown here; whoever is first has answered.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from perdure.capabilities.errors import BadAnswer

from ..errors import AlreadySettled
from .plain import plain

if TYPE_CHECKING:
    from ..client import Client
    from ..records import PendingCall

__all__ = ["ask_here", "how_to_answer"]

#: Bytes read at once: a terminal hands over one line, of at most 4096 bytes.
LINE = 1 << 16
#: Seconds between two looks whether somebody else has answered.
LOOK_EVERY = 1.0


def how_to_answer(call: PendingCall) -> str:
    """Say what a call waits for, and the command that answers it."""
    return f'{call.id} waits for an answer to "{call.prompt}": perdure answer {call.id} VALUE'


async def ask_here(client: Client, execution: str, call: PendingCall, shown: str = "") -> bool:
    """Ask until an answer fits, here or elsewhere; False if the terminal has no more to say (end of file).

    ``input`` has printed its prompt itself: where that is what was ``shown`` last, it stands there already.
    """
    while True:
        if not (call.name == "input" and call.prompt and shown.endswith(call.prompt)):
            sys.stderr.write(_prompt(call))
            sys.stderr.flush()
        shown = ""
        line = await _line_unless_answered(client, execution, call.id)
        if line is None:
            sys.stderr.write("\nperdure: it was answered elsewhere\n")
            return True
        if not line:
            sys.stderr.write("\n")
            return False
        try:
            await client.answer(call.id, line.rstrip("\r\n"))
        except BadAnswer as exc:
            sys.stderr.write(f"perdure: {plain(str(exc))}\n")
        except AlreadySettled:
            sys.stderr.write("perdure: it was answered elsewhere\n")
            return True
        else:
            return True


def _prompt(call: PendingCall) -> str:
    text = plain(call.prompt, keep="\n\t")
    if call.name == "input":
        return text
    choices = call.args.get("choices") if isinstance(call.args, dict) else None
    if isinstance(choices, list):
        text += f" [{'/'.join(plain(str(choice)) for choice in choices)}]"
    return f"{text} "


async def _line_unless_answered(client: Client, execution: str, call_id: str) -> str | None:
    loop = asyncio.get_running_loop()
    terminal = sys.stdin.fileno()
    readable = asyncio.Event()
    loop.add_reader(terminal, readable.set)
    try:
        while not readable.is_set():
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await readable.wait()
            except TimeoutError:
                if call_id not in {call.id for call in await client.pending(execution)}:
                    return None
    finally:
        loop.remove_reader(terminal)
    return os.read(terminal, LINE).decode(sys.stdin.encoding, "replace")
