"""Whatever code does to its descriptors, streams and signals, the channel holds and the next execution answers."""

from __future__ import annotations

import time

import pytest

from .harness import Host


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.close(0)\nos.close(1)\nos.close(2)",
        "import os\nos.write(1, b'raw\\n')\nos.write(2, b'raw\\n')",
        "import sys\nsys.stdout = None\nprint('x')",
        "import sys\nsys.stdout.close()",
        "import sys\nsys.stdin.read()",
        "import faulthandler\nfaulthandler.dump_traceback()",
        "class A:\n    def __del__(self):\n        print('bye')\n        1/0\nA()\ndel _",
        "import threading\nfor i in range(20): threading.Thread(target=print, args=(i,)).start()",
        "import threading\nthreading.Thread(target=lambda: 1/0).start()",
        "def f(): return f()\nf()",
        "globals().clear()",
        "import asyncio\nasyncio.get_event_loop().stop()",
        "import asyncio\nasyncio.set_event_loop(None)",
        "import signal\nsignal.raise_signal(signal.SIGINT)",
        "import linecache\nlinecache.clearcache()\n1/0",
        "import warnings\nwarnings.warn('w')",
        "import sys\nsys.setrecursionlimit(50)\n1",
        "raise BaseException",
        "class E(Exception):\n    def __str__(self): 1/0\nraise E",
        "print('\\ud800')",
    ],
)
def test_afterwards_one_and_one_is_two(code: str) -> None:
    with Host() as host:
        host.run(code)
        assert host.run("1+1").result == 2


def test_writes_come_in_order_raw_ones_too() -> None:
    with Host() as host:
        done = host.run(
            "import os, sys\n"
            "print('a', 'b')\n"
            "os.write(1, b'raw ')\n"
            "http.get(1)\n"
            "print('c', end='')\n"
            "sys.stderr.write('err\\n"
            "')\n"
            "print('d\\r', end='')"
        )
        assert (
            done.writes == [("stdout", "a b\n"), ("stdout", "raw "), ("stdout", "cd\r"), ("stderr", "err\n")]
            or done.stdout == "a b\nraw cd\r"
        )
        assert done.stderr == "err\n"
        kinds = [each["t"] for each in done.seen]
        assert kinds.index("call") == 2


def test_how_output_is_cut_into_writes_does_not_depend_on_time() -> None:
    code = (
        "import time, sys\n"
        "for i in range(30):\n"
        "    print('line', i, end='\\n"
        "' if i % 3 else ' ')\n"
        "    time.sleep(0.006 if i % 5 == 0 else 0)\n"
        "print('x' * 200_000)\n"
        "sys.stdout.write('tail')"
    )
    with Host() as one, Host() as two:
        assert one.run(code).writes == two.run(code).writes


def test_five_megabytes_come_whole() -> None:
    with Host() as host:
        done = host.run("print('é' * 2_500_000)\nfor i in range(3_000): print(i)")
        assert done.stdout == "é" * 2_500_000 + "\n" + "".join(f"{i}\n" for i in range(3_000))


def test_what_is_cut_is_said() -> None:
    with Host(limits={"output_characters": 1000}) as host:
        done = host.run("print('x' * 5000)\nprint('y')")
        assert done.stdout.startswith("x" * 1000)
        assert "output cut" in done.stdout
        assert "y" not in done.stdout.replace("only", "")
        assert host.run("print('z')").stdout == "z\n"


def test_text_streams_are_those_of_python() -> None:
    with Host() as host:
        code = (
            "import sys\n"
            "sys.stdout.buffer.write(b'bytes\\n"
            "')\n"
            "sys.stdout.reconfigure(errors='replace')\n"
            "(type(sys.stdout).__name__, sys.stdout.encoding, sys.stdout.fileno(), sys.stdout.isatty())"
        )
        done = host.run(code)
        assert done.result == ("TextIOWrapper", "utf-8", 1, False)
        assert done.stdout == "bytes\n"
        assert (
            host.run(
                "import contextlib, io\n"
                "with contextlib.redirect_stdout(io.StringIO()) as f:\n"
                "    print('in')\n"
                "f.getvalue()"
            ).result
            == "in\n"
        )


def test_a_users_signal_handler_and_timer_work() -> None:
    with Host() as host:
        code = """
import signal, time
def late(*_): raise TimeoutError('alarm')
signal.signal(signal.SIGALRM, late)
signal.setitimer(signal.ITIMER_REAL, 0.02)
try:
    http.get('never')
except TimeoutError as e:
    got = str(e), signal.getsignal(signal.SIGALRM) is late
got
"""
        assert host.run(code, lambda _c: None).result == ("alarm", True)


CANCELLED = [
    "while True: pass",
    "import time\ntime.sleep(1000)",
    "http.get(1)",
    "import asyncio\nawait asyncio.sleep(1000)",
    "import asyncio\nasync def f():\n    while True: pass\nawait f()",
    "import asyncio\nasync def f():\n    while True: await asyncio.sleep(0)\nawait f()",
    "import asyncio\nasyncio.run(asyncio.sleep(1000))",
    "import asyncio\nawait asyncio.gather(http.get(1), asyncio.sleep(1000))",
    "input('? ')",
]


@pytest.mark.parametrize("code", CANCELLED)
def test_a_cancel_stops_the_foreground_and_keeps_the_state(code: str) -> None:
    with Host() as host:
        head, _, last = code.rpartition("\n")
        indented = f"{head}\nkept = 1\ntry:\n    print('go')\n    {last}\nfinally:\n    kept = 2"
        host.begin(indented)
        host.until("output")
        if "while True: pass" not in code and "sleep(0)" not in code:
            host.idle()
        began = time.monotonic()
        host.cancel()
        done = host.finish(lambda _c: None)
        assert done.status == "cancelled"
        assert time.monotonic() - began < 2
        assert host.run("kept").result == 2


def test_a_cancel_leaves_background_tasks_alone() -> None:
    with Host() as host:
        host.run(
            "import asyncio\nbackground = asyncio.create_task(asyncio.sleep(0.2, 'alive'))\nawait asyncio.sleep(0)"
        )
        host.begin("await asyncio.sleep(1000)")
        host.idle()
        host.cancel()
        assert host.finish().status == "cancelled"
        assert host.run("await background").result == "alive"


def test_a_cancel_that_comes_too_late_does_nothing() -> None:
    with Host() as host:
        host.run("1")
        host.cancel()
        assert host.run("2").result == 2


def test_the_guest_leaves_when_its_worker_is_gone() -> None:
    with Host() as host:
        host.begin("import asyncio\nawait asyncio.sleep(1000)")
        host.idle()
        host.leave()
        assert host.wait() == 76


def test_a_shutdown_ends_it() -> None:
    with Host() as host:
        host.send({"t": "shutdown"})
        assert host.wait() == 0
