"""What is still under way when an execution ends: calls, and threads and tasks that wait for them or sleep."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from perdure.engine.errors import AlreadySettled
from perdure.engine.events import Launched, Settled

from .kit import World, opened, outcome

pytestmark = pytest.mark.asyncio(loop_scope="module")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from perdure.engine import Client
    from perdure.engine.events import Event

TASK = """
import asyncio
async def asked():
    return await {call}
left = asyncio.create_task(asked())
await asyncio.sleep(0.02)
print(left.done())
"""
THREAD = """
import threading, time
got = []
def asked():
    try:
        got.append({call})
    except Exception as error:
        got.append(type(error).__name__)
left = threading.Thread(target=asked, daemon=True)
left.start()
time.sleep(0.02)
"""
#: What the next execution does beside: its own first task, first call and first sleep.
BESIDE = "await asyncio.gather(asyncio.create_task(look(1)), asyncio.create_task(asyncio.sleep(0.01)))"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    folder = tmp_path_factory.mktemp("left")
    async with opened(folder / "state", World(folder)) as client:
        yield client


async def test_a_question_left_open_is_closed_named_and_told_to_the_task_that_asked_it(client: Client) -> None:
    first = await outcome(client, "a", TASK.format(call="ask('pay?')"), grants=["ask", "look"])
    assert (first.status, first.left) == ("ok", ("Task-1",))
    note = "ask('pay?') in line 4 (a@1:s0.0) was open when the code ended: it is closed, and whoever still waits "
    assert first.notes == (note + "for it gets CallCancelled",)
    assert await client.pending("a@1") == []
    with pytest.raises(AlreadySettled):
        await client.answer("a@1:s0.0", "yes")
    second = await outcome(client, "a", f"{BESIDE}\nawait left")
    assert second.error is not None
    assert (second.error.type, second.error.message) == (
        "CallCancelled",
        "the execution that asked ended without waiting for the answer",
    )
    assert (await outcome(client, "a", "1 + 1")).value == 2


@pytest.mark.parametrize(
    ("code", "then", "value"),
    [
        pytest.param(TASK.format(call="slow('a', 0.2)"), "await left", "a", id="task"),
        pytest.param(THREAD.format(call="slow('a', 0.2)"), "left.join()\ngot", ["a"], id="thread"),
        pytest.param(THREAD.format(call="ask('?')"), "left.join()\ngot", ["CallCancelled"], id="question"),
    ],
)
async def test_what_outlives_its_execution_has_its_reply_in_the_next_one(
    client: Client, request: pytest.FixtureRequest, code: str, then: str, value: object
) -> None:
    name = request.node.callspec.id
    first = await outcome(client, name, code, grants=["slow", "look", "ask"])
    assert first.status == "ok", first.error
    second = await outcome(client, name, f"import asyncio\n{BESIDE}\n{then}")
    assert (second.status, second.value) == ("ok", value), second.error


async def test_a_replay_comes_to_its_end_before_it_hears_what_was_closed_there(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_once_closed(event: Event) -> None:
        if isinstance(event, Launched):
            guest.append(event.pid)
        if isinstance(event, Settled) and event.id == "r@1:s0.0" and len(guest) == 1:
            os.kill(guest[0], signal.SIGKILL)

    guest: list[int] = []
    assert client._worker is not None
    monkeypatch.setattr(client._worker._services, "observer", kill_once_closed)
    result = await outcome(client, "r", TASK.format(call="ask('pay?')"), grants=["ask"])
    assert (len(guest), result.status, len(result.notes)) == (2, "ok", 1), (result.error, result.notes)
    shown = [each.text async for each in client.execution("r@1").events(follow=False) if each.type == "output"]
    assert "".join(shown) == "False\n"
    assert "CallCancelled" in str((await outcome(client, "r", "await asyncio.wait([left])\nleft.exception()")).repr)


async def sleeping(client: Client, execution: str) -> list[str]:
    async with asyncio.timeout(20):
        while True:
            tree = await client.execution(execution).tree()
            records = [record for step in tree.children for record in step.children]
            found = [record.param["timers"] for record in records if record.kind == "timer"]
            if found:
                return sorted(found[0])
            await asyncio.sleep(0.02)


async def test_threads_asleep_over_the_end_of_an_execution_are_not_taken_for_those_of_the_next(client: Client) -> None:
    code = THREAD.format(call="time.sleep(3600)")
    assert (await outcome(client, "s", code)).left == ("Thread-1 (asked)",)
    # Both have the same path; under the same name the earlier one's hour would stand for this one's sleep as well.
    execution = await (await client.session("s")).submit(code.replace("3600", "60") + "left.join()")
    assert await sleeping(client, "s@2") == ["main/1~0", "s@1|main/1~0"]
    stopped = await execution.cancel()
    assert stopped is not None
    assert stopped.status == "cancelled"
