"""Capabilities that a process of somebody else's serves, whatever their effect: killed for real, and counted."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from perdure.capabilities import Capability, capability
from perdure.capabilities.errors import BadCapability
from perdure.engine import Client
from perdure.engine.upkeep import collect
from perdure.workers import elsewhere
from perdure.workers.serving import serve

from .host import GROUP, capabilities
from .kit import FAST, kill_guests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CODE = """
import perdure
def tell(ask, sku):
    try:
        return ask(sku)
    except perdure.CallError as error:
        return type(error).__name__
"""


@asynccontextmanager
async def host(folder: Path, *how: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.whole.host", str(folder), *how]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    (tmp_path / "effects").touch()
    async with Client.open(tmp_path / "state", capabilities=capabilities(tmp_path), settings=FAST) as client:
        yield client


async def asked(client: Client, line: str) -> Any:
    session = await client.session("s", grants=["stock.take", "stock.book", "stock.count"])
    return await session.submit(f"{CODE}\n{line}")


async def reached(folder: Path, sign: str) -> None:
    while not (folder / f"{sign}.reached").exists():
        await asyncio.sleep(0.02)


def acted(folder: Path) -> list[str]:
    return [" ".join(line.split()[:2]) for line in (folder / "effects").read_text().splitlines()]


async def test_each_effect_is_served_under_its_key(client: Client, tmp_path: Path) -> None:
    async with host(tmp_path):
        execution = await asked(client, "stock.take('a'), stock.book('b'), stock.count('c')")
        result = await execution.result()
    assert "stock.take" in (await execution.tree()).model_dump_json()
    assert result.ok, result.error
    assert result.value == ("took a", "booked b", ("c", float("inf")))
    assert acted(tmp_path) == ["take a", "book b", "count c"]
    keys = [line.split()[2] for line in (tmp_path / "effects").read_text().splitlines() if not line.startswith("book")]
    assert len(set(keys)) == 2


@pytest.mark.parametrize(
    ("when", "call", "value", "effects"),
    [
        ("after", "stock.take", "CallInDoubt", ["take x"]),
        ("before", "stock.take", "CallInDoubt", []),
        ("after", "stock.book", "found x", ["book x"]),
        ("before", "stock.book", "booked x", ["book x"]),
        ("after", "stock.count", ("x", float("inf")), ["count x", "count x"]),
    ],
)
async def test_a_host_killed_with_a_call_in_its_hands(
    client: Client, tmp_path: Path, when: str, call: str, value: Any, effects: list[str]
) -> None:
    (tmp_path / when).touch()
    async with host(tmp_path) as first:
        execution = await asked(client, f"tell({call}, 'x')")
        await reached(tmp_path, when)
        first.kill()
        await first.wait()
    (tmp_path / when).unlink()
    async with host(tmp_path):
        result = await execution.result()
    assert result.ok, result.error
    assert result.value == value
    assert acted(tmp_path) == effects
    assert len(set((tmp_path / "effects").read_text().splitlines())) <= 1, "another key for the same call"


async def test_a_guest_killed_meanwhile_asks_for_the_same_call(client: Client, tmp_path: Path) -> None:
    (tmp_path / "after").touch()
    async with host(tmp_path):
        execution = await asked(client, "tell(stock.take, 'x')")
        await reached(tmp_path, "after")
        assert kill_guests()
        (tmp_path / "after").unlink()
        result = await execution.result()
    assert result.value == "took x"
    assert acted(tmp_path) == ["take x"]


async def test_what_a_host_notes_of_a_call_goes_with_its_execution(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.workers.checkpoints.CHAIN", 1)
    async with host(tmp_path):
        assert (await (await asked(client, "stock.take('a'), stock.book('b')")).result()).ok
    store: Any = client.substrate.network
    noted = [promise.id for promise in await store.scan("s@1:", None) if ".begun" in promise.id]
    assert len(noted) == 2
    session = await client.session("s")
    for _ in range(3):  # the last checkpoint builds on the first one no more
        assert (await (await session.submit("1", wait=True)).result()).ok
    for _ in range(2):  # what was settled now is as old as the horizon at the next
        await collect(client.substrate, time.time() + 40 * 24 * 3600)
    assert "s@1" not in [info.id for info in await client.executions("s")]
    assert [await client.substrate.promises.get(id) for id in noted] == [None, None]


async def test_another_worker_finds_what_became_of_it(tmp_path: Path) -> None:
    """Though its effect may not be repeated, nothing is in doubt: the promise that the host settles is durable."""
    (tmp_path / "effects").touch()
    (tmp_path / "after").touch()
    how: dict[str, Any] = {"capabilities": capabilities(tmp_path), "settings": FAST}
    async with AsyncExitStack() as stack:
        async with Client.open(tmp_path / "state", **how) as client:
            await stack.enter_async_context(host(tmp_path))
            execution = await asked(client, "tell(stock.take, 'x')")
            await reached(tmp_path, "after")
        (tmp_path / "after").unlink()
        async with Client.open(tmp_path / "state", **how) as client:
            result = await client.execution(execution.id).result()
    assert result.value == "took x"
    assert acted(tmp_path) == ["take x"]


async def test_a_host_without_the_wrapper_performs_nothing(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "GRACE_MS", -118_000)
    async with host(tmp_path, "plain"):
        result = await (await asked(client, "tell(stock.take, 'x')")).result()
    assert result.value in ("CallTimeout", "CallFailed")
    assert acted(tmp_path) == []


def test_what_is_declared_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCapability, match="remote= names the group"):

        @capability("stock.lose", served=True)
        async def lose(sku: str) -> None:
            """Lose one."""

    @capability("stock.find", effect="repeat", remote=GROUP)
    async def find(sku: str) -> None:
        """Find one."""

    with pytest.raises(ValueError, match="served=True"):
        serve(None, find)  # type: ignore[arg-type]
    assert all(isinstance(each, Capability) for each in capabilities(tmp_path))
