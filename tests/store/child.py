"""A process of the store's tests: `child.py ROLE PATH [ARGUMENT...]`, speaking lines of JSON on its pipes."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

from resonate.context import Context
from resonate.resonate import Resonate

from perdure.engine.store import SqliteConnection


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


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


async def write(path: str, start: str) -> None:
    """Do operations for as long as it lives, saying each one only after it was answered."""
    async with SqliteConnection(path, group="g") as connection:
        number = int(start)

        async def chain(lane: int) -> None:
            nonlocal number
            while True:
                number += 1
                id = f"p{number}"
                await request(
                    connection, "promise.create", id=id, timeoutAt=2**53, param={"data": "x" * (number % 500)}
                )
                say(created=id)
                await request(connection, "promise.settle", id=id, state="resolved", value={"data": str(lane)})
                say(settled=id)

        await asyncio.gather(*(chain(lane) for lane in range(3)))


async def hammer(path: str, rounds: str) -> None:
    """Take every task this process is offered, and finish it; say what it took."""
    connection = SqliteConnection(path, group="g")
    offers: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def offered(message: str) -> None:
        task = json.loads(message)["data"]["task"]
        offers.put_nowait((task["id"], task["version"]))

    connection.recv(offered)
    await connection.start()
    say(ready=True)
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
        say(took=task)
    await creating
    await connection.stop()
    say(stopped=True)


async def create(connection: SqliteConnection, rounds: int) -> None:
    tags = {"resonate:target": "poll://any@g"}
    for number in range(rounds):
        id = f"{connection.unicast().rpartition('/')[2]}-{number}"
        answer = await request(connection, "promise.create", id=id, timeoutAt=2**53, tags=tags)
        if answer["head"]["status"] != 200:
            say(error=answer)


async def work(path: str, name: str) -> None:
    """An ordinary Resonate worker."""
    resonate = Resonate(network=SqliteConnection(path, group="workers"), group="workers", ttl=timedelta(minutes=5))

    async def where(_context: Context, number: int) -> str:
        return f"{name}:{number}"

    async def hang(_context: Context) -> str:
        say(running=name)
        await asyncio.sleep(float(sys.argv[4]))
        return name

    resonate.register(where)
    resonate.register(hang)
    say(ready=name)
    await hear()
    await resonate.stop()


if __name__ == "__main__":
    roles = {"hold": hold, "write": write, "hammer": hammer, "work": work}
    asyncio.run(roles[sys.argv[1]](sys.argv[2], sys.argv[3]))
