"""What engine/durable.py assumes of the pinned SDK and of every store; run on each store that is at hand."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from resonate.codec import Codec, NoopEncryptor

from perdure.engine.durable import KIND, Attempt, AttemptLost, Promise, _plain, now_ms
from perdure.engine.substrate import Substrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from resonate.context import Context

POSTGRES = os.environ.get("PERDURE_TEST_PG")
HOUR = 3_600_000


@pytest.fixture(params=["embedded", pytest.param("postgres", marks=pytest.mark.postgres)])
async def substrate(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Substrate]:
    if request.param == "embedded":
        made = Substrate.embedded(tmp_path / "state")
    else:
        assert POSTGRES, "set PERDURE_TEST_PG to a connection string"
        made = Substrate.remote(POSTGRES, folder=tmp_path / "state", group=f"g{os.urandom(4).hex()}")
    yield made
    await made.stop()


async def run(substrate: Substrate, body: Callable[[Attempt], Any]) -> Promise:
    """Run ``body`` as the work of an execution, as often as it is resumed, and return the root when it settles."""

    async def execute(context: Context, submission: dict[str, Any]) -> Any:
        del submission
        attempt = Attempt(context, substrate.promises)
        try:
            return await body(attempt)
        except AttemptLost:
            attempt.abandon()

    await substrate.start(functions={"execute": execute})
    return await submit(substrate)


async def submit(substrate: Substrate) -> Promise:
    id = f"t{os.urandom(6).hex()}@1"
    param = {"func": "execute", "args": [{"code": ""}], "kwargs": {}, "version": 1}
    await substrate.promises.create(id, "execution", param, timeout_at=now_ms() + HOUR, target=True)
    return await settled(substrate, id)


async def settled(substrate: Substrate, id: str) -> Promise:
    async with asyncio.timeout(20):
        while True:
            since = substrate.generation
            promise = await substrate.promises.get(id)
            assert promise is not None
            if promise.settled:
                return promise
            await substrate.changed(0.5, since)


async def test_records_are_listed_by_number_and_keep_what_they_hold(substrate: Substrate) -> None:
    data = {"kind": "call", "text": "käse \x00 \N{SNOWMAN}", "n": [1, 2.5, None, True]}

    async def body(attempt: Attempt) -> Any:
        for index in range(5):
            made = await attempt.create(f"{attempt.id}:s0.{index}", "call", {**data, "i": index}, settled=True)
            assert made.state == "resolved", "born settled in one write"
        found = [await attempt.get(f"{attempt.id}:s0.{index}") for index in range(6)]
        assert found[5] is None
        assert [promise.param["i"] for promise in found if promise] == [0, 1, 2, 3, 4]
        assert found[0] is not None
        assert found[0].param == {**data, "i": 0}
        assert found[0].tags[KIND] == "call"
        return "done"

    root = await run(substrate, body)
    assert root.state == "resolved"
    assert root.value == "done"


async def test_whoever_settles_first_decides(substrate: Substrate) -> None:
    async def body(attempt: Attempt) -> Any:
        call = f"{attempt.id}:s0.0"
        await attempt.create(call, "call", {"kind": "call"}, external=True)
        await substrate.promises.settle(call, "from outside")
        late = await attempt.settle(call, "from the worker")
        return late.value

    assert (await run(substrate, body)).value == "from outside"


async def test_a_rejection_is_plain_data_and_never_unpickled(substrate: Substrate) -> None:
    async def body(attempt: Attempt) -> Any:
        call = f"{attempt.id}:s0.0"
        await attempt.create(call, "call", {"kind": "call"}, external=True)
        poison = {
            "__type": "error",
            "message": "m",
            "__py_pickle": "gASVHgAAAAAAAACMCGJ1aWx0aW5zlIwEZXhlY5STlIwEMS8wlIWUUpQu",
        }
        await substrate.promises.settle(call, poison, state="rejected")
        found = await attempt.get(call)
        assert found is not None
        return [found.state, found.value["message"]]

    assert (await run(substrate, body)).value == ["rejected", "m"]


async def test_a_suspended_execution_is_woken_by_an_answer(substrate: Substrate) -> None:
    passes: list[int] = []

    async def body(attempt: Attempt) -> Any:
        passes.append(attempt.version)
        call = f"{attempt.id}:s0.0"
        made = await attempt.create(call, "call", {"kind": "call"}, external=True)
        if not made.settled:
            asyncio.get_running_loop().call_later(0.3, lambda: answers.append(asyncio.ensure_future(answer(call))))
            attempt.suspend([call])
        return made.value

    answers: list[asyncio.Future[Any]] = []

    async def answer(call: str) -> None:
        assert await substrate.promises.waiting(call.partition(":")[0])
        await substrate.promises.settle(call, 42)

    root = await run(substrate, body)
    assert root.value == 42
    assert len(passes) == 2
    assert passes[1] == passes[0] + 1, "a parked guest goes on under the very next version"


async def test_a_timer_wakes_a_suspended_execution_and_starts_nothing_else(substrate: Substrate) -> None:
    passes: list[int] = []

    async def body(attempt: Attempt) -> Any:
        passes.append(now_ms())
        wake = await attempt.create(f"{attempt.id}:s0.0", "timer", {"wake": 0}, wake=now_ms() + 700)
        if not wake.settled:
            attempt.suspend([wake.id])
        return wake.state

    root = await run(substrate, body)
    assert root.value == "resolved"
    assert len(passes) == 2
    assert passes[1] - passes[0] >= 690


async def test_an_answer_between_the_look_and_the_suspension_is_not_lost(substrate: Substrate) -> None:
    passes: list[int] = []

    async def body(attempt: Attempt) -> Any:
        passes.append(attempt.version)
        call = f"{attempt.id}:s0.0"
        made = await attempt.create(call, "call", {"kind": "call"}, external=True)
        if not made.settled:
            await substrate.promises.settle(call, "early")
            attempt.suspend([call])
        return made.value

    assert (await run(substrate, body)).value == "early"
    assert len(passes) == 2


async def test_an_attempt_that_lost_its_lease_can_record_nothing(substrate: Substrate) -> None:
    seen: list[str] = []

    async def body(attempt: Attempt) -> Any:
        if not seen:
            seen.append("first")
            await substrate.promises._sender.task_release(attempt.id, attempt.version)
            with pytest.raises(AttemptLost):
                await attempt.create(f"{attempt.id}:s0.0", "call", {"kind": "call"})
            assert attempt.lost.done()
            with pytest.raises(AttemptLost):
                await attempt.get(attempt.id)
            seen.append("refused")
            attempt.abandon()
        return [*seen, await attempt.get(f"{attempt.id}:s0.0")]

    assert (await run(substrate, body)).value == ["first", "refused", None]


async def test_an_answer_is_announced_to_who_listens(substrate: Substrate) -> None:
    heard: asyncio.Future[Promise] = asyncio.get_running_loop().create_future()

    def hear(promise: Promise) -> None:
        if not heard.done():
            heard.set_result(promise)

    substrate.on_settled(hear)

    async def body(attempt: Attempt) -> Any:
        call = f"{attempt.id}:s0.0"
        await attempt.create(call, "call", {"kind": "call"}, external=True)
        assert (await attempt.listen(call)) is not None
        await substrate.promises.settle(call, {"$bytes": "AA=="})
        async with asyncio.timeout(5):
            promise = await heard
        return [promise.id == call, promise.value]

    assert (await run(substrate, body)).value == [True, {"$bytes": "AA=="}]


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "\u00e9\U0001f600"]}, [], "text", 0, False])
def test_what_the_sdk_encodes_is_read_as_it_would(value: Any) -> None:
    codec = Codec(NoopEncryptor())
    written = codec.encode(value)
    assert _plain(written.data) == codec.decode(written) == value
