"""Tasks of asyncio, in every shape that ordinary code has."""

from __future__ import annotations

from ..program import Played, Program

__all__ = ["PROGRAMS"]


def told_as_it_went(played: Played) -> str:
    """The order that the code printed as it went must be the order that it ended with: no crash may change its past."""
    printed = [line.removeprefix("got ") for line in played.text.splitlines() if line.startswith("got ")]
    value = played.values[-1]
    if not isinstance(value, (list, tuple)):
        return f"no list but {value!r}"
    ended = [str(each) for each in value]
    return "" if printed == ended else f"printed {printed}, and ended with {ended}"


PROGRAMS = [
    Program(
        "gather_of_pairs",
        (
            """
async def pair(name):
    left = await look(name + "1")
    print("half", left)
    return left + await look(name + "2")
both = await asyncio.gather(pair("x"), pair("y"), pair("z"))
print(both)
paid = await surely("end")
both, paid
""",
        ),
        free=True,
        check=lambda played: "" if played.values[-1][0] == ["x1x2", "y1y2", "z1z2"] else str(played.values),
    ),
    Program(
        "gather_with_errors",
        (
            """
import asyncio
async def act(i):
    if i % 2:
        return await refuse(str(i))
    return await look(i)
got = await asyncio.gather(*map(act, range(5)), return_exceptions=True)
said = [each if isinstance(each, int) else type(each).__name__ for each in got]
del got
said
""",
        ),
    ),
    Program(
        "as_completed_in_any_order",
        (
            """
import asyncio
order = []
for done in asyncio.as_completed([look(i) for i in range(6)]):
    order.append(await done)
    print("got", order[-1])
order
""",
        ),
        free=True,
        check=told_as_it_went,
    ),
    Program(
        "as_completed_backwards",
        (
            """
import asyncio
order = []
async def main():
    asked = [look(0, behind="after 1"), look(1, behind="after 2"), look(2)]
    for done in asyncio.as_completed(asked):
        order.append(await done)
        print("got", order[-1])
        await look(f"after {order[-1]}")
await main()
order
""",
        ),
        check=told_as_it_went,
    ),
    Program(
        "wait_for_the_first",
        (
            """
import asyncio
order = []
async def main():
    pending = {asyncio.ensure_future(each) for each in [look("slow", behind="mark"), look("fast")]}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            order.append(task.result())
            print("got", order[-1])
        if pending:
            await look("mark")
await main()
order
""",
        ),
        check=told_as_it_went,
    ),
    Program(
        "a_task_group",
        (
            """
import asyncio
async def chain(i):
    a = await look(f"a{i}")
    b = await book(f"b{i}")
    return a, b
async with asyncio.TaskGroup() as group:
    tasks = [group.create_task(chain(i)) for i in range(4)]
result = [task.result() for task in tasks]
del tasks, group
result
""",
        ),
    ),
    Program(
        "a_task_group_that_fails",
        (
            """
import asyncio
async def bad():
    await refuse("bad")
async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        stopped.append(True)
stopped = []
try:
    async with asyncio.TaskGroup() as group:
        group.create_task(bad())
        group.create_task(forever())
except* Exception as exc:
    said = [type(each).__name__ for each in exc.exceptions]
del group
said, stopped, look("after")
""",
        ),
    ),
    Program(
        "a_task_cancelled",
        (
            """
import asyncio
log = []
async def work():
    try:
        log.append(await look("one"))
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        log.append("cancelled")
        log.append(await look("cleaning"))
        raise
task = asyncio.create_task(work())
await look("two")
while not log:
    await asyncio.sleep(0)
task.cancel()
await asyncio.gather(task, return_exceptions=True)
del task
log, sure("end")
""",
        ),
    ),
    Program(
        "a_call_cancelled",
        (
            """
import asyncio
async def main():
    task = asyncio.create_task(look("cancelled", behind="mark"))
    await look("one")
    task.cancel()
    got = await asyncio.gather(task, return_exceptions=True)
    await look("mark")
    return type(got[0]).__name__
await main()
""",
        ),
    ),
    Program(
        "timeouts_that_expire",
        (
            """
import asyncio
said = []
for n in range(2):
    try:
        async with asyncio.timeout(0.02):
            await asyncio.Event().wait()
    except TimeoutError:
        said.append(n)
        print("late", n)
        await look(n)
try:
    await asyncio.wait_for(asyncio.Event().wait(), 0.02)
except TimeoutError:
    said.append("wait_for")
said
""",
        ),
    ),
    Program(
        "a_timeout_that_does_not",
        (
            """
import asyncio
async with asyncio.timeout(600):
    a = await look("a")
b = await asyncio.wait_for(look("b"), 600)
c = await asyncio.wait_for(asyncio.gather(look("c"), look("d")), 600)
a, b, c
""",
        ),
    ),
    Program(
        "a_race_of_timer_and_call",
        (
            """
import asyncio
async def timer():
    await asyncio.sleep(0.02)
    return "timer"
async def call():
    return await look("call", behind="mark")
tasks = [asyncio.create_task(timer()), asyncio.create_task(call())]
done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
order = [task.result() for task in done]
print("got", order[0])
await look("mark")
for task in pending:
    order.append(await task)
    print("got", order[-1])
del tasks, done, pending, task
order
""",
        ),
        check=told_as_it_went,
    ),
    Program(
        "sleeps_between_calls",
        (
            """
import asyncio, time
out = []
for n in range(3):
    out.append(await look(n))
    time.sleep(0.01)
    print("slept", n)
    await asyncio.sleep(0.01)
out
""",
        ),
    ),
    Program(
        "many_timers",
        (
            """
import asyncio
order = []
async def after(n):
    await asyncio.sleep(n * 0.015)
    order.append(n)
    await look(n)
await asyncio.gather(*[after(n) for n in (3, 1, 2)])
order
""",
        ),
    ),
    Program(
        "callbacks",
        (
            """
import asyncio
log = []
async def main():
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    def later():
        task = loop.create_task(work("later"))
        task.add_done_callback(lambda task: (log.append(task.result()), loop.call_soon(ended.set_result, None)))
    async def work(what):
        return await look(what)
    loop.call_later(0.01, later)
    loop.call_soon(log.append, "soon")
    await ended
    return await surely("end")
await main()
log
""",
        ),
    ),
    Program(
        "a_queue_of_workers",
        (
            """
import asyncio
done = {}
async def main():
    queue = asyncio.Queue()
    async def worker(name):
        while True:
            item = await queue.get()
            done[item] = await look(item)
            queue.task_done()
    workers = [asyncio.create_task(worker(n)) for n in range(3)]
    for item in range(7):
        queue.put_nowait(item)
    await queue.join()
    for each in workers:
        each.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
await main()
sorted(done.items())
""",
        ),
        free=True,
        check=lambda played: "" if played.values[-1] == [(n, n) for n in range(7)] else str(played.values),
    ),
    Program(
        "locks_and_semaphores",
        (
            """
import asyncio
log = []
async def main():
    lock, gate = asyncio.Lock(), asyncio.Semaphore(2)
    async def act(i):
        async with gate:
            a = await look(f"a{i}")
        async with lock:
            log.append(a)
            print("got", a)
            await look(f"b{i}")
    await asyncio.gather(*map(act, range(4)))
await main()
log
""",
        ),
        free=True,
        check=told_as_it_went,
    ),
    Program(
        "async_generators",
        (
            """
async def pages():
    try:
        for n in range(4):
            yield await look(f"page {n}")
    finally:
        await look("closed")
first = []
async for page in pages():
    first.append(page)
second = [page async for page in pages() if page != "page 2"]
import contextlib
async with contextlib.aclosing(pages()) as some:
    third = await anext(some)
del some
first, second, third
""",
        ),
    ),
    Program(
        "async_context_managers",
        (
            """
import contextlib
log = []
@contextlib.asynccontextmanager
async def session(name):
    log.append(await look(f"open {name}"))
    try:
        yield name
    finally:
        log.append(await look(f"close {name}"))
async with session("a") as a, session("b") as b:
    log.append(await surely(a + b))
log
""",
        ),
    ),
    Program(
        "a_task_over_statements",
        (
            """
import asyncio
async def work():
    return [await look("w1"), await look("w2")]
task = asyncio.create_task(work())
before = look("main")
print("main", before)
after = await task
del task
before, after
""",
        ),
    ),
    Program(
        "a_shielded_task",
        (
            """
import asyncio
async def work():
    return await look("shielded")
async def main():
    inner = asyncio.ensure_future(work())
    outer = asyncio.ensure_future(asyncio.shield(inner))
    await asyncio.sleep(0)
    outer.cancel()
    try:
        await outer
    except asyncio.CancelledError:
        return await inner, "cancelled"
await main()
""",
        ),
    ),
    Program(
        "a_loop_that_never_rests",
        (
            """
import asyncio
async def busy(until):
    turns = 0
    while not until.done():
        turns += 1
        await asyncio.sleep(0)
    return turns > 0
async def main():
    task = asyncio.create_task(work())
    return await busy(task), await task
async def work():
    return [await look("a"), await look("b"), await surely("c")]
await main()
""",
        ),
    ),
    Program(
        "turns_between_deliveries",
        (
            """
import asyncio
log = []
async def count(name):
    for n in range(3):
        await look(f"{name}{n}")
        for turn in range(n):
            await asyncio.sleep(0)
        log.append(f"{name}{n}")
        print("got", log[-1])
await asyncio.gather(count("a"), count("b"))
log
""",
        ),
        free=True,
        check=told_as_it_went,
    ),
    Program(
        "asyncio_run_in_a_statement",
        (
            """
import asyncio
async def main(name):
    return await asyncio.gather(look(name + "1"), look(name + "2"))
a = asyncio.run(main("a"))
print(a)
b = look("between")
with asyncio.Runner() as runner:
    c = runner.run(main("c"))
    d = runner.run(main("d"))
del runner
a, b, c, d
""",
        ),
    ),
    Program(
        "eager_tasks",
        (
            """
import asyncio
async def work(i):
    a = await look(f"a{i}")
    return a, await look(f"b{i}")
async def main():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    return await asyncio.gather(*map(work, range(3)))
asyncio.run(main())
""",
        ),
    ),
    Program(
        "a_task_factory_of_its_own",
        (
            """
import asyncio
made = []
def factory(loop, coro, **options):
    made.append(coro.__name__)
    return asyncio.Task(coro, loop=loop, **options)
async def work(i):
    return await look(i), await look(i * 10)
async def main():
    asyncio.get_running_loop().set_task_factory(factory)
    return await asyncio.gather(*map(work, range(3)))
got = asyncio.run(main())
got, made
""",
        ),
    ),
    Program(
        "context_variables",
        (
            """
import asyncio, contextvars
who = contextvars.ContextVar("who", default="nobody")
async def act(name):
    who.set(name)
    await look(name)
    return who.get()
got = await asyncio.gather(act("a"), act("b"))
seen = who.get()
del who
got, seen
""",
        ),
    ),
    Program(
        "gather_in_gather",
        (
            """
import asyncio
async def leaf(name):
    return await look(name)
async def branch(name):
    return await asyncio.gather(leaf(name + "l"), leaf(name + "r"))
async def root():
    return await asyncio.gather(branch("a"), branch("b"), leaf("c"))
await root()
""",
        ),
    ),
]
