"""Leases by a clock of our own: counted from before the request, kept by heartbeats, ended on time."""

from __future__ import annotations

import asyncio

import pytest
from resonate.error import ServerError
from resonate.send import TaskRef

from perdure.workers.leases import LeaseKeeper, boot_clock


class Store:
    """Takes heartbeats, or refuses them."""

    def __init__(self) -> None:
        self.beats: list[list[TaskRef]] = []
        self.up = True
        self.beaten = asyncio.Event()

    async def task_heartbeat(self, pid: str, tasks: list[TaskRef]) -> None:
        assert pid == "me"
        if not self.up:
            raise ServerError(500, "down")
        self.beats.append(tasks)
        self.beaten.set()


@pytest.fixture
async def store() -> Store:
    return Store()


async def test_a_lease_is_counted_from_before_the_request(store: Store) -> None:
    now = [100.0]
    keeper = LeaseKeeper("me", 10.0, 1.0, clock=lambda: now[0])
    keeper.attach(store)
    keeper.sending("a@1")
    now[0] = 103.0
    keeper.start("a@1", 4)
    assert keeper.left("a@1", 4) == pytest.approx(100 + 10 - 1 - 103)
    assert keeper.left("a@1", 5) == 0.0
    keeper.stop("a@1")
    assert keeper.left("a@1", 4) == 0.0
    keeper.shutdown()


async def test_heartbeats_go_out_per_origin_and_keep_the_lease(store: Store) -> None:
    keeper = LeaseKeeper("me", 0.3, 0.05)
    keeper.attach(store)
    began = boot_clock()
    for task in ("a@1", "b@1"):
        keeper.start(task, 1)
    ended: list[str] = []
    keeper.on_expiry("a@1", 1, lambda: ended.append("a@1"))
    while len(store.beats) < 8:
        store.beaten.clear()
        async with asyncio.timeout(5):
            await store.beaten.wait()
    assert boot_clock() - began > 0.3
    assert keeper.left("a@1", 1) > 0
    assert not ended
    assert all(len(beat) == 1 for beat in store.beats)
    assert {beat[0].id for beat in store.beats} == {"a@1", "b@1"}
    keeper.shutdown()


async def test_without_heartbeats_the_attempt_ends_before_its_lease(store: Store) -> None:
    keeper = LeaseKeeper("me", 0.3, 0.1)
    keeper.attach(store)
    store.up = False
    began = boot_clock()
    keeper.start("a@1", 1)
    ended = asyncio.Event()
    keeper.on_expiry("a@1", 1, ended.set)
    async with asyncio.timeout(5):
        await ended.wait()
    assert boot_clock() - began < 0.3, "stopped before the store may give the task to another"
    assert keeper.left("a@1", 1) <= 0
    keeper.shutdown()


async def test_a_lease_that_is_gone_already_ends_its_attempt_at_once(store: Store) -> None:
    keeper = LeaseKeeper("me", 10.0, 1.0)
    keeper.attach(store)
    ended: list[str] = []
    keeper.on_expiry("a@1", 1, lambda: ended.append("a@1"))
    assert ended == ["a@1"]


async def test_the_end_of_an_attempt_leaves_the_lease_of_its_successor_alone(store: Store) -> None:
    keeper = LeaseKeeper("me", 10.0, 1.0)
    keeper.attach(store)
    keeper.start("a@1", 1)
    keeper.start("a@1", 2)
    keeper.stop("a@1")  # Version 1, which version 2 has taken over.
    assert keeper.left("a@1", 2) > 0
    keeper.stop("a@1")
    assert keeper.left("a@1", 2) == 0.0
    keeper.shutdown()
