"""The clock: what was read once is read again, in whatever it decides."""

from __future__ import annotations

from ..program import Played, Program

__all__ = ["PROGRAMS"]


def all_true(played: Played) -> str:
    """What such a program says of itself; the times differ from run to run."""
    return (
        ""
        if played.values and played.values[-1] is True
        else f"ended as {played.statuses} with {played.values}: {played.errors} {played.text!r}"
    )


def _clock(name: str, code: str, **answers: str) -> Program:
    return Program(name, (code,), answers, free=True, raced=True, check=all_true)


PROGRAMS = [
    _clock(
        "the_clock_in_requests",
        """
import time
times = []
for n in range(3):
    times.append(time.time())
    stamp(str(n), times[-1])
times == sorted(times)
""",
    ),
    _clock(
        "the_clock_that_is_printed",
        """
import time
shown, told = [], []
for n in range(3):
    now = time.time_ns()
    print("got", now)
    told.append(stamp(str(n), now))
    shown.append(now)
told == shown
""",
    ),
    _clock(
        "dates_in_requests",
        """
import datetime, time
now = datetime.datetime.now()
first = stamp("now", now.isoformat())
day = stamp("day", str(datetime.date.today()))
words = stamp("words", time.strftime("%H:%M:%S") + time.ctime())
zone = stamp("utc", datetime.datetime.now(datetime.UTC).isoformat())
first == now.isoformat() and len(day) == 10
""",
    ),
    _clock(
        "the_clock_that_decides",
        """
import time
start, turns = time.time(), 0
while time.time() < start + 0.02:
    turns += 1
told = stamp("turns", turns)
left = stamp("left", time.time() - start)
told == turns and left >= 0.02
""",
    ),
    _clock(
        "the_clock_in_tasks",
        """
import asyncio, time
async def work(name):
    first = time.time()
    await stamp(f"{name}1", first)
    await asyncio.sleep(0.01)
    second = time.time()
    await stamp(f"{name}2", second)
    return first <= second
all(await asyncio.gather(*map(work, "abc")))
""",
    ),
    _clock(
        "the_clock_in_threads",
        """
import threading, time
good = []
def work(name):
    first = time.time()
    stamp(f"{name}1", first)
    stamp(f"{name}2", time.time() - first)
    good.append(time.time() >= first)
threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
del thread, threads
good == [True, True]
""",
    ),
    _clock(
        "a_clock_across_a_question",
        """
import time
before = time.time()
stamp("before", before)
answer = ask("long")
after = time.time()
stamp("after", after)
after > before and answer == "very"
""",
        long="very",
    ),
]
