"""The unmodified SDK's own patterns on the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from resonate.context import Context
from resonate.resonate import Resonate
from resonate.retry import Never
from resonate.types import Value

from perdure.engine.store import SqliteConnection


@pytest.fixture
async def resonate(path: Path) -> AsyncIterator[Resonate]:
    resonate = Resonate(network=SqliteConnection(path))
    yield resonate
    await resonate.stop()


async def double(_context: Context, number: int) -> int:
    return number * 2


async def fan_out(context: Context, count: int) -> int:
    handles = [context.rpc(double, number) for number in range(count)]
    return sum([await handle for handle in handles])


async def factorial(context: Context, number: int) -> int:
    return 1 if number <= 1 else number * await context.rpc(factorial, number - 1)


async def sleepy(context: Context) -> str:
    await context.sleep(timedelta(milliseconds=150))
    return "awake"


async def asks(context: Context) -> Any:
    promise = context.promise(timeout=timedelta(hours=1))
    return await promise


async def test_local_steps(resonate: Resonate) -> None:
    async def steps(context: Context, count: int) -> int:
        return sum([await context.run(double, number) for number in range(count)])

    resonate.register(double)
    resonate.register(steps)
    assert await (await started(resonate.run("steps", steps, 5))).result() == 20


async def test_a_connection_that_was_started_first(path: Path) -> None:
    network = SqliteConnection(path)
    await network.start()
    resonate = Resonate(network=network)
    resonate.register(double)
    resonate.register(fan_out)
    assert await (await started(resonate.run("fan", fan_out, 3))).result() == 6
    await resonate.stop()


async def test_fan_out(resonate: Resonate) -> None:
    resonate.register(double)
    resonate.register(fan_out)
    assert await (await started(resonate.run("fan", fan_out, 8))).result() == 56


async def test_recursion(resonate: Resonate) -> None:
    resonate.register(factorial)
    assert await (await started(resonate.rpc("factorial", "factorial", 6))).result() == 720


async def test_durable_sleep(resonate: Resonate) -> None:
    resonate.register(sleepy)
    assert await (await started(resonate.run("sleepy", sleepy))).result() == "awake"


async def test_external_promise(resonate: Resonate, path: Path) -> None:
    resonate.register(asks)
    handle = await started(resonate.run("asks", asks))
    async with SqliteConnection(path, group="watchers") as outside:
        while not (pending := [p for p in await outside.scan("asks:") if p.state == "pending"]):
            await outside.changed(5)
        client = Resonate(network=outside, group="watchers")
        await client.promises.resolve(pending[0].id, Value(data="yes"))
        assert await handle.result() == "yes"
        await client.stop()


async def test_detached(resonate: Resonate) -> None:
    finished = asyncio.Event()

    async def background(_context: Context) -> None:
        finished.set()

    async def detaches(context: Context) -> str:
        await context.detached("background")
        return "left"

    resonate.register(background)
    resonate.register(detaches)
    assert await (await started(resonate.run("detaches", detaches))).result() == "left"
    async with asyncio.timeout(5):
        await finished.wait()


async def test_failure_reaches_the_caller(resonate: Resonate) -> None:
    async def fails(_context: Context) -> None:
        message = "no"
        raise ValueError(message)

    resonate.register(fails, retry_policy=Never())
    handle = await started(resonate.run("fails", fails))
    with pytest.raises(Exception, match="no"):
        await handle.result()


async def test_a_schedule_is_kept(resonate: Resonate) -> None:
    resonate.register(double)
    await resonate.schedule("nightly", "0 3 * * *", "double", (4,))
    found = await resonate.schedules.get("nightly")
    assert found.cron == "0 3 * * *"
    await resonate.schedules.delete("nightly")


async def test_two_workers_in_one_group_share_the_work(path: Path) -> None:
    ran: set[str] = set()

    networks = [SqliteConnection(path, group="workers") for _ in range(2)]

    def worker(name: str, network: SqliteConnection) -> Resonate:
        async def where(_context: Context, number: int) -> int:
            ran.add(name)
            return number

        resonate = Resonate(network=network, group="workers")
        resonate.register(where)
        return resonate

    workers = [worker(name, network) for name, network in zip(("one", "two"), networks, strict=True)]
    for network in networks:
        await network.start()
    client = Resonate(network=SqliteConnection(path, group="clients"), group="clients")
    handles = [
        await started(client.options(target="workers").rpc(f"w{number}", "where", number)) for number in range(12)
    ]
    assert [await handle.result() for handle in handles] == list(range(12))
    assert ran == {"one", "two"}
    for resonate in (client, *workers):
        await resonate.stop()


async def test_a_restart_goes_on_where_it_was(path: Path) -> None:
    first = Resonate(network=SqliteConnection(path))
    first.register(asks)
    await first.rpc("asks", "asks").id()
    network = SqliteConnection(path, group="watchers")
    while not (pending := [p for p in await network.scan("asks:") if p.state == "pending"]):
        await network.changed(5)
    await first.stop()
    second = Resonate(network=SqliteConnection(path))
    second.register(asks)
    await second.promises.resolve(pending[0].id, Value(data="late"))
    assert await (await second.get("asks")).result() == "late"
    await second.stop()
    await network.stop()


async def started(handle: Any) -> Any:
    """A handle, whether the SDK gives it at once or after a moment."""
    return await handle if asyncio.iscoroutine(handle) else handle
