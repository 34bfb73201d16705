"""Threads and pools: order is promised between the calls of one thread, and kept by path."""

from __future__ import annotations

from ..program import Program

__all__ = ["PROGRAMS"]

PROGRAMS = [
    Program(
        "a_thread",
        (
            """
import threading
got = {}
def work(name):
    got[name] = [look(name + "1"), look(name + "2")]
thread = threading.Thread(target=work, args=("t",))
thread.start()
thread.join()
del thread
got, sure("after")
""",
        ),
    ),
    Program(
        "threads_side_by_side",
        (
            """
import threading
got = {}
def work(name):
    got[name] = [look(name + "1"), look(name + "2")]
threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
del thread, threads
sorted(got.items())
""",
        ),
        free=True,
        check=lambda played: (
            "" if played.values[-1] == [(name, [name + "1", name + "2"]) for name in "abc"] else str(played.values)
        ),
    ),
    Program(
        "a_pool_of_threads",
        (
            """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    got = list(pool.map(look, range(6)))
    more = pool.submit(sure, "pooled").result()
del pool
got, more
""",
        ),
        free=True,
        check=lambda played: "" if played.values[-1] == ([*range(6)], {"paid": "pooled"}) else str(played.values),
    ),
    Program(
        "to_thread",
        (
            """
import asyncio
def work(name):
    return look(name + "1") + look(name + "2")
got = await asyncio.gather(*[asyncio.to_thread(work, name) for name in "ab"], look("main"))
got
""",
        ),
        free=True,
        check=lambda played: "" if played.values[-1] == ["a1a2", "b1b2", "main"] else str(played.values),
    ),
    Program(
        "in_an_executor",
        (
            """
import asyncio
async def main():
    loop = asyncio.get_running_loop()
    first = await loop.run_in_executor(None, look, "one")
    second = await loop.run_in_executor(None, sure, "two")
    return first, second
await main()
""",
        ),
    ),
    Program(
        "a_thread_and_a_loop",
        (
            """
import asyncio, threading
async def main():
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    got = []
    def work():
        got.append(look("thread"))
        loop.call_soon_threadsafe(ended.set)
    thread = threading.Thread(target=work)
    thread.start()
    await ended.wait()
    thread.join()
    got.append(await look("loop"))
    return got
await main()
""",
        ),
    ),
    Program(
        "a_thread_that_sleeps",
        (
            """
import threading, time
log = []
def work():
    time.sleep(0.02)
    log.append(look("slept"))
thread = threading.Thread(target=work)
thread.start()
thread.join()
del thread
log
""",
        ),
    ),
    Program(
        "threads_by_a_queue",
        (
            """
import queue, threading
def feed(items):
    for n in range(3):
        items.put(look(n))
    items.put(None)
items = queue.Queue()
thread = threading.Thread(target=feed, args=(items,))
thread.start()
got = []
while (item := items.get()) is not None:
    got.append(item)
thread.join()
del thread, items
got, look("end")
""",
        ),
    ),
]
