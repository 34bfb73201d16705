"""Kill a writing process again and again: `crashes.py FOLDER ROUNDS SEED [SYNCHRONOUS]`; fails at the first loss.

Each round forks a process that writes, lets it live for a random moment, kills it with SIGKILL, and then holds the
file against what that process was answered. With `power.c` preloaded, what was not fsynced is lost as well, and each
round begins with a new file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from perdure.engine.store import SqliteConnection, problems
from perdure.engine.store.database import Synchronous

LANES = 3
LIFE = (0.0, 0.06)  # seconds after the first answer
TARGET = {"resonate:target": "poll://any@g"}
FOREVER = 2**53


async def ask(connection: SqliteConnection, kind: str, **data: Any) -> Any:
    request = {"kind": kind, "head": {"corrId": "c", "version": "1"}, "data": data}
    answer = json.loads(await connection.send(json.dumps(request)))
    assert answer["head"]["status"] == 200, answer
    return answer["data"]


async def write(path: Path, tag: str, synchronous: Synchronous, out: int) -> None:
    """Run whole lives of tasks, saying each step only after it was answered."""

    def say(what: str, id: str) -> None:
        os.write(out, f"{what} {id}\n".encode())

    async def lane(connection: SqliteConnection, lane: int) -> None:
        number = 0
        while True:
            number += 1
            root = f"{tag}-{lane}-{number}"
            child = f"{root}:x"
            create = {"data": {"id": root, "timeoutAt": FOREVER, "tags": TARGET}}
            await ask(connection, "task.create", pid="p", ttl=10**6, action=create)
            say("pending", root)
            data = {
                "id": child,
                "timeoutAt": FOREVER,
                "tags": {"resonate:external": "true"},
                "param": {"data": "x" * 999},
            }
            action = {"kind": "promise.create", "data": data}
            await ask(connection, "task.fence", id=root, version=1, action=action)
            say("pending", child)
            await ask(
                connection, "task.suspend", id=root, version=1, actions=[{"data": {"awaited": child, "awaiter": root}}]
            )
            await ask(connection, "promise.settle", id=child, state="resolved", value={"data": child})
            say("resolved", child)
            await ask(connection, "task.acquire", id=root, version=1, pid="p", ttl=10**6)
            done = {"data": {"id": root, "state": "rejected", "value": {"data": root}}}
            await ask(connection, "task.fulfill", id=root, version=2, action=done)
            say("rejected", root)

    async with SqliteConnection(path, group="g", synchronous=synchronous) as connection:
        await asyncio.gather(*(lane(connection, number) for number in range(LANES)))


def live_and_die(path: Path, tag: str, synchronous: Synchronous, life: float) -> list[tuple[str, str]]:
    """What a process was answered before it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with contextlib.suppress(BaseException):
            asyncio.run(write(path, tag, synchronous, writer))
        os._exit(7)  # only a kill ends it
    os.close(writer)
    select.select([reader], [], [], 20)
    time.sleep(life)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as heard:
        lines = [line.split() for line in heard.read().splitlines()]
    assert os.WIFSIGNALED(status), f"the writer ended by itself after {lines[-3:]}"
    return [(state, id) for state, id in lines]


def broken(path: Path, answered: list[tuple[str, str]]) -> list[str]:
    """What was answered and is not there."""
    file = sqlite3.connect(path)
    rows = {row[0]: row[1:] for row in file.execute("SELECT id, state, value_data FROM promises")}
    file.close()
    found: list[str] = []
    for state, id in answered:
        seen = rows.get(id)
        if seen is None or (state != "pending" and seen != (state, id)):
            found.append(f"{id}: answered {state}, found {seen}")
    return found


def main() -> None:
    folder, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    synchronous: Synchronous = "NORMAL" if "NORMAL" in sys.argv else "FULL"
    durable = os.environ.get("PERDURE_DURABLE")
    chance = random.Random(seed)
    answered: list[tuple[str, str]] = []
    kept = 0
    for number in range(rounds):
        path = folder / (f"store{number}.db" if durable else "store.db")
        said = live_and_die(path, f"r{number}", synchronous, chance.uniform(*LIFE))
        answered = said if durable else answered + said
        kept += len(said)
        left = Path(durable, path.name) if durable else path
        wrong = broken(left, answered)
        if durable or number % 10 == 0 or number == rounds - 1:
            wrong += problems(left)
        if wrong:
            sys.exit(f"round {number} of seed {seed}: {wrong[:5]}")
    sys.stdout.write(f"{rounds} kills, {kept} answers, all kept\n")


if __name__ == "__main__":
    main()
