"""The outside world, a process of its own: it performs effects and keeps a durable book of them.

``outside.py FOLDER`` listens at ``FOLDER/world``. A request is one line of JSON, answered by one:

- ``act``: write session, name, what, key, attempt and when down, sync, and say how often this key was seen before.
  ``behind`` names an effect of the session that the reply waits for, so that a program can order replies.
- ``seen``: whether anything was done under a key.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

BOOK = "effects"
SOCKET = "world"


class World:
    """What was done, by session and key."""

    def __init__(self, folder: Path) -> None:
        self._book = os.open(folder / BOOK, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._keys: Counter[str] = Counter()
        self._seen: defaultdict[tuple[str, str], asyncio.Event] = defaultdict(asyncio.Event)

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        key = request["key"]
        if request["do"] == "seen":
            return {"before": self._keys[key]}
        before = self._keys[key]
        self._keys[key] += 1
        os.write(self._book, json.dumps({**request, "at": time.monotonic()}).encode() + b"\n")
        os.fsync(self._book)
        self._seen[request["session"], request["what"]].set()
        if request.get("behind"):
            await self._seen[request["session"], request["behind"]].wait()
        return {"before": before}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests, one after another."""
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self.answer(json.loads(line))).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # whoever asked was killed
        finally:
            writer.close()


async def main(folder: Path) -> None:
    world = World(folder)
    server = await asyncio.start_unix_server(world.serve, folder / SOCKET, limit=1 << 22)
    os.write(1, b"ready\n")
    async with server:
        await asyncio.to_thread(sys.stdin.read)  # until whoever started it is gone


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
