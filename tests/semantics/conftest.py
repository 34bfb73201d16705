"""A worker for each file, a session in it that all its tests share, and a second that none of them may disturb."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest_asyncio

from tests.whole.kit import World, opened

from .kit import Talk

if TYPE_CHECKING:
    import pytest

    from perdure.engine import Client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory, world: World) -> AsyncIterator[Client]:
    async with opened(tmp_path_factory.mktemp("state") / "state", world) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talk(client: Client) -> Talk:
    await client.session("talk", grants=["look", "pay", "slow", "ask", "input"])
    return Talk(client, "talk")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(client: Client) -> Talk:
    talk = Talk(client, "other")
    await talk.value("untouched = 41")
    return talk
