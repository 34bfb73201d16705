"""What scripts leave in variables when it has run: tasks, futures, threads and pools that ended keep no step open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from perdure.engine import WorkerSettings
from perdure.engine.events import Settled

from .kit import World, opened, outcome
from .test_steps import EVERY, Killer, of_step

if TYPE_CHECKING:
    from pathlib import Path

#: Several tasks whose sets and dicts have an order, one that is cancelled, and what one shares.
TASKS = """
import asyncio, concurrent.futures, threading
shared = ["s"]
async def one(name): return await look(name), shared
async def forever(): await asyncio.Event().wait()
tasks = [asyncio.create_task(one(str(n)), name=f"t{n}" if n % 2 else None) for n in range(9)]
both = await asyncio.gather(*tasks)
done, pending = await asyncio.wait(tasks)
stopped = asyncio.create_task(forever())
await asyncio.sleep(0)
stopped.cancel("enough")
await asyncio.wait([stopped])
future = asyncio.get_event_loop().create_future()
future.set_result(shared)
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    jobs = {pool.submit(pow, n, 2): n for n in range(5)}
    squares = {jobs[job]: job.result() for job in concurrent.futures.as_completed(jobs)}
idle = concurrent.futures.ThreadPoolExecutor(1)
length = idle.submit(len, "abc").result()
threads = [threading.Thread(target=shared.append, args=(n,)) for n in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
new = asyncio.create_task(one("later"))
name = new.get_name()
later = await new
told = [repr(task) for task in tasks], [task.get_name() for task in done], repr(future), repr(stopped)
"""
LOOK = """
now = [repr(task) for task in tasks], [task.get_name() for task in done], repr(future), repr(stopped)
assert now == told, (now, told)
assert all(task.done() and task.result()[1] is shared for task in tasks) and done == set(tasks)
assert await tasks[0] is tasks[0].result() and type(tasks[0]) is type(new) is asyncio.Task
assert (await asyncio.gather(*tasks))[3] == both[3] and await future is shared is future.result()
assert stopped.cancelled() and future.get_loop() is tasks[0].get_loop() is asyncio.get_event_loop()
try: await stopped
except asyncio.CancelledError as error: assert error.args == ("enough",), error
else: raise AssertionError
assert shared == ["s", 0, 1] and squares == {n: n * n for n in range(5)} and not any(t.is_alive() for t in threads)
assert sorted(jobs.values()) == [0, 1, 2, 3, 4] and all(job.result() == n * n for job, n in jobs.items())
assert idle.submit(len, "abcd").result() == 4 and threads[0].join() is None
later[0], name, [hash(task) for task in tasks], hash(future)
"""


async def test_no_step_stays_open_for_what_has_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "one", world) as client:
        one = await outcome(client, "job", TASKS + LOOK, grants=["look"])
    assert one.ok, one.error
    async with opened(tmp_path / "many", world, settings=EVERY) as client:
        many = await outcome(client, "job", TASKS + LOOK, grants=["look"])
    assert many.ok, many.error
    # While they run they keep it open, and not a statement longer.
    assert {each.line for each in many.prevented} <= {6, 9, 10, 11, 13, 23, 24}, many.prevented
    assert many.value == one.value
    assert many.commits > 15


@pytest.mark.timeout(150)
async def test_what_has_ended_is_there_again_after_every_step(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "undisturbed", world) as client:
        whole = await outcome(client, "job", TASKS + LOOK, grants=["look"])
    async with opened(tmp_path / "state", world, settings=EVERY) as client:
        killer = Killer(client, lambda event: isinstance(event, Settled) and of_step(event))
        result = await outcome(client, "job", TASKS + LOOK, grants=["look"])
    assert killer.kills > 15
    assert result.ok, result.error
    assert result.value == whole.value


async def test_what_has_ended_is_there_in_the_next_execution(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world, settings=WorkerSettings(kept_guests=0)) as client:
        made = await outcome(client, "job", TASKS, grants=["look"])
        assert made.ok, made.error
        session = await client.session("job")
        lost = [f"{each.name} {each.why}" for each in await session.variables() if each.status != "kept"]
        assert lost == []
        seen = await outcome(client, "job", LOOK)
        assert seen.ok, seen.error


@pytest.mark.timeout(150)
async def test_loggers_write_their_files_as_if_nothing_had_happened(tmp_path: Path) -> None:
    code = """
import logging
log = logging.getLogger("app")
log.setLevel("INFO")
handler = logging.FileHandler("app.log")
handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
log.addHandler(handler)
log.propagate = False
for n in range(3): log.info("first %d", n)
n = 3
log.warning("second %d", n)
log.debug("not this")
log.error("third")
open("app.log").read()
"""
    text = "INFO first 0\nINFO first 1\nINFO first 2\nWARNING second 3\nERROR third\n"
    async with opened(tmp_path / "state", World(tmp_path), settings=EVERY) as client:
        killer = Killer(client, lambda event: isinstance(event, Settled) and of_step(event))
        result = await outcome(client, "job", code)
        later = await outcome(client, "job", "log.info('later'); len(log.handlers), open('app.log').read()")
    assert killer.kills > 8
    assert (result.value, result.prevented) == (text, ()), result.error
    assert later.value == (1, f"{text}INFO later\n")


async def test_what_goes_on_is_still_lost_and_named(tmp_path: Path) -> None:
    code = """
import asyncio, concurrent.futures, threading
loop = asyncio.new_event_loop()
elsewhere = loop.create_future(); elsewhere.set_result(1); loop.close()
open_future = asyncio.get_event_loop().create_future()
stop = threading.Event()
pool = concurrent.futures.ThreadPoolExecutor(1)
job = pool.submit(stop.wait)
thread = threading.Thread(target=stop.wait); thread.start()
stop.set()
"""
    async with opened(tmp_path / "state", settings=EVERY) as client:
        result = await outcome(client, "job", code)
    assert result.ok, result.error
    assert "an event loop of the code's own is open" in [each.what for each in result.prevented]
