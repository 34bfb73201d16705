"""Capabilities that a plain Resonate worker serves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from resonate.resonate import Resonate
from resonate.retry import Never

from perdure.capabilities import capability
from perdure.capabilities.errors import BadCapability
from perdure.engine import Client
from perdure.engine.store import SqliteConnection

from .kit import FAST, kill_guests, outcome

if TYPE_CHECKING:
    from pathlib import Path


@capability("stock.level", effect="repeat", remote="inventory", timeout=15.0)
async def level(sku: str, places: list[str]) -> int:
    """Say how many there are."""
    raise AssertionError("its body never runs")


@capability("stock.name", effect="repeat", remote="inventory", timeout=15.0)
async def name(sku: str) -> int:
    """Say what it is called, with a type that the reply does not have."""
    raise AssertionError("its body never runs")


CODE = """
said = [stock.level("bolt", ["here", "there"])]
for bad in (lambda: stock.level("none", []), lambda: stock.name("bolt")):
    try:
        said.append(bad())
    except Exception as error:
        said.append([type(error).__name__, str(error)])
said
"""


async def test_a_plain_resonate_worker_serves_a_capability(tmp_path: Path) -> None:
    asked: list[str] = []

    async def stock_level(_ctx: Any, sku: str, places: list[str]) -> int:
        asked.append(sku)
        if sku == "none":
            raise ValueError("no such thing")
        if len(asked) == 1:
            assert kill_guests()
            await asyncio.sleep(0.5)
        return 7 * len(places)

    async def stock_name(_ctx: Any, sku: str) -> str:
        return sku

    state = tmp_path / "state"
    async with Client.open(state, capabilities=[level, name], settings=FAST) as client:
        resonate = Resonate(network=SqliteConnection(state / "perdure.db", group="inventory"), group="inventory")
        resonate.register(stock_level, name="stock.level", retry_policy=Never())
        resonate.register(stock_name, name="stock.name")
        try:
            resonate.start()
            result = await outcome(client, "s", CODE, grants=["stock.level", "stock.name"])
        finally:
            await resonate.stop()
    assert result.ok, result.error
    assert result.value[0] == 14
    assert result.value[1][0] == "CallFailed"
    assert result.value[2][0] == "BadReply"
    assert asked.count("bolt") == 1


def test_only_what_may_be_repeated_can_be_remote() -> None:
    with pytest.raises(BadCapability, match="only what may be repeated"):

        @capability("stock.take", effect="unknown", remote="inventory")
        async def take(sku: str) -> int:
            """Take one."""
            raise AssertionError
