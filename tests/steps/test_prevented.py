"""What keeps a step from ending is named, with the line; when it is gone, steps end again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.guest.harness import Host, echo

from .kit import AT_EVERY_STATEMENT, LENGTH, play

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A statement that makes it, one that ends it, and what is said of it.
CASES = {
    "a generator": ("g = (n for n in 'ab'); _n = next(g)", "del g", "g is a generator"),
    "an object within": ("box = [1, (n for n in 'ab')]; _n = next(box[1])", "del box", "box: box[1]"),
    "a socket": ("import socket; s = socket.socket()", "s.close(); del s", "s: connections do not survive"),
    "a task": (
        "import asyncio; t = asyncio.create_task(asyncio.sleep(60))",
        "t.cancel(); await asyncio.sleep(0); del t",
        "the task 'Task-1' has not ended",
    ),
    "a thread": (
        "import threading; e = threading.Event(); t = threading.Thread(target=e.wait, name='w'); t.start()",
        "e.set(); t.join(); del t, e",
        "the thread 'w' runs",
    ),
    "a signal handler": (
        "import signal; before = signal.signal(signal.SIGUSR2, lambda *_: None)",
        "signal.signal(signal.SIGUSR2, before); del before",
        "the handler of SIGUSR2 was changed",
    ),
    "another stdout": (
        "import sys, io; out, sys.stdout = sys.stdout, io.StringIO()",
        "sys.stdout = out; del out",
        "sys.stdout was changed",
    ),
    "a module's attribute": ("import json; json.indent = 3", "del json.indent", "json.indent was changed"),
    "a function put into a module": (
        "import json; loads = json.loads; json.loads = lambda text: text",
        "json.loads = loads; del loads",
        "json.loads was changed",
    ),
    "a method put into a class of a library": (
        "import fractions; fractions.Fraction.half = lambda self: self / 2",
        "del fractions.Fraction.half",
        "fractions.Fraction.half was changed",
    ),
    "much that is written to a descriptor": (
        "import os; _n = [os.write(2, b'x' * 99 + b'\\n') for _ in range(12_000)]",
        "print('so it is shown')",
        "output: 1200000 bytes written to descriptors",
    ),
    "a built-in": ("import builtins; builtins.answer = 42", "del builtins.answer", "the built-in name answer"),
    "a logger": (
        "_h = logging.StreamHandler(); _h.lines = socket.socket(); logging.getLogger('mine').addHandler(_h); del _h",
        "logging.getLogger('mine').handlers.clear()",
        "the handlers of loggers: ",
    ),
    "a finalizer": (
        "import weakref; obj = {1}.__class__.__new__(type('T', (set,), {})); fin = weakref.finalize(obj, print)",
        "_n = fin.detach(); del obj, fin",
        "a finalizer waits",
    ),
    "the collector": ("import gc; gc.disable()", "gc.enable()", "the garbage collector was changed"),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        # Modules are noted when they are new, and unchanged then.
        host.run("import asyncio, builtins, fractions, functools, gc, io, json, logging, signal, socket, sys")
        host.run("import threading, weakref")
        yield host


def steps_and_reasons(host: Host, code: str) -> tuple[list[int], list[list[object]]]:
    """Run code whose steps end wherever they can; return before which statements they did, and what kept others."""
    host.begin(code, steps=AT_EVERY_STATEMENT)
    ended = []
    while (message := host.receive())["t"] != "done":
        if message["t"] == "step":
            ended.append(message["statement"])
            (size,) = LENGTH.unpack_from(host.streams.take(message["stream"]))
            assert size
            host.send({"t": "settled", "ok": True})
        elif message["t"] == "call":
            host.send({"t": "reply", "path": message["path"], **(echo(message) or {})})
    assert message["status"] == "ok", message
    return ended, message["prevented"]


@pytest.mark.parametrize("case", CASES)
def test_what_keeps_a_step_from_ending(host: Host, case: str) -> None:
    make, end, said = CASES[case]
    # A line for each: first what is fine, then what is not, until it is over.
    made, ended = " ; ".join(make.split("; ")), " ; ".join(end.split("; "))
    code = f"x = 1\n{made}\ny = 2\n{ended}\nz = 3\nz"
    first, count = len(made.split(" ; ")) + 1, len(ended.split(" ; "))
    steps, prevented = steps_and_reasons(host, code)
    assert 1 in steps, "the step before it"
    assert not {first, first + 1} & set(steps), "while it is there, none ends"
    assert first + 1 + count in steps, f"when it is over, they end again: {prevented}"
    assert any(said in str(what) and line == 2 for what, line in prevented), prevented


def test_an_answer_that_nobody_took_keeps_a_step_from_ending(host: Host) -> None:
    asked = "async def ask(): return echo(1)\ncall = await ask()\nx = 1\n"
    steps, prevented = steps_and_reasons(host, f"{asked}x = await call\ndel call\nx")
    assert not {2, 3} & set(steps)
    assert str(prevented[0][0]).startswith("a call has no answer yet")


def test_what_only_the_history_holds_does_not_count(host: Host) -> None:
    host.run("(n for n in 'ab')")
    steps, prevented = steps_and_reasons(host, "x = 1\ny = 2\ny")
    assert (steps, prevented) == ([1, 2], [])


def test_the_namespace_is_no_library_under_the_name_that_multiprocessing_gives_it(host: Host) -> None:
    code = "import multiprocessing, sys\nx = 1\ny = [x]\ny.append(x)\nsys.modules['__mp_main__'].x"
    host.begin(code, steps=AT_EVERY_STATEMENT, filename="a.py")
    statements = []
    while (message := host.receive())["t"] != "done":
        statements.append(message["statement"])
        host.send({"t": "settled", "ok": True})
    assert (statements, message["prevented"], message["value"]) == ([1, 2, 3, 4], [], 1)


def test_options_that_travel_and_what_libraries_do_as_they_are_imported_keep_no_step_from_ending(host: Host) -> None:
    code = """
import logging, numpy as np, pandas as pd
logging.getLogger('quiet').setLevel(30); logging.getLogger('library').addHandler(logging.NullHandler())
_x = np.set_printoptions(precision=3); _y = np.seterr(divide='ignore')
pd.set_option('display.max_rows', 7)
z = 1
z"""
    steps, prevented = steps_and_reasons(host, code)
    assert prevented == []
    assert len(steps) >= 4


def test_the_thread_that_redraws_bars_of_tqdm_is_not_started(host: Host) -> None:
    code = "from tqdm import tqdm\nx = list(tqdm(range(3)))\ny = 2\ny"
    steps, prevented = steps_and_reasons(host, code)
    assert (steps, prevented) == ([1, 2, 3], [])


def test_what_a_library_forgets_with_a_function_that_it_made_does_not_count(host: Host) -> None:
    made = "import weakref; from tqdm.utils import disp_len\ndef f(): pass\nweakref.finalize(f, disp_len, 'x')\n"
    code = f"{made}y = 2\ny"
    steps, prevented = steps_and_reasons(host, code)
    assert (steps, prevented) == ([1, 2, 3, 4, 5], [])


def test_what_the_base_had_lost_already_does_not_count() -> None:
    story = play(
        "x = 1\nnext(g)\ny = 2\ny", steps=AT_EVERY_STATEMENT, before=("g = (n for n in 'abcd'); _n = next(g)",), look=""
    )
    # The harness takes no checkpoint between executions, so the generator is new to the first step.
    assert story.steps == 0
    assert story.prevented[0][0].startswith("g is a generator")


def test_no_step_ends_before_it_is_worth_it(host: Host) -> None:
    host.begin("x = 1\ny = 2\nfor n in range(3): echo(n)\nz = 3\nz", steps={"cpu_seconds": 1000, "calls": 3})
    statements = []
    while (message := host.receive())["t"] != "done":
        if message["t"] == "step":
            statements.append(message["statement"])
            host.send({"t": "settled", "ok": True})
        elif message["t"] == "call":
            host.send({"t": "reply", "path": message["path"], **(echo(message) or {})})
    assert statements == [3], message["prevented"]


def test_a_refused_end_changes_nothing(host: Host) -> None:
    host.begin("x = [1]\ny = 2\nz = x\nz is x", steps=AT_EVERY_STATEMENT)
    offers = 0
    while (message := host.receive())["t"] != "done":
        assert message["t"] == "step"
        offers += 1
        host.send({"t": "settled", "ok": False})
    assert (offers, message["value"], message["commits"]) == (3, True, 0), message["prevented"]


@pytest.mark.parametrize("how", ["what would be lost", "a refusal"])
def test_a_checkpoint_that_nobody_takes_does_not_make_the_next_one_whole(how: str) -> None:
    with Host() as host:
        host.run("large = list(range(100_000))")
        first = checkpoint_of(host, 0)
        assert first["since"] == 0
        assert first["pack"] > 100_000
        host.begin(
            "g = [n := (x for x in 'ab'), next(n)]\nlarge.append(1)\nx = 2\ndel g, n"
            if "lost" in how
            else "large.append(1)\nx = 2\nx",
            steps=AT_EVERY_STATEMENT,
        )
        refused = 0
        while (message := host.receive())["t"] != "done":
            refused += 1
            host.streams.take(message["stream"])
            host.send({"t": "settled", "ok": False})
        assert refused == (0 if "lost" in how else 2)
        second = checkpoint_of(host, 1)
        assert second["since"] == 1
        assert second["names"].keys() >= {"x"}
        assert 0 < second["pack"] < 50_000, "what was appended, and not all there is"


def checkpoint_of(host: Host, since: int) -> dict[str, Any]:
    """Return what a guest says has changed."""
    host.send({"t": "checkpoint", "since": since})
    content = bytes(host.streams.take(host.receive()["stream"]))
    (size,) = LENGTH.unpack_from(content)
    data: dict[str, Any] = json.loads(content[LENGTH.size : LENGTH.size + size])
    return data


def test_what_a_with_statement_leaves_behind_keeps_no_step_from_ending(host: Host) -> None:
    code = (
        "with open('left.txt', 'w') as f: _n = f.write('a')\nwith open('left.txt') as f: x = f.read()\ny = 2\ndel f\ny"
    )
    steps, prevented = steps_and_reasons(host, code)
    assert (steps, prevented) == ([1, 2, 3, 4], [])


def test_an_error_that_is_kept_keeps_no_step_from_ending(host: Host) -> None:
    code = "try: 1 / 0\nexcept ZeroDivisionError as e: kept = [e]\nx = 1\ny = str(kept[0])\ny"
    steps, prevented = steps_and_reasons(host, code)
    assert (steps, prevented) == ([1, 2, 3], [])


def test_what_has_not_begun_or_has_ended_keeps_no_step_from_ending(host: Host) -> None:
    code = """
@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
big = fib(50)
squares = (n * n for n in range(9)); even = (n for n in squares if n % 2 == 0)
later = map(str, (n for n in even))
total = [*later]
async def one(): return 1
calls = [one(), one()]
made = [await each for each in calls]
found = [*re.finditer('a', 'banana')]
x = fib.cache_info(), total, made, [each.pos for each in found]
x"""
    host.run("import functools, re")
    steps, prevented = steps_and_reasons(host, code)
    assert (len(steps), prevented) == (11, [])


def test_a_finder_that_a_library_brings_as_it_is_imported_is_no_change_and_one_of_the_code_is(tmp_path: Path) -> None:
    brings = (
        "import sys\nclass Finder:\n    find_spec = staticmethod(lambda *_: None)\nsys.meta_path.append(Finder())\n"
    )
    (tmp_path / "brings_a_finder.py").write_text(brings)
    with Host() as host:
        host.run(f"import sys; sys.path.append({str(tmp_path)!r})")
        code = "import brings_a_finder as b\nx = 1\nsys.meta_path.append(b.Finder())\nx"
        steps, prevented = steps_and_reasons(host, code)
    assert (steps, prevented) == ([1, 2], [["the list sys.meta_path was changed", 3]])


def test_what_scripts_leave_of_files_and_databases_keeps_no_step_from_ending(host: Host) -> None:
    code = """
with open('left.csv', 'w', newline='') as f: w = csv.writer(f); _n = w.writerows([['a', 'b'], [1, 2], [3, 4]])
f = open('left.csv', newline=''); r = csv.reader(f)
head = next(r)
rest = list(r); f.close()
with gzip.open('left.gz', 'wb') as g: _n = g.write(b'x')
c = sqlite3.connect('left.db'); c.row_factory = sqlite3.Row; cur = c.cursor()
_n = cur.execute('create table if not exists t (a)'); c.commit()
row = cur.execute('select 1 as one').fetchone()
with os.scandir('.') as it: entry = next(it)
d = tempfile.TemporaryDirectory(); q = queue.SimpleQueue(); q.put(d)
with ThreadPool(2) as p: some = p.map(abs, [1])
for t in (p._worker_handler, p._task_handler, p._result_handler, *p._pool): t.join()
d.cleanup()
x = head, len(rest), dict(row)
x"""
    host.run("import csv, gzip, os, queue, sqlite3, tempfile; from multiprocessing.pool import ThreadPool")
    steps, prevented = steps_and_reasons(host, code)
    assert prevented == []
    assert len(steps) >= 18


#: What keeps a step open, and what is said to do about it.
INSTEAD = {
    "h = hashlib.sha256(b'a')": "keep h.hexdigest()",
    "g = (n for n in 'ab'); _n = next(g)": "keep its results in a list",
    "box = [(n for n in 'ab')]; _n = next(box[0])": "keep its results in a list",
    "m = re.finditer('a', 'aa')": "keep the matches in a list",
    "z = zlib.compressobj()": "in one function or statement",
    "c = sqlite3.connect(':memory:'); _n = c.create_function('f', 1, abs)": "create it again, or make it by",
    "t = sqlite3.connect(''); _n = t.execute('create table t (a)'); _n = t.execute('insert into t values (1)')": (
        "a transaction was open; commit"
    ),
    "u = sqlite3.connect(':memory:').execute('select 1 union select 2')": "fetch them all",
    "o = gzip.open('open.gz', 'wb')": "close it",
    "s = ssl.create_default_context()": "make it where it is used, or make it by perdure.recompute(function)",
    "k = contextvars.ContextVar('k').set(1)": "keep token.old_value",
    "v = mmap.mmap(-1, 10)": "map the file again where it is used",
    "n = socket.socket()": "connect again",
    "p = ThreadPoolExecutor(1); w = p.submit(threading.Event().wait, 1)": "work given to a pool has not ended",
}


@pytest.mark.parametrize("made", INSTEAD)
def test_what_is_said_names_the_variable_the_line_and_what_to_do(made: str) -> None:
    with Host() as host:
        host.run("import contextvars, gzip, hashlib, mmap, re, socket, sqlite3, ssl, threading, zlib")
        host.run("from concurrent.futures import ThreadPoolExecutor")
        lines = made.replace("; ", " ; ")
        _steps, prevented = steps_and_reasons(host, f"x = 1\n{lines}\ny = 2\nx, y = y, x\ny")
    told = [str(what) for what, line in prevented if line == 2]
    assert any(INSTEAD[made] in what for what in told), prevented
    assert any(what.startswith((f"{made[0]}:", f"{made[0]} is", "box:", "work given")) for what in told), prevented
