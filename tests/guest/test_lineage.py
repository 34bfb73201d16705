"""Every way of starting work: whoever answers in whatever order, each reply reaches its call, then and on a replay."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from .harness import Done, Host, recorded

if TYPE_CHECKING:
    from collections.abc import Callable

CHAIN = """
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
log = []
async def chain(n):
    got = []
    for step in "ab":
        got.append((f"{n}{step}", await echo(f"{n}{step}")))
        log.append((n, step))
    return got
def plain(n):
    got = [(f"{n}{step}", echo(f"{n}{step}")) for step in "ab"]
    return got
def flat(many):
    return [pair for some in many for pair in some]
"""

WAYS = {
    "gather": "pairs = flat(await asyncio.gather(*(chain(n) for n in range(5))))",
    "a task group": """
async with asyncio.TaskGroup() as group:
    tasks = [group.create_task(chain(n)) for n in range(5)]
pairs = flat(task.result() for task in tasks)
""",
    "nested groups and tasks of tasks": """
async def outer(n):
    async with asyncio.TaskGroup() as group:
        inner = [group.create_task(chain(10 * n + m)) for m in range(3)]
    return flat(task.result() for task in inner) + await chain(n)
pairs = flat(await asyncio.gather(*(outer(n) for n in range(1, 4))))
""",
    "as_completed": """
pairs = []
for each in asyncio.as_completed({asyncio.ensure_future(chain(n)) for n in range(5)}):
    pairs += await each
    pairs.append((len(pairs), await echo(len(pairs))))
""",
    "as_completed, asynchronously": """
pairs = []
import sys
if sys.version_info >= (3, 13):
    async for each in asyncio.as_completed([asyncio.ensure_future(chain(n)) for n in range(5)]):
        pairs += await each
""",
    "wait, first completed": """
pairs, left = [], {asyncio.ensure_future(chain(n)) for n in range(5)}
while left:
    done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    for each in done:
        pairs += each.result()
        pairs.append((len(pairs), await echo(len(pairs))))
""",
    "async generators": """
async def pages(n):
    for page in range(3):
        yield f"{n}:{page}", await echo(f"{n}:{page}")
async def all_of(n):
    return [pair async for pair in pages(n)]
pairs = flat(await asyncio.gather(*(all_of(n) for n in range(4))))
""",
    "an async generator closed early": """
async def pages():
    try:
        for page in range(9):
            yield page, await echo(page)
    finally:
        log.append(("closed", await echo("closed")))
async def some():
    got = []
    async for pair in (all_pages := pages()):
        got.append(pair)
        if len(got) == 2:
            break
    await all_pages.aclose()
    return got
pairs = flat(await asyncio.gather(some(), some()))
""",
    "call_soon and call_later": """
pairs, ready = [], asyncio.Event()
loop = asyncio.get_running_loop() if False else None
def start(n):
    async def work():
        pairs.extend(await chain(n))
        if len(pairs) == 8:
            ready.set()
    tasks.append(asyncio.ensure_future(work()))
tasks = []
async def begin():
    loop = asyncio.get_running_loop()
    for n in range(2):
        loop.call_soon(start, n)
        loop.call_later(0.001 * n, start, n + 2)
    await ready.wait()
await begin()
""",
    "add_done_callback": """
pairs, ready = [], asyncio.Event()
def again(task):
    pairs.extend(task.result())
    if len(pairs) < 12:
        asyncio.ensure_future(chain(len(pairs) + 10)).add_done_callback(again)
    if len(pairs) >= 16:
        ready.set()
for n in range(4):
    asyncio.ensure_future(chain(n)).add_done_callback(again)
await ready.wait()
""",
    "to_thread": "pairs = flat(await asyncio.gather(*(asyncio.to_thread(plain, n) for n in range(5))))",
    "run_in_executor": """
async def in_pool():
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as pool:
        return flat(await asyncio.gather(*(loop.run_in_executor(pool, plain, n) for n in range(5))))
pairs = await in_pool()
""",
    "a pool": """
with ThreadPoolExecutor(3) as pool:
    pairs = flat(pool.map(plain, range(6)))
""",
    "work given to a pool by work of a pool": """
with ThreadPoolExecutor(6) as pool:
    def twice(n):
        return plain(n) + pool.submit(plain, n + 10).result()
    pairs = flat(pool.map(twice, range(3)))
""",
    "threads": """
got = {}
def work(n):
    got[n] = plain(n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for each in threads: each.start()
for each in threads: each.join()
pairs = flat(got[n] for n in range(4))
""",
    "a thread with a loop of its own": """
got = {}
async def several(n):
    return flat(await asyncio.gather(*(chain(f"{n}.{m}") for m in range(3))))
def work(n):
    got[n] = asyncio.run(several(n))
threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
for each in threads: each.start()
for each in threads: each.join()
pairs = flat(got[n] for n in range(3))
""",
    "asyncio.run in a synchronous statement": """
async def several():
    return flat(await asyncio.gather(*(chain(n) for n in range(4))))
pairs = asyncio.run(several())
pairs += asyncio.run(several())
""",
    "a Runner": """
with asyncio.Runner() as runner:
    pairs = runner.run(chain(1)) + runner.run(chain(2))
""",
    "a task factory of the user": """
class Mine(asyncio.Task):
    pass
async def several():
    asyncio.get_running_loop().set_task_factory(lambda loop, coro, **more: Mine(coro, loop=loop, **more))
    return flat(await asyncio.gather(*(chain(n) for n in range(5))))
pairs = asyncio.run(several())
""",
    "an eager task factory": """
async def several():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    return flat(await asyncio.gather(*(chain(n) for n in range(5))))
pairs = asyncio.run(several())
""",
    "a queue of work and its workers": """
async def worker(queue, got):
    while not queue.empty():
        n = queue.get_nowait()
        got += await chain(n)
async def several():
    queue, got = asyncio.Queue(), []
    for n in range(7):
        queue.put_nowait(n)
    await asyncio.gather(*(worker(queue, got) for _ in range(3)))
    return got
pairs = await several()
""",
    "timeouts and cancelled tasks": """
async def hasty(n):
    try:
        async with asyncio.timeout(0.03):
            return [(n, await echo(n))]
    except TimeoutError:
        return [("late", await echo("late"))]
slow = asyncio.ensure_future(chain(99))
await asyncio.sleep(0)
slow.cancel()
pairs = flat(await asyncio.gather(*(hasty(n) for n in range(4))))
""",
}


#: Seconds of silence after which nothing more is asked before something is answered.
SILENCE = 0.02


def shuffled(host: Host, code: str, seed: int) -> Done:
    """Run code and answer its calls in a random order, one whenever nothing more comes."""
    chance = random.Random(seed)
    return answered(host, code, chance.randrange)


def answered(host: Host, code: str, choose: Callable[[int], int]) -> Done:
    """Run code and answer the call that is chosen of so many, one whenever nothing more comes."""
    host.begin(code)
    seen: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    while True:
        message = host.maybe_receive(SILENCE) if asked else host.receive()
        if message is None:
            chosen = asked.pop(choose(len(asked)))
            host.reply(chosen["path"], value=chosen["args"]["x"])
            continue
        if message["t"] == "done":
            return Done(message, seen)
        seen.append(message)
        if message["t"] == "call":
            asked.append(message)


@pytest.mark.parametrize("way", WAYS)
def test_replies_reach_their_calls_then_and_on_a_replay(way: str) -> None:
    code = CHAIN + WAYS[way] + "\nprint(log)\n[tuple(pair) for pair in pairs]"
    with Host() as host:
        live = shuffled(host, code, 3)
    assert live.status == "ok", live.message
    assert all(asked == got for asked, got in live.result)
    outcomes = {call["path"]: {"value": call["args"]["x"]} for call in live.calls}
    with Host() as host:
        again = host.run(code, lambda _call: None, recorded(live.entered, outcomes))
        assert again.status == "ok", again.message
        assert again.result == live.result
        if "thread" in way or "executor" in way or "pool" in way:  # order is promised between their calls only
            assert sorted(again.stdout) == sorted(live.stdout)
        else:
            assert again.stdout == live.stdout
        assert {c["path"]: c["args"] for c in again.calls} == {c["path"]: c["args"] for c in live.calls}
    with Host() as host:
        part = recorded(live.entered[: len(live.entered) // 2], outcomes)
        rest = host.run(code, replay=part)
        assert rest.status == "ok", rest.message
        assert all(asked == got for asked, got in rest.result)


#: Whoever lets go of the runtime's lock stands still for a moment, so that all others look at what there is between.
SLOW_GUARD = """
import sys, select
def stand():
    select.select([], [], [], 0.004)
guard = next(module for name, module in sys.modules.items() if name.endswith("guest.signals")).Guard
def leave(self, *_):
    self._lock.release()
    self._critical.__exit__()
    stand()
guard.__exit__ = leave
"""

#: Whoever waits for work of this pool is told a while after the work has ended.
SLOW_POOL = """
class Slow(ThreadPoolExecutor):
    def submit(self, *args):
        future = super().submit(*args)
        future.add_done_callback(lambda _: select.select([], [], [], 0.05))
        return future
async def in_pool():
    loop = asyncio.get_running_loop()
    with Slow(2) as pool:
        return flat(await asyncio.gather(*(loop.run_in_executor(pool, plain, n) for n in range(4))))
pairs = await in_pool()
pairs.append((1, await echo(1)))
"""


@pytest.mark.parametrize("way", ["to_thread", "run_in_executor", "a pool", "threads", "slow pool"])
def test_whoever_runs_is_seen_to_run_between_what_it_took_and_what_it_asks_next(way: str) -> None:
    code = CHAIN + SLOW_GUARD + (WAYS.get(way) or SLOW_POOL) + "\n[tuple(pair) for pair in pairs]"
    with Host() as host:
        # Who was answered asks next, and is answered: for a moment everybody else waits for something later.
        live = answered(host, code, lambda many: many - 1)
    assert live.status == "ok", live.message
    outcomes = {call["path"]: {"value": call["args"]["x"]} for call in live.calls}
    with Host() as host:
        again = host.run(code, lambda _call: None, recorded(live.entered, outcomes))
    assert again.status == "ok", again.message
    assert again.result == live.result
    with Host() as host:
        # Answered at once: read by others, while those who asked are still on their way to reading.
        at_once = host.run(code)
    assert at_once.status == "ok", at_once.message


def test_loops_that_cannot_be_followed_are_refused() -> None:
    code = """
import asyncio, selectors
class Foreign(asyncio.BaseEventLoop):
    def __init__(self):
        super().__init__()
        self._selector = self
    def select(self, timeout): return []
    def _process_events(self, events): pass
async def ask_it():
    return echo(1)
try:
    said = Foreign().run_until_complete(ask_it())
except Exception as error:
    said = [type(error).__name__, str(error)]
said
"""
    with Host() as host:
        said = host.run(code).result
    assert said[0] == "ForeignLoop"
    assert "echo was called on the event loop" in said[1]
    assert "only asyncio's own loop can be replayed" in said[1]


def test_a_loop_that_never_rests_diverges_where_its_recorded_delivery_finds_nobody() -> None:
    code = """
import asyncio
async def spin():
    asked = asyncio.ensure_future(WHAT)
    while not asked.done():
        await asyncio.sleep(0)
    return asked.result()
await spin()
"""
    with Host() as host:
        live = host.run(code.replace("WHAT", "echo(1)"))
    assert live.status == "ok", live.message
    (kind, path, turns), *_ = live.entered
    assert (kind, path) == ("r", "main.0")
    assert turns
    with Host() as host:
        again = host.run(
            code.replace("WHAT", "asyncio.sleep(0)").replace("not asked.done()", "True"),
            replay=recorded(live.entered, {path: {"value": 1}}),
        )
    assert again.status == "diverged"
    assert "main.0" in again.message["message"]
