"""Waiting with no process: local deadlines, eviction, answers while nobody works, answers that come too late."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

import pytest

from perdure.engine import Client, WorkerSettings
from perdure.engine.durable import Attempt
from perdure.engine.errors import AlreadySettled

from .kit import FAST, bury_guests, guests, opened

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from perdure.engine import Execution

DEADLINE = """
import asyncio, time
async def patient(n):
    try:
        return await asyncio.wait_for(ask(f"{n}?"), 3600)
    except TimeoutError:
        return "nobody"
began = time.time()
said = await asyncio.gather(*(patient(n) for n in range(3)))
[said, time.time() > began]
"""


async def waits(execution: Execution) -> None:
    async with asyncio.timeout(30):
        while (await execution.info()).state != "waiting":
            await asyncio.sleep(0.02)


async def test_waits_with_local_deadlines_outlive_guest_and_worker(tmp_path: Path) -> None:
    state = tmp_path / "state"
    evicting = WorkerSettings(lease_seconds=2.0, lease_margin_seconds=0.3, kept_guests=0)
    async with opened(state, settings=evicting) as client:
        session = await client.session("s", grants=["ask"])
        execution = await session.submit(DEADLINE)
        await waits(execution)
        first, *_ = await client.pending()
        await client.answer(first.id, "zero")
        async with asyncio.timeout(30):
            while len(await client.pending()) != 2:
                await asyncio.sleep(0.02)
        await waits(execution)
        async with asyncio.timeout(10):
            while guests():
                await asyncio.sleep(0.02)
    # Nobody works: answers are taken all the same, once.
    async with Client.open(state, worker=False) as client:
        for call in await client.pending():
            await client.answer(call.id, call.prompt)
            with pytest.raises(AlreadySettled):
                await client.answer(call.id, "again")
    async with opened(state, settings=FAST) as client:
        execution = client.execution("s@1")
        async with asyncio.timeout(30):
            result = await execution.result()
        assert result.value == [["zero", "1?", "2?"], True]
        records = (await execution.tree()).children[0].children
        # Three questions with one deadline each: recorded once, whatever woke it in between.
        assert sum(len(record.param["timers"]) for record in records if record.kind == "timer") == 3


async def test_a_sleep_of_a_week_is_two_writes(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        session = await client.session("s")
        execution = await session.submit("import time\ntime.sleep(7 * 86400)")
        await waits(execution)
        records = (await execution.tree()).children[0].children
        assert [record.kind for record in records] == ["timer"]
        assert re.fullmatch(r"wakes at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", records[0].label)
        log = next((tmp_path / "state").glob("*-wal"))
        before = log.stat().st_size
        await asyncio.sleep(0.5)
        assert log.stat().st_size == before
        await execution.cancel()
        async with asyncio.timeout(30):
            assert (await execution.result()).status == "cancelled"


THREADS = """
import queue, threading
from concurrent.futures import ThreadPoolExecutor
answers = queue.Queue()
threads = [threading.Thread(target=lambda n=n: answers.put(ask(f"thread {n}?"))) for n in range(2)]
for each in threads: each.start()
for each in threads: each.join()
with ThreadPoolExecutor(2) as pool:
    more = list(pool.map(ask, ["pool 0?", "pool 1?", "pool 2?"]))
sorted(answers.get() for _ in threads) + more
"""


@pytest.mark.parametrize("lost", [False, True])
async def test_threads_that_wait_for_each_other_are_suspended(tmp_path: Path, lost: bool) -> None:
    async with opened(tmp_path / "state") as client:
        session = await client.session("s", grants=["ask"])
        execution = await session.submit(THREADS)
        for _ in range(5):
            async with asyncio.timeout(30):
                while (await execution.info()).state != "waiting" or not await client.pending():
                    await asyncio.sleep(0.02)
            if lost:
                await bury_guests()
            first = (await client.pending())[0]
            await client.answer(first.id, first.prompt.upper())
        async with asyncio.timeout(30):
            result = await execution.result()
    assert result.value == ["THREAD 0?", "THREAD 1?", "POOL 0?", "POOL 1?", "POOL 2?"], result.error


WEEKS = """
import asyncio, time
time.sleep(7 * 86400)
said = ask("And after another week?")
try:
    late = await asyncio.wait_for(ask("Nobody answers this"), 7 * 86400)
except TimeoutError:
    late = "nobody"
[said, late]
"""


async def test_what_waited_for_weeks_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, real_ns, days = time.time, time.time_ns, 0
    monkeypatch.setattr(time, "time", lambda: real() + days * 86400)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + days * 86400 * 1_000_000_000)
    state = tmp_path / "state"
    async with opened(state) as client:
        session = await client.session("s", grants=["ask"])
        execution = await session.submit(WEEKS)
        await waits(execution)
    # Each time by other processes, and a week later by every clock of theirs.
    days = 8
    async with opened(state) as client:
        async with asyncio.timeout(30):
            while not await client.pending():
                await asyncio.sleep(0.02)
        await waits(client.execution("s@1"))
    days = 16
    async with opened(state) as client:
        (asked,) = await client.pending()
        await client.answer(asked.id, "yes")
        async with asyncio.timeout(30):
            while [call.prompt for call in await client.pending()] != ["Nobody answers this"]:
                await asyncio.sleep(0.02)
        await waits(client.execution("s@1"))
    days = 24
    async with opened(state) as client, asyncio.timeout(30):
        result = await client.execution("s@1").result()
        assert await client.pending() == []
        kinds = Counter(record.kind for record in (await client.execution("s@1").tree()).children[0].children)
    assert result.value == ["yes", "nobody"], result.error
    assert kinds == {"timer": 2, "call": 2, "cancelled": 1}


MANY = 200


async def test_hundreds_of_answers_given_while_nobody_works_are_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"answers = await asyncio.gather(*[ask(str(n)) for n in range({MANY})])\nanswers == list(range({MANY}))"
    async with opened(tmp_path / "state") as client:
        session = await client.session("s", grants=["ask"])
        execution = await session.submit("import asyncio\n" + code)
        await waits(execution)
    async with Client.open(tmp_path / "state", worker=False) as client:
        for call in reversed(await client.pending()):
            await client.substrate.promises.settle(call.id, int(call.prompt))
    suspended: list[str] = []

    def suspend(self: Attempt, _waiting: Iterable[str]) -> NoReturn:
        suspended.append(self.id)
        self.abandon()

    monkeypatch.setattr(Attempt, "suspend", suspend)
    async with opened(tmp_path / "state") as client, asyncio.timeout(40):
        result = await client.execution("s@1").result()
    assert result.value is True, result.error
    assert not suspended, "what was there already was waited for again"


ORDERS = """
import asyncio
came = []
async def one(name):
    for each in (name, name + "?"):
        came.append((each, await ask(each)))
        print(*came[-1])
await asyncio.gather(*map(one, "abc"))
came
"""


async def test_answers_in_every_order_are_what_a_replay_finds(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        orders = list(itertools.permutations("abc"))
        for number in range(len(orders)):
            session = await client.session(f"s{number}", grants=["ask"])
            await session.submit(ORDERS)
        for turn, more in itertools.product(range(3), ("", "?")):
            for number, order in enumerate(orders):
                execution = client.execution(f"s{number}@1")
                await waits(execution)
                asked = {call.prompt: call.id for call in await client.pending(execution.id)}
                async with asyncio.timeout(30):
                    while (prompt := order[turn] + more) not in asked:
                        await asyncio.sleep(0.02)
                        asked = {call.prompt: call.id for call in await client.pending(execution.id)}
                await client.answer(asked[prompt], prompt.upper())
            await bury_guests()
        for number, order in enumerate(orders):
            async with asyncio.timeout(30):
                result = await client.execution(f"s{number}@1").result()
            assert sorted(result.value) == sorted((each, each.upper()) for name in order for each in (name, f"{name}?"))
            # In the order that was shown as they came: by guests that are dead, and had replayed those before them.
            events = client.execution(f"s{number}@1").events(follow=False)
            shown = "".join([event.text async for event in events if event.type == "output"])
            assert shown == "".join(f"{each} {said}\n" for each, said in result.value)


async def test_a_timer_that_its_execution_did_not_need_is_shown_as_such(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        session = await client.session("s", grants=["ask"])
        code = "import asyncio\nawait asyncio.wait_for(ask('go on?'), 600)"
        execution = await session.submit(code)
        async with asyncio.timeout(30):
            while not [each for each in await timers(client, execution.id) if each == "pending"]:
                await asyncio.sleep(0.02)
            await client.answer((await client.pending())[0].id, "yes")
            assert (await execution.result()).value == "yes"
        assert await timers(client, execution.id) == ["not needed"]


async def timers(client: Client, execution: str) -> list[str]:
    tree = await client.execution(execution).tree()
    return [record.state for step in tree.children for record in step.children if record.kind == "timer"]
