"""A process of the store's tests: `child.py ROLE PATH [ARGUMENT...]`, speaking lines of JSON on its pipes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from perdure.engine.store import SqliteConnection


def say(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")  # in one piece: several processes may share the pipe


async def hear() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


async def request(connection: SqliteConnection, kind: str, **data: Any) -> dict[str, Any]:
    envelope = {"kind": kind, "head": {"corrId": "c", "version": "1"}, "data": data}
    answer: dict[str, Any] = json.loads(await connection.send(json.dumps(envelope)))
    return answer


async def hold(path: str, task: str) -> None:
    """Take one task and keep it; then do what is asked on the standard input."""
    connection = SqliteConnection(path, group="g", pid="holder")
    connection.recv(lambda message: say(message=json.loads(message)))
    await connection.start()
    answer = await request(connection, "task.acquire", id=task, version=0, pid="holder", ttl=int(sys.argv[4]))
    say(status=answer["head"]["status"])
    while line := await hear():
        kind, data = json.loads(line)
        answer = await request(connection, kind, **data)
        say(status=answer["head"]["status"], data=answer["data"])
    await connection.stop()


async def hammer(path: str, rounds: str) -> None:
    """Take every task this process is offered, and finish it; say what it took."""
    connection = SqliteConnection(path, group="g")
    offers: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    delivered: set[str] = set()
    told: set[str] = set()

    def offered(message: str) -> None:
        task = json.loads(message)["data"]["task"]
        offers.put_nowait((task["id"], task["version"]))
        delivered.add(task["id"])

    def on_execute(task: str, version: int, on_execute: Any = connection.on_execute) -> None:
        told.add(task)
        on_execute(task, version)

    connection.recv(offered)
    connection.on_execute = on_execute  # type: ignore[method-assign] # what no peer told is found by looking
    await connection.start()
    say(ready=os.getpid())
    creating = asyncio.create_task(create(connection, int(rounds)))
    finished = asyncio.create_task(hear())
    while not finished.done():
        offer = asyncio.create_task(offers.get())
        await asyncio.wait([offer, finished], return_when=asyncio.FIRST_COMPLETED)
        if not offer.done():
            offer.cancel()
            break
        task, version = offer.result()
        answer = await request(connection, "task.acquire", id=task, version=version, pid="p", ttl=60_000)
        if answer["head"]["status"] != 200:
            continue
        done = {"kind": "promise.settle", "data": {"id": task, "state": "resolved", "value": {}}}
        await request(connection, "task.fulfill", id=task, version=version + 1, action=done)
        say(took=task, pid=os.getpid())
    await creating
    await connection.stop()
    say(untold=sorted(delivered - told))


async def create(connection: SqliteConnection, rounds: int) -> None:
    tags = {"resonate:target": "poll://any@g"}
    for number in range(rounds):
        id = f"{connection.unicast().rpartition('/')[2]}-{number}"
        answer = await request(connection, "promise.create", id=id, timeoutAt=2**53, tags=tags)
        if answer["head"]["status"] != 200:
            say(error=answer)


def together(path: str, rounds: str, count: int) -> int:
    """Hammer with several processes that share this one's pipes: starting each anew would take most of the time."""
    others: list[int] = []
    for _ in range(count - 1):
        pid = os.fork()
        if pid == 0:
            asyncio.run(hammer(path, rounds))
            os._exit(0)
        others.append(pid)
    asyncio.run(hammer(path, rounds))
    ends = {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in others}
    return 0 if ends <= {0, -signal.SIGKILL} else 1


if __name__ == "__main__":
    if sys.argv[1] == "hammer":
        sys.exit(together(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    asyncio.run(hold(sys.argv[2], sys.argv[3]))
