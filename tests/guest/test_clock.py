"""Clock, entropy and directories: recorded or derived, and the same on a replay; with the library and without."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from perdure.workers.guest import launch
from perdure.workers.guest.readings import COARSE, FINE, GRANULE, Entry, Readings

from .harness import Done, Host, recorded

SOURCES = {
    "time.time()": "time.time()",
    "time.time_ns()": "time.time_ns()",
    "time.clock_gettime(time.CLOCK_REALTIME)": "time.clock_gettime(time.CLOCK_REALTIME)",
    "time.gmtime(), localtime(), ctime(), asctime(), strftime(f)": (
        "(tuple(time.gmtime()), tuple(time.localtime()), time.ctime(), time.asctime(), time.strftime('%c'))"
    ),
    "datetime.datetime.now(), now(tz), utcnow(), today()": (
        "[str(x) for x in (dt.datetime.now(), dt.datetime.now(dt.UTC), dt.datetime.today())]"
    ),
    "datetime.date.today()": "str(dt.date.today())",
    "uuid.uuid1()": "str(uuid.uuid1())",
    "uuid.uuid4()": "str(uuid.uuid4())",
    "random, secrets, os.urandom, os.getrandom": (
        "(random.random(), secrets.token_hex(8), os.urandom(4), os.getrandom(4), random.Random().random())"
    ),
    "hash(str), the order of a set of strings": "(hash('a'), [*{'a', 'b', 'c', 'd'}])",
    "os.cpu_count(), the size of a pool of threads": "(os.cpu_count(), ThreadPoolExecutor()._max_workers)",
    "os.listdir, os.scandir, glob": "(os.listdir('d'), [e.name for e in os.scandir('d')], glob.glob('d/*'))",
}
#: What lies below Python: covered only where the library is preloaded.
BELOW = {
    "libc: time, gettimeofday, timespec_get": "below(('time', 'gettimeofday', 'timespec_get'))",
    "libc: getrandom, getentropy": "(drawn('getrandom'), drawn('getentropy'))",
    "sqlite3: datetime('now', 'subsec')": (
        "sqlite3.connect(':memory:').execute(\"select strftime('%f', 'now'), julianday('now')\").fetchone()"
    ),
    "numpy.datetime64('now'), numpy.random.default_rng()": (
        "(str(numpy.datetime64('now', 'us')), numpy.random.default_rng().random())"
    ),
    "pandas.Timestamp.now()": "str(pandas.Timestamp.now())",
}
#: Rows of the table whose promise other tests hold.
NOT_TRIED = ("the same variables in every guest; `PATH` names this host's Python",)
SETUP = """
import ctypes, datetime as dt, glob, os, random, secrets, sqlite3, time, uuid
from concurrent.futures import ThreadPoolExecutor
import numpy, pandas
libc = ctypes.CDLL(None)
def below(names):
    out = []
    for name in names:
        room = (ctypes.c_int64 * 2)()
        code = libc[name](room, 1 if name == 'timespec_get' else 0)
        out.append((list(room), code))
    return out
def drawn(name):
    room = ctypes.create_string_buffer(8)
    libc[name](room, 8, 0)
    return room.raw
"""


@pytest.fixture(params=["library", "substitute"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "substitute":
        monkeypatch.setenv("PERDURE_PURE", "1")
    elif launch.shim() is None:
        pytest.fail("the library was not built: 'make setup' compiles it where there is a C compiler")
    return str(request.param)


def twice(code: str, **outcomes: Any) -> tuple[Done, Done]:
    """Run code, and run it again in another process from what the first reported."""
    with Host() as host:
        live = host.run(code)
    assert live.status == "ok", live.message
    known = {call["path"]: {"value": call["args"]["x"]} for call in live.calls} | outcomes
    with Host() as host:
        again = host.run(code, lambda _call: None, recorded(live.entered, known))
    assert again.status == "ok", again.message
    return live, again


def test_every_source_that_is_covered_gives_a_replay_what_it_gave_the_first_run(way: str) -> None:
    sources = {**SOURCES, **BELOW} if way == "library" else SOURCES
    setup = SETUP if way == "library" else SETUP.replace("import numpy, pandas", "")
    names = random.Random(1).sample("abcdefghijklmnopqrstuvwxyz", 20)
    made = f"os.mkdir('d')\nfor n in {names}: open('d/' + n, 'w').close()\n"
    code = setup + made + "\n".join(f"echo([{name!r}, {ask}])" for name, ask in sources.items())
    live, again = twice(code)
    assert len(live.calls) == len(sources)
    for one, other in zip(live.calls, again.calls, strict=True):
        assert one["args"] == other["args"]


def test_a_pool_is_as_large_on_every_machine() -> None:
    code = """
import multiprocessing, os
from concurrent.futures import ThreadPoolExecutor
[os.cpu_count(), multiprocessing.cpu_count(), ThreadPoolExecutor()._max_workers]
"""
    with Host() as host:
        assert host.run(code).result == [4, 4, 8]


def test_readings_are_given_again_at_their_points_and_time_goes_on_after_them(way: str) -> None:
    code = """
import time
a = time.time()
echo(1)
b = time.time()
time.sleep(0.02)
c = time.time()
[a, b, c]
"""
    with Host() as host:
        live = host.run(code)
    a, b, _ = live.result
    # The first reply was recorded, with what was read before it; all after it is new.
    cut = [item for item in live.entered if item[:3] == ["c", "main", 0] or item[0] == "r"]
    time.sleep(0.05)
    with Host() as host:
        again = host.run(code, replay=recorded(cut, {"main.0": {"value": 1}}))
    assert again.result[0] == a
    assert again.result[1] > b
    assert again.result == sorted(again.result)
    assert way


def test_a_reading_more_or_less_shifts_nothing_behind_the_next_reply(way: str) -> None:
    code = """
import time
{}
echo(1)
echo(time.time())
"""
    with Host() as host:
        live = host.run(code.format("time.time(); time.time()"))
    outcomes = {call["path"]: {"value": call["args"]["x"]} for call in live.calls}
    for other in ("", "time.time()", "[time.time() for _ in range(5)]"):
        with Host() as host:
            again = host.run(code.format(other), lambda _call: None, recorded(live.entered, outcomes))
        assert [call["args"] for call in again.calls] == [call["args"] for call in live.calls]
    assert way


IMPORTS = """
import os, random, time
a = [time.time(), os.urandom(4)]
import pandas
with open("mine.py", "w") as file:
    file.write("import os, time\\nread = [time.time_ns(), os.urandom(4)]\\n")
import mine
echo([*a, time.time(), os.urandom(4), random.Random().random(), mine.read])
"""


def test_an_import_reads_and_draws_beside_the_code_and_a_module_of_the_workspace_as_it(way: str) -> None:
    with Host() as host:
        # It is there already, as in a guest that was kept, or in a worker that preloads it.
        host.run("import pandas")
        there = host.run(IMPORTS)
    known = {"main.0": {"value": there.calls[0]["args"]["x"]}}
    with Host() as host:
        again = host.run(IMPORTS, lambda _call: None, recorded(there.entered, known))
    assert again.calls[0]["args"] == there.calls[0]["args"]
    live, again = twice(IMPORTS)
    assert again.calls[0]["args"] == live.calls[0]["args"]
    assert way


def test_a_module_of_a_workspace_that_is_reached_by_a_link_is_code_too(tmp_path: Path) -> None:
    code = """
with open("mine.py", "w") as file:
    file.write("import time; read = time.time_ns()")
import mine
mine.read
"""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with Host(folder=tempfile.TemporaryDirectory(dir=tmp_path / "link")) as host:
        live = host.run(code)
    assert live.entered == [["c", "main", 0, live.result, 1]]


def test_an_import_shows_nothing_of_how_it_is_watched() -> None:
    code = """
import importlib.util, pickle, traceback
from importlib.machinery import ModuleSpec
import xml.dom.minidom as there
open("bad.py", "w").write("1 / 0")
try:
    import bad
except ZeroDivisionError:
    text = traceback.format_exc()
found = importlib.util.find_spec("xml.sax")
[type(there.__spec__) is ModuleSpec, text.count("File "), repr(found)[:10], pickle.loads(pickle.dumps(found)).name]
"""
    with Host() as host:
        assert host.run(code).result == [True, 2, "ModuleSpec", "xml.sax"]


def test_threads_and_pools_read_in_lanes_of_their_own(way: str) -> None:
    code = """
import time, threading
from concurrent.futures import ThreadPoolExecutor
def read(n):
    for _ in range(3):
        echo([n, time.time_ns()])
        time.sleep(0.006)
pool = ThreadPoolExecutor(3)
threads = [threading.Thread(target=read, args=(n,)) for n in range(3)]
work = [pool.submit(read, n) for n in range(3, 6)]
for each in threads: each.start()
for each in threads: each.join()
for each in work: each.result()
"""
    live, again = twice(code)
    assert len(live.calls) == 18
    assert {c["path"]: c["args"] for c in again.calls} == {c["path"]: c["args"] for c in live.calls}
    assert way


def test_a_loop_that_reads_the_clock_records_little_and_ends_when_it_should(way: str) -> None:
    code = """
import time
began, count = time.time(), 0
while time.time() < began + 0.4:
    count += 1
[count, time.time() - began]
"""
    live, again = twice(code)
    count, took = live.result
    assert count > 1_000
    assert took >= 0.4
    assert again.result == [count, took]
    steps = sum(len(item) - 3 for item in live.entered) / 2
    assert steps < FINE + 500
    assert way


def test_waiting_with_a_deadline_works_while_an_old_clock_is_shown(way: str) -> None:
    code = """
import threading, time
time.time()
lock = threading.Lock()
lock.acquire()
began = time.perf_counter()
lock.acquire(timeout=0.05)
0.04 < time.perf_counter() - began < 5
"""
    live, again = twice(code)
    assert live.result is True
    assert again.result is True
    assert way


def test_the_monotonic_clock_shows_a_recorded_sleep_as_slept(way: str) -> None:
    code = """
import asyncio, time
began = time.monotonic(), time.perf_counter(), time.monotonic_ns()
time.sleep(1.0)
await asyncio.sleep(0.5)
ended = time.monotonic(), time.perf_counter(), time.monotonic_ns()
loop = asyncio.get_running_loop() if False else None
[ended[0] - began[0] >= 1.5, ended[1] - began[1] >= 1.5, ended[2] - began[2] >= 1_500_000_000]
"""
    began = time.monotonic()
    _live, again = twice(code)
    assert again.result == [True, True, True]
    assert time.monotonic() - began < 20
    assert way


# -- the rules themselves ------------------------------------------------------------


class Machine:
    """A clock that is set by hand, and readings over it."""

    def __init__(self) -> None:
        self.now = 1_000_000_000_000
        self.readings = Readings(lambda: self.now)
        self.readings.enter(0)
        self.readings.switch(on=True)


def test_the_clock_grows_coarse_when_it_is_read_often_and_fine_again_after_a_report() -> None:
    machine = Machine()
    seen = []
    for _ in range(200_000):
        machine.now += 10_000
        seen.append(machine.readings.read())
    entries = machine.readings.drain(0)
    assert sum(entry.times for entry in entries) == len(seen)
    assert [entry.value for entry in entries for _ in range(entry.times)] == seen
    assert len(entries) < FINE + 2 * COARSE * 4
    assert all(machine.now - GRANULE * 256 < value for value in seen[-10:])
    machine.now += 10
    assert machine.readings.read() == machine.now


def test_a_clock_set_back_stands_still_for_no_longer_than_a_reading() -> None:
    machine = Machine()
    first = machine.readings.read()
    machine.now -= 3_600_000_000_000
    second = machine.readings.read()
    machine.now += 5
    assert second == first
    assert machine.readings.read() == first + 5


def test_after_the_recorded_readings_time_goes_on_from_them_and_never_back() -> None:
    machine = Machine()
    ahead = machine.now + 3_600_000_000_000
    machine.readings.feed(0, [Entry(ahead, 1, 0)])
    assert machine.readings.read() == ahead
    machine.now += 7
    later = machine.readings.read()
    machine.now += 7
    assert later >= ahead
    assert machine.readings.read() == later + 7


def test_readings_that_are_left_are_dropped_with_their_window() -> None:
    machine = Machine()
    base = machine.now
    machine.readings.feed(0, [Entry(base - 50, 3, 0), Entry(base - 20, 1, 1)])
    assert machine.readings.read() == base - 50
    machine.readings.next()
    assert machine.readings.read() == base - 20


def test_the_table_of_sources_in_the_documentation_is_this_list() -> None:
    page = (Path(__file__).parents[2] / "docs/guarantees.md").read_text()
    table = page.partition("<!-- sources -->")[2].partition("<!-- /sources -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    claimed = {row[0].strip("`"): (row[1], row[2]) for row in rows if row[3] not in NOT_TRIED}
    covered = dict.fromkeys(SOURCES, ("yes", "yes")) | dict.fromkeys(BELOW, ("yes", "no"))
    assert {name: ways for name, ways in claimed.items() if "yes" in ways} == covered
